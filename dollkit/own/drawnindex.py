"""What lies in a folder of predictions: a row per film and class, and films without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dollkit.own.journal import Journal
from dollkit.storewriter import unwritable

INDEX = "predictions"
FAILED = f"{INDEX}.failed.csv"
COLUMNS = [
    "file", "class", "mask", "value", "pixels", "area_mm2", "spacing_from", "mean_probability",
    "trained_on",
]  # fmt: skip


def write(journal: Journal, there: Sequence[str], head: Mapping[str, Any]) -> pd.DataFrame:
    """Write ``predictions.csv``, ``.json`` and, if films could not be read, a list of these.

    Args:
        journal: what is drawn in its folder: a call for some films leaves the others in it.
        there: films of the folder, in their order.
        head: of the JSON file.

    Returns:
        The table, `COLUMNS`.
    """
    out = journal.out
    rows = [row for name in there for row in journal.rows.get(name, ())]
    index = pd.DataFrame(rows, columns=COLUMNS)
    failed = [{"file": f, "reason": journal.failed[f]} for f in there if f in journal.failed]
    told = index.astype(object).where(index.notna(), None).to_dict("records")
    text = json.dumps({**head, "failed": failed, "predictions": told}, indent=1, ensure_ascii=False)
    try:
        index.to_csv(out / f"{INDEX}.csv", index=False, lineterminator="\n")
        (out / f"{INDEX}.json").write_text(text + "\n", encoding="utf-8")
        if failed:
            pd.DataFrame(failed).to_csv(out / FAILED, index=False, lineterminator="\n")
        else:
            (out / FAILED).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    return index
