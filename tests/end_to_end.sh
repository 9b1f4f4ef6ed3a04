#!/usr/bin/env bash
# The smoke profile from data to claims in a fresh folder, then every notebook by nbval against a
# copy of what it made (02, 04 and 05 run once there; their other instances come from the copy),
# the documentation site with that run in it, then the same chain over CheXpert, JSRT, Montgomery,
# Shenzhen and COVID-QU-Ex trees on disk. No process may speak to another machine meanwhile.
# DOLLKIT_KEEP names a folder that gets the smoke run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export DOLLKIT_RUNS=$folder/runs DOLLKIT_FIGURES=$folder/figures
export DOLLKIT_OFFLINE=$folder/network.txt
export PYTHONPATH=$PWD/tests/offline${PYTHONPATH:+:$PYTHONPATH}
"$python" -m dollkit.workflow.reproduce --profile smoke --jobs 2
again=$("$python" -m dollkit.workflow.reproduce --profile smoke --jobs 2 2>&1)
grep -q '^nothing to do' <<< "$again" || { echo "$again"; echo 'a second run executed something'; exit 1; }
PROFILE=smoke NO_MKDOCS_2_WARNING=1 "$python" -W error -m mkdocs build --strict --quiet --site-dir "$folder/site"
"$python" -m tests.site_loads "$folder/site"
if [[ -n ${DOLLKIT_KEEP:-} ]]; then cp -r "$folder/runs" "$folder/figures" "$DOLLKIT_KEEP"; fi
mkdir "$folder/nbval"
cp -r "$DOLLKIT_RUNS" "$DOLLKIT_FIGURES" "$folder/nbval"
export DOLLKIT_RUNS=$folder/nbval/runs DOLLKIT_FIGURES=$folder/nbval/figures
"$python" -m pytest -q -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
    "${DOLLKIT_NOTEBOOKS:-notebooks}"

export DOLLKIT_RUNS=$folder/runs DOLLKIT_FIGURES=$folder/figures
"$python" -m dollkit.data.phantom --out "$folder/sets" --layout all --n 40 --size 64 2> /dev/null
for name in chexpert jsrt nlm covid_qu_ex; do
    "$python" -m dollkit.data check "$name" "$folder/sets" --subset --decode 2> /dev/null | tail -1
done
"$python" -m dollkit.workflow.reproduce --profile disk-smoke --data "$folder/sets" --jobs 2
grep -q 'JSRT with SCR masks (organs)' "$folder/figures/disk-smoke/claims.md"
if [[ -e $DOLLKIT_OFFLINE ]]; then cat "$DOLLKIT_OFFLINE"; echo 'something asked for the network'; exit 1; fi
