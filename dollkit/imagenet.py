"""ImageNet weights from a file of the user's, or by smp's own download: none are shipped.

The file is what torchvision, timm or smp publish for the encoder's architecture, as safetensors
or as a PyTorch state without pickled code. Its three-channel first convolution is summed over the
input channels, as smp (``patch_first_conv``) and timm (``adapt_input_conv``) do for one channel:
a grey film is then answered as its three equal channels would be. The film's scale is not
ImageNet's, and these weights were trained with the architecture's own activation: under
``activation: silu`` a ReLU network's weights do not compute what they were trained to, so compare
under ``relu``.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import nn

from dollkit import paths
from dollkit.classifiers import encoder
from dollkit.errors import InputError, brief

HEADS = ("fc.", "classifier.", "head.", "last_linear.")
"""Beginnings of names that belong to ImageNet's classifier; such tensors are left out."""
OLD_DENSENET = re.compile(r"\.(norm|relu|conv)\.([12])\.")
"""Names in torchvision's DenseNet files: ``norm.1`` for what the modules call ``norm1``."""


@dataclass(frozen=True)
class ImageNet:
    """Weights of an encoder with one input channel.

    Attributes:
        state: tensors by the encoder's own names, all five stages.
        ignored: tensors of the file that belong to ImageNet's classifier.
        summed: name of the convolution whose three input channels were summed; "" if none.
    """

    state: dict[str, torch.Tensor]
    ignored: tuple[str, ...]
    summed: str

    def digest(self) -> str:
        """SHA-256 of the tensors."""
        found = hashlib.sha256()
        for name, tensor in self.state.items():
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()

    def into(self, net: nn.Module) -> list[str]:
        """Copy into a segmentation network's encoder; returns the names as in the network.

        Raises:
            InputError: the network's encoder is of another architecture.
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


def located(path: str) -> Path:
    """The file that a parameter names; what is relative lies below the repository."""
    return paths.ROOT / path


DOWNLOAD = "download"
"""In place of a file: smp (or timm behind it) fetches what it publishes for the encoder."""


class Unavailable(Exception):
    """No weights could be downloaded; the text says why, in one line."""


def download(architecture: str) -> ImageNet:
    """Weights that smp publishes for an encoder, from its cache if they are there.

    Raises:
        Unavailable: there is no network, or no such weights.
    """
    try:
        found = smp.encoders.get_encoder(architecture, in_channels=3, depth=5, weights="imagenet")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        why = brief(error)
        raise Unavailable(f"{architecture} cannot be downloaded ({why})") from None
    timms = architecture.startswith("tu-")
    state = {k.removeprefix("model.") if timms else k: v for k, v in found.state_dict().items()}
    return _fitted(state, architecture, f"smp's download of {architecture}")


def read(path: Path, architecture: str) -> ImageNet:
    """Weights of a file for an encoder, every name and shape checked.

    Names are compared as the encoder has them, but for the prefix ``model.`` of timm's encoders
    and timm's ``stages_0`` for ``stages.0``. Counters of batches that old files lack stay zero.

    Args:
        path: ``.safetensors``, ``.pth`` or ``.pt``.
        architecture: smp encoder name.

    Raises:
        InputError: no such file, not readable as tensors, or the first tensor that is missing,
            surplus, of another shape or not finite.
    """
    return _fitted(_tensors(path), architecture, str(path))


def _fitted(tensors: dict[str, torch.Tensor], architecture: str, path: str) -> ImageNet:
    given = {_plain(name): name for name in tensors}
    if len(given) < len(tensors):
        raise InputError(f"{path}: two of its tensors would have the same name; is it one network?")
    own = encoder(architecture, 5, "relu").state_dict()
    state: dict[str, torch.Tensor] = {}
    summed = ""
    for name, tensor in own.items():
        short = _plain(name.removeprefix("model.") if architecture.startswith("tu-") else name)
        if short not in given:
            if name.endswith("num_batches_tracked"):
                state[name] = torch.zeros_like(tensor)
                continue
            raise InputError(f"{path}: tensor {name} of {architecture} is missing")
        value = tensors[given.pop(short)]
        if tensor.ndim == 4 and tensor.shape[1] == 1 and not summed and value.ndim == 4:
            first = (tensor.shape[0], 3, *tensor.shape[2:])
            if tuple(value.shape) == first:
                value, summed = value.sum(1, keepdim=True), name
        if value.shape != tensor.shape:
            raise InputError(
                f"{path}: tensor {name} is {tuple(value.shape)}, {architecture} needs "
                f"{tuple(tensor.shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: tensor {name} holds NaN or infinity")
        state[name] = value.to(tensor.dtype)
    rest = sorted(given.values())
    surplus = [name for name in rest if not name.startswith(HEADS)]
    if surplus:
        raise InputError(f"{path}: tensor {surplus[0]} has no place in {architecture}")
    return ImageNet(state, tuple(rest), summed)


def _plain(name: str) -> str:
    return OLD_DENSENET.sub(r".\1\2.", name).replace(".", "_")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"parameter 'imagenet_weights': {path}: no such file")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"parameter 'imagenet_weights': {path}: use a .safetensors, .pth or .pt file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of pickles that it does not run
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own types
        raise InputError(
            f"{path}: not readable as tensors without code ({brief(error)})"
        ) from error
    for inner in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(inner), dict):
            found = found[inner]
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
    ):
        raise InputError(f"{path}: holds something else than named tensors")
    return found
