"""Films on disk to measure with, and tables that name them as often as wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dollkit.data import phantom
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.masks import MaskFile

MASKS = phantom.ORGANS[:3]


def write_films(folder: Path, count: int, kind: str, width: int, height: int) -> list[Path]:
    """Phantom films as image files, each with noise of its own.

    Args:
        folder: made if missing.
        count: number of films.
        kind: ``jpg`` (quality 95, as CheXpert-small has) or ``png``.
        width, height: of each in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    protocol = phantom.Protocol()
    few = min(count, 32)
    drawn = phantom.render(phantom.sample_population(few, 0, "ward", protocol), 256, 0, protocol)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        base = Image.fromarray(drawn.images[i % few]).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(base).astype(np.int16) + rng.integers(-3, 4, (height, width), np.int16)
        path = folder / f"film{i}.{kind}"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
        for name, organ in zip(MASKS, drawn.organs[i % few, :3], strict=True):
            mask = Image.fromarray(organ * np.uint8(255))
            mask.resize((width, height), Image.Resampling.NEAREST).save(mask_of(path, name))
        paths.append(path)
    return paths


def mask_of(film: Path, name: str) -> Path:
    """Where `write_films` puts a mask."""
    return film.with_name(f"{film.stem}_{name.replace(' ', '_')}.png")


def table_of(paths: list[Path], n: int, masks: bool = False) -> FilmTable:
    """A table of `n` films of `n` patients that takes some files in turns.

    Args:
        paths: the files, all in one folder.
        n: number of films.
        masks: whether the films have their three masks.
    """
    films = blank_films(n)
    names = [f"patient{i:05d}" for i in range(n)]
    films["patient_id"] = names
    films["study_id"] = films["image_id"] = [f"{name}_study1_view1_frontal" for name in names]
    films["split"], films["source"], films["age"] = "train", "bench", 60.0
    films["path"] = [str(paths[i % len(paths)]) for i in range(n)]
    films["where"] = [f"train.csv, row {i + 2}" for i in range(n)]
    drawn = pd.DataFrame()
    if masks:
        each = {name: [MaskFile(mask_of(p, name)) for p in paths] for name in MASKS}
        drawn = pd.DataFrame(
            {name: [made[i % len(paths)] for i in range(n)] for name, made in each.items()},
            dtype=object,
        )
    return FilmTable("bench", films, paths[0].parent, masks=drawn)
