"""Small steps that several readers share: JSON files, and splits drawn by patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dollkit.errors import InputError
from dollkit.films import SPLITS
from dollkit.readers.splits import draw_parts, share

FILM_SHARES = (0.7, 0.1, 0.2)
"""Train, valid, test shares where many patients are drawn one by one."""


def read_json(path: Path, hint: str = "fetch the file again") -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: {hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error}): {hint}") from None


def split_by_share(
    patients: Iterable[str], shares: tuple[float, float, float] = FILM_SHARES
) -> list[str]:
    """Split of each film from the sha256 of its patient's id alone: the same in any copy.

    Args:
        patients: patient id of each film.
        shares: of patients in train, valid and test; they add up to 1.
    """
    names = list(patients)
    drawn = {name: share(name) for name in set(names)}
    train, valid = shares[0], shares[0] + shares[1]
    return [SPLITS[(drawn[n] >= train) + (drawn[n] >= valid)] for n in names]


def draw_task_split(
    patients: Sequence[str], traits: npt.ArrayLike, shares: Sequence[float] = (0.6, 0.15, 0.25)
) -> list[str]:
    """Split of a few films with masks: none of train, valid, test empty if patients suffice.

    Args:
        patients: patient id of each film (n).
        traits: (n, T) 0/1: which masks each film has.
        shares: of films in train, valid and test.

    Returns:
        (n,) of `SPLITS`; all films of a patient in one. The draw has no random state, but it
        depends on which films there are.
    """
    part = draw_parts(patients, traits, shares)
    names = np.asarray(patients, dtype=object)
    if len(set(patients)) >= len(shares):
        for empty in sorted(set(range(len(shares))) - set(part.tolist())):
            sizes = [len(set(names[part == p])) for p in range(len(shares))]
            largest = set(names[part == int(np.argmax(sizes))])
            # The patient with fewest films: it changes the shares least.
            moved = min(
                largest,
                key=lambda p: ((names == p).sum(), hashlib.sha256(str(p).encode()).hexdigest()),
            )
            part[names == moved] = empty
    return [SPLITS[p] for p in part]
