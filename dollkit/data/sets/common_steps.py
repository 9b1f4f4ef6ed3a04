"""Steps that several readers share: files read, films and tables made, one file per film."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.csvfile import AGAIN, BadRows, read_text, reject
from dollkit.data.dataset import DataSet, descend
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.masks import Mask, Union
from dollkit.data.splits import share

Strings: TypeAlias = "Sequence[str] | pd.Series[str]"

DEPTHS = dict.fromkeys(("chexpert", "chexlocalize", "nih", "covid_qu_ex"), (8,))
"""Bits per grey value that the films of a data set may have, where it is not 8 or 16."""
ANY_ENDING = ("ieee8023", "generalblockchain", "v7")
"""Data sets whose films are read as what they are: endings of their names may lie."""


def data_set(
    name: str,
    stores: Sequence[str],
    find: Callable[[Path], Path | None],
    read: Callable[..., dict[str, FilmTable]],
    **options: tuple[str, ...],
) -> DataSet:
    """A data set as ``data/catalogue.yaml`` describes it; `options` have their allowed values."""
    entry = {key: value for key, value in _catalogue()[name].items() if key != "side"}
    return DataSet(name=name, stores=tuple(stores), find=find, read=read, options=options, **entry)


def make_table(
    name: str,
    films: pd.DataFrame,
    root: Path,
    masks: Mapping[str, Sequence[Mask | None]] | pd.DataFrame | None = None,
    *,
    others: Iterable[Path] = (),
    side: Iterable[str] = (),
    store: str = "",
    **more: Any,
) -> FilmTable:
    """Table of data set `name` (of one `store` of it); `masks` by class, one for each film."""
    return FilmTable(
        f"{name}-{store}" if store else name,
        films,
        root,
        pd.DataFrame(masks, dtype=object),
        depths=DEPTHS.get(name, (8, 16)),
        any_ending=name in ANY_ENDING,
        others=tuple(others),
        side=(*_catalogue()[name]["side"], *side),
        **more,
    )


@cache
def _catalogue() -> dict[str, Any]:
    return dict(yaml.safe_load((paths.DATA / "catalogue.yaml").read_text("utf-8")))


def films_of(
    source: str, names: Strings, files: Iterable[object], where: Strings, **columns: Any
) -> pd.DataFrame:
    """Films called `names`; each is a patient and a study of its own unless `columns` differ."""
    films = blank_films(len(names))
    for column in ("image_id", "patient_id", "study_id"):
        films[column] = names
    films["source"] = source
    films["path"] = [str(file) for file in files]
    films["where"] = where
    for column, values in columns.items():
        films[column] = values
    return films


def hold_out(patients: pd.Series[str], valid_fraction: float) -> pd.Series[str]:
    """``valid`` or ``train`` for each film, from the sha256 of its patient's id alone."""
    held = {p: "valid" if share(p) < valid_fraction else "train" for p in patients.unique()}
    return patients.map(held).astype(str)


def check_fraction(valid_fraction: float) -> None:
    """Refuse a share of validation patients outside [0, 1)."""
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")


def joined(parts: Sequence[Mask | None]) -> Mask | None:
    """Several masks of a film as one; None (unknown) where one of them is missing."""
    there = tuple(part for part in parts if part is not None)
    if not there or len(there) < len(parts):
        return None
    return there[0] if len(there) == 1 else Union(there)


def keep_single(
    listed: Mapping[str, Sequence[Path]],
    bad: BadRows | None,
    fault: Callable[[Path, Path], str] = lambda one, other: "there twice",
) -> tuple[dict[str, Path], list[Path]]:
    """The file of each film, and all files of films that have several: those are rejected."""
    several: list[Path] = []
    for name, files in listed.items():
        if len(files) > 1:
            one, other = files[:2]
            reason = f"{fault(one, other)}, {one} and {other}: keep one"
            reject(bad, other, f"film {name}", reason)
            several += files
    return {name: files[0] for name, files in listed.items() if len(files) == 1}, several


def first_folder(
    folder: Path, choices: Iterable[str], good: Callable[[Path], object]
) -> Path | None:
    """The first of some folders below `folder` (``a/b``, letters in any case) that is `good`."""
    below = (descend(folder, choice.split("/")) for choice in choices)
    return next((found for found in below if found is not None and good(found)), None)


def read_json(path: Path) -> Any:
    """What a JSON file holds; a name that stands twice in one object is an error."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error}): {AGAIN}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return out
