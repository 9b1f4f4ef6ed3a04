"""Notebook 11 by command: settings are checked first, and its errors arrive as one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.errors import InputError
from dollkit.own import __main__ as command
from dollkit.own import running


def settings(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_those_of_the_notebook(tmp_path: Path) -> None:
    found = running.read_settings(
        settings(tmp_path, "films: films\nmasks: /data/masks\nsizes: [8]\n")
    )
    assert found["films"] == str((tmp_path / "films").resolve())
    assert found["masks"] == "/data/masks"
    assert found["sizes"] == [8]
    assert found["findings"] == ""
    assert running.read_settings(settings(tmp_path, ""))["run"] == "own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("film: /data", "unknown parameter 'film'.*did you mean 'films'"),
        ("size: big", "parameter 'size' is 'big'"),
        ("- a", "must hold lines like"),
        ("false", "must hold lines like"),
        ("a: [", "cannot be read as YAML"),
        ("size: 64\nsize: 96", "key 'size' stands twice in the block from line 1"),
        ("? [size]\n: 64\n? [size]\n: 96", "stands twice"),
        ("run: 2026-13-01", "cannot be read as YAML: month must be in 1..12"),
        ("a: " + "[" * 5000, "cannot be read as YAML"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        running.read_settings(settings(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        running.read_settings(tmp_path / "none.yaml")


def test_an_error_of_the_notebook_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DOLLKIT_RUNS", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "PYTHONPATH"):
        monkeypatch.setenv(name, str(tmp_path / "runs"))  # the command sets some: restored here
    path = settings(tmp_path, "films: /nowhere\n")
    assert command.main(["run", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == ("error: parameter 'findings' is empty: give films, findings and masks")
