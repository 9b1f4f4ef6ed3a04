"""One source of versions: the two lock files; pyproject, conda and Binder agree with them."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dollkit.common import paths

MARKER = ' ; sys_platform == "linux" and platform_machine == "x86_64"'
LINE = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.+!]*)(" + re.escape(MARKER) + ")?")
LOCKS = ("requirements.lock", "requirements-dev.lock")
LINES = [(paths.ROOT / name).read_text().splitlines() for name in LOCKS]
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


RUN, DEV = ({canonicalize_name(line.split("==")[0]) for line in part} for part in LINES)


def test_the_locks_hold_names_and_versions_only() -> None:
    lines = [line for part in LINES for line in part]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert len(RUN | DEV) == len(lines), "a name stands twice"


def test_every_dependency_is_pinned() -> None:
    run = [*PROJECT["dependencies"], "setuptools"]
    assert [name for name in run if canonicalize_name(name) not in RUN] == []
    dev = PROJECT["optional-dependencies"]["dev"]
    assert [name for name in dev if canonicalize_name(name) not in RUN | DEV] == []


def test_a_run_needs_nothing_of_the_checks_lock() -> None:
    """pip installs the locks without resolving: the first must name all that its packages need."""
    missing = []
    for name in RUN:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for need in map(Requirement, needs):
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            if applies and canonicalize_name(need.name) not in RUN:
                missing.append((name, str(need)))
    assert missing == []


def test_conda_and_binder_take_their_versions_from_the_lock() -> None:
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = conda.pop(0)
    assert conda == ["pip"], "a version here would be a second source of pins"
    minor = int(re.fullmatch(r"python=3\.(\d+)", python)[1])  # type: ignore[index]
    assert minor >= int(PROJECT["requires-python"].removeprefix(">=3."))


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    makefile = (paths.ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    told = set(re.findall(r"^\t@echo 'make ([\w-]+) ", makefile, re.MULTILINE))
    assert {"reproduce", "verify"} <= told
    assert told == set(phony[1].split()) - {"help", "knobs"}
