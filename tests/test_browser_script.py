"""When tests in a browser run, when they are skipped, and when a browser is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dollkit.common import paths

TOOLS = ("bash", "dirname", "mktemp", "tail", "chmod", "cp")
FAKES = {
    "python": '[ "$1" = -c ] && exit ${NO_PLAYWRIGHT:-0}; echo "$* with ${CHROMIUM:-none}"',
    "id": "echo ${UID_IS:-1000}",
    "apt-get": 'echo "apt-get $*" >> "$(dirname "$0")/asked"; [ -z "${OFFLINE:-}" ] || exit 100\n'
    '[ "$1" = update ] || { echo "#!/bin/sh" > "$(dirname "$0")/chromium"; '
    'chmod +x "$(dirname "$0")/chromium"; }',
}
ROOT = {"UID_IS": "0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path with nothing on it but what the script needs, and no browser."""
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The script, with only `env` in its environment."""
    command = [str(paths.ROOT / "tests" / "browser" / "run.sh"), str(folder / "python")]
    whole = {"PATH": str(folder), "TMPDIR": str(folder), "DOLLKIT_RUNS": str(folder)} | env
    return subprocess.run(command, env=whole, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "no Chromium on the path; CHROMIUM="),
        (ROOT, "no Chromium on the path; CHROMIUM="),
        ({"CI": "true"}, "no Chromium on the path, and it cannot be installed"),
        ({"CHROMIUM": "install"}, "no Chromium on the path, and it cannot be installed"),
        ({"CI": "true", "OFFLINE": "1", **ROOT}, "apt-get could not install chromium"),
        ({"NO_PLAYWRIGHT": "1"}, "playwright is not installed"),
    ],
)
def test_skipped_with_a_reason(folder: Path, env: dict[str, str], reason: str) -> None:
    done = run(folder, **env)
    assert done.returncode == 0, done.stderr
    assert f"browser tests skipped: {reason}" in done.stdout
    assert "pytest" not in done.stdout
    assert (folder / "asked").exists() is ("OFFLINE" in env)


@pytest.mark.parametrize("ask", [{"CI": "true"}, {"CHROMIUM": "install"}])
def test_installed_where_that_is_asked_for(folder: Path, ask: dict[str, str]) -> None:
    done = run(folder, **ask, **ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"tests/browser with {folder / 'chromium'}\n")
    asked = (folder / "asked").read_text().splitlines()
    assert asked[0] == "apt-get update"
    assert asked[1].endswith("chromium")


def test_the_browser_that_is_there_is_taken(folder: Path) -> None:
    shutil.copy(folder / "python", folder / "chromium-browser")
    done = run(folder, CI="true", **ROOT)
    assert done.stdout.endswith(f" with {folder / 'chromium-browser'}\n")
    assert not (folder / "asked").exists()


def test_a_browser_that_is_not_there_is_an_error(folder: Path) -> None:
    done = run(folder, CHROMIUM="/no/such/chromium", CI="true", **ROOT)
    assert done.returncode == 2
    assert "CHROMIUM=/no/such/chromium: no such program" in done.stderr


def test_the_smoke_run_is_made_unless_runs_are_named(folder: Path) -> None:
    shutil.copy(folder / "python", folder / "chromium")
    assert "dollkit reproduce --profile smoke" in run(folder, DOLLKIT_RUNS="").stdout
    assert "dollkit reproduce" not in run(folder).stdout


def test_plain_pytest_does_not_look_there(pytestconfig: pytest.Config) -> None:
    assert "browser" in pytestconfig.getini("norecursedirs")
