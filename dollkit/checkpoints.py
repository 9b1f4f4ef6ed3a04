"""Named tensors out of weight files that others publish, without running code from them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

from dollkit.errors import InputError, brief

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
