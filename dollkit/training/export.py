"""A network for people without dollkit: ``python -m dollkit.training.export FOLDER OUT --side 96``.

`networks.build` may put SiLU in place of ReLU, which no configuration of
segmentation-models-pytorch can say: ``smp.from_pretrained`` would load such weights without a word
into a network that computes something else. So ``config.json`` is written for the unchanged
activation alone, and the computation itself (``torch.export``) for both.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.training import networks, weights

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
    """Write a network so that PyTorch, or segmentation-models-pytorch, loads it without dollkit.

    Args:
        net: from `networks.build`, on any device; left as it is.
        folder: gets ``network.pt2``, ``model.safetensors``, ``README.md`` and, if the activation
            is the architecture's own, ``config.json``.
        side: of the films, pixels; a multiple of 32.
        origin: instance of the stage that trained it (``pretrain/pspnet-doll``), for the card.
    """
    if side < 32 or side % 32:
        raise InputError(f"parameter 'side' is {side}: use a multiple of 32")
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors holds contiguous tensors; training keeps channels last.
    net = copy.deepcopy(net).eval().cpu()
    net = net.to(memory_format=torch.contiguous_format)
    (folder / "README.md").write_text(_card(net, side, origin), encoding="utf-8")
    if networks.config_of(net)["activation"] == "relu":
        net.save_pretrained(folder)  # type: ignore[operator]
    else:
        save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").unlink(missing_ok=True)
    films = torch.zeros(2, 1, side, side)
    any_number = torch.export.Dim("films", min=1, max=4096)
    with torch.no_grad():
        program = torch.export.export(net, (films,), dynamic_shapes=({0: any_number},))
    torch.export.save(program, folder / "network.pt2")


def _card(net: nn.Module, side: int, origin: str) -> str:
    config = networks.config_of(net)
    own = {k: v for k, v in net.config.items() if not k.startswith("_")}  # type: ignore[operator, union-attr]
    call = f"smp.{type(net).__name__}({', '.join(f'{k}={v!r}' for k, v in own.items())})"
    return CARD.format(
        **config,
        side=side,
        mean=compute.MEAN,
        std=compute.STD,
        findings=f": {', '.join(FINDINGS)}" if config["classes"] == len(FINDINGS) else "",
        origin=f", stage {origin}" if origin else "",
        more=PLAIN if config["activation"] == "relu" else SMOOTH.format(call=call),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.training.export", description="A network for people without dollkit"
    )
    parser.add_argument("folder", type=Path, help="folder with weights.safetensors, model.json")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--side", type=int, required=True, help="side of the films, pixels")
    given = parser.parse_args(argv)
    manifest = given.folder / "manifest.json"
    try:
        net = weights.load_network(given.folder, torch.device("cpu"))
        origin = json.loads(manifest.read_text())["instance"] if manifest.is_file() else ""
        export(net, given.out, given.side, origin)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(sorted(f.name for f in given.out.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
