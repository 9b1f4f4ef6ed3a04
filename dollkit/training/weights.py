"""Weights on disk: safetensors and a small JSON of how to build the network. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dollkit.common.errors import InputError, brief
from dollkit.training import adapters, networks

FILE = "weights.safetensors"
Net = TypeVar("Net", bound=nn.Module)


def save(net: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Write `weights.safetensors` and, last, `model.json` with `config`."""
    state = {k: v.contiguous().cpu() for k, v in net.state_dict().items()}
    part = folder / f"{FILE}.part"
    save_file(state, part)
    part.replace(folder / FILE)
    (folder / "model.json").write_text(json.dumps(dict(config), indent=1) + "\n")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and tensors of a folder written by `save`."""
    try:
        config = json.loads((folder / "model.json").read_text())
        state = load_file(folder / FILE)
    except Exception as error:  # safetensors raises its own types
        raise InputError(f"{folder}: no readable network there ({brief(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder}/model.json: not the description of a network: train it again")
    return config, state


def load(folder: Path, build: Callable[..., Net], where: torch.device) -> Net:
    """A network in eval mode; `build` makes it from what ``model.json`` says."""
    config, state = read(folder)
    try:
        net = build(**config)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/model.json: describes no network ({brief(error)})") from None
    networks.check_tensors(folder / FILE, state, net.state_dict())
    net.load_state_dict(state)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


def load_network(folder: Path, where: torch.device) -> nn.Module:
    """A segmentation network in eval mode, see `load`."""
    return load(folder, networks.build, where)


def save_tuned(
    net: nn.Module, names: list[str], tuning: str, path: Path, rank: int, made_by: str = ""
) -> None:
    """Write what a tuning trained, and nothing else, as one safetensors file.

    Args:
        names: what `adapters.prepare` returned; under ``full`` every tensor of the state, because
            batch-norm statistics move too.
        made_by: what tells the run and the weights that it started from; kept in the header.
    """
    state = net.state_dict()
    part = path.with_suffix(".part")
    save_file(
        {name: state[name].contiguous().cpu() for name in names},
        part,
        metadata={"tuning": tuning, "rank": str(rank), "made_by": made_by},
    )
    part.replace(path)


def load_tuned(net: nn.Module, path: Path, made_by: str = "") -> list[str]:
    """Put a file of `save_tuned` onto a fresh network that holds the same pre-trained weights.

    Returns:
        Names of the tensors that were loaded.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        tuning, rank = header["tuning"], int(header["rank"])
    except Exception as error:  # safetensors raises its own types
        raise InputError(f"{path}: no readable adapter checkpoint ({brief(error)})") from error
    if header.get("made_by") != made_by:
        raise InputError(f"{path}: made by {header.get('made_by')!r}, not by {made_by!r}")
    names = adapters.prepare(net, tuning, rank)
    if tuning == "full":
        names = list(net.state_dict())
    own = net.state_dict()
    networks.check_tensors(path, state, {name: own[name] for name in names})
    net.load_state_dict({**own, **state})
    return names
