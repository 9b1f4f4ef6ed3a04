"""A network for people without dollkit: ``python -m dollkit.workflow.export_network FOLDER OUT
--side 96``.

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
from dollkit.workflow.stage import read_manifest

CARD = """\
# {network} on {encoder}, {channels} channels

Trained by dollkit (after arXiv 2401.08469){origin}. Research software: not a medical device, not
for clinical use.

Input: (n, 1, {side}, {side}) float32 films, `(grey / 255 - {mean}) / {std}` with black 0 and white
255. Output: (n, {channels}, {side}, {side}) logits of independent sigmoids{findings}.

| file | holds |
|---|---|
| `network.pt2` | the network as it computes (activation {activation}), any batch size |
| `model.safetensors` | its tensors by the names of segmentation-models-pytorch |
{config_row}
```python
import torch
net = torch.export.load("network.pt2").module()
```
{more}"""

PLAIN = """
```python
import segmentation_models_pytorch as smp
net = smp.from_pretrained("{folder}").eval()
```
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
    config = networks.config_of(net)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors holds contiguous tensors; training keeps channels last.
    net = copy.deepcopy(net).eval().cpu()
    net = net.to(memory_format=torch.contiguous_format)
    plain = config["activation"] == "relu"
    (folder / "README.md").write_text(_card(net, side, origin), encoding="utf-8")
    if plain:
        net.save_pretrained(folder)  # type: ignore[operator]
    else:
        save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").unlink(missing_ok=True)
    films = torch.zeros(2, 1, side, side)
    with torch.no_grad():
        program = torch.export.export(
            net, (films,), dynamic_shapes=({0: torch.export.Dim("films", min=1, max=4096)},)
        )
    torch.export.save(program, folder / "network.pt2")


def _card(net: nn.Module, side: int, origin: str) -> str:
    config = networks.config_of(net)
    plain = config["activation"] == "relu"
    channels = int(config["classes"])
    own = {k: v for k, v in net.config.items() if not k.startswith("_")}  # type: ignore[operator, union-attr]
    given = ", ".join(f"{k}={v!r}" for k, v in own.items())
    call = f"smp.{type(net).__name__}({given})"
    row = "| `config.json` | how smp builds it |\n" if plain else ""
    return CARD.format(
        network=config["network"],
        encoder=config["encoder"],
        channels=channels,
        side=side,
        mean=compute.MEAN,
        std=compute.STD,
        activation=config["activation"],
        findings=f": {', '.join(FINDINGS)}" if channels == len(FINDINGS) else "",
        origin=f", stage {origin}" if origin else "",
        config_row=row,
        more=PLAIN.format(folder="FOLDER") if plain else SMOOTH.format(call=call),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.workflow.export_network",
        description="A network for people without dollkit",
    )
    parser.add_argument("folder", type=Path, help="folder with weights.safetensors, model.json")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--side", type=int, required=True, help="side of the films, pixels")
    given = parser.parse_args(argv)
    try:
        net = weights.load_network(given.folder, torch.device("cpu"))
        made = read_manifest(given.folder) or {}
        export(net, given.out, given.side, str(made.get("instance", "")))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(sorted(f.name for f in given.out.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
