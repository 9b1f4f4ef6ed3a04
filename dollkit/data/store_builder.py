"""From a reader's table to a packed store: decode once, in parallel, and check as it goes."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from dollkit.common.build_key import Key, code_of, digest
from dollkit.common.errors import InputError
from dollkit.common.machine import cores, versions
from dollkit.data.film_table import COLUMNS, Fault, FilmTable, check_files
from dollkit.data.images import fit, load_image, range_note
from dollkit.data.store import standing
from dollkit.data.store_writer import StoreWriter, pack, writing

log = logging.getLogger(__name__)

SKIPPED = "skipped.csv"
LIBRARIES = ("numpy", "pandas", "pillow", "pydicom", "python-gdcm")
"""Packages that decode, resize or write."""

CHUNK = 32
"""Films decoded by one call: enough that handing them out costs little, few enough to hold."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Lost = Mapping[int, tuple[str, str]]
"""Films that need not be tried: the file at fault, and the reason."""
U8 = npt.NDArray[np.uint8]


class Rows(NamedTuple):
    """Rows of a store: the k films of a chunk that could be decoded, with their own sizes."""

    images: U8
    inside: U8
    ignored: U8
    valid: npt.NDArray[np.bool_]
    sizes: list[tuple[int, int]]
    bad: list[Fault]
    """By their positions in the chunk."""
    doubts: list[str]
    """What looks wrong with the greys of films that could be decoded."""


def build_store(
    table: FilmTable, path: Path | str, size: int, skip_bad: bool = False,
    workers: int | None = None,
) -> Path:  # fmt: skip
    """Decode the films of a table into a store and return its path.

    A store that the same table, files, settings and code have made is kept. A build that was
    stopped, by whatever, goes on where it was.

    With `skip_bad`, films whose image or mask is missing, corrupt, cut off or of a wrong size are
    left out and listed in ``skipped.csv`` (file, row, reason) in the store's folder, after the rows
    that the reader left out. The store is the same for any number of `workers`.
    """
    path, n = Path(path), len(table)
    lost = {i: (file, reason) for i, file, reason in check_files(table, skip_bad)}
    key = Key(_rule_of(table, size), _fingerprints(table, lost))
    if standing(path, key, whole=not skip_bad):
        return path
    classes, account, workers = table.mask_classes, {"source": table.source}, workers or cores()
    with (
        StoreWriter(path, size, classes, account, ignore=table.ignoring, key=key) as writer,
        tqdm(desc=path.name, total=n, unit="film") as bar,
        # Threads: Pillow lets go of the interpreter lock while it decodes and resizes.
        ThreadPoolExecutor(workers) as pool,
    ):
        done = min(CHUNK * len(writer.notes), n)
        if done:
            log.info("%s: going on after film %d of %d", path, done, n)
            bar.update(done)
        if not skip_bad:
            _refuse(reason for note in writer.notes for _, _, reason in note["bad"])
        for part in map_ahead(
            pool, lambda chunk: decode(chunk, table, size, lost), _chunks(n, done), 2 * workers
        ):
            if not skip_bad:
                _refuse(fault.reason for fault in part.bad)
            writer.write_bits(part.images, part.inside, part.ignored, part.valid)
            writer.note({"sizes": part.sizes, "bad": part.bad, "doubts": part.doubts})
            bar.update(len(part.sizes) + len(part.bad))
        bad = {
            CHUNK * number + position: (file, reason)
            for number, note in enumerate(writer.notes)
            for position, file, reason in note["bad"]
        }
        if doubts := [doubt for note in writer.notes for doubt in note["doubts"]]:
            shown = "; ".join(doubts[:3]) + ("; ..." if len(doubts) > 3 else "")
            log.warning("%s: %d films look wrong: %s", path, len(doubts), shown)
        if len(bad) == n:
            raise InputError(f"{table.root}: no film is left of {n}: see the images there")
        chosen = table.films.drop(index=table.films.index[list(bad)]).reset_index(drop=True)
        sizes = [size for note in writer.notes for size in note["sizes"]]
        chosen[["height", "width"]] = np.array(sizes)
        _report(table, bad, path)
        writer.finish(chosen, left_out=len(bad))
    return path


def _chunks(n: int, start: int = 0) -> list[range]:
    return [range(i, min(i + CHUNK, n)) for i in range(start, n, CHUNK)]


def _refuse(reasons: Iterable[str]) -> None:
    for reason in reasons:
        raise InputError(reason)


def _report(table: FilmTable, bad: Mapping[int, tuple[str, str]], path: Path) -> None:
    """Write ``skipped.csv`` (file, row, reason), or remove it if there is nothing to tell."""
    where = table.films["where"]
    films = [(file, where.iloc[i], why) for i, (file, why) in sorted(bad.items())]
    frame = pd.DataFrame([*table.bad, *films], columns=["file", "row", "reason"])
    report = path / SKIPPED
    with writing(path):
        report.unlink(missing_ok=True)
        if len(frame):
            frame.to_csv(report, index=False, lineterminator="\n")
    if len(frame):
        text = "%s: %d films and %d rows left out, see %s"
        log.warning(text, path, len(films), len(table.bad), report)


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


def decode(films: Sequence[int], table: FilmTable, s: int, lost: Lost) -> Rows:
    """Decode some of a table's films to side `s`; the bad ones are named, not raised."""
    k, c = len(films), len(table.mask_classes)
    images = np.empty((k, s, s), np.uint8)
    inside = np.zeros((k, c, s, s // 8), np.uint8)
    ignored = np.zeros_like(inside)
    valid = np.zeros((k, c), bool)
    sizes: list[tuple[int, int]] = []
    bad: list[Fault] = []
    doubts: list[str] = []
    rows = table.films[["path", "where"]].iloc[list(films)].itertuples(index=False)
    for position, (film, (path, where)) in enumerate(zip(films, rows, strict=True)):
        if film in lost:
            bad.append(Fault(position, *lost[film]))
            continue
        n, masks = len(sizes), np.zeros((c, s, s), np.uint8)
        try:
            image = load_image(path, table.depths, table.any_ending)
            height, width = image.shape
            for channel, mask in table.masks_of[film]:
                masks[channel] = mask.fit(s, height, width)
        except InputError as error:
            bad.append(Fault(position, path, f"{where}: {error}"))
            continue
        images[n] = fit(image, s)
        doubts += filter(None, [range_note(Path(path), image)])
        valid[n, [channel for channel, _ in table.masks_of[film]]] = True
        inside[n], ignored[n] = pack(masks, valid[n])
        sizes.append((height, width))
    n = len(sizes)
    return Rows(images[:n], inside[:n], ignored[:n], valid[:n], sizes, bad, doubts)


def _rule_of(table: FilmTable, size: int) -> dict[str, Any]:
    """What decides what becomes of a table's films.

    The reader's own code is not in it: all that it decides stands in the table.
    """
    rows = [[_within(table, str(cell)) for cell in row[:2]] for row in table.bad]
    return {
        "source": table.source,
        "setting": {
            "size": size, "depths": table.depths, "any_ending": table.any_ending,
            "ignore": table.ignoring, "chunk": CHUNK,
        },
        "classes": list(table.mask_classes),
        "rows left out": digest(rows),
        "version of": versions(LIBRARIES),
        "code": code_of([__name__]),
    }  # fmt: skip


def _fingerprints(table: FilmTable, lost: Lost) -> list[str]:
    """One fingerprint per chunk of films, without reading a pixel.

    Of each film: its row of the table, what describes its masks, and the size and time of change
    of its files. Paths count relative to the data set's folder.
    """
    state = functools.lru_cache(1024)(_state)  # one JSON file may hold the masks of many films
    rows = zip(*(table.films[name].tolist() for name in COLUMNS), strict=True)
    films = zip(rows, table.masks_of, table.files(), strict=True)

    def describe(value: Any) -> Any:
        """What JSON has no form for: paths, numbers of numpy's, masks."""
        if isinstance(value, Path):
            return _within(table, str(value))
        if isinstance(value, np.generic):
            return value.item()
        return [type(value).__name__, vars(value)]

    out = []
    for chunk in _chunks(len(table)):
        taken = hashlib.sha256()
        for i, (row, masks, files) in zip(chunk, films, strict=False):
            states = [(file, *state(file)) for file in files]
            about = [row, masks, i in lost, states]
            taken.update(json.dumps(about, default=describe).encode())
        out.append(taken.hexdigest()[:32])
    return out


def _within(table: FilmTable, path: str) -> str:
    """A path relative to the data set's folder, if it lies there."""
    return path.removeprefix(f"{table.root}{os.sep}")


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
