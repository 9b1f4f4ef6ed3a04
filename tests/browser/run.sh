#!/usr/bin/env bash
# Tests in a browser, with the Python of $1. Chromium is $CHROMIUM, or the first on the path; as
# root under CI, or with CHROMIUM=install, Debian's is installed if there is none. Without a browser
# nothing is tested, and that is no failure. The explorer needs a finished smoke run: it is made
# (minutes, nothing if it is there) unless DOLLKIT_RUNS names a folder of runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
find_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" && return
    done
    return 1
}
skip() {
    echo "browser tests skipped: $1"
    exit 0
}

"$python" -c 'import playwright' 2> /dev/null || skip 'playwright is not installed'
wanted=${CHROMIUM:-}
if [[ -n $wanted && $wanted != install ]]; then
    browser=$(command -v "$wanted") || { echo "CHROMIUM=$wanted: no such program" >&2; exit 2; }
elif ! browser=$(find_browser); then
    [[ -n ${CI:-} || $wanted = install ]] || skip 'no Chromium on the path; CHROMIUM=/path/to/it names one, CHROMIUM=install (as root, on Debian) installs one'
    [[ $(id -u) = 0 ]] && command -v apt-get > /dev/null || skip 'no Chromium on the path, and it cannot be installed: not root, or no apt-get'
    echo 'installing chromium by apt-get'
    log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } > "$log" 2>&1 \
        || { tail -5 "$log"; skip 'apt-get could not install chromium'; }
    browser=$(find_browser) || skip 'apt-get installed no program named chromium'
fi
echo "browser: $browser"
if [[ -z ${DOLLKIT_RUNS:-} ]]; then
    "$python" -m dollkit reproduce --profile smoke --jobs 2
fi
# pyproject.toml keeps this folder out of plain pytest.
CHROMIUM=$browser exec "$python" -m pytest -o norecursedirs='.*' "${@:-tests/browser}"
