"""What only decoding tells about one's own films and masks, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dollkit.errors import InputError
from dollkit.images import load_image
from dollkit.own.journal import JOURNAL, Journal
from dollkit.own.listing import films_below
from dollkit.own.source import Own
from dollkit.readers.table import FilmTable

MOST = 0.6
"""Share of a film above which a class covers more than anatomy would: inside and outside may have
changed places."""


def at_masks(own: Own) -> tuple[pd.DataFrame, list[str]]:
    """Decode the films with masks, and their masks.

    Args:
        own: from `source.read`.

    Returns:
        Per class: masks, empty (those without a pixel inside), share (of the film that the others
        cover, mean); and notes on what looks wrong.
    """
    table = own.task
    names = [str(name) for name in table.masks.columns]
    shares = np.zeros((len(table), len(names)))
    for film in tqdm(range(len(table)), desc="masks", unit="film", disable=None):
        size = _size(table, film)
        shares[film] = [
            float((table.masks[name].iloc[film].load(*size) == 1).mean()) for name in names
        ]
    empty = (shares == 0).sum(0)
    drawn = np.divide(shares.sum(0), len(shares) - empty, where=empty < len(shares),
                      out=np.zeros(len(names)))  # fmt: skip
    if (drawn == 0).any():
        name = names[int(np.argmax(drawn == 0))]
        raise InputError(
            f"no mask of {name} has a pixel inside: mend them (255 inside), or leave the class out "
            "by parameter 'classes'"
        )
    frame = pd.DataFrame({"class": names, "masks": len(table), "empty": empty, "share": drawn})
    notes = [
        f"masks of {row['class']} cover {row['share']:.0%} of their films: is 255 inside in them?"
        for row in frame[drawn > MOST].to_dict("records")
    ]
    return frame, notes


def at_films(folder: Path) -> int:
    """Decode all films of a folder, as predictions will; returns how many."""
    wrong: list[str] = []
    names = films_below(folder)
    for name in tqdm(names, desc="films", unit="film", disable=None):
        try:
            load_image(folder / name)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError(wrong[0] + (f" (and {len(wrong) - 1} films more)" if wrong[1:] else ""))
    return len(names)


def at_drawn(folder: Path) -> list[str]:
    """What to know before masks are drawn below a folder again: those corrected by hand."""
    out = []
    for path in sorted(folder.glob(f"*/{JOURNAL}")):
        if found := Journal(path.parent, "").corrected():
            out.append(
                f"{len(found)} masks in {path.parent} were corrected by hand, the first is "
                f"{found[0]}: another network will not draw there until you have moved them to "
                "your masks"
            )
    return out


def _size(table: FilmTable, film: int) -> tuple[int, int]:
    path = Path(str(table.films["path"].iloc[film]))
    height, width = load_image(path, table.depths, table.any_ending).shape
    return height, width
