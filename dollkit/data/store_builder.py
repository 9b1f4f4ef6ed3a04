"""From a reader's table to a packed store: decode once, in parallel, and check as it goes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from dollkit.common.build_key import Key, code_of, digest
from dollkit.common.errors import InputError
from dollkit.common.machine import cores, versions
from dollkit.data.csvfile import REPORT_COLUMNS
from dollkit.data.film_table import COLUMNS, FilmTable, check_files, lost_files
from dollkit.data.images import fit, fit_box, fit_mask, load_image
from dollkit.data.masks import Mask
from dollkit.data.store import standing
from dollkit.data.store_writer import StoreWriter, pack, unwritable

log = logging.getLogger(__name__)

SKIPPED = "skipped.csv"
BUILDER = "dollkit.data.store_builder"
LIBRARIES = ("numpy", "pandas", "pillow", "pycocotools", "pydicom", "python-gdcm")
"""Packages that decode, resize or write."""

CHUNK = 32
"""Films decoded by one call: enough that handing them out costs little, few enough to hold."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Box = tuple[float, float, float, float]
Fault = tuple[int, str, str]
"""Position of a film that cannot be read, the file at fault, and the reason."""
U8 = npt.NDArray[np.uint8]


class Film(NamedTuple):
    """What it takes to decode one film: masks and boxes each with its channel."""

    path: str
    where: str
    masks: tuple[tuple[int, Mask], ...]
    boxes: tuple[tuple[int, Box], ...]
    lost: tuple[str, str] | None
    """File and reason why it need not be tried; None if it is all there."""


class Rows(NamedTuple):
    """Rows of a store: the k films of a chunk that could be decoded, with their own sizes."""

    images: U8
    inside: U8
    ignored: U8 | None
    valid: npt.NDArray[np.bool_]
    sizes: list[tuple[int, int]]
    bad: list[Fault]


def build_store(
    table: FilmTable,
    path: Path | str,
    size: int,
    skip_bad: bool = False,
    workers: int | None = None,
) -> Path:
    """Decode the films of a table into a store and return its path.

    A store that the same table, files, settings and code have made is kept. A build that was
    stopped, by whatever, goes on where it was.

    With `skip_bad`, films whose image or mask is missing, corrupt, cut off or of a wrong size are
    left out and listed in ``skipped.csv`` (file, row, reason) in the store's folder, after the rows
    that the reader left out. The store is the same for any number of `workers`.
    """
    path = Path(path)
    lost = lost_files(table)
    if len(lost) and not skip_bad:
        check_files(table)
    films = list(_films(table, lost))
    account = {"source": table.source}
    key = Key(_rule_of(table, size), _fingerprints(table, films))
    if standing(path, key, whole=not skip_bad):
        return path
    classes, room, ignore = table.mask_classes, max(len(table), 1), table.ignoring()
    with (
        StoreWriter(path, size, classes, room, account, ignore=ignore, key=key) as writer,
        tqdm(desc=path.name, total=len(table), unit="film") as bar,
    ):
        done = min(CHUNK * len(writer.notes), len(table))
        if done:
            log.info("%s: going on after film %d of %d", path, done, len(table))
            bar.update(done)
        if not skip_bad:
            _refuse(fault for note in writer.notes for fault in note["bad"])
        for part in _decode_all(films[done:], table, size, workers):
            if not skip_bad:
                _refuse(part.bad)
            writer.write_bits(writer.films, part.images, part.inside, part.ignored, part.valid)
            writer.note({"sizes": part.sizes, "bad": part.bad})
            bar.update(len(part.sizes) + len(part.bad))
        bad = {
            CHUNK * number + position: (file, reason)
            for number, note in enumerate(writer.notes)
            for position, file, reason in note["bad"]
        }
        if len(bad) == len(table):
            raise InputError(f"{table.root}: no film is left of {len(table)}: see the images there")
        good = [i for i in range(len(table)) if i not in bad]
        chosen = table.films.iloc[good].reset_index(drop=True)
        sizes = [size for note in writer.notes for size in note["sizes"]]
        chosen[["height", "width"]] = np.array(sizes)
        _report(table, bad, path)
        writer.finish(chosen, left_out=len(bad))
    return path


def _refuse(faults: Iterable[Fault]) -> None:
    for _, _, reason in faults:
        raise InputError(reason)


def _report(table: FilmTable, bad: Mapping[int, tuple[str, str]], path: Path) -> None:
    """Write ``skipped.csv``, or remove it if there is nothing to tell."""
    where = table.films["where"]
    films = [(file, where.iloc[i], why) for i, (file, why) in sorted(bad.items())]
    rows = table.bad.frame()
    frame = pd.concat([rows, pd.DataFrame(films, columns=list(REPORT_COLUMNS))])
    report = path / SKIPPED
    try:
        report.unlink(missing_ok=True)
        if len(frame):
            frame.to_csv(report, index=False, lineterminator="\n")
    except OSError as error:
        raise unwritable(path, error) from None
    if len(frame):
        text = "%s: %d films and %d rows left out, see %s"
        log.warning(text, path, len(films), len(rows), report)


def _decode_all(
    films: Sequence[Film], table: FilmTable, size: int, workers: int | None
) -> Iterator[Rows]:
    """Chunks in order. Pillow lets go of the interpreter lock while it decodes and resizes."""
    count = workers or cores()
    with ThreadPoolExecutor(count) as pool:
        chunks = batched(films, CHUNK)
        yield from map_ahead(pool, lambda part: decode(part, table, size), chunks, 2 * count)


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Results in order; at most `ahead` calls run or wait beyond the one that is asked for."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _films(table: FilmTable, lost: pd.DataFrame) -> Iterator[Film]:
    """Films of a table, in order; `lost` as `lost_files` gives it, the last fault counts."""
    faults = {i: (file, reason) for file, _, reason, i in lost.itertuples(index=False)}
    classes = table.mask_classes
    boxes: dict[str, list[tuple[int, Box]]] = {}
    for image_id, finding, *box in table.boxes.itertuples(index=False):
        x, y, w, h = map(float, box)
        boxes.setdefault(str(image_id), []).append((classes.index(str(finding)), (x, y, w, h)))
    columns = (table.films[name] for name in ("image_id", "path", "where"))
    for i, (image_id, path, where) in enumerate(zip(*columns, strict=True)):
        masks, framed = tuple(table.masks_of(i)), tuple(boxes.get(str(image_id), ()))
        yield Film(str(path), str(where), masks, framed, faults.get(i))


def decode(films: Sequence[Film], table: FilmTable, s: int) -> Rows:
    """Decode a chunk of a table's films to side `s`; the bad ones are named, not raised."""
    k, c = len(films), len(table.mask_classes)
    images = np.empty((k, s, s), np.uint8)
    inside = np.zeros((k, c, s, s // 8), np.uint8)
    ignored = np.zeros_like(inside)
    valid = np.zeros((k, c), bool)
    sizes: list[tuple[int, int]] = []
    bad: list[Fault] = []
    for position, film in enumerate(films):
        if film.lost:
            bad.append((position, *film.lost))
            continue
        n, masks = len(sizes), np.zeros((c, s, s), np.uint8)
        try:
            image = load_image(film.path, table.depths, table.any_ending)
            height, width = image.shape
            for channel, mask in film.masks:
                masks[channel] = fit_mask(mask.load(height, width), s, height, width)
        except InputError as error:
            bad.append((position, film.path, f"{film.where}: {error}"))
            continue
        for channel, box in film.boxes:
            masks[channel][fit_box(box, height, width, s) == 1] = 1
        images[n] = fit(image, s)
        valid[n, [channel for channel, _ in (*film.masks, *film.boxes)]] = True
        inside[n], neither = pack(masks, valid[n])
        if neither is not None:
            ignored[n] = neither
        sizes.append((height, width))
    n = len(sizes)
    some = ignored[:n] if ignored.any() else None
    return Rows(images[:n], inside[:n], some, valid[:n], sizes, bad)


def _rule_of(table: FilmTable, size: int) -> dict[str, Any]:
    """What decides what becomes of a table's films.

    The reader's own code is not in it: all that it decides stands in the table.
    """
    kinds = {type(m).__module__ for name in table.masks for m in table.masks[name] if m is not None}
    relative = _relative_to(table.root)
    rows = [[relative(str(cell)) for cell in row[:2]] for row in table.bad.frame().to_numpy()]
    return {
        "source": table.source,
        "setting": {
            "size": size, "depths": table.depths, "any_ending": table.any_ending,
            "ignore": table.ignoring(), "chunk": CHUNK,
        },
        "classes": list(table.mask_classes),
        "rows left out": digest(rows),
        "version of": versions(LIBRARIES),
        "code": code_of([BUILDER, *sorted(kinds)]),
    }  # fmt: skip


def _fingerprints(table: FilmTable, films: Iterable[Film]) -> list[str]:
    """One fingerprint per chunk of films, without reading a pixel.

    Of each film: its row of the table, what describes its masks and boxes, and the size and time
    of change of its files. Paths count relative to the data set's folder.
    """
    relative = _relative_to(table.root)
    describe = functools.partial(_describe, relative)
    state = functools.lru_cache(1024)(_state)  # one JSON file may hold the masks of many films
    rows = zip(*(table.films[name].tolist() for name in COLUMNS), strict=True)
    out = []
    for chunk in batched(zip(films, rows, strict=True), CHUNK):
        taken = hashlib.sha256()
        for film, row in chunk:
            files = [film.path, *(str(f) for _, mask in film.masks for f in mask.files)]
            states = [(relative(f), *state(f)) for f in files]
            about = [row, film.masks, film.boxes, bool(film.lost), states]
            taken.update(json.dumps(about, default=describe).encode())
        out.append(taken.hexdigest()[:32])
    return out


def batched(items: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Lists of `n` items, the last one maybe shorter."""
    source = iter(items)
    while chunk := list(islice(source, n)):
        yield chunk


def _relative_to(root: Path) -> Callable[[str], str]:
    top = os.path.join(root, "")  # noqa: PTH118
    return lambda path: path.removeprefix(top)


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _describe(relative: Callable[[str], str], value: Any) -> Any:
    """What JSON has no form for: paths, masks, arrays."""
    if isinstance(value, Path):
        return relative(str(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if dataclasses.is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__name__, parts]
    raise TypeError(f"a mask must be a dataclass of plain values, not hold {type(value).__name__}")
