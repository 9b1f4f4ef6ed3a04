"""COVID-QU-Ex: films of COVID-19, other infections and neither, with lung and infection masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import STRICT, BadRows
from dollkit.data.film_table import FilmTable
from dollkit.data.masks import MaskFile
from dollkit.data.sets import common_steps as steps
from dollkit.data.sets.common_steps import child, descend, files_of

TREES = {"lungs": "Lung Segmentation Data", "infection": "Infection Segmentation Data"}
"""Folder of the tree that each store is read from."""

SPLITS = {"Train": "train", "Val": "valid", "Test": "test"}
CLASSES = ("COVID-19", "Non-COVID", "Normal")
POPULATIONS = ("covid", "all")
FORM = "{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/"

_PNG = re.compile(r"([^.].*)\.PNG", re.IGNORECASE)
_FILES = ["image", "lungs", "infection"]


def read_covid_qu_ex(
    root: Path, bad: BadRows = STRICT, *, population: str = "covid"
) -> dict[str, FilmTable]:
    """``lungs`` and, if its tree is there, ``infection``; splits as released, no patient ids.

    `population` says who is in ``infection``: ``covid`` (COVID-19 only) or ``all``; the masks of
    the other two classes are all zero, and published scores differ by 20 points probably for that
    reason. films["source"] holds the class. ``image_id`` is the stem, with the class before it
    where two classes share the stem. Without the lung tree, lungs come from the infection tree.
    """
    folders = {store: _tree_folder(root, name) for store, name in TREES.items()}
    trees = {store: _read_tree(f, bad) for store, f in folders.items() if f is not None}
    facts = _facts(trees)
    chosen = {"lungs": next(iter(trees.values()))} | trees
    tables = {}
    for store, tree in chosen.items():
        films = tree[~tree["twice"]]
        if store == "infection" and population == "covid":
            films = films[films["kind"] == CLASSES[0]]
            if films.empty:
                where = f"{root}: no COVID-19 film in {TREES[store]}"
                raise InputError(f"{where}: add them, or use population=all")
        masks = {store: [MaskFile(file) if file else None for file in films[store]]}
        table = steps.films_of(
            "covid_qu_ex",
            films["name"].tolist(),
            films["image"],
            [f"film {name}" for name in films["name"]],
            split=films["split"].tolist(),
            fold=0,
            source=[f"covid_qu_ex-{kind}" for kind in films["kind"]],
            **{"No Finding": np.where(films["kind"] == "Normal", 1.0, np.nan)},
        )
        others = [file for file in tree[_FILES].to_numpy().ravel() if file]
        tables[store] = steps.make_table(
            "covid_qu_ex", table, root, masks, others=others, facts=facts, bad=bad
        )
    return tables


def _find(folder: Path) -> Path | None:
    """The folder of either tree: `folder`, its ``COVID-QU-Ex/`` or its ``covidqu/``."""
    trees = TREES.values()
    places = ("", "COVID-QU-Ex", "covidqu")
    return steps.first_folder(folder, places, lambda root: any(child(root, t) for t in trees))


def _tree_folder(root: Path, name: str) -> Path | None:
    """Folder of Train, Val and Test of a tree, doubled or not; None if it is not there."""
    places = [descend(root, below) for below in (name, f"{name}/{name}")]
    good = [p for p in places if p is not None and any(child(p, split) for split in SPLITS)]
    if len(good) > 1:
        raise InputError(f"{root}: Train, Val and Test lie in {good[0]} and in {good[1]}: keep one")
    if not good and places[0] is not None:
        raise InputError(f"{places[0]}: neither Train, Val nor Test in it: expected {FORM}")
    return good[0] if good else None


def _read_tree(folder: Path, bad: BadRows) -> pd.DataFrame:
    """Films as rows: split, kind, stem, name, twice (to be left out), and `_FILES` or None."""
    rows = []
    for split, kind in ((s, k) for s in SPLITS for k in CLASSES):
        if (here := descend(folder, f"{split}/{kind}")) is None:
            continue
        lungs, infection = (
            {match[1]: file for match, file in files_of(child(here, f"{organ} masks"), _PNG)}
            for organ in ("lung", "infection")
        )
        for match, file in files_of(child(here, "images"), _PNG):
            masks = (lungs.get(match[1]), infection.get(match[1]))
            rows.append((SPLITS[split], kind, match[1], file, *masks))
    if not rows:
        raise InputError(f"{folder}: no film: expected PNG files in {FORM}")
    tree = pd.DataFrame(rows, columns=["split", "kind", "stem", *_FILES], dtype=object)
    tree["twice"] = tree.duplicated(["kind", "stem"], keep=False)
    for (_, stem), films in tree[tree["twice"]].groupby(["kind", "stem"], sort=False):
        splits, files = films["split"].tolist(), films["image"].tolist()
        what = f"splits {splits[0]} and {splits[1]}" if splits[0] != splits[1] else "there twice"
        bad.reject(files[1], f"film {stem}", f"{what}, {files[0]} and {files[1]}: keep one")
    if tree["twice"].all():
        raise InputError(f"{folder}: no film is left: every one is there twice")
    # The class goes before stems of two classes, and before one that looks like such a name.
    full = tree["kind"] + "_" + tree["stem"]
    shared = tree.groupby("stem")["kind"].transform("nunique") > 1
    tree["name"] = full.where(shared | tree["stem"].isin(full[shared]), tree["stem"])
    return tree


def _facts(trees: dict[str, pd.DataFrame]) -> dict[str, int]:
    films = {store: tree[~tree["twice"]] for store, tree in trees.items()}
    facts: dict[str, int] = {}
    if "lungs" in films:
        kinds = films["lungs"]["kind"].tolist()
        facts["lung tree films"] = len(kinds)
        facts |= {f"lung tree {kind} films": kinds.count(kind) for kind in CLASSES}
        facts["lung tree lung masks"] = int(films["lungs"]["lungs"].notna().sum())
    if "infection" in films:
        covid = films["infection"][films["infection"]["kind"] == CLASSES[0]]
        name, splits = f"infection tree {CLASSES[0]}", covid["split"].tolist()
        facts[f"{name} films"] = len(covid)
        facts |= {f"{name} films, {split}": splits.count(split) for split in SPLITS.values()}
        facts[f"{name} infection masks"] = int(covid["infection"].notna().sum())
    if len(films) > 1:
        both = films["infection"].merge(films["lungs"], on=["kind", "stem"])
        differ = both["split_x"] != both["split_y"]
        facts["films of both trees, split differently"] = int(differ.sum())
    return facts


DATASET = steps.data_set(
    "covid_qu_ex", ("lungs", "infection"), _find, read_covid_qu_ex, population=POPULATIONS
)
