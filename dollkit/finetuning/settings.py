"""What a grid of fine-tuning runs consists of: arm, tuning, number of masks, and rates to try."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from dollkit.common.arm_names import TUNINGS
from dollkit.common.errors import InputError
from dollkit.finetuning.run import split

log = logging.getLogger(__name__)
OTHER = "other"
"""Learning rates of every tuning that has none of its own."""

Tunings = Mapping[str, tuple[Sequence[str], Sequence[float]]]
"""Tuning to its arms and its learning-rate grid, the same for each of them."""


class Cell(NamedTuple):
    """One setting: it chooses its rate among `lrs`, and is then run with every seed."""

    arm: str
    tuning: str
    n_train: int
    lrs: Sequence[float]


def tunings_of(
    arms: Sequence[str], tunings: Mapping[str, Sequence[str]], lrs: Mapping[str, Sequence[float]]
) -> dict[str, tuple[Sequence[str], Sequence[float]]]:
    """Every tuning that has arms, with them and its learning rates, in `TUNINGS`' order.

    Args:
        arms: starts that are tuned in full.
        tunings: starts under each of the other tunings.
        lrs: grid of peak learning rates of each tuning, the same for all of its arms; ``other``
            is for tunings without their own.
    """
    known = {"tunings": TUNINGS[1:], "lrs": (*TUNINGS, OTHER)}
    for name, given in (("tunings", tunings), ("lrs", lrs)):
        for tuning in given:
            if tuning not in known[name]:
                raise InputError(
                    f"parameter {name!r} names {tuning!r}: use some of {', '.join(known[name])}"
                )
    wanted = {"full": arms, **tunings}
    out: dict[str, tuple[Sequence[str], Sequence[float]]] = {}
    for tuning in TUNINGS:
        if wanted.get(tuning):
            rates = lrs.get(tuning, lrs.get(OTHER, ()))
            if not rates:
                raise InputError(f"parameter 'lrs' has no rate for {tuning!r}: give at least one")
            out[tuning] = (wanted[tuning], rates)
    return out


def sizes_of(
    sizes: Sequence[int], n_train: int, films: pd.DataFrame, folds: Sequence[int], n_valid: int
) -> list[int]:
    """Further numbers of training films, ascending; 0 stands for all that every fold has.

    More films than there are cannot be drawn: such a number is left out, and the log says so
    (how many masks a data set has is often known only once it is read). `n_train` is no further
    number.

    Args:
        sizes: as given.
        n_train: the number that every arm and tuning is run with.
        films: the task's films, see `finetuning.split`.
    """
    most = min(len(split(films, fold, 0, n_valid, 0).pool) for fold in folds)
    found: set[int] = set()
    for size in sizes:
        if size < 0:
            raise InputError(f"parameter 'sizes' has {size}: use numbers of films, or 0 for all")
        if size > most:
            log.info("no run with %d training films: there are %d", size, most)
        else:
            found.add(size or most)
    return sorted(found - {n_train})


def cells_of(tunings: Tunings, n_train: int, sizes: Mapping[int, Sequence[str]]) -> list[Cell]:
    """All settings: every arm and tuning with `n_train` films, then the other sizes.

    Args:
        tunings: from `tunings_of`.
        n_train: training films.
        sizes: other number of training films to the arms that are tuned in full with it.
    """
    main = [Cell(arm, t, n_train, lrs) for t, (arms, lrs) in tunings.items() for arm in arms]
    more = [
        Cell(arm, "full", size, tunings["full"][1]) for size, arms in sizes.items() for arm in arms
    ]
    return main + more
