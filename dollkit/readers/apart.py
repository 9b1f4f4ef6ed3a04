"""Patients that judge a task teach no classifier and no pre-training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from dollkit.errors import InputError
from dollkit.readers.dataset import STORES
from dollkit.readers.table import FilmTable

log = logging.getLogger(__name__)
FILMS = STORES[0]


def keep_apart(tables: Mapping[str, FilmTable]) -> dict[str, FilmTable]:
    """Move films of patients whom a task holds out to split ``test`` of the store ``films``.

    Each store draws its splits by itself. Where two of them show the same patients (a folder of
    one's own; ieee8023's films and the masks drawn on them), a film that judges fine-tuning may
    else have taught the classifiers: the arms that start from them would have seen it, a random
    start would not. Held out are validation and test films of a task; of a task with folds all.

    Args:
        tables: by store, patients by the same id in each.

    Returns:
        The same tables; that of ``films`` with another column ``split``, if there is need.
    """
    out = dict(tables)
    if FILMS not in out:
        return out
    held: dict[str, str] = {}
    for store, table in out.items():
        films = table.films
        if store != FILMS and len(films):
            folds = films["fold"].nunique() > 1
            judged = films if folds else films[films["split"] != "train"]
            held |= dict.fromkeys(judged["patient_id"], store)
    films = out[FILMS].films
    moved = films["patient_id"].isin(list(held)) & (films["split"] != "test")
    if not moved.any():
        return out
    split = films["split"].mask(moved, "test")
    stores = ", ".join(sorted({held[p] for p in films.loc[moved, "patient_id"]}))
    for kind in ("train", "valid"):
        if not (split == kind).any():
            raise InputError(
                f"{out[FILMS].root}: every {kind} film with findings shows a patient whose masks "
                f"judge {stores}: give films of other patients, or take {stores} from another set "
                "by parameter 'stores'"
            )
    log.info(
        "%d of %d films to train and validate on are set aside: their patients judge %s",
        int(moved.sum()), int((films["split"] != "test").sum()), stores,
    )  # fmt: skip
    out[FILMS] = replace(out[FILMS], films=films.assign(split=split))
    return out
