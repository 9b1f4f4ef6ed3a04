#!/usr/bin/env bash
# The smoke profile from data to claims in a fresh folder, a second run that must do nothing, and
# the notebooks: what those of the stages have just printed is compared with what is stored in them;
# the others are run by nbval. With `all` as second argument then nbval runs the stages' notebooks
# too (against a copy, with their defaults alone), the documentation site is built with that run
# in it, and the same chain runs over CheXpert, JSRT, Montgomery, Shenzhen and COVID-QU-Ex trees on
# disk. No process may speak to another machine meanwhile. DOLLKIT_KEEP names a folder that gets
# the smoke run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export DOLLKIT_RUNS=$folder/runs DOLLKIT_FIGURES=$folder/figures
export DOLLKIT_OFFLINE=$folder/network.txt
export PYTHONPATH=$PWD/tests/offline${PYTHONPATH:+:$PYTHONPATH}
books=${DOLLKIT_NOTEBOOKS:-notebooks}
nbval() {
    "$python" -m pytest -q -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout 600 "$@"
}

# Beside the smoke run, which leaves a core idle now and then.
OMP_NUM_THREADS=1 nbval "$books"/{11_your_radiographs,00_quickstart}.ipynb > "$folder/nbval.txt" 2>&1 &
beside=$!
"$python" -m dollkit reproduce --profile smoke --jobs 2
again=$("$python" -m dollkit reproduce --profile smoke --jobs 2 2>&1)
grep -q '^nothing to do' <<< "$again" || { echo "$again"; echo 'a second run executed something'; exit 1; }
"$python" -m tests.stored_outputs smoke
if [[ -n ${DOLLKIT_KEEP:-} ]]; then cp -r "$folder/runs" "$folder/figures" "$DOLLKIT_KEEP"; fi
nbval "$books"/10_explorer.ipynb
read_beside=0; wait "$beside" || read_beside=$?
cat "$folder/nbval.txt"
((read_beside == 0)) || exit 1

if [[ ${2:-} = all ]]; then
    PROFILE=smoke NO_MKDOCS_2_WARNING=1 "$python" -W error -m mkdocs build --strict --quiet --site-dir "$folder/site"
    "$python" -m tests.site_loads "$folder/site"
    cp -r "$DOLLKIT_RUNS" "$folder/copy"
    DOLLKIT_RUNS=$folder/copy DOLLKIT_FIGURES=$folder/copied nbval "$books"/0[1-9]_*.ipynb
    "$python" -m tests.phantom_layouts --out "$folder/sets" --n 40 --size 64
    for name in chexpert jsrt nlm covid_qu_ex; do
        "$python" -m dollkit data check "$name" "$folder/sets" --subset --decode 2> /dev/null | tail -1
    done
    "$python" -m dollkit reproduce --profile disk-smoke --data "$folder/sets" --jobs 2
    grep -q 'JSRT with SCR masks (organs)' "$folder/figures/disk-smoke/claims.md"
fi
if [[ -e $DOLLKIT_OFFLINE ]]; then cat "$DOLLKIT_OFFLINE"; echo 'something asked for the network'; exit 1; fi
