"""Data sets on disk: tables and films that are damaged, and folders of one's own that mislead."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from dollkit.data.datasets import DATASETS
from dollkit.data.store_builder import build_store
from dollkit.interactive.your_radiographs import read
from tests import test_own
from tests.badinput import spoil
from tests.badinput.case import Case
from tests.test_reader_fuzz import SIZE, TREES

FILES: dict[str, tuple[str, ...]] = {
    "chexpert": ("CheXpert-v1.0-small/train.csv", "CheXpert-v1.0-small/train/*/*/*.jpg",
                 "CheXlocalize/gt_segmentations_val.json"),
    "nih": ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "test_list.txt",
            "images_001/images/*.png"),
    "jsrt": ("**/*.IMG", "**/*.gif"),
    "montgomery": ("**/CXR_png/*.png", "**/leftMask/*.png"),
    "shenzhen": ("**/CXR_png/*.png", "**/mask/*.png"),
    "covid_qu_ex": ("**/images/*.png", "**/infection masks/*.png"),
    "generalblockchain": ("**/*.csv", "**/*.png"),
    "v7": ("**/*.json", "**/*.png"),
    "folder": ("films.csv", "images/a.png", "masks/lungs/a.png"),
}  # fmt: skip
"""Files that a reader cannot do without once they are there."""

FEW = ("empty", "half", "noise", "page", "pointer", "folder", "circle")
"""Ways to damage that leave no file of any kind sound."""

LINES = {
    "row too short": "a.png,p1\n",
    "row too long": "a.png,p1,s1,AP,F,50,train,1,0,,x,A,B,C\n",
    "state 2": "a.png,p1,s1,AP,F,50,train,2,0,,x,A\n",
    "state yes": "a.png,p1,s1,AP,F,50,train,yes,0,,x,A\n",
    "age 400": "a.png,p1,s1,AP,F,400,train,1,0,,x,A\n",
    "age old": "a.png,p1,s1,AP,F,old,train,1,0,,x,A\n",
    "sex X": "a.png,p1,s1,AP,X,50,train,1,0,,x,A\n",
    "view lateral": "a.png,p1,s1,LATERAL,F,50,train,1,0,,x,A\n",
    "split holdout": "a.png,p1,s1,AP,F,50,holdout,1,0,,x,A\n",
    "film named twice": "a.png,p1,s1,AP,F,50,train,1,0,,x,A\n" * 2,
    "patient in two splits": "deep/b.jpg,p1,,,,,test,,,,,\n",
    "film gone": "b.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "film blank": ",p1,s1,AP,F,50,train,1,0,,x,A\n",
    "absolute path": "/etc/passwd,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "path above": "../../secret.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "path above, hidden": "deep/../../../secret.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "Windows path": "C:\\films\\a.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "home": "~/a.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "NUL in a name": "a\0.png,p1,s1,AP,F,50,train,1,0,,x,A\n",
    "open quote": '"a.png,p1,s1,AP,F,50,train,1,0,,x,A\n',
}
"""A row of the table of one's own that cannot stand, in place of its first or last."""

HEADERS = {
    "no column image": lambda t: t.replace("image,", "picture,", 1),
    "misspelt finding": lambda t: t.replace("cardiomegaly", "cardiomegly", 1),
    "column twice": lambda t: t.replace("SEX", "age", 1),
    "semicolons": lambda t: t.replace(",", ";"),
    "tabs": lambda t: t.replace(",", "\t"),
    "header alone": lambda t: t.splitlines()[0] + "\n",
    "no header": lambda t: t.partition("\n")[2],
    "UTF-16": lambda t: t.encode("utf-16"),
    "Latin-1": lambda t: t.replace("p1", "M\xfcller").encode("latin-1"),
}


@cache
def _pristine(name: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix=f"badinput-{name}-"))
    atexit.register(shutil.rmtree, root, True)
    TREES[name](root)
    return root


def _read(name: str, root: Path, out: Path) -> None:
    for store, table in DATASETS[name].tables(root).items():
        build_store(table, out / store, SIZE, workers=1)


def _damaged(name: str, pattern: str, how: spoil.Spoil) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        root = spoil.copy_of(_pristine(name), folder / "set")
        how(sorted(p for p in root.glob(pattern) if p.is_file())[0])
        return _read(name, root, folder / "stores")

    return run


def _own(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        root = spoil.copy_of(_pristine("folder"), folder / "set")
        change(root)
        return _read("folder", root, folder / "stores")

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


def _stranger(**given: object) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        root = spoil.copy_of(_pristine("folder"), folder / "set")
        places = {"films": root / "images", "findings": root / "films.csv", "masks": root / "masks"}
        return read.read(**{**places, **given})  # type: ignore[arg-type]

    return run


STRANGER: dict[str, tuple[dict[str, object], str]] = {
    "films nowhere": ({"films": Path("nowhere")}, "nowhere"),
    "findings nowhere": ({"findings": Path("no.csv")}, "no.csv"),
    "masks nowhere": ({"masks": Path("nowhere")}, "nowhere"),
    "class nowhere": ({"classes": ["heart"]}, "heart"),
    "class twice": ({"classes": ["lungs", "lungs"]}, "classes"),
    "column nowhere": ({"columns": {"Pneumonia": "Edema"}}, "Pneumonia"),
    "column to nothing known": ({"columns": {"scanner": "Scannr"}}, "Scannr"),
    "too many folds": ({"folds": 9, "columns": {"split": ""}}, "folds"),
    "no fold": ({"folds": 0, "columns": {"split": ""}}, "folds"),
}


def cases() -> Iterator[Case]:
    for name, patterns in FILES.items():
        for pattern in patterns:
            for how in FEW:
                told = f"{name}: {pattern} {how}"
                run = _damaged(name, pattern, spoil.ALL[how])
                yield Case("data set file", told, run, ("/set",))
    for name, text in LINES.items():
        yield Case("own table", name, _with_row(text), ("films.csv", "row"))
    for name, edit in HEADERS.items():
        yield Case("own table", name, _with_header(edit), ("films.csv",))
    yield Case("own masks", "of another shape", _mask(np.zeros((5, 5), np.uint8)), ("a.png",))
    yield Case("own masks", "unknown folder", _own(_no_such_film), ("lungz",))
    yield Case("own films", "link that leads outside", _own(_outside), ("a.png",))
    for name, (given, word) in STRANGER.items():
        yield Case("own folder", name, _stranger(**given), (word,))
