"""Notebook 11 by command: settings are checked first, and its errors arrive as one line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import __main__
from dollkit.interactive.your_radiographs import settings as running


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
    merged = "doll:\n  <<: &a {train: 7, valid: 8}\n  <<: *a\n  steps: 9\n"
    found = running.read_settings(settings(tmp_path, merged))
    assert found["doll"] == {"train": 7, "valid": 8, "steps": 9}


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
    assert __main__.main(["run", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == ("error: parameter 'findings' is empty: give films, findings and masks")


def test_one_run_at_a_time_and_a_notice_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    path, begun = settings(tmp_path, ""), []

    def execute(*_: object) -> None:
        begun.append(True)
        if len(begun) == 1:
            assert __main__.main(["run", str(path)]) == 2  # a second one
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(running.runner, "execute", execute)
    before = signal.getsignal(signal.SIGTERM)
    assert __main__.main(["run", str(path)]) == 128 + signal.SIGTERM
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"error: another run works in {tmp_path / 'runs' / 'own'}")
    assert said[1] == "stopped: what is done is kept, the same command goes on"
    assert __main__.main(["run", str(path)]) == 0
    assert len(begun) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "runs/own/.running.json").exists()
