"""Parameters of notebook 11: each has a limit, and none is found wrong after the work has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import settings
from dollkit.workflow.parameters import declared

KNOWN = declared(paths.NOTEBOOKS / settings.NOTEBOOK)
DEFAULTS = {name: parameter.default for name, parameter in KNOWN.items()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))


def test_the_defaults_and_what_else_a_namespace_holds() -> None:
    steps, doll = settings.check({**DEFAULTS, "np": object()})
    assert (steps, doll) == (DEFAULTS["steps"], DEFAULTS["doll"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 33), ("sizes", [0]), ("n_valid", 0), ("lrs", []), ("lrs", [0.0]), ("seeds", [-1]),
     ("network", "unets"), ("precision", "half"), ("margin", -0.1), ("device", "tpu"),
     ("to", ["gif"]), ("folds", 1.5), ("compare", "yes"), ("classes", "lungs")],
)  # fmt: skip
def test_bad_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"parameter '{name}'") as error:
        settings.check({**DEFAULTS, name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": {"classifier": 1}}, "'steps' is .*: give classifier, pretrain, finetune"),
        ({"doll": {"train": 1, "valid": 0, "steps": 2}}, "'doll' is .*each 1 or more"),
        ({"arms": ["random", "chance"]}, "'arms' names 'chance'"),
        ({"predict_with": "shuffled"}, "'predict_with' is 'shuffled': list it in 'arms' too"),
        ({"architectures": []}, "'architectures' is empty"),
        ({"architectures": ["tu-resnet10t"] * 2}, "'architectures' is .*: each one once"),
        ({"architectures": ["tu-resnet11t"]}, "no encoder 'tu-resnet11t'"),
        ({"network": "deeplabv3plus", "architectures": ["tu-vit_tiny_patch16_224"]}, "encoder"),
        ({"run": "smoke"}, "'run' is 'smoke': use a name of letters, no profile's"),
        ({"seeds": [0, 0]}, "'seeds' has .*: each one once"),
    ],
)
def test_what_hangs_together(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings.check({**DEFAULTS, **more})


def test_given_classifiers_say_themselves_what_they_are() -> None:
    for named in (["ours"], []):
        settings.check({**DEFAULTS, "classifiers": "/some/folder", "architectures": named})


def test_a_file_of_settings_is_refused_before_a_kernel_starts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("size: 65\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.yaml: parameter 'size' is '65': .* a multiple"):
        settings.read_settings(path)
