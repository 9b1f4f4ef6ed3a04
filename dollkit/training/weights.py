"""Weights on disk: safetensors and a small JSON of how to build the network. Never a pickle.

For people without dollkit, ``python -m dollkit export-network FOLDER OUT --side 96``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError, brief
from dollkit.common.findings import FINDINGS
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
        return dict(json.loads((folder / "model.json").read_text())), load_file(folder / FILE)
    except Exception as error:  # safetensors raises its own types
        raise InputError(f"{folder}: no readable network there ({brief(error)})") from error


def load(folder: Path, build: Callable[..., Net], device: torch.device) -> Net:
    """A network in eval mode; `build` (`networks.build`) makes it from what ``model.json`` says."""
    config, state = read(folder)
    try:
        net = build(**config)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/model.json: describes no network ({brief(error)})") from None
    networks.check_tensors(folder / FILE, state, net.state_dict())
    net.load_state_dict(state)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


def save_tuned(
    net: nn.Module, names: list[str], tuning: str, path: Path, made_by: str = ""
) -> None:
    """Write what a tuning trained, and nothing else, as one safetensors file.

    `names`: those of `adapters.prepare`; under ``full`` all tensors, because batch-norm statistics
    move too. The header says `made_by` which run, from which weights.
    """
    state = net.state_dict()
    tensors = {name: state[name].contiguous().cpu() for name in names}
    part = path.with_suffix(".part")
    save_file(tensors, part, {"tuning": tuning, "made_by": made_by})
    part.replace(path)


def load_tuned(net: nn.Module, path: Path, made_by: str = "") -> list[str]:
    """Put a file of `save_tuned` onto a fresh network with the weights that its run started from.

    Names of the tensors that were loaded are returned.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        tuning = header["tuning"]
    except Exception as error:  # safetensors raises its own types
        raise InputError(f"{path}: no readable adapter checkpoint ({brief(error)})") from error
    if header.get("made_by") != made_by:
        raise InputError(f"{path}: made by {header.get('made_by')!r}, not by {made_by!r}")
    names = adapters.prepare(net, tuning)
    fresh = net.state_dict()
    names = list(fresh) if tuning == "full" else names
    networks.check_tensors(path, state, {name: fresh[name] for name in names})
    net.load_state_dict({**fresh, **state})
    return names


# A network for people without dollkit. `networks.build` may put SiLU in place of ReLU, which no
# configuration of segmentation-models-pytorch can say: ``smp.from_pretrained`` would load such
# weights without a word into a network that computes something else. So ``config.json`` is written
# for the unchanged activation alone, and the computation itself (``torch.export``) for both.

CARD = """\
# {network} on {encoder}, {classes} channels

Trained by dollkit (after arXiv 2401.08469){origin}. Research software: not a medical device, not
for clinical use.

Input: (n, 1, {side}, {side}) float32 films, `(grey / 255 - {mean}) / {std}` with black 0 and white
255. Output: (n, {classes}, {side}, {side}) logits of independent sigmoids{findings}.

- `network.pt2` is the network as it computes (activation {activation}), for any batch size:
  `torch.export.load("network.pt2").module()`.
- `model.safetensors` holds its tensors by the names of segmentation-models-pytorch.
{more}"""
PLAIN = """\
- `config.json` says how segmentation-models-pytorch builds it: `smp.from_pretrained("FOLDER")`.
"""
SMOOTH = """
No `config.json`: segmentation-models-pytorch cannot say that SiLU stands in place of every ReLU,
and `smp.from_pretrained` would load these weights into another function. To train on, build
`{call}`, put `torch.nn.SiLU()` in place of every `torch.nn.ReLU` and `ReLU6`, and load
`model.safetensors`.
"""


def export(net: nn.Module, folder: Path, side: int, origin: str = "") -> None:
    """Write a network of `networks.build` so that PyTorch loads it without dollkit.

    The folder gets ``network.pt2`` for films of `side` pixels, a multiple of 32,
    ``model.safetensors``, ``README.md`` and, with ReLU, ``config.json``. `origin`, for the card, is
    the stage that trained it (``pretrain/pspnet-doll``).
    """
    if side < 32 or side % 32:
        raise InputError(f"parameter 'side' is {side}: use a multiple of 32")
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors holds contiguous tensors; training keeps channels last.
    net = copy.deepcopy(net).eval().cpu().to(memory_format=torch.contiguous_format)
    (folder / "README.md").write_text(_card(net, side, origin), encoding="utf-8")
    if networks.config_of(net)["activation"] == "relu":
        net.save_pretrained(folder)  # type: ignore[operator]
    else:
        save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").unlink(missing_ok=True)
    any_number = torch.export.Dim("films", min=1, max=4096)
    films = torch.zeros(2, 1, side, side)
    with torch.no_grad():
        program = torch.export.export(net, (films,), dynamic_shapes=({0: any_number},))
    torch.export.save(program, folder / "network.pt2")


def _card(net: nn.Module, side: int, origin: str) -> str:
    config = networks.config_of(net)
    arguments = [f"{k}={v!r}" for k, v in net.config.items() if not k.startswith("_")]  # type: ignore[operator, union-attr]
    call = f"smp.{type(net).__name__}({', '.join(arguments)})"
    return CARD.format(
        **config, side=side, mean=compute.MEAN, std=compute.STD,
        findings=f": {', '.join(FINDINGS)}" if config["classes"] == len(FINDINGS) else "",
        origin=f", stage {origin}" if origin else "",
        more=PLAIN if config["activation"] == "relu" else SMOOTH.format(call=call),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``export-network``."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit export-network", description="A network for people without dollkit"
    )
    parser.add_argument("folder", type=Path, help="folder with weights.safetensors, model.json")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--side", type=int, required=True, help="side of the films, pixels")
    args = parser.parse_args(argv)
    net = load(args.folder, networks.build, torch.device("cpu"))
    manifest = args.folder / "manifest.json"
    origin = json.loads(manifest.read_text())["instance"] if manifest.is_file() else ""
    export(net, args.out, args.side, origin)
    print(json.dumps(sorted(f.name for f in args.out.iterdir())))
    return 0
