"""PNG masks: a file per film and finding, values 0, 1 and 255, and a table of them."""

from __future__ import annotations

import csv
from pathlib import Path

from dollkit.labels.exports.selection import Selection, write_png

FILES = """\
## Files

- `masks/<finding>/<film>.png`: 8-bit grey, 0 background, 1 finding, 255 ignore. They look black
  in a viewer: 1 is next to black.
- `masks.csv`: `file`, then the columns of the label store's table.
- `images/<film>.png`: the films, if they were exported."""


def write(chosen: Selection, out: Path) -> str:
    """Write ``masks/``, ``masks.csv``, and ``images/`` with films; returns the card's section."""
    if chosen.films is not None:
        (out / "images").mkdir()
        for row, image_id, _ in chosen.images():
            chosen.write_film(row, out / "images" / f"{chosen.names[image_id]}.png")
    folders = {f: f.lower().replace(" ", "_") for f in chosen.findings}
    table = chosen.store.pairs
    for folder in {folders[f] for f in table["finding"].iloc[chosen.pairs].unique()}:
        (out / "masks" / folder).mkdir(parents=True)
    with (out / "masks.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", *table.columns])
        for pair in chosen.pairs:
            row = table.iloc[pair]
            name = f"masks/{folders[row['finding']]}/{chosen.names[row['image_id']]}.png"
            write_png(chosen.store.label(int(pair)), out / name)
            rows.writerow([name, *row])
    return FILES
