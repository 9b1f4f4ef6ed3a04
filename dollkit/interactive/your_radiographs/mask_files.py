"""A folder with a few masks, of any classes, held against the films that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dollkit.common.errors import InputError, near
from dollkit.data.csvfile import words
from dollkit.data.images import probe
from dollkit.data.masks import MaskFile, check_grid
from dollkit.data.sets.own_folder import CLASSES
from dollkit.interactive.your_radiographs.find_films import Spelling, composed, files_below, plain

ENDINGS = (".png", ".tif", ".tiff", ".gif")
LOSSY = (".jpg", ".jpeg")
CLASS_WORDS = {name.lower() for name in CLASSES}
INDEX = "predictions."
"""Start of the names of what `predict.predict` writes beside the folders of classes."""


def read_masks(
    masks: Path, films: Path, given: Sequence[str], there: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Masks by class, one row per film.

    Sizes are read from the headers of masks and films; no pixel is decoded.

    Args:
        masks: folder, see `source.read`.
        films: folder of the films.
        given: films that have a row, by relative path.
        there: all films of the folder.
        classes: to segment; none: all folders.

    Returns:
        A column per class, in the order asked for, with a `MaskFile` or None per film of `given`.
    """
    row_of = {plain(name): i for i, name in enumerate(given)}
    in_folder = {plain(name) for name in there}
    spelt = Spelling([*row_of, *in_folder])
    columns: dict[str, list[MaskFile | None]] = {}
    for name, folder in _folders(masks, classes).items():
        column: list[MaskFile | None] = [None] * len(given)
        for file in files_below(folder):
            path, ending = folder / file, PurePosixPath(file).suffix.lower()
            if ending in LOSSY:
                raise InputError(f"{path}: a mask saved as JPEG has lost its outline: use PNG")
            if ending not in ENDINGS:
                raise InputError(f"{path}: no mask ({', '.join(ENDINGS)}): move it elsewhere")
            film = spelt(file[: -len(ending)])
            if film not in row_of:
                what = "has no row in the CSV file: add one, for its patient"
                if film not in in_folder:
                    what = f"is not in {films}{near(film, in_folder)}: name masks like their films"
                raise InputError(f"{path}: its film {film!r} {what}")
            i = row_of[film]
            if column[i] is not None:
                raise InputError(f"{path}: a second mask of film {film!r}: keep one")
            check_grid(path, probe(path, depths=(8,)), probe(films / given[i]), own_grid=False)
            column[i] = MaskFile(path, threshold=True)
        if not any(column):
            raise InputError(f"{folder}: no mask here: put files named like their films there")
        columns[name] = column
    return pd.DataFrame(columns, index=range(len(given)), dtype=object)


def _folders(masks: Path, classes: Sequence[str]) -> dict[str, Path]:
    """Class to folder, in the order of `classes`."""
    files = files_below(masks)
    tops = sorted({PurePosixPath(f).parts[0] for f in files if "/" in f})
    own = {_words(top): masks / top for top in tops}
    if len(own) < len(tops):
        raise InputError(f"{masks}: two folders of one class ({', '.join(tops)}): keep one")
    if not classes:
        # Predictions lie beside their index, and are masks once somebody has corrected them.
        loose = [f for f in files if "/" not in f and not f.startswith(INDEX)]
        if not own or loose:
            raise InputError(
                f"{masks}: masks lie outside the folders of classes: use one folder per class, "
                "or name the one class by parameter 'classes'"
            )
        return own
    wanted = [_words(name) for name in classes]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"parameter 'classes' is {list(classes)}: each class once")
    # Films lie in folders too, so that those of a single class's masks may be named like them.
    if len(wanted) == 1 and wanted[0] not in own and files and not set(own) & CLASS_WORDS:
        return {wanted[0]: masks}
    for name in wanted:
        if name not in own:
            raise InputError(
                f"{masks}: no folder of the class {name!r}{near(name, own)} (there are: "
                f"{', '.join(own) or 'none'})"
            )
    return {name: own[name] for name in wanted}


def _words(name: str) -> str:
    return words(composed(name))
