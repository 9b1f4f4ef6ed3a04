"""From a reader's table to a packed store: decode once, in parallel, and check as it goes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.data.build_key import Key, code_of, digest, versions
from dollkit.data.csvfile import REPORT_COLUMNS
from dollkit.data.decode import load_image
from dollkit.data.film_table import FilmTable, check_files, lost_files
from dollkit.data.films import COLUMNS
from dollkit.data.images import fit, fit_box, fit_mask
from dollkit.data.masks import Mask
from dollkit.data.store import standing
from dollkit.data.store_writer import StoreWriter, pack, unwritable

log = logging.getLogger(__name__)

SKIPPED = "skipped.csv"


def build_store(
    table: FilmTable,
    path: Path | str,
    size: int,
    skip_bad: bool = False,
    workers: int | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Decode the films of a table into a store.

    A store that the same table, files, settings and code have made is kept. A build that was
    stopped, by whatever, goes on where it was.

    Args:
        table: what a reader returned.
        path: folder of the store.
        size: side in pixels, a multiple of 8.
        skip_bad: leave films out whose image or mask is missing, corrupt, cut off or of a wrong
            size, and list them in ``skipped.csv`` (file, row, reason) in the store's folder, after
            the rows that the reader left out.
        workers: decoding threads; None: one per core. The store is the same for any number.
        made_from: account to keep in ``store.json``; the reader's name and options are enough.

    Returns:
        `path`.
    """
    path = Path(path)
    found = lost_files(table)
    if len(found) and not skip_bad:
        check_files(table)
    lost = {
        int(i): (str(file), str(reason))
        for file, reason, i in zip(found["file"], found["reason"], found["film"], strict=True)
    }
    rule = Rule(size, len(table.mask_classes), table.depths, table.any_ending)
    account = {"source": table.source, **dict(made_from or {})}
    key = Key(rule_of(table, rule, account), fingerprints(table, films_of(table, lost)))
    if standing(path, key, whole=not skip_bad):
        return path
    bad = _Bad(table, skip_bad)
    rows: list[int] = []
    sizes: list[tuple[int, int]] = []
    ignore, room = table.ignoring(), max(len(table), 1)
    with (
        StoreWriter(
            path, size, table.mask_classes, room, account, ignore=ignore, key=key
        ) as writer,
        tqdm(desc=path.name, total=len(table), unit="film") as bar,
    ):
        for number, note in enumerate(writer.notes):
            rows += bad.take(number, {int(k): v for k, v in note["bad"].items()})
            sizes += note["sizes"]
        done = CHUNK * len(writer.notes)
        if done:
            log.info("%s: going on after film %d of %d", path, done, len(table))
            bar.update(done)
        films = islice(films_of(table, lost), done, None)
        for number, part in enumerate(_decode_all(films, rule, workers), len(writer.notes)):
            good = bad.take(number, part.bad)
            writer.write_bits(len(rows), part.images, part.inside, part.ignored, part.valid)
            writer.note({"sizes": part.sizes, "bad": part.bad})
            rows += good
            sizes += part.sizes
            bar.update(len(part.sizes) + len(part.bad))
        if not rows:
            raise InputError(f"{table.root}: no film is left of {len(table)}: see the images there")
        chosen = table.films.iloc[rows].reset_index(drop=True)
        chosen["height"] = [height for height, _ in sizes]
        chosen["width"] = [width for _, width in sizes]
        bad.report(path)
        writer.finish(chosen, left_out=len(bad.found))
    return path


class _Bad:
    """Films that cannot be read: an error, or left out and listed."""

    def __init__(self, table: FilmTable, skip: bool) -> None:
        self._table, self._skip = table, skip
        self.found: dict[int, tuple[str, str]] = {}

    def take(self, number: int, wrong: Mapping[int, tuple[str, str]]) -> list[int]:
        """Rows of chunk `number` that are good, given what is wrong by position in it."""
        first = CHUNK * number
        for position, (file, reason) in sorted(wrong.items()):
            if not self._skip:
                raise InputError(reason)
            self.found[first + position] = (file, reason)
        stop = min(first + CHUNK, len(self._table))
        return [row for row in range(first, stop) if row not in self.found]

    def report(self, path: Path) -> None:
        """Write ``skipped.csv``, or remove it if there is nothing to tell."""
        where = self._table.films["where"]
        films = [(file, where.iloc[i], why) for i, (file, why) in sorted(self.found.items())]
        rows = self._table.bad.frame()
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


def _decode_all(films: Iterator[Film], rule: Rule, workers: int | None) -> Iterator[Rows]:
    """Chunks in order, decoded ahead by a bounded number of threads.

    Threads, because Pillow lets go of the interpreter lock while it decodes and resizes.
    """
    count = workers or cores()
    chunks = batched(films, CHUNK)
    pending: list[Future[Rows]] = []
    with ThreadPoolExecutor(count) as pool:
        try:
            for chunk in islice(chunks, 2 * count):
                pending.append(pool.submit(decode, chunk, rule))
            while pending:
                yield pending.pop(0).result()
                for chunk in islice(chunks, 1):
                    pending.append(pool.submit(decode, chunk, rule))
        finally:
            for future in pending:
                future.cancel()


# From files to the rows of a store: one chunk of films, by whatever thread or process.


CHUNK = 32
"""Films decoded by one call: enough that handing them out costs little, few enough to hold."""

Box = tuple[float, float, float, float]
U8 = npt.NDArray[np.uint8]


class Film(NamedTuple):
    """What it takes to decode one film.

    Attributes:
        path, where: as in `FilmTable.films`.
        masks, boxes: each with its channel.
        lost: why it need not be tried; "" if it is all there. `lost_file`: the file at fault.
    """

    path: str
    where: str
    masks: tuple[tuple[int, Mask], ...]
    boxes: tuple[tuple[int, Box], ...]
    lost: str = ""
    lost_file: str = ""


@dataclass(frozen=True)
class Rule:
    """What becomes of a film.

    Attributes:
        size: S, side in pixels.
        channels: C, number of mask classes.
        depths, any_ending: as for `load_image`.
    """

    size: int
    channels: int
    depths: tuple[int, ...]
    any_ending: bool


class Rows(NamedTuple):
    """Rows of a store.

    Attributes:
        images: (k, S, S) uint8 of the k films that could be decoded.
        inside: (k, C, S, S/8) uint8, packed bits; ignored: likewise, None if there are none.
        valid: (k, C) bool.
        sizes: their own (height, width).
        bad: position in the chunk -> (file, reason) of the other films.
    """

    images: U8
    inside: U8
    ignored: U8 | None
    valid: npt.NDArray[np.bool_]
    sizes: list[tuple[int, int]]
    bad: dict[int, tuple[str, str]]


def films_of(table: FilmTable, lost: dict[int, tuple[str, str]]) -> Iterator[Film]:
    """Films of a table, in order.

    Args:
        table: the table.
        lost: row -> (file, reason) of the films that are not all there.
    """
    classes = table.mask_classes
    boxes: dict[str, list[tuple[int, Box]]] = {}
    for image_id, finding, *box in table.boxes.itertuples(index=False):
        x, y, w, h = map(float, box)
        boxes.setdefault(str(image_id), []).append((classes.index(str(finding)), (x, y, w, h)))
    masks = table.masks.to_numpy(object)
    columns = (table.films[name] for name in ("image_id", "path", "where"))
    for i, (image_id, path, where) in enumerate(zip(*columns, strict=True)):
        file, reason = lost.get(i, ("", ""))
        own = enumerate(masks[i]) if masks.size else ()
        yield Film(
            str(path),
            str(where),
            tuple((c, mask) for c, mask in own if mask is not None),
            tuple(boxes.get(str(image_id), ())),
            reason,
            file,
        )


def decode(films: Sequence[Film], rule: Rule) -> Rows:
    """Decode a chunk of films; the bad ones are named, not raised."""
    k, s, c = len(films), rule.size, rule.channels
    images = np.empty((k, s, s), np.uint8)
    inside = np.zeros((k, c, s, s // 8), np.uint8)
    ignored = np.zeros_like(inside)
    valid = np.zeros((k, c), bool)
    sizes: list[tuple[int, int]] = []
    bad: dict[int, tuple[str, str]] = {}
    for position, film in enumerate(films):
        if film.lost:
            bad[position] = (film.lost_file, film.lost)
            continue
        n = len(sizes)
        try:
            image = load_image(film.path, rule.depths, rule.any_ending)
            masks = _masks(film, image.shape[0], image.shape[1], rule)
        except InputError as error:
            bad[position] = (film.path, f"{film.where}: {error}")
            continue
        images[n] = fit(image, s)
        for channel, mask in masks.items():
            valid[n, channel] = True
            bits, neither = pack(mask[None, None], valid[n, channel][None, None])
            inside[n, channel] = bits[0, 0]
            if neither is not None:
                ignored[n, channel] = neither[0, 0]
        sizes.append((image.shape[0], image.shape[1]))
    n = len(sizes)
    some = ignored[:n] if ignored.any() else None
    return Rows(images[:n], inside[:n], some, valid[:n], sizes, bad)


def _masks(film: Film, height: int, width: int, rule: Rule) -> dict[int, U8]:
    """Channel -> (S, S) uint8 in {0, 1, 255} of the masks that a film has."""
    masks = {c: fit_mask(m.load(height, width), rule.size, height, width) for c, m in film.masks}
    for channel, box in film.boxes:
        mask = masks.setdefault(channel, np.zeros((rule.size, rule.size), np.uint8))
        mask[fit_box(box, height, width, rule.size) == 1] = 1
    return masks


# Fingerprints of what a store is built from, without reading a pixel.


BUILDER = "dollkit.data.store_builder"
LIBRARIES = ("numpy", "pandas", "pillow", "pycocotools", "pydicom", "python-gdcm")
"""Packages that decode, resize or write."""

Item = TypeVar("Item")


def rule_of(table: FilmTable, rule: Rule, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what becomes of a table's films, for `dollkit.data.build_key.Key`.

    The reader's own code is not in it: all that it decides stands in the table.
    """
    kinds = {type(m).__module__ for name in table.masks for m in table.masks[name] if m is not None}
    relative = _relative_to(table.root)
    rows = [[relative(str(cell)) for cell in row[:2]] for row in table.bad.frame().to_numpy()]
    return {
        "source": table.source,
        "made_from": dict(made_from),
        "setting": {**dataclasses.asdict(rule), "ignore": table.ignoring(), "chunk": CHUNK},
        "classes": list(table.mask_classes),
        "rows left out": digest(rows),
        "version of": versions(LIBRARIES),
        "code": code_of([BUILDER, *sorted(kinds)]),
    }


def fingerprints(table: FilmTable, films: Iterable[Film]) -> list[str]:
    """One fingerprint per chunk of films.

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
    while chunk := list(itertools.islice(source, n)):
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
