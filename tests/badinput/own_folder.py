"""A folder of your own: tables, masks and films that cannot be what they should be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dollkit.data.datasets import DATASETS
from dollkit.data.store_builder import build_store
from tests import test_own
from tests.badinput.case import Case
from tests.test_reader_fuzz import SIZE, TREES

LINES = {
    "row too short": "a.png,p1\n",
    "state 2": "a.png,p1,s1,AP,F,50,train,2,0,,x,A\n",
    "state yes": "a.png,p1,s1,AP,F,50,train,yes,0,,x,A\n",
    "age 400": "a.png,p1,s1,AP,F,400,train,1,0,,x,A\n",
    "sex X": "a.png,p1,s1,AP,X,50,train,1,0,,x,A\n",
    "film named twice": "a.png,p1,s1,AP,F,50,train,1,0,,x,A\n" * 2,
    "patient in two splits": "deep/b.jpg,p1,,,,,test,,,,,\n",
    "film gone": "b.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "film blank": ",p1,s1,AP,F,50,train,1,0,,x,A\n",
    "absolute path": "/etc/passwd,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "path above": "../../secret.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "path above, hidden": "deep/../../../secret.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "NUL in a name": "a\0.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "open quote": '"a.png,p1,s1,AP,F,50,train,1,0,,x,A\n',
}
"""A row of the table of one's own that cannot stand, in place of its first or last."""

HEADERS = {
    "no column image": lambda t: t.replace("image,", "picture,", 1),
    "misspelt finding": lambda t: t.replace("cardiomegaly", "cardiomegly", 1),
    "column twice": lambda t: t.replace("SEX", "age", 1),
    "semicolons": lambda t: t.replace(",", ";"),
    "header alone": lambda t: t.splitlines()[0] + "\n",
    "no header": lambda t: t.partition("\n")[2],
    "Latin-1": lambda t: t.replace("p1", "M\xfcller").encode("latin-1"),
}


def _own(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        root = folder / "set"
        root.mkdir()
        TREES["folder"](root)
        change(root)
        tables = DATASETS["folder"].tables(root)
        return [build_store(t, folder / name, SIZE, workers=1) for name, t in tables.items()]

    return run


def _with_row(text: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        head, _, rest = test_own.TABLE.partition("\n")
        kept = rest.partition("\n")[2]
        (root / "films.csv").write_text(f"{head}\n{text}{kept}")

    return _own(change)


def _with_header(edit: Callable[[str], str | bytes]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        made = edit(test_own.TABLE)
        (root / "films.csv").write_bytes(made if isinstance(made, bytes) else made.encode())

    return _own(change)


def _mask(grey: np.ndarray) -> Callable[[Path], object]:
    return _own(lambda root: test_own.mask(root, "lungs", "a", grey))


def _outside(root: Path) -> None:
    """A film that is a link to a file outside of the folder."""
    secret = root.parent / "secret.png"
    shutil.copy(root / "images" / "a.png", secret)
    (root / "images" / "a.png").unlink()
    (root / "images" / "a.png").symlink_to(secret)


def _no_such_film(root: Path) -> None:
    test_own.mask(root, "lungz", "a")


def cases() -> Iterator[Case]:
    for name, text in LINES.items():
        yield Case("own table", name, _with_row(text), ("films.csv", "row"))
    for name, edit in HEADERS.items():
        yield Case("own table", name, _with_header(edit), ("films.csv",))
    yield Case("own masks", "of another shape", _mask(np.zeros((5, 5), np.uint8)), ("a.png",))
    yield Case("own masks", "unknown folder", _own(_no_such_film), ("lungz",))
    yield Case("own films", "link that leads outside", _own(_outside), ("a.png",))
