"""The open pack: mapping, splits and boxes. Films are read from outside the repository only."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data import build
from dollkit.data.check import surplus
from dollkit.data.sets.nih_names import (
    IMPLIED,
    NIH_FINDINGS,
    NIH_TO_CHEXPERT,
    UNMAPPED_CHEXPERT,
    UNMAPPED_NIH,
    mapping_table,
    nih_states,
)
from dollkit.data.sets.open_pack import (
    DATASET,
    FOLDS,
    TASKS,
    boxes,
    draw_splits,
    read_films,
    read_task,
)
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from dollkit.finetuning.run import split
from dollkit.workflow import plan_films
from dollkit.workflow.plan_hours import survey


@pytest.fixture(scope="session")
def pack(shared_dir: Path) -> Path:
    folder = shared_dir / "cxr_open"
    if not folder.is_dir():
        pytest.skip(f"no open pack in {folder}")
    return folder


@pytest.fixture
def tables(pack: Path, tmp_path: Path) -> Path:
    """The pack's tables alone, to be spoilt."""
    for file in pack.glob("*.csv"):
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def states(*present: str) -> dict[str, float]:
    row = pd.DataFrame([[name in present for name in NIH_FINDINGS]], columns=list(NIH_FINDINGS))
    return nih_states(row).iloc[0].to_dict()


def test_mapping_covers_both_sides_once() -> None:
    used = {n for names in NIH_TO_CHEXPERT.values() for n in names} | set(IMPLIED.values())
    assert used | set(UNMAPPED_NIH) == set(NIH_FINDINGS)
    assert used.isdisjoint(UNMAPPED_NIH)
    mapped = [*NIH_TO_CHEXPERT, *IMPLIED, *UNMAPPED_CHEXPERT]
    assert sorted(mapped) == sorted(FINDINGS)
    listed = mapping_table()
    assert listed["chexpert"].tolist()[:14] == list(FINDINGS)
    assert listed["nih"].tolist()[14:] == list(UNMAPPED_NIH)


def test_mapping_by_hand() -> None:
    blank = {"Fracture", "Support Devices"}
    for present, positive, blanks in (
        (["No_Finding"], {"No Finding"}, {"Enlarged Cardiomediastinum"}),
        (
            ["Cardiomegaly"],
            {"Cardiomegaly", "Enlarged Cardiomediastinum"},
            {"No Finding"},
        ),
        (["Nodule"], {"Lung Lesion", "Lung Opacity"}, {"No Finding", "Enlarged Cardiomediastinum"}),
        (["Infiltration"], {"Lung Opacity"}, {"No Finding", "Enlarged Cardiomediastinum"}),
        (
            ["Effusion", "Pleural_Thickening", "Pneumothorax"],
            {"Pleural Effusion", "Pleural Other", "Pneumothorax"},
            {"No Finding", "Enlarged Cardiomediastinum"},
        ),
        (["Hernia", "Emphysema"], set(), {"No Finding", "Enlarged Cardiomediastinum"}),
    ):
        got = states(*present)
        assert {f for f, v in got.items() if v == 1} == positive
        assert {f for f, v in got.items() if np.isnan(v)} == blanks | blank


def test_films_counts_and_splits(pack: Path) -> None:
    table = read_films(pack)
    films = table.films
    assert len(films) == 691
    assert films["patient_id"].nunique() == 485
    raw = pd.read_csv(pack / "findings_nih.csv")
    assert films["Pleural Effusion"].sum() == raw["Effusion"].sum() == 56
    assert films["No Finding"].sum() == 357
    assert films["Lung Lesion"].sum() == (raw["Mass"] | raw["Nodule"]).sum()
    assert films[["Fracture", "Support Devices"]].isna().all(axis=None)
    # The trap named in the docstring.
    assert (films["Lung Opacity"] == films["Pneumonia"]).all()
    assert ((films["Pneumonia"] == 1) ^ (films["No Finding"] == 1)).all()
    boxed = films["image_id"].isin(boxes(pack)["image_id"])
    assert boxed.sum() == 104
    assert films["patient_id"][boxed].nunique() == 86
    unseen = films["patient_id"].isin(films["patient_id"][films["split"] != "test"])
    assert not (boxed & unseen).any()
    assert films["split"].value_counts().to_dict() == {"train": 403, "test": 234, "valid": 54}


def test_boxes_and_their_names(pack: Path) -> None:
    table = boxes(pack)
    counts = table.groupby("finding")["image_id"].agg(["size", "nunique"])
    assert counts.T.to_dict("list") == {
        "Cardiomegaly": [1, 1],
        "Lung Opacity": [134, 85],
        "Pneumonia": [28, 28],
        "Pneumothorax": [1, 1],
    }
    assert (table[["x", "y"]] >= 0).all(axis=None)
    assert (table["x"] + table["w"]).max() <= 256.5
    assert (table["y"] + table["h"]).max() <= 256.5


def test_pack_without_rsna_boxes(tables: Path) -> None:
    (tables / "rsna_boxes.csv").unlink()
    assert len(boxes(tables)) == 31


@pytest.mark.parametrize("task", list(TASKS))
def test_tasks(pack: Path, task: str) -> None:
    table = read_task(pack, task)
    films = table.films
    n, patients = {"lungs": (145, 79), "infection": (29, 24), "organs": (29, 24)}[task]
    assert len(films) == n
    assert films["patient_id"].nunique() == patients
    assert sorted(films["fold"].unique()) == list(range(FOLDS[task]))
    sizes = films.groupby("fold").size()
    assert sizes.max() - sizes.min() <= 1
    assert films.groupby("patient_id")["fold"].nunique().max() == 1
    assert table.mask_classes == tuple(TASKS[task])
    assert table.masks.notna().sum().sum() == {"lungs": 145, "infection": 29, "organs": 85}[task]


def test_committed_splits_are_the_drawn_ones(pack: Path, tmp_path: Path) -> None:
    for path in draw_splits(pack, tmp_path):
        assert path.read_text() == (paths.SPLITS / path.name).read_text()


FEW = {"n_films": 24, "n_train_pool": 3, "n_valid": 1, "n_test": 1}


def test_films_of_the_phantom_and_tasks_of_the_pack(pack: Path, tmp_path: Path) -> None:
    kept = shutil.ignore_patterns("nih", "images_64")
    copy = Path(shutil.copytree(pack, tmp_path / "pack", ignore=kept))  # its NIH films are gone
    built = build("open", copy, tmp_path / "out", 64, stores={"films": "phantom"}, phantom=FEW)
    made = {name: open_store(path) for name, path in built.items()}
    assert [s.made_from["source"] for s in made.values()] == [
        "phantom", "open-lungs", "open-infection", "open-organs",
    ]  # fmt: skip
    assert made["films"].mask_classes == PATHOLOGIES
    # Cross-validated as in a run on the pack alone: the same films train and test.
    real = read_task(pack, "organs").films
    for fold in range(FOLDS["organs"]):
        one, other = (split(films, fold, 8, 5, 1) for films in (made["organs"].films, real))
        for part in ("train", "valid", "test"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    with pytest.raises(InputError, match=r"images.csv, row \d+: no such file .*nih"):
        build("open", copy, tmp_path / "real", 64)


def test_films_of_the_pack_and_tasks_of_the_phantom(pack: Path, tmp_path: Path) -> None:
    kept = shutil.ignore_patterns("ieee8023", "images_64")
    copy = Path(shutil.copytree(pack, tmp_path / "pack", ignore=kept))
    tasks = dict.fromkeys(TASKS, "phantom")
    built = build("open", copy, tmp_path / "out", 64, stores=tasks, phantom=FEW)
    alone = build("phantom", "", tmp_path / "alone", 64, phantom=FEW)
    assert open_store(built["films"]).made_from["source"] == "open"
    for task in TASKS:
        assert open_store(built[task]).digest == open_store(alone[task]).digest


def test_stores_of_the_pack(pack: Path, tmp_path: Path) -> None:
    stores = build("open", pack, tmp_path, 64)
    films = open_store(stores["films"], verify=True)
    assert films.mask_classes == ("Cardiomegaly", "Lung Opacity", "Pneumonia", "Pneumothorax")
    assert films.mask_valid(slice(None)).sum(axis=0).tolist() == [1, 85, 28, 1]
    valid = films.mask_valid(slice(None))
    inside = films.masks(slice(None)).any(axis=(2, 3))
    np.testing.assert_array_equal(inside, valid)
    of_one = boxes(pack).query("finding == 'Pneumonia'").iloc[0]
    row = films.films.index[films.films["image_id"] == of_one["image_id"]]
    ys, xs = np.nonzero(films.masks(row.to_numpy(), ["Pneumonia"])[0, 0])
    got = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * 4.0
    x, y, w, h = of_one[["x", "y", "w", "h"]].astype(float)
    np.testing.assert_allclose(got, [x, y, x + w, y + h], atol=2.0)

    organs = open_store(stores["organs"], verify=True)
    assert organs.mask_valid(slice(None)).sum(axis=0).tolist() == [28, 28, 29]
    left, right = (
        np.nonzero(organs.masks(slice(None), [name]))[3].mean()
        for name in list(TASKS["organs"])[:2]
    )
    # Patient's left is on the right of the picture.
    assert left > 36 > 28 > right
    lungs = open_store(stores["lungs"], verify=True)
    fraction = pd.read_csv(pack / "masks.csv").query("kind == 'lungs_v7'").set_index("image_id")
    share = []
    for i, film in lungs.films.iterrows():
        scale = 64 / max(film["width"], film["height"])
        area = round(film["width"] * scale) * round(film["height"] * scale)
        mask = lungs.masks([int(str(i))])
        share.append(mask.sum() / area - fraction.loc[film["image_id"], "fraction"])
    assert np.abs(share).max() < 0.02


def test_pack_and_split_must_match(tables: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    shutil.copytree(paths.SPLITS, splits)
    path = splits / "open_films.csv"
    good = path.read_text()
    read_films(tables, splits)
    films = pd.read_csv(path, dtype=str)
    box = boxes(tables)["image_id"].iloc[0]
    patient = films["patient_id"][films["image_id"] == box].iloc[0]
    moved = films.copy()
    moved.loc[moved["patient_id"] == patient, "split"] = "train"
    moved.to_csv(path, index=False)
    with pytest.raises(InputError, match=f"patient '{patient}' has a film with a box and is not"):
        read_films(tables, splits)
    images = tables / "images.csv"
    lines = images.read_text().splitlines(keepends=True)
    images.write_text("".join(line for line in lines if not line.startswith("nih_00000165_001")))
    path.write_text(good)
    with pytest.raises(InputError, match="film 'nih_00000165_001' is not in the data set"):
        read_films(tables, splits)


def test_bad_tables(tables: Path) -> None:
    findings = tables / "findings_nih.csv"
    good = findings.read_text()
    findings.write_text(good.replace("Infiltration", "Infiltrate"))
    with pytest.raises(InputError, match=r"findings_nih.csv: column 'Infiltration' is missing"):
        read_films(tables)
    lines = good.splitlines()
    lines[5] = ",".join([*lines[5].split(",")[:7], "2", *lines[5].split(",")[8:]])
    findings.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"findings_nih.csv, row 6, column 'Nodule': value '2'"):
        read_films(tables)
    listed = (tables / "boxes.csv").read_text()
    (tables / "boxes.csv").write_text(listed.replace(",Cardiomegaly,", ",Heart,"))
    with pytest.raises(
        InputError, match=r"boxes.csv, row \d+, column 'label': value 'Heart': use a la"
    ):
        boxes(tables)
    (tables / "images.csv").unlink()
    with pytest.raises(InputError, match=r"images.csv: no such file: give the folder of the open"):
        read_task(tables, "lungs")
    with pytest.raises(InputError, match="'task' is 'heart': use one of lungs, infection, organs"):
        read_task(tables, "heart")


def test_mask_of_another_size_in_the_pack(pack: Path, tmp_path: Path) -> None:
    table = read_task(pack, "infection")
    sizes = table.films["width"] / table.films["height"]
    row, other = int(sizes.argmin()), int(sizes.argmax())
    table.masks.loc[row, "infection"] = table.masks.loc[other, "infection"]
    where = table.films["where"].iloc[row].rpartition("/")[2]
    with pytest.raises(InputError, match=rf"{where}: .*masks.*: mask is \d+x\d+, its image is"):
        build_store(table, tmp_path / "store", 64)


def test_data_set_is_found_read_and_counted(pack: Path) -> None:
    assert DATASET.find(pack) == DATASET.find(pack.parent) == pack
    tables = DATASET.read(pack, skip_bad=False)
    assert tuple(tables) == DATASET.stores
    facts: dict[str, int] = {}
    for table in tables.values():
        facts |= table.facts
    assert facts == DATASET.documented
    assert surplus(tables) == []
    for table in tables.values():
        assert surplus({"one": table}) == []


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("images.csv", 932, "column 'image_id': value 'nih_.*': use each film once"),
        ("findings_nih.csv", 693, "column 'image_id': value 'nih_.*': use each film once"),
        ("masks.csv", 349, "column 'image_id': value 'ieee_.*': use one mask of each kind"),
    ],
)
def test_films_listed_twice(tables: Path, name: str, row: int, words: str) -> None:
    path = tables / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1]]))

    def read(skip_bad: bool) -> list[str]:
        read_table = read_films(tables, None, skip_bad)
        masks = read_task(tables, "lungs", None, skip_bad)
        assert (len(read_table), len(masks)) == (691, 145)
        return [*read_table.bad.frame()["reason"], *masks.bad.frame()["reason"]]

    with pytest.raises(InputError, match=rf"{name}, row {row}, {words}"):
        read(False)
    told = read(True)
    assert told
    assert all(f"{name}, row {row}, " in reason for reason in told)


def test_skip_bad_leaves_wrong_rows_out(tables: Path) -> None:
    for name, old, new in (
        ("images.csv", "images/nih/00000165_001.png", "../nih/00000165_001.png"),
        ("findings_nih.csv", "nih_00000193_019,0,0,0", "nih_00000193_019,0,0,9"),
        ("boxes.csv", "nih_00000506_013,NIH_BBox_List_2017,Pneumonia", "nih_00000506_013,N,Cold"),
    ):
        text = (tables / name).read_text()
        assert old in text
        (tables / name).write_text(text.replace(old, new))
    table = read_films(tables, skip_bad=True)
    left_out = {"nih_00000165_001", "nih_00000193_019"}
    assert len(table) == 689
    assert left_out.isdisjoint(table.films["image_id"])
    assert left_out.isdisjoint(table.boxes["image_id"])
    reasons = table.bad.frame()["reason"].tolist()
    for words in ("column 'file': value '../nih", "column 'Cardiomegaly': value '9'", "'Cold'"):
        assert sum(words in reason for reason in reasons) == 1


def test_no_radiograph_in_the_data_folder() -> None:
    kinds = {p.suffix for p in paths.DATA.rglob("*") if p.is_file()}
    assert kinds <= {".csv", ".md"}


@pytest.mark.parametrize("profile", ["open", "to-real"])
def test_the_plan_knows_the_packs_tasks(profile: str, pack: Path) -> None:
    known = survey(profile, pack)
    given = known.given["data"]
    found = plan_films.sets(given, plan_films.stores_of(given)[1])
    assert [row["name"] for row in found] == ["open"]
    gives = found[0]["gives"]
    assert isinstance(gives, list)
    assert set(gives) >= {"lungs", "infection", "organs"}
    assert found[0]["whole"] is True
