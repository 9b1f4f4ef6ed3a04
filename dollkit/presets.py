"""How to pre-train: a modern recipe, and that of PSSL, the predecessor whose code is public.

The paper's own optimiser is not known to us. ``modern`` is our choice: AdamW, linear warm-up,
cosine. ``pssl`` takes from PaddleSeg's ``configs/pssl/stdc1_seg_pssl.yml`` (PSSL, arXiv
2207.03335): SGD with momentum 0.9, rate 0.01 that stays as it is (its step decay comes after the
last step) and is a tenth of it in the backbone, weight decay 4e-5, cross-entropy alone,
background weight 0.1. Not taken over: the softmax (findings overlap), its crops, batch 96 and ten
passes; ours remain the clipped gradient and no weight decay of norms and biases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from dollkit.errors import InputError
from dollkit.loop import Recipe


@dataclass(frozen=True)
class Preset:
    """Settings of a pre-training run that a preset decides; see `Recipe` and `losses`."""

    optimizer: str
    lr: float
    weight_decay: float
    background: float
    dice: float
    schedule: str
    backbone: float


PRESETS = {
    "modern": Preset(
        "adamw", lr=2e-3, weight_decay=1e-2, background=0.1, dice=0.5,
        schedule="cosine", backbone=1.0,
    ),
    "pssl": Preset(
        "sgd", lr=1e-2, weight_decay=4e-5, background=0.1, dice=0.0,
        schedule="constant", backbone=0.1,
    ),
}  # fmt: skip


def settings(preset: str, **given: float | str | None) -> Preset:
    """A preset, with what is given in place of its own; None leaves it.

    Args:
        preset: name in `PRESETS`.
        given: fields of `Preset`.
    """
    if preset not in PRESETS:
        raise InputError(f"parameter 'preset' is {preset!r}: use one of {', '.join(PRESETS)}")
    chosen = replace(PRESETS[preset], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    if not 0 < chosen.background <= 1:
        raise InputError(f"parameter 'background' is {chosen.background}: it must lie in (0, 1]")
    if not 0 <= chosen.dice < 1:  # alone it teaches nothing where a channel is empty
        raise InputError(f"parameter 'dice' is {chosen.dice}: it must lie in [0, 1)")
    return chosen


def recipe(
    chosen: Preset, steps: int, batch: int, evaluate_every: int, precision: str, seed: int
) -> Recipe:
    """The recipe of a pre-training run.

    Args:
        chosen: from `settings`.
        steps, batch, evaluate_every, precision, seed: see `Recipe`.
    """
    own = {k: v for k, v in asdict(chosen).items() if k not in ("background", "dice")}
    return Recipe(
        steps=steps, batch=batch, evaluate_every=evaluate_every, precision=precision, seed=seed,
        **own,
    )  # fmt: skip
