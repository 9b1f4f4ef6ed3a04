"""Data sets on disk: ``python -m dollkit data list | find DIR | check | build``.

``check`` ends with 0 if the tree is as released, 1 if something is off, 2 if the call is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.data import DATASETS, build, found, named
from dollkit.data.film_table import DataSet, FilmTable, lost_files, placing
from dollkit.data.images import IGNORE, frame, load_image, range_note
from dollkit.data.sets.common_steps import is_litter
from dollkit.data.store_builder import map_ahead

SIDE = 64
"""Of the grid on which masks are measured, in pixels."""


@dataclass(frozen=True)
class Report:
    """What `survey` says: counts (what, here, documented or NaN, ok), problems, films per store.

    Problems have a kind (count, row, missing, surplus or broken), a file and a reason; `decoded`
    counts the films whose pixels were read. Of those, `masks` has a row per store and class with
    the mean shares of the film that are inside and ignored, and `doubts` what looks wrong with
    greys, which is no fault of a copy.
    """

    root: Path
    counts: pd.DataFrame
    problems: pd.DataFrame
    stores: Mapping[str, int]
    decoded: int
    masks: pd.DataFrame
    doubts: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is off."""
        return self.problems.empty


def survey(
    data_set: DataSet, folder: Path | str, *, options: Mapping[str, str] | None = None,
    decode: bool = False, subset: bool = False,
) -> Report:  # fmt: skip
    """Read a data set's tree and hold it against what is documented.

    With `decode` the pixels of every film and mask are read too. With `subset` fewer films than
    documented are no fault (more still are).
    """
    tables = data_set.tables(Path(folder), options, skip_bad=True)
    facts = {what: n for table in tables.values() for what, n in table.facts.items()}
    counts = compare(facts, data_set.documented, subset)
    problems = [
        ("count", "", f"{what}: {here} here, {stated} documented")
        for what, here, stated, ok in counts.itertuples(index=False)
        if not ok
    ]
    for table in tables.values():
        problems += [("row", file, reason) for file, _, reason in table.bad]
    problems += [("missing", *row) for row in _missing(tables)]
    problems += [("surplus", str(f), "no table or folder rule names it") for f in surplus(tables)]
    shares: list[tuple[str, str, float, float]] = []
    doubts: list[str] = []
    for name, table in tables.items() if decode else ():
        for faults, notes, covered in _decoded(table, name):
            problems += [("broken", *row) for row in faults]
            doubts += notes
            shares += [(name, *row) for row in covered]
    stores = {name: len(table) for name, table in tables.items()}
    every = pd.DataFrame([*dict.fromkeys(problems)], columns=["kind", "file", "reason"])
    root, decoded = next(iter(tables.values())).root, sum(stores.values()) if decode else 0
    masks = pd.DataFrame(shares, columns=["store", "class", "inside", "ignored"])
    masks = masks.groupby(["store", "class"], sort=False).mean().reset_index()
    return Report(root, counts, every, stores, decoded, masks, tuple(dict.fromkeys(doubts)))


def compare(
    facts: Mapping[str, int], documented: Mapping[str, int], subset: bool = False
) -> pd.DataFrame:
    """Counts found beside documented ones: columns what, here, documented, ok.

    What is documented but was not counted is there 0 times; what nobody documents is always ok.
    """
    what = list(dict.fromkeys((*documented, *facts)))
    counts = pd.DataFrame({"here": facts, "documented": documented}, index=what, dtype="Int64")
    here, stated = counts["here"].fillna(0), counts["documented"]
    ok = stated.isna() | (here <= stated if subset else here == stated)
    counts = counts.assign(here=here.astype(int), ok=ok.fillna(True).astype(bool))
    return counts.rename_axis("what").reset_index()


def surplus(tables: Mapping[str, FilmTable]) -> list[Path]:
    """Files under the data set's folder that none of its tables or rules names, sorted."""
    every = tables.values()
    listed = (files for table in every for files in (table.others, *table.files()))
    known = {os.path.normpath(file) for files in listed for file in files}
    side = {pattern for table in every for pattern in table.side}
    out = set()
    for root, top in {(t.root, top) for t in every for top in t.folders or (t.root,)}:
        for folder, below, names in os.walk(top):
            below[:] = [name for name in below if not is_litter(name)]
            for path in (Path(folder, name) for name in names if not is_litter(name)):
                inner = path.relative_to(root)
                if os.path.normpath(path) not in known and not any(map(inner.match, side)):
                    out.add(path)
    return sorted(out)


def _missing(tables: Mapping[str, FilmTable]) -> list[tuple[str, str]]:
    lost = [fault for table in tables.values() for fault in lost_files(table)]
    rows = [(fault.file, fault.reason) for fault in lost]
    read = {Path(fault.file) for fault in lost}
    for table in tables.values():
        fault_of, others = placing(table.root), {*table.others} - {*table.beside, *read}
        rows += [(str(file), why) for file in sorted(others) if (why := fault_of(file))]
    return rows


Decoded = tuple[list[tuple[str, str]], list[str], list[tuple[str, float, float]]]
"""Of a film: files that cannot be read, what looks wrong, and what each mask covers."""


def _decoded(table: FilmTable, name: str) -> list[Decoded]:
    absent = {fault.film for fault in lost_files(table)}
    todo = [i for i in range(len(table)) if i not in absent]
    with ThreadPoolExecutor(cores()) as pool:
        films = map_ahead(pool, lambda i: _decode(table, i), todo, 64)
        return list(tqdm(films, desc=name, total=len(todo), unit="film"))


def _decode(table: FilmTable, film: int) -> Decoded:
    path = Path(str(table.films["path"].iloc[film]))
    try:
        image = load_image(path, table.depths, table.any_ending)
    except InputError as error:
        return [(str(path), str(error))], [], []
    height, width = image.shape
    f = frame(height, width, SIDE)  # what lies beside it is padding
    faults, shares = [], []
    for channel, mask in table.masks_of[film]:
        try:
            drawn = mask.fit(SIDE, height, width)[f.top : f.top + f.rows, f.left : f.left + f.cols]
        except InputError as error:
            faults.append((str(mask.files[0]), str(error)))
            continue
        inside, ignored = (float((drawn == value).mean()) for value in (1, IGNORE))
        shares.append((table.mask_classes[channel], inside, ignored))
    return faults, [note] if (note := range_note(path, image)) else [], shares


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    names = ", ".join(DATASETS)
    parser = argparse.ArgumentParser(prog="python -m dollkit data", description="Data sets on disk")
    commands = parser.add_subparsers(required=True, metavar="list | find | check | build")

    add = commands.add_parser("list", help="the data sets that can be read, and their terms")
    add.set_defaults(run=_list)

    add = commands.add_parser("find", help="which data sets lie in a folder")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.set_defaults(run=_find)

    add = commands.add_parser("check", help="hold a data set's tree against what is documented")
    add.add_argument("name", metavar="NAME", help=names)
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("--decode", action="store_true", help="read the pixels of every file too")
    add.add_argument("--subset", action="store_true", help="fewer films than documented are fine")
    add.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    add.set_defaults(run=_check)

    add = commands.add_parser("build", help="decode a data set into packed stores")
    add.add_argument("name", metavar="NAME", help=f"{names}, phantom, or auto: all that DIR holds")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("out", type=Path, metavar="OUT", help="gets one folder per store")
    add.add_argument("--size", type=int, default=224, help="side in pixels (%(default)s)")
    add.add_argument("--skip-bad", action="store_true", help="leave bad films out and list them")
    add.add_argument("--option", action="append", default=[], metavar="SET.KEY=VALUE")
    add.add_argument("--workers", type=int, help="decoding workers (default: one per core)")
    add.set_defaults(run=_build)

    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return int(args.run(args) or 0)


def _list(args: argparse.Namespace) -> None:
    for data_set in DATASETS.values():
        print(f"{data_set.name}: {data_set.title}")
        facts = {
            "gives": ", ".join(data_set.stores),
            **{name: getattr(data_set, name) for name in ("tree", "size", "licence", "cite")},
            "options": "; ".join(f"{k}={'|'.join(v)}" for k, v in data_set.options.items()),
        }
        for label, text in facts.items():
            if text:
                line = f"  {label}: {text}"
                print(textwrap.fill(line, 100, subsequent_indent=" " * (len(label) + 4)))


def _find(args: argparse.Namespace) -> None:
    for name, root in found(args.folder).items():
        print(f"{name}: {root}")


def _check(args: argparse.Namespace) -> int:
    options = _options(args.option)
    report = survey(
        named(args.name), args.folder, options=options, decode=args.decode, subset=args.subset
    )
    print(f"{report.root}")
    width = max((len(what) for what in report.counts["what"]), default=0)
    print(f"  {'':<{width}} {'here':>10} {'documented':>10}")
    for what, here, stated, ok in report.counts.itertuples(index=False):
        beside = "" if pd.isna(stated) else f"{stated:>10,}"
        print(f"  {what:<{width}} {here:>10,} {beside} {'' if ok else '  <- off'}".rstrip())
    for _, file, reason in report.problems.itertuples(index=False):
        print(reason if file in reason else f"{file}: {reason}" if file else reason)
    print(*report.doubts, sep="\n", end="\n" if report.doubts else "")
    for store, mask, inside, ignored in report.masks.itertuples(index=False):
        print(
            f"masks of {mask} ({store}): {inside:.1%} inside, {ignored:.1%} ignored, "
            f"{1 - inside - ignored:.1%} outside"
        )
    films = ", ".join(f"{name} {n}" for name, n in report.stores.items())
    kinds = report.problems["kind"].value_counts()
    off = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "nothing"
    pixels = f"{report.decoded} films decoded" if report.decoded else "pixels not read"
    print(f"films per store: {films}; {pixels}; off: {off}")
    return 0 if report.sound else 1


def _build(args: argparse.Namespace) -> None:
    options = _options(args.option)
    if args.name in DATASETS:
        options = {k if "." in k else f"{args.name}.{k}": v for k, v in options.items()}
    built = build(
        args.name, args.folder, args.out, args.size,
        skip_bad=args.skip_bad, workers=args.workers, options=options,
    )  # fmt: skip
    for name, path in built.items():
        print(f"{name}: {path}")


def _options(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"option {pair!r}: write KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    sys.exit("use python -m dollkit data")
