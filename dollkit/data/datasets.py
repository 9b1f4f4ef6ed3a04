"""All data sets by name, and which of them lie in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.data.dataset import STORES, DataSet
from dollkit.data.sets.chexpert import CHEXLOCALIZE
from dollkit.data.sets.chexpert import DATASET as CHEXPERT
from dollkit.data.sets.covid_chestxray import DATASET as IEEE8023
from dollkit.data.sets.covid_qu_ex import DATASET as COVID_QU_EX
from dollkit.data.sets.general_blockchain import DATASET as GENERALBLOCKCHAIN
from dollkit.data.sets.jsrt import DATASET as JSRT
from dollkit.data.sets.nih import DATASET as NIH
from dollkit.data.sets.nlm import DATASET as NLM
from dollkit.data.sets.nlm import MONTGOMERY, SHENZHEN
from dollkit.data.sets.open_pack import DATASET as OPEN
from dollkit.data.sets.own_folder import DATASET as FOLDER
from dollkit.data.sets.v7 import DATASET as V7

DATASETS: dict[str, DataSet] = {
    d.name: d
    for d in (
        CHEXPERT,
        CHEXLOCALIZE,
        NIH,
        JSRT,
        MONTGOMERY,
        SHENZHEN,
        NLM,
        COVID_QU_EX,
        IEEE8023,
        GENERALBLOCKCHAIN,
        V7,
        OPEN,
        FOLDER,
    )
}

PHANTOM = "phantom"
"""Stands where a data set's name may, for films that are rendered and lie in no folder."""

PREFERRED: dict[str, tuple[str, ...]] = {
    "films": ("chexpert", "nih", "open", "folder", "ieee8023"),
    "lungs": ("nlm", "montgomery", "shenzhen", "v7", "open", "folder", "covid_qu_ex", "jsrt"),
    "infection": ("covid_qu_ex", "open", "folder", "generalblockchain"),
    "organs": ("jsrt", "open", "folder", "generalblockchain"),
}
"""Which data set gives a store when several in one folder could: the paper's own come first."""


def named(name: str) -> DataSet:
    """A data set by name; `InputError` naming the known ones."""
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def place(folder: Path, name: str) -> Path | None:
    """Root of one data set in a folder or else in one of its sub-folders; None if not there."""
    data_set = DATASETS[name]
    places = sorted(p for p in folder.iterdir() if p.is_dir())
    here = data_set.find(folder)
    if here is not None:
        return here
    roots = {root.resolve(): root for p in places if (root := data_set.find(p))}
    if len(roots) > 1:
        one, other = list(roots.values())[:2]
        raise InputError(
            f"{folder}: {data_set.title} lies there twice ({one} and {other}): name one of them "
            "as the folder"
        )
    return next(iter(roots.values()), None)


def found(folder: Path) -> dict[str, Path]:
    """Data sets in a folder or in one of its sub-folders: name -> where it was found."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; data/README.md shows the expected trees")
    return {name: root for name in DATASETS if (root := place(folder, name))}


def check_stores(wanted: Mapping[str, str] | None, source: str = "") -> None:
    """What parameter ``stores`` says of itself: known stores, no data set beside ``phantom``."""
    for store, name in (wanted or {}).items():
        if store not in STORES:
            raise InputError(f"parameter 'stores' has no {store!r}: use {', '.join(STORES)}")
        if source == PHANTOM and name != PHANTOM:
            raise InputError(
                f"parameter 'stores' wants {store} from {name!r}, but 'source' is phantom: name "
                "the data sets there, and phantom in 'stores' for what it shall give"
            )


def assign(
    available: Mapping[str, Path],
    wanted: Mapping[str, str] | None = None,
    without: Collection[tuple[str, str]] = (),
    *,
    others: bool = False,
) -> dict[str, str]:
    """Which data set gives which store.

    Args:
        available: data sets at hand.
        wanted: store -> data set, where the order of `PREFERRED` is not what is meant; a store
            that is the phantom's gets no data set.
        without: pairs of a store and a data set whose copy here lacks it.
        others: sets that `PREFERRED` leaves out for a store give it too, where no other does.
    """
    check_stores(wanted)
    chosen: dict[str, str] = {}
    for store in STORES:
        asked = (wanted or {}).get(store)
        if asked == PHANTOM:
            continue
        if asked is None:
            spare = [n for n in available if store in DATASETS[n].stores] if others else []
            ranked = [
                name
                for name in (*PREFERRED[store], *spare)
                if name in available and (store, name) not in without
            ]
            chosen |= {store: ranked[0]} if ranked else {}
        elif asked not in available:
            known = ", ".join(available) or "none"
            raise InputError(
                f"parameter 'stores': no {asked!r} for {store} here; found: {known}; or say phantom"
            )
        elif store not in DATASETS[asked].stores or (store, asked) in without:
            raise InputError(f"parameter 'stores': data set {asked!r} has no {store}")
        else:
            chosen[store] = asked
    return chosen
