"""COVID-QU-Ex: films of COVID-19, other infections and neither, with lung and infection masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, reject
from dollkit.data.dataset import DataSet
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.folders import child, descend, files_of
from dollkit.data.masks import MaskFile

TREES = {"lungs": "Lung Segmentation Data", "infection": "Infection Segmentation Data"}
"""Folder of the tree that each store is read from."""

SPLITS = {"Train": "train", "Val": "valid", "Test": "test"}
CLASSES = ("COVID-19", "Non-COVID", "Normal")
POPULATIONS = ("covid", "all")
SIDE = ("*.txt", "*.md", "*.pdf", "*.csv", "*.xlsx")

_PNG = re.compile(r"([^.].*)\.PNG", re.IGNORECASE)


@dataclass(frozen=True)
class _Film:
    stem: str
    split: str
    kind: str
    path: Path
    masks: Mapping[str, Path]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *self.masks.values())


@dataclass
class _Tree:
    films: dict[str, _Film] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)


def read_covid_qu_ex(
    root: Path, *, skip_bad: bool = False, population: str = "covid"
) -> dict[str, FilmTable]:
    """COVID-QU-Ex: chest films out of many public sets, put together at Qatar University.

    Counts: lung tree 33,920 films of 256 x 256: 11,956 COVID-19, 11,263 Non-COVID (other viral or
    bacterial pneumonia), 10,701 Normal, all with a lung mask. Infection tree: 2,913 COVID-19 films
    with an infection mask, 1,864 in Train, 466 in Val, 583 in Test, and films of the other two
    classes.

    Masks: infection: COVID-19 infection; all zero on films of the other two classes, as
    released. Lungs: of all films. On the film's grid, inside 255, outside 0. Other values are an
    error: a mask resized with smoothing or saved as JPEG is no longer the one released.

    Findings: No Finding 1 for class Normal; all else is unknown. The class is kept in
    films["source"], ``covid_qu_ex-COVID-19`` for example, so that who is judged can be chosen.

    Splits: as released: Train, Val, Test are train, valid, test.

    Folder variants: ``Lung Segmentation Data/`` and ``Infection Segmentation Data/``, both or
    either, doubled as in the archive or not, then ``{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/``
    with ``images/``, ``lung masks/`` and ``infection masks/``; the same file name in each. Names of
    folders in any case, underscores for blanks.

    Traps: the infection tree's films outside COVID-19 decide the score: an all-zero mask that is
    found to be all zero counts 1 by some definitions, and published IoUs differ by 20 points
    probably for that reason. The default population is COVID-19 alone. The two trees may
    have films in common, in different splits of the two (counted, see the facts): do
    not train on the one and test on the other. There are no patient ids: patient_id is the film's
    id, and that films of one patient are in two splits cannot be excluded. Without the
    lung tree, lungs are read from the infection tree.

    Licence: its films come from PadChest and other sets with their own terms: check them, and
    pass nothing on.

    Cite: Tahir et al., Computers in Biology and Medicine 139, 2021.

    Args:
        root: folder of the two trees.
        skip_bad: leave films out that are there twice and note them in ``bad``.
        population: "covid": only COVID-19 films in the store infection; "all": all films.

    Returns:
        ``lungs`` (class "lungs") and, if its tree is there, ``infection`` (class "infection").
        image_id is the file's stem, with the class before it where two classes share the stem.
    """
    if population not in POPULATIONS:
        raise InputError(f"option population={population!r}: use {' or '.join(POPULATIONS)}")
    bad = BadRows()
    told = bad if skip_bad else None
    trees = {
        store: _read_tree(folder, told)
        for store in TREES
        if (folder := _tree_folder(root, store)) is not None
    }
    if not trees:
        raise InputError(f"{root}: no COVID-QU-Ex films: expected {DATASET.tree}")
    facts = _facts(trees)
    of_lungs = trees.get("lungs", trees.get("infection", _Tree()))
    tables = {"lungs": _table(root, of_lungs, list(of_lungs.films), "lungs", facts, bad)}
    if "infection" in trees:
        tree = trees["infection"]
        chosen = [n for n, f in tree.films.items() if population == "all" or f.kind == CLASSES[0]]
        if not chosen:
            raise InputError(
                f"{root}: no COVID-19 film in {TREES['infection']}: add them, or use population=all"
            )
        tables["infection"] = _table(root, tree, chosen, "infection", facts, bad)
    return tables


def find_covid_qu_ex(folder: Path) -> Path | None:
    """The folder of either tree: `folder`, its ``COVID-QU-Ex/`` or its ``covidqu/``."""
    for root in (folder, child(folder, "COVID-QU-Ex"), child(folder, "covidqu")):
        if root is not None and any(child(root, tree) for tree in TREES.values()):
            return root
    return None


def _tree_folder(root: Path, store: str) -> Path | None:
    """Folder of Train, Val and Test of a tree, doubled or not."""
    name = TREES[store]
    places = [descend(root, names) for names in ((name,), (name, name))]
    found = [p for p in places if p is not None and any(child(p, split) for split in SPLITS)]
    if len(found) > 1:
        raise InputError(
            f"{root}: Train, Val and Test lie in {found[0]} and in {found[1]}: keep one"
        )
    if not found and places[0] is not None:
        raise InputError(
            f"{places[0]}: neither Train, Val nor Test in it: expected "
            "{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/"
        )
    return found[0] if found else None


def _read_tree(folder: Path, bad: BadRows | None) -> _Tree:
    groups: dict[tuple[str, str], list[_Film]] = defaultdict(list)
    for split in SPLITS:
        for kind in CLASSES:
            here = descend(folder, (split, kind))
            if here is None:
                continue
            masks = {
                mask: {m[1]: f for m, f in files_of(child(here, f"{mask} masks"), _PNG)}
                for mask in ("lung", "infection")
            }
            for match, file in files_of(child(here, "images"), _PNG):
                stem = match[1]
                own = {mask: files[stem] for mask, files in masks.items() if stem in files}
                groups[kind, stem].append(_Film(stem, SPLITS[split], kind, file, own))
    if not groups:
        raise InputError(
            f"{folder}: no film: expected PNG files in "
            "{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/"
        )
    tree = _Tree()
    shared = _shared_stems(list(groups))
    for (kind, stem), films in groups.items():
        if len(films) > 1:
            one, other = films[:2]
            where = f"splits {one.split} and {other.split}"
            reason = f"{where if one.split != other.split else 'there twice'}, {one.path} and "
            reject(bad, other.path, f"film {stem}", f"{reason}{other.path}: keep one")
            tree.others += [f for film in films for f in film.files]
            continue
        tree.films[f"{kind}_{stem}" if stem in shared else stem] = films[0]
    if not tree.films:
        raise InputError(f"{folder}: no film is left: every one is there twice")
    return tree


def _shared_stems(keys: Sequence[tuple[str, str]]) -> set[str]:
    """Stems that need their class: in two classes, or like another one's stem with its class."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for kind, stem in keys:
        kinds[stem].add(kind)
    shared = {stem for stem, of in kinds.items() if len(of) > 1}
    prefixed = {f"{kind}_{stem}" for stem in shared for kind in kinds[stem]}
    return shared | (prefixed & set(kinds))


def _table(
    root: Path,
    tree: _Tree,
    names: Sequence[str],
    store: str,
    facts: Mapping[str, int],
    bad: BadRows,
) -> FilmTable:
    chosen = [tree.films[name] for name in names]
    films = blank_films(len(names))
    for column in ("image_id", "patient_id", "study_id"):
        films[column] = list(names)
    films["split"] = [film.split for film in chosen]
    films["fold"] = 0
    films["source"] = [f"covid_qu_ex-{film.kind}" for film in chosen]
    films["No Finding"] = [1.0 if film.kind == "Normal" else np.nan for film in chosen]
    films["path"] = [str(film.path) for film in chosen]
    films["where"] = [f"film {name}" for name in names]
    files = [film.masks.get("lung" if store == "lungs" else store) for film in chosen]
    masks = [None if file is None else MaskFile(file) for file in files]
    read = {*(film.path for film in chosen), *files}
    unread = [f for film in tree.films.values() for f in film.files if f not in read]
    return FilmTable(
        "covid_qu_ex",
        films,
        root,
        masks=pd.DataFrame({store: masks}, dtype=object),
        depths=(8,),
        others=(*tree.others, *unread),
        side=SIDE,
        facts=facts,
        bad=bad,
    )


def _facts(trees: Mapping[str, _Tree]) -> dict[str, int]:
    facts: dict[str, int] = {}
    if "lungs" in trees:
        films = list(trees["lungs"].films.values())
        facts["lung tree films"] = len(films)
        facts |= {f"lung tree {k} films": sum(f.kind == k for f in films) for k in CLASSES}
        facts["lung tree lung masks"] = sum("lung" in f.masks for f in films)
    if "infection" in trees:
        covid = [f for f in trees["infection"].films.values() if f.kind == CLASSES[0]]
        facts[f"infection tree {CLASSES[0]} films"] = len(covid)
        for split in SPLITS.values():
            name = f"infection tree {CLASSES[0]} films, {split}"
            facts[name] = sum(f.split == split for f in covid)
        name = f"infection tree {CLASSES[0]} infection masks"
        facts[name] = sum("infection" in f.masks for f in covid)
    if len(trees) > 1:
        split_of = {(f.kind, f.stem): f.split for f in trees["lungs"].films.values()}
        facts["films of both trees, split differently"] = sum(
            split_of.get((f.kind, f.stem), f.split) != f.split
            for f in trees["infection"].films.values()
        )
    return facts


DATASET = DataSet(
    name="covid_qu_ex",
    title="COVID-QU-Ex",
    stores=("lungs", "infection"),
    find=find_covid_qu_ex,
    read=read_covid_qu_ex,
    documented={
        "lung tree films": 33_920,
        "lung tree COVID-19 films": 11_956,
        "lung tree Non-COVID films": 11_263,
        "lung tree Normal films": 10_701,
        "lung tree lung masks": 33_920,
        "infection tree COVID-19 films": 2_913,
        "infection tree COVID-19 films, train": 1_864,
        "infection tree COVID-19 films, valid": 466,
        "infection tree COVID-19 films, test": 583,
        "infection tree COVID-19 infection masks": 2_913,
    },
    options={"population": POPULATIONS},
    tree=f"{TREES['lungs']}/ or {TREES['infection']}/ with Train/, Val/ and Test/ in it",
    licence="films from PadChest and other sets with their own terms",
    cite="Tahir et al., Computers in Biology and Medicine 2021",
    size="33,920 films of 256x256",
)
