"""From a reader's table to a packed store: decode once, in parallel, and check as it goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from dollkit.buildkey import Key
from dollkit.errors import InputError
from dollkit.machine import cores
from dollkit.readers.csvfile import REPORT_COLUMNS
from dollkit.readers.decoding import CHUNK, Film, Rows, Rule, decode, films_of
from dollkit.readers.fingerprint import batched, fingerprints, rule_of
from dollkit.readers.table import FilmTable, check_files, lost_files
from dollkit.store import StoreWriter, standing, unwritable

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
