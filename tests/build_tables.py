"""Small data sets on disk for the tests of building: films, masks with ignored pixels, boxes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dollkit.data import store_builder
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.masks import Boxes, MaskFile

SIZE = 16


def write_films(root: Path, n: int) -> None:
    """`n` PNG films of three sizes, and masks of two of three."""
    rng = np.random.default_rng(7)
    root.mkdir(parents=True)
    for i in range(n):
        shape = ((20, 16), (24, 24), (16, 40))[i % 3]
        film = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(film).save(root / f"{i}.png")
        if i % 3:
            mask = rng.choice(np.array([0, 128, 255], np.uint8), (shape[0] // 4, shape[1] // 4))
            mask = mask.repeat(4, 0).repeat(4, 1)
            Image.fromarray(mask).save(root / f"{i}_mask.png")


def read(root: Path) -> FilmTable:
    """The table of such a folder."""
    n = len([p for p in root.glob("*.png") if not p.name.endswith("_mask.png")])
    films = blank_films(n)
    films["image_id"] = films["study_id"] = [f"film{i}" for i in range(n)]
    films["patient_id"] = [f"patient{i}" for i in range(n)]
    films["split"], films["source"] = "train", "made"
    films["Edema"] = [float(i % 2) for i in range(n)]
    films["path"] = [str(root / f"{i}.png") for i in range(n)]
    films["where"] = [f"{root / 'films.csv'}, row {i + 2}" for i in range(n)]
    masks = [MaskFile(root / f"{i}_mask.png", ignore=(128,)) if i % 3 else None for i in range(n)]
    boxes = [None if i % 5 else Boxes(((2.0, 3.0, 5.0 + i % 4, 6.0),)) for i in range(n)]
    columns = pd.DataFrame({"lungs": masks, "Edema": boxes}, dtype=object)
    return FilmTable("made", films, root, columns)


def slow_build(root: Path, out: Path) -> None:
    """Build with a pause in every chunk, so that there is time to be killed."""
    decode = store_builder.decode

    def slow(*given: object) -> object:
        time.sleep(0.3)
        return decode(*given)

    store_builder.decode = slow  # type: ignore[assignment]
    store_builder.build_store(read(root), out, SIZE, skip_bad=True, workers=1)


if __name__ == "__main__":
    slow_build(Path(sys.argv[1]), Path(sys.argv[2]))
