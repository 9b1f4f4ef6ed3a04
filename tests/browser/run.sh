#!/usr/bin/env bash
# Tests in a browser, with the Python of $1; what follows it goes to pytest. Chromium is $CHROMIUM, or
# the first on the path; under CI, or with CHROMIUM=install, Debian's is installed if there is none.
# Without a browser nothing is tested, and that is no failure. The explorer needs a finished smoke
# run: it is made (minutes, nothing if it is there) unless DOLLKIT_RUNS names a folder of runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
find_browser() {
    command -v "${CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome
}
skip() {
    echo "browser tests skipped: $1"
    exit 0
}

"$python" -c 'import playwright' 2> /dev/null || skip 'playwright is not installed'
install=${CI:-}
[[ ${CHROMIUM:-} != install ]] || install=1 CHROMIUM=
if ! browser=$(find_browser); then
    [[ -n $install ]] || skip 'no Chromium on the path; CHROMIUM=/path/to/it names one, CHROMIUM=install (as root, on Debian) installs one'
    echo 'installing chromium by apt-get'
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } > /dev/null \
        || skip 'apt-get could not install chromium'
    browser=$(find_browser)
fi
echo "browser: $browser"
if [[ -z ${DOLLKIT_RUNS:-} ]]; then
    "$python" -m dollkit reproduce --profile smoke --jobs 2
fi
# pyproject.toml keeps this folder out of plain pytest.
CHROMIUM=$browser exec "$python" -m pytest -o norecursedirs='.*' "${@:-tests/browser}"
