# Two commands: `make reproduce` (data to claims) and `make test`. Each sets up .venv by itself.
PROFILE ?= laptop
DATA ?=
# Three on two cores: the stages of a family come in threes, and none waits for a last one.
JOBS ?= $(if $(filter local,$(EXECUTOR)),3,50)
DEVICE ?= auto
EXECUTOR ?= local
CPUS ?= 0
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
DEV_STAMP := $(VENV)/.ready-dev
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help plan reproduce test test-all test-browser test-slurm verify docs bench lab lock clean knobs

help:
	@echo 'make reproduce  run a profile from data to claims (only what changed)'
	@echo 'make plan       what a profile will do, need and cost; runs nothing'
	@echo 'make test       checks in ten minutes, with the smoke profile end to end'
	@echo 'make test-all   the same with the tests marked slow, the site, and data sets on disk'
	@echo 'make test-browser  the notebooks in JupyterLab in headless Chromium; skipped without it'
	@echo 'make test-slurm  stages as jobs of a SLURM on this machine (root, Debian packages of SLURM)'
	@echo 'make verify     do the committed tables and figures follow from their rows? (PROFILE: one of them)'
	@echo 'make docs       the documentation site: texts, results, notebooks, API reference, to site/'
	@echo 'make bench      speed of this machine, to figures/bench.json'
	@echo 'make lab        JupyterLab in the same environment, on the quickstart'
	@echo 'make lock       resolve both lock files again'
	@echo 'make clean      delete runs/, site/ and caches (keeps .venv and figures/)'
	@echo 'knobs: PROFILE=smoke|laptop|desk|gpu|open|to-real|to-phantom|disk-smoke|disk|paper (laptop)  DATA=dir  JOBS=n (3)  DEVICE=auto|cpu|cuda (auto)  EXECUTOR=local|slurm (local)'

# As variables of the shell: a path may hold blanks, quotes, brackets, or begin with a dash.
reproduce plan docs: export PROFILE := $(PROFILE)
reproduce plan docs: export DATA := $(DATA)
reproduce plan docs: export JOBS := $(JOBS)
reproduce plan docs: export DEVICE := $(DEVICE)
reproduce plan docs: export EXECUTOR := $(EXECUTOR)

# Before the environment is made: a typing slip should not cost the minutes of an installation.
knobs:
	@test -f "notebooks/params/$$PROFILE.yaml" || { echo "unknown profile '$$PROFILE': use one of $$(cd notebooks/params && ls *.yaml | sed 's/.yaml$$//' | paste -sd ' ')" >&2; exit 2; }
	@case "$$DEVICE" in auto|cpu|cuda) ;; *) echo "DEVICE=$$DEVICE: use one of auto, cpu, cuda" >&2; exit 2;; esac
	@test -z "$$DATA" || test -d "$$DATA" || { echo "DATA=$$DATA: no such folder; data/README.md shows the expected tree" >&2; exit 2; }

reproduce: knobs $(STAMP)
	@$(PY) -m dollkit reproduce --profile "$$PROFILE" --data="$$DATA" --jobs "$$JOBS" --device "$$DEVICE" \
	  --executor "$$EXECUTOR" --threads '$(CPUS)' $(ARGS)

plan: knobs $(STAMP)
	@$(PY) -m dollkit plan --profile "$$PROFILE" --data="$$DATA"

# Every part runs, whatever failed before it; the last line names the parts that failed. mypy, which
# takes a minute of one core, runs beside the others.
test: QUICK := -m 'not slow'
test-all: ALL := all
test test-all: $(DEV_STAMP)
	@failed=; trap 'exit 130' INT TERM; \
	part() { echo "== $$1"; "$${@:2}" || failed+="$${failed:+, }$$1"; }; \
	said=$$(mktemp); $(VENV)/bin/mypy > "$$said" 2>&1 & mypy=$$!; \
	types() { local code=0; wait "$$mypy" || code=$$?; cat "$$said"; rm -f "$$said"; return $$code; }; \
	part 'ruff check' $(VENV)/bin/ruff check .; \
	part 'ruff format' $(VENV)/bin/ruff format --check .; \
	part lint-imports $(VENV)/bin/lint-imports; \
	part pytest env OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --dist loadfile $(QUICK); \
	part end_to_end.sh tests/end_to_end.sh $(PY) $(ALL); \
	part mypy types; \
	test -z "$$failed" || { echo "make $@ failed in: $$failed" >&2; exit 1; }

test-slurm: $(DEV_STAMP)
	$(PY) -m pytest -q -o norecursedirs='.*' tests/slurm

# CHROMIUM=path names the browser; pictures go to runs/browser/. ARGS are pytest's.
test-browser: $(DEV_STAMP)
	@tests/browser/run.sh $(PY) $(ARGS)

# All of them, unless the user names some: the default of PROFILE is not meant.
verify: $(STAMP)
	@$(PY) -m dollkit verify $(if $(filter-out file,$(origin PROFILE)),$(PROFILE))

# Warnings of Python and of mkdocs (a link that leads nowhere) are errors.
docs: knobs $(DEV_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(PY) -W error -m mkdocs build --strict --quiet
	@echo 'site/index.html opens in a browser; with search: $(PY) -m http.server --directory site'

bench: $(STAMP)
	$(PY) -m benchmarks

# The quickstart beside its table of contents; all of the repository, so that links out of notebooks/
# lead somewhere. The layout is a workspace of its own in runs/lab/: it
# neither shows nor changes the one in the user's home, whose settings hold here too.
lab: export JUPYTERLAB_WORKSPACES_DIR := $(CURDIR)/runs/lab
lab: export DOLLKIT_DEVICE := $(DEVICE)
lab: $(STAMP)
	@$(PY) -m jupyterlab workspaces import notebooks/dollkit.jupyterlab-workspace > /dev/null
	$(PY) -m jupyterlab --LabApp.default_url=/lab/workspaces/dollkit

# GiB that a lock's packages take, and their wheels in the temporary folder meanwhile: measured on
# Linux (CUDA build of PyTorch); guessed for platforms that have smaller wheels.
SPACE := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),7 4,3 1)
DEV_SPACE := 1 1

# $(call room,GiB here and for wheels)
define room
@df -Pk . "$${TMPDIR:-/tmp}" | awk -v space='$(1)' \
  'NR == 1 { split(space, part, " ") } NR > 1 { need[$$6] += part[NR - 1]; free[$$6] = $$4 / 2^20 } \
   END { for (m in need) if (free[m] < need[m]) { printf "installing needs %d GiB on %s and %.1f are free: make room, or let TMPDIR name a folder elsewhere for the wheels (%d GiB)\n", \
   need[m], m, free[m], part[2] > "/dev/stderr"; exit 2 } }'
endef

# $(call install,lock file). A lock names all that it needs, so pip has nothing to resolve. The log
# is kept only if installing fails.
define install
@$(PY) -m pip install --disable-pip-version-check --progress-bar off --log $(VENV)/install.log --no-deps \
  -r $(1) 2> >(grep -v '^WARNING' >&2) | awk -v all=$$(wc -l < $(1)) \
  '/^(Collecting|Processing|Requirement already)/ { if (++n % 20 == 0 || n == all) { printf "  %d of %d packages found\n", n, all; fflush() } } \
   /^Installing collected/ { print "  installing them (some minutes)"; fflush() }'
@rm -f $(VENV)/install.log
endef

# $(STAMP) is written last. .installing marks an installation that was cut short: start it afresh.
$(STAMP): requirements.lock
	$(if $(wildcard $@),,$(call room,$(SPACE)))
	@python=''; for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  "$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && { python=$$p; break; }; done; \
	test -n "$$python" || { echo '$(or $(PYTHON),the path) has no Python >= 3.11 with venv: install one, or say PYTHON=/path/to/python3' >&2; exit 2; }; \
	if test ! -e $(VENV)/.installing && $(VENV)/bin/python -m pip --version > /dev/null 2>&1; then \
	  echo "updating $(VENV)"; else echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); fi
	@rm -f $@; touch $(VENV)/.installing
	$(call install,requirements.lock)
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installing; touch $@; echo '  $(VENV) is ready'

# What checks and the site need besides.
$(DEV_STAMP): requirements-dev.lock $(STAMP)
	$(if $(wildcard $@),,$(call room,$(DEV_SPACE)))
	@echo 'adding tools of the checks to $(VENV)'
	$(call install,requirements-dev.lock)
	@touch $@; echo '  $(VENV) is ready for checks'

# One environment resolves both: first what a run needs, then, with those versions, the rest. Pins
# of CUDA packages carry a marker, since other platforms have no such wheels. aiohttp is named
# because papermill wants it on Python 3.12 only: so the lock is whole whatever Python resolves it.
LOCK := .venv-lock/bin/python -m pip --disable-pip-version-check
FREEZE := $(LOCK) freeze --all --exclude pip --exclude-editable \
  | sed -E 's/^((nvidia|cuda)-.*|triton==.*)$$/\1 ; sys_platform == "linux" and platform_machine == "x86_64"/' \
  | LC_ALL=C sort -f
lock:
	rm -rf .venv-lock
	python3 -m venv .venv-lock
	$(LOCK) install --quiet --upgrade 'setuptools>=77' aiohttp -e '.[notebooks]'
	$(FREEZE) > requirements.lock.new
	$(LOCK) install --quiet --constraint requirements.lock.new -e '.[notebooks,dev]'
	$(FREEZE) | grep -vxFf requirements.lock.new > requirements-dev.lock.new
	for name in requirements requirements-dev; do mv $$name.lock.new $$name.lock; done
	rm -rf .venv-lock

clean:
	rm -rf runs site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dollkit tests -name __pycache__ -type d -prune -exec rm -rf {} +
