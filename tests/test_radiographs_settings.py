"""Notebook 11 by command: each parameter is checked first, and its errors arrive as one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import settings
from dollkit.workflow.cli import main
from dollkit.workflow.parameters import declared

DEFAULTS = declared(paths.NOTEBOOKS / settings.NOTEBOOK)().model_dump()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command sets some of these: they are restored.
    for name in ("DOLLKIT_RUNS", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "PYTHONPATH"):
        monkeypatch.setenv(name, str(tmp_path / "runs"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_and_what_else_a_namespace_holds() -> None:
    settings.check_settings({**DEFAULTS, "np": object()})
    for named in (["ours"], []):  # classifiers given trained tell themselves what they are
        settings.check_settings({**DEFAULTS, "classifiers": "/some/folder", "architectures": named})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"size": 65}, "'size' is 65: .* a multiple of 32"),
        ({"to": ["nifti"]}, r"'to'\[0\] is 'nifti'"),
        ({"steps": {"classifier": 1}}, "'steps' is .*: give classifier, finetune, pretrain"),
        ({"arms": ["random", "chance"]}, r"'arms'\[1\] is 'chance'"),
        ({"predict_with": "shuffled"}, "'predict_with' is 'shuffled', not in 'arms'"),
        ({"architectures": ["tu-resnet10t"] * 2}, "'architectures' is .*: each one once"),
        ({"architectures": ["tu-resnet11t"]}, "no encoder 'tu-resnet11t'"),
        ({"run": "smoke"}, "'run' is 'smoke': use a name of letters, no profile's"),
    ],
)
def test_bad_parameters_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        settings.check_settings({**DEFAULTS, **more})
    assert "\n" not in str(error.value)


def test_settings_are_those_of_the_notebook(tmp_path: Path) -> None:
    text = "films: films\nmasks: /data/masks\nsizes: [8]\n"
    found = settings.read_settings(write(tmp_path, text))
    changed = {name: value for name, value in found.items() if value != DEFAULTS[name]}
    films = str((tmp_path / "films").resolve())
    assert changed == {"films": films, "masks": "/data/masks", "sizes": [8]}
    assert settings.read_settings(write(tmp_path, "")) == DEFAULTS
    for text, message in (
        ("film: /data", "unknown parameter 'film'.*did you mean 'films'"),
        ("size: big", "parameter 'size' is 'big'"),
        ("size: 65", r"mine\.yaml: parameter 'size' is 65: .* a multiple"),
    ):
        with pytest.raises(InputError, match=message):
            settings.read_settings(write(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        settings.read_settings(tmp_path / "none.yaml")


@pytest.mark.slow
def test_an_error_of_the_notebook_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "films: /nowhere\n")
    assert main(["your-radiographs", "run", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "parameter 'findings' is empty: give films, findings and masks"
