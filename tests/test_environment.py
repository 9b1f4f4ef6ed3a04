"""One source of versions: the two lock files; pyproject, conda and Binder agree with them."""

from __future__ import annotations

import ast
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dollkit
from dollkit.common import paths

MARKER = ' ; sys_platform == "linux" and platform_machine == "x86_64"'
LINE = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.+!]*)(" + re.escape(MARKER) + ")?")
LINES = [(paths.ROOT / f"requirements{d}.lock").read_text().splitlines() for d in ("", "-dev")]
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
TOP_LEVEL = importlib.metadata.packages_distributions()
ROOMS = ("report", "workflow", "interactive")  # what the extra `notebooks` is for


def canonical(names: Iterable[str]) -> set[str]:
    return {canonicalize_name(name) for name in names}


RUN, DEV = (canonical(line.split("==")[0] for line in part) for part in LINES)
BASE = canonical(PROJECT["dependencies"])
NOTEBOOKS, CHECKS = (canonical(PROJECT["optional-dependencies"][e]) for e in ("notebooks", "dev"))


def test_the_locks_hold_names_and_versions_only() -> None:
    lines = [line for part in LINES for line in part]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert len(RUN | DEV) == len(lines), "a name stands twice"


def needs(package: str) -> set[str]:
    """Packages that another requires here; none of one for another platform."""
    try:
        other = map(Requirement, importlib.metadata.requires(package) or [])
    except importlib.metadata.PackageNotFoundError:
        return set()
    return canonical(r.name for r in other if r.marker is None or r.marker.evaluate({"extra": ""}))


def with_needs(packages: set[str]) -> set[str]:
    more = packages.union(*map(needs, packages))
    return packages if more == packages else with_needs(more)


def test_every_dependency_is_pinned() -> None:
    """pip installs the locks without resolving: the first must name all that its packages need."""
    assert with_needs(BASE | NOTEBOOKS | {"setuptools"}) | with_needs(RUN) == RUN
    assert CHECKS <= RUN | DEV


def test_every_import_is_declared_where_it_is_needed() -> None:
    for file in paths.PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
        known = BASE | {"datasets"}  # exports say how to install it
        known |= NOTEBOOKS if file.relative_to(paths.PACKAGE).parts[0] in ROOMS else set()
        for name in {n.split(".")[0] for n in names} - sys.stdlib_module_names - {"dollkit"}:
            assert canonical(TOP_LEVEL[name]) & known, f"{file} imports {name}"


@pytest.mark.slow
def test_the_package_is_imported_without_the_extras() -> None:
    extra = with_needs(NOTEBOOKS | CHECKS) - with_needs(BASE)
    absent = [top for top, packages in TOP_LEVEL.items() if canonical(packages) <= extra]
    assert {"IPython", "papermill", "snakemake", "datasets"} <= set(absent)
    walked = [m.name for m in pkgutil.walk_packages(dollkit.__path__, "dollkit.")]
    modules = [n for n in walked if n.split(".")[1] not in (*ROOMS, "__main__")]
    code = f"import importlib, sys; sys.modules.update(dict.fromkeys({absent}))\n"
    code += f"for m in {[*modules, 'dollkit.workflow.cli']}: importlib.import_module(m)"
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)


@pytest.mark.slow
def test_a_wheel_is_the_package_alone_and_says_so(tmp_path: Path) -> None:
    source = tmp_path / "source"
    left_out = (".*", "runs", "site", "figures", "build", "*.egg-info", "__pycache__")
    shutil.copytree(paths.ROOT, source, ignore=shutil.ignore_patterns(*left_out))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, str(source), "-w", str(tmp_path)], check=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {f.relative_to(source).as_posix() for f in source.glob("dollkit/**/*.*")}
    wheel.extractall(tmp_path / "site")
    command, site = [sys.executable, "-m", "dollkit", "plan"], {"PYTHONPATH": "site"}
    done = subprocess.run(command, cwd=tmp_path, env=site, capture_output=True)
    assert (done.returncode, b"clone the repository" in done.stderr) == (2, True)


def test_citation_and_changelog_have_this_version() -> None:
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dollkit.__version__
    heading = f"## [{citation['version']}] - {citation['date-released']}\n"
    assert heading in (paths.ROOT / "CHANGELOG.md").read_text()


def test_conda_and_binder_take_their_versions_from_the_lock() -> None:
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    python, *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
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
