"""Splits by patient: balanced, read as written; who judges a task teaches no classifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dollkit import data
from dollkit.common.errors import InputError
from dollkit.data.film_table import COLUMNS, FilmTable
from dollkit.data.splits import draw_parts, keep_apart, read_split, unify_patients
from tests.small_files import error_of, save, write_lines


def table(patients: list[str], splits: list[str], folds: list[int] | None = None) -> FilmTable:
    ids = [f"{i}-{p}" for i, p in enumerate(patients)]
    films = pd.DataFrame({"image_id": ids, "patient_id": patients, "split": splits})
    films = films.reindex(columns=[*COLUMNS, "path", "where"]).assign(
        fold=folds or 0, path="a.png", Edema=1.0
    )
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
    apart = splits(keep_apart({"films": films, "organs": organs}))
    assert apart == ["test", "test", "train", "valid"]


@pytest.mark.parametrize(("judged", "kind"), [("a", "train"), ("b", "valid")])
def test_nobody_left_to_learn_from_is_told(judged: str, kind: str) -> None:
    tables = {"films": table(list("ab"), ["train", "valid"]), "lungs": table([judged], ["test"])}
    with pytest.raises(InputError, match=f"toys: every {kind} film .* whose masks judge lungs"):
        keep_apart(tables)


def write_folder(root: Path, films: int, masks: int) -> None:
    """A folder of one's own: films with findings, the first of them with a mask of the lungs."""
    for place, n in (("images", films), ("masks/lungs", masks)):
        for i in range(n):
            save(root / place / f"p{i}.png", np.full((8, 8), 255))
    rows = [f"p{i}.png,p{i},{i % 2}" for i in range(films)]
    write_lines(root / "films.csv", ["image,patient,Edema", *rows])


def test_a_folder_of_ones_own_is_kept_apart(tmp_path: Path) -> None:
    write_folder(tmp_path, 60, 30)
    tables = data.read("folder", tmp_path)
    both = pd.merge(*(tables[s].films for s in ("films", "lungs")), on="patient_id")
    judged = both["split_y"] != "train"
    assert judged.sum() == 12  # 0.4 of 30
    assert set(both.loc[judged, "split_x"]) == {"test"}
    assert {"train", "valid"} <= set(tables["films"].films["split"])


def test_a_store_whose_data_set_has_gone_is_not_learnt_from(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    write_folder(root, 30, 30)
    assert list(data.build("folder", root, out, 8, workers=1, alone=True)) == ["films", "lungs"]
    shutil.rmtree(root / "masks")
    for alone in (False, True):  # False: a folder of stores from several calls
        assert list(data.build("folder", root, out, 8, workers=1, alone=alone)) == ["films"]
        assert (out / "lungs").is_dir() is not alone


def test_ids_that_differ_in_writing_alone_are_one_patient() -> None:
    ids = pd.Series(["0012", "12", "12.0", "P 7", "p07", "1.05", "1.5", "12a", "120"])
    merged, note = unify_patients(ids, "merge")
    assert merged.tolist() == ["0012"] * 3 + ["P 7"] * 2 + ["1.05", "1.5", "12a", "120"]
    assert note.startswith("3 ids of patients differ from another one only in leading zeros")
    assert "('0012' and '12', '0012' and '12.0')" in note
    kept, note = unify_patients(ids, "keep")
    assert kept.equals(ids)
    assert "are kept apart" in note
    assert unify_patients(merged[3:], "merge")[1] == ""
    with pytest.raises(InputError, match="'patient_id' is 'ask': use merge or keep"):
        unify_patients(ids, "ask")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_no_writing_of_a_number_makes_a_second_patient(numbers: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    forms = ("{}", "{:03}", " {}", "{}.0", "0{}.00", "{} ")
    ids = pd.Series([forms[rng.integers(len(forms))].format(n) for n in numbers])
    merged, _ = unify_patients(ids, "merge")
    pd.testing.assert_series_equal(
        merged.groupby(numbers).nunique(), pd.Series(1, sorted(set(numbers))), check_names=False
    )
    assert merged.nunique() == len(set(numbers))


def test_parts_are_balanced_and_patient_disjoint() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{k}" for k in rng.integers(0, 120, 400)]
    traits = rng.random((400, 3)) < (0.5, 0.2, 0.05)
    part = draw_parts(patients, traits, [3, 1])
    assert pd.DataFrame({"p": patients, "k": part}).groupby("p")["k"].nunique().max() == 1
    np.testing.assert_allclose(np.mean(part == 0), 0.75, atol=0.02)
    for t in range(3):
        np.testing.assert_allclose(np.mean(part[traits[:, t]] == 0), 0.75, atol=0.06)
    order = rng.permutation(400)
    again = draw_parts([patients[i] for i in order], traits[order], [3, 1])
    np.testing.assert_array_equal(again, part[order])


def test_split_files_are_checked(tmp_path: Path) -> None:
    path, good = tmp_path / "split.csv", "image_id,patient_id,fold\nb,1,0\na,1,0\nc,2,1\n"
    path.write_text(good)
    patient_of = {"a": "1", "b": "1", "c": "2"}
    assert read_split(path, patient_of, "fold").to_dict() == {"a": "0", "b": "0", "c": "1"}
    for known, text, message in (
        ({**patient_of, "d": "3"}, good, "film 'd' of the data set is missing"),
        ({"a": "1", "b": "1"}, good, "film 'c' is not in the data set"),
        ({**patient_of, "c": "4"}, good, "film 'c' is of patient '2' there, of '4' in the data"),
        (patient_of, good.replace("fold", "part"), "column 'fold' is missing"),
        (patient_of, good + "c,2,1\n", "'c' stands there twice"),
    ):
        path.write_text(text)
        assert message in error_of(read_split, path, known, "fold")
    assert "no such file" in error_of(read_split, tmp_path / "none.csv", patient_of, "fold")
