"""From a reader's table to a packed store: decode once, in parallel, and check as it goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from dollkit.errors import InputError
from dollkit.images import fit, fit_box, fit_mask, load_image, load_mask
from dollkit.readers.table import FilmTable, check_files, missing_files
from dollkit.store import StoreWriter, unwritable

log = logging.getLogger(__name__)

U8 = npt.NDArray[np.uint8]
SKIPPED = "skipped.csv"


class _Film(NamedTuple):
    row: int
    image: U8
    masks: U8
    valid: npt.NDArray[np.bool_]
    height: int
    width: int


class _Bad(NamedTuple):
    row: int
    reason: str


def build_store(
    table: FilmTable,
    path: Path | str,
    size: int,
    skip_bad: bool = False,
    workers: int | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Decode the films of a table into a store.

    Args:
        table: what a reader returned.
        path: folder of the store.
        size: side in pixels, a multiple of 8.
        skip_bad: leave films out whose image or mask is missing, corrupt, cut off or of a wrong
            size, and list them in ``skipped.csv`` (file, row, reason) in the store's folder.
        workers: decoding threads; None: one per core (decoding releases the interpreter lock).
        made_from: account to keep in ``store.json``; the reader's name and options are enough.

    Returns:
        `path`.

    Raises:
        InputError: without `skip_bad` the first bad film, missing files before any decoding;
            or no film is left; or `path` cannot be written.
    """
    path = Path(path)
    if not skip_bad:
        check_files(table)
    lost = missing_files(table) if skip_bad else pd.DataFrame(columns=["file", "reason", "film"])
    skipped: dict[int, tuple[str, str]] = {
        int(i): (file, reason)
        for file, reason, i in zip(lost["file"], lost["reason"], lost["film"], strict=True)
    }
    todo = [i for i in range(len(table)) if i not in skipped]
    account = {"source": table.source, **dict(made_from or {}), "skip_bad": skip_bad}
    kept: list[_Film] = []
    with StoreWriter(path, size, table.mask_classes, max(len(todo), 1), account) as writer:
        bar = tqdm(_decode_all(table, todo, size, workers), total=len(todo), desc=path.name)
        for item in bar:
            if isinstance(item, _Bad):
                if not skip_bad:
                    raise InputError(item.reason)
                skipped[item.row] = (str(table.films["path"].iloc[item.row]), item.reason)
                continue
            masks = item.masks[None] if table.mask_classes else None
            writer.write(len(kept), item.image[None], masks, item.valid[None])
            # Pixels are on disk: keep only what the table needs.
            kept.append(item._replace(image=_NOTHING, masks=_NOTHING))
        if not kept:
            raise InputError(f"{table.root}: no film is left of {len(table)}: see the images there")
        films = table.films.iloc[[film.row for film in kept]].reset_index(drop=True)
        films["height"] = [film.height for film in kept]
        films["width"] = [film.width for film in kept]
        _report(path, table, skipped)
        writer.finish(films)
    return path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_NOTHING: U8 = np.zeros(0, np.uint8)


def _decode_all(
    table: FilmTable, todo: list[int], size: int, workers: int | None
) -> Iterator[_Film | _Bad]:
    """Films in order, decoded ahead by a bounded number of threads."""
    boxes = {str(k): v for k, v in table.boxes.groupby("image_id")}
    count = workers or cores()
    pending: list[Future[_Film | _Bad]] = []
    queue = iter(todo)
    with ThreadPoolExecutor(count) as pool:
        try:
            for i in islice(queue, 4 * count):
                pending.append(pool.submit(_decode, table, i, size, boxes))
            while pending:
                yield pending.pop(0).result()
                for i in islice(queue, 1):
                    pending.append(pool.submit(_decode, table, i, size, boxes))
        finally:
            for future in pending:
                future.cancel()


def _decode(table: FilmTable, i: int, size: int, boxes: Mapping[str, pd.DataFrame]) -> _Film | _Bad:
    row = table.films.iloc[i]
    classes = table.mask_classes
    masks = np.zeros((len(classes), size, size), np.uint8)
    valid = np.zeros(len(classes), bool)
    try:
        image = load_image(row["path"])
        height, width = image.shape
        for c, name in enumerate(table.masks.columns):
            file = table.masks[name].iloc[i]
            if file:
                masks[c] = fit_mask(load_mask(file, height, width), size)
                valid[c] = True
    except InputError as error:
        return _Bad(i, f"{row['where']}: {error}")
    of_film = boxes.get(str(row["image_id"]))
    if of_film is not None:
        for finding, x, y, w, h in of_film[["finding", "x", "y", "w", "h"]].itertuples(index=False):
            c = classes.index(str(finding))
            box = (float(x), float(y), float(w), float(h))
            masks[c] |= fit_box(box, height, width, size)
            valid[c] = True
    return _Film(i, fit(image, size), masks, valid, height, width)


def _report(path: Path, table: FilmTable, skipped: Mapping[int, tuple[str, str]]) -> None:
    report = path / SKIPPED
    try:
        report.unlink(missing_ok=True)
        if not skipped:
            return
        rows = [(f, table.films["where"].iloc[i], why) for i, (f, why) in sorted(skipped.items())]
        frame = pd.DataFrame(rows, columns=["file", "row", "reason"])
        frame.to_csv(report, index=False, lineterminator="\n")
    except OSError as error:
        raise unwritable(path, error) from None
    log.warning("%s: %d of %d films left out, see %s", path, len(skipped), len(table), report)
