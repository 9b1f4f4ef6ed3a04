"""The open pack: splits and boxes. Films are read from outside the repository only."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.common.findings import FINDINGS
from dollkit.data.__main__ import surplus
from dollkit.data.film_table import FilmTable
from dollkit.data.sets.open_pack import DATASET, FOLDS, TASKS, read_boxes
from dollkit.data.splits import draw_parts
from tests.small_files import edit, error_of


@pytest.fixture(scope="session")
def pack(shared_dir: Path) -> Path:
    folder = shared_dir / "cxr_open"
    if not folder.is_dir():
        pytest.skip(f"no open pack in {folder}")
    return folder


@pytest.fixture(scope="session")
def read(pack: Path) -> dict[str, FilmTable]:
    return DATASET.tables(pack)


@pytest.fixture
def tables(pack: Path, tmp_path: Path) -> Path:
    """The pack's tables alone, to be spoilt."""
    for file in pack.glob("*.csv"):
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def test_it_is_found_read_and_counted(pack: Path, read: dict[str, FilmTable]) -> None:
    assert DATASET.find(pack) == DATASET.find(pack.parent) == pack
    assert tuple(read) == DATASET.stores
    facts = {what: n for table in read.values() for what, n in table.facts.items()}
    assert facts == DATASET.documented
    assert [surplus({"one": table}) for table in read.values()] == [[]] * len(read)


def test_films_counts_and_splits(pack: Path, read: dict[str, FilmTable]) -> None:
    films = read["films"].films
    raw = pd.read_csv(pack / "findings_nih.csv")
    assert films["Pleural Effusion"].sum() == raw["Effusion"].sum() == 56
    # Every film was picked for one of the two.
    assert (films["Lung Opacity"] == films["Pneumonia"]).all()
    assert ((films["Pneumonia"] == 1) ^ (films["No Finding"] == 1)).all()
    boxed = read["films"].masks.notna().any(axis=1)
    assert boxed.sum() == 104
    held = films["patient_id"].isin(films["patient_id"][boxed])
    assert set(films["split"][held]) == {"test"}
    assert films["split"].value_counts().to_dict() == {"train": 403, "test": 234, "valid": 54}
    # The committed split is the drawn one.
    rest = films[~held]
    positive = (rest[list(FINDINGS)] == 1).to_numpy()
    part = draw_parts(rest["patient_id"].tolist(), positive, (0.75, 0.10, 0.15))
    assert rest["split"].tolist() == [("train", "valid", "test")[p] for p in part]


def test_boxes_and_their_names(pack: Path, read: dict[str, FilmTable], tables: Path) -> None:
    boxes = read_boxes(pack)
    counts = boxes.groupby("finding")["image_id"].agg(["size", "nunique"])
    assert list(counts.index) == ["Cardiomegaly", "Lung Opacity", "Pneumonia", "Pneumothorax"]
    assert counts.to_numpy().tolist() == [[1, 1], [134, 85], [28, 28], [1, 1]]
    assert read["films"].masks.notna().sum().to_dict() == counts["nunique"].to_dict()
    ends = boxes[["x", "y"]].to_numpy() + boxes[["w", "h"]].to_numpy()
    assert boxes[["x", "y"]].min(axis=None) >= 0
    assert ends.max() <= 256.5
    (tables / "rsna_boxes.csv").unlink()
    assert len(read_boxes(tables)) == 31


@pytest.mark.parametrize("task", list(TASKS))
def test_tasks(read: dict[str, FilmTable], task: str) -> None:
    table = read[task]
    films = table.films
    assert np.ptp(np.bincount(films["fold"], minlength=FOLDS[task])) <= 1
    assert table.mask_classes == tuple(TASKS[task])
    # The committed folds are the drawn ones.
    traits = table.masks.notna().to_numpy()
    drawn = draw_parts(films["patient_id"].tolist(), traits, [1.0] * FOLDS[task])
    assert films["fold"].tolist() == drawn.tolist()


def test_pack_and_split_must_match(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tables / "images.csv"
    good = images.read_text()
    head, _, *lines = good.splitlines(keepends=True)
    images.write_text("".join([head, *lines]))
    assert "film 'nih_00000165_001' is not in the data set" in error_of(DATASET.tables, tables)
    images.write_text(good)
    monkeypatch.setattr(paths, "SPLITS", Path(shutil.copytree(paths.SPLITS, tables / "splits")))
    split = paths.SPLITS / "open_films.csv"
    split.write_text(split.read_text().replace(",test", ",train"))
    assert "has a film with a box and is not" in error_of(DATASET.tables, tables)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("findings_nih.csv", "Infiltration", "Infiltrate", ": column 'Infiltration' is missing"),
        ("findings_nih.csv", f"{7 * ',0'}", f"{6 * ',0'},2", ", row 2, column 'Nodule': value '2'"),
        ("boxes.csv", ",Cardiomegaly,", ",Heart,", "column 'label': value 'Heart': use a label"),
    ],
)
def test_bad_tables(tables: Path, name: str, old: str, new: str, words: str) -> None:
    edit(tables / name, old, new)
    message = error_of(DATASET.tables, tables)
    assert name in message
    assert words in message


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("images.csv", 932, "use each film once"),
        ("masks.csv", 349, "use one mask of each kind"),
    ],
)
def test_films_listed_twice(tables: Path, name: str, row: int, words: str) -> None:
    lines = (tables / name).read_text().splitlines(keepends=True)
    (tables / name).write_text("".join([*lines, lines[1]]))
    message = error_of(DATASET.tables, tables)
    assert re.search(f"{name}, row {row}, column 'image_id': value .*{words}", message)
    read = DATASET.tables(tables, skip_bad=True)
    assert {store: len(read[store]) for store in ("films", "lungs")} == {"films": 691, "lungs": 145}
    assert [reason for _, _, reason in read["lungs"].bad] == [message]
