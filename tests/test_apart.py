"""Patients that judge a task are not among those that classifiers learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit import data
from dollkit.common.errors import InputError
from dollkit.data.film_table import FilmTable
from dollkit.data.films import COLUMNS
from dollkit.data.splits import keep_apart


def table(patients: list[str], splits: list[str], folds: list[int] | None = None) -> FilmTable:
    ids = [f"{i}-{p}" for i, p in enumerate(patients)]
    films = pd.DataFrame({"image_id": ids, "patient_id": patients, "split": splits})
    films = films.reindex(columns=[*COLUMNS, "path", "where"]).assign(fold=folds or 0, path="a.png")
    return FilmTable("toy", films, Path("toys"))


def splits(tables: dict[str, FilmTable]) -> list[str]:
    return tables["films"].films["split"].tolist()


def test_who_validates_or_tests_a_task_is_set_aside() -> None:
    films = table(list("abcdee"), ["train", "train", "valid", "valid", "train", "train"])
    lungs = table(list("abe"), ["train", "valid", "test"])
    out = keep_apart({"films": films, "lungs": lungs})
    assert splits(out) == ["train", "test", "valid", "valid", "test", "test"]
    assert out["lungs"] is lungs
    assert films.films["split"].tolist()[1] == "train"  # what was given stays as it is


def test_of_a_task_with_folds_each_patient_is_tested_once() -> None:
    films = table(list("abcd"), ["train", "train", "train", "valid"])
    organs = table(list("ab"), ["train", "train"], folds=[0, 1])
    assert splits(keep_apart({"films": films, "organs": organs})) == [
        "test", "test", "train", "valid",
    ]  # fmt: skip


@pytest.mark.parametrize("task", [["x", "y"], []])
def test_other_patients_change_nothing(task: list[str]) -> None:
    films = table(list("ab"), ["train", "valid"])
    tables = {"films": films, "lungs": table(task, ["test"] * len(task))}
    assert keep_apart(tables)["films"] is films
    assert list(keep_apart({"lungs": films})) == ["lungs"]


@pytest.mark.parametrize(("judged", "kind"), [("a", "train"), ("b", "valid")])
def test_nobody_left_to_learn_from_is_told(judged: str, kind: str) -> None:
    tables = {"films": table(list("ab"), ["train", "valid"]), "lungs": table([judged], ["test"])}
    with pytest.raises(InputError, match=f"toys: every {kind} film .* whose masks judge lungs"):
        keep_apart(tables)


def test_a_folder_of_ones_own_is_kept_apart(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(60)]
    for place in ("images", "masks/lungs"):
        (tmp_path / place).mkdir(parents=True)
    for name in names:
        Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    for name in names[:30]:
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / f"masks/lungs/{name}.png")
    rows = [f"{n}.png,{n},{i % 2}" for i, n in enumerate(names)]
    (tmp_path / "films.csv").write_text("\n".join(["image,patient,Edema", *rows]))
    tables = data.read("folder", tmp_path)
    both = pd.merge(*(tables[s].films for s in ("films", "lungs")), on="patient_id")
    judged = both["split_y"] != "train"
    assert judged.sum() == 12  # 0.4 of 30
    assert set(both.loc[judged, "split_x"]) == {"test"}
    assert {"train", "valid"} <= set(tables["films"].films["split"])


def test_a_store_whose_data_set_has_gone_is_not_learnt_from(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for place in ("images", "masks/lungs"):
        (root / place).mkdir(parents=True)
    for i in range(30):
        Image.fromarray(np.full((8, 8), 90 + i, np.uint8)).save(root / f"images/p{i}.png")
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(root / f"masks/lungs/p{i}.png")
    rows = [f"p{i}.png,p{i},{i % 2}" for i in range(30)]
    (root / "films.csv").write_text("\n".join(["image,patient,Edema", *rows]))
    assert list(data.build("folder", root, out, 8, workers=1, alone=True)) == ["films", "lungs"]
    for mask in (root / "masks/lungs").iterdir():
        mask.unlink()
    (root / "masks/lungs").rmdir()
    (root / "masks").rmdir()
    assert list(data.build("folder", root, out, 8, workers=1)) == ["films"]
    assert (out / "lungs").is_dir()  # a folder of stores from several calls
    assert list(data.build("folder", root, out, 8, workers=1, alone=True)) == ["films"]
    assert sorted(f.name for f in out.iterdir()) == ["films"]
