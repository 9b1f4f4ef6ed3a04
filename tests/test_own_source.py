"""A stranger's folder: what is read, and what is said when it does not go together."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.finetuning import run
from dollkit.interactive.your_radiographs import __main__
from dollkit.interactive.your_radiographs import compare as comparing
from dollkit.interactive.your_radiographs import read as source
from dollkit.interactive.your_radiographs.columns import renamed
from dollkit.interactive.your_radiographs.example import COLUMNS, write_example
from dollkit.interactive.your_radiographs.find_films import chosen, films_below

Folder = dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    write_example(folder, n=40, masked=16, dicom=2)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the example to spoil."""
    import shutil

    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def read(folder: Path, columns: dict[str, str] | None = None, **more: object) -> source.Own:
    paths = (folder / "films", folder / "findings.csv", folder / "masks")
    return source.read(*paths, COLUMNS if columns is None else columns, **more)  # type: ignore[arg-type]


def edit(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "findings.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def beside_edema(folder: Path, name: str, cells: str) -> None:
    """A table of a known finding and one more column."""
    rows = "".join(f"{i}.png,1,{cell}\n" for i, cell in enumerate(cells.split()))
    (folder / "f.csv").write_text(f"image,Edema,{name}\n{rows}")


def first_mask(folder: Path, kind: str = "heart") -> Path:
    return sorted((folder / "masks" / kind).rglob("*.png"))[0]


def test_reads_a_strangers_folder(made: Path) -> None:
    own = read(made, folds=3)
    assert own.facts["films in the folder"] == 40
    masked = set(own.task.films["patient_id"])
    assert list(own.task.masks.columns) == ["heart", "lungs"]
    assert own.task.films["fold"].nunique() == 3
    assert own.task.films.groupby("patient_id")["fold"].nunique().max() == 1
    learning = own.films.films[own.films.films["split"] != "test"]
    assert not masked & set(learning["patient_id"])
    assert {"train", "valid"} <= set(learning["split"])
    table = pd.read_csv(made / "findings.csv")
    assert own.facts["positive: Pleural Effusion"] == table["Effusion"].sum()


def test_each_film_and_mask_is_its_own(made: Path) -> None:
    own = read(made)
    for i, film in own.task.films.iterrows():
        path = Path(film["path"])
        inner = path.relative_to(made / "films").with_suffix(".png")
        assert own.task.masks["lungs"][i].path == made / "masks" / "lungs" / inner
        assert film["where"].startswith(f"{made / 'findings.csv'}, row ")


def test_rows_are_named_as_the_user_has_them(folder: Path) -> None:
    edit(folder, lambda t: t.assign(Edema=t["Edema"].where(t.index != 6, "maybe")))
    with pytest.raises(InputError, match=r"findings\.csv, row 8, column 'Edema': value 'maybe'"):
        read(folder)


def test_blank_lines_do_not_shift_rows(folder: Path) -> None:
    lines = (folder / "findings.csv").read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[0], "nowhere/film.png")
    (folder / "findings.csv").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=r"row 5: no such file .*nowhere/film\.png: put the film"):
        read(folder)


def test_a_strange_finding_is_asked_about(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'Effusion' looks like a finding.*'Pleural Effusion'"):
        read(folder, columns={})
    edit(folder, lambda t: t.rename(columns={"Effusion": "Hernia", "Edema": "Emphysema"}))
    with pytest.raises(InputError, match=re.escape("{'Emphysema': '', 'Hernia': ''}")):
        read(folder, columns={})
    own = read(folder, columns={"Hernia": "", "Emphysema": ""})
    assert own.facts["positive: Pleural Effusion"] == 0


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("Effusion", "1 0 NA"),
        ("Effusion", "yes no"),
        ("Effusion", "small large none"),
        ("nodules", "0"),
        ("Mass", "-1 -1"),
        ("Hernia", "True False"),
        ("Hernia", "1.0 0.0 nan"),
        ("Hernia", "x -"),
        ("smoker", "Yes No ?"),
    ],
)
def test_a_strange_finding_in_words_is_asked_about(tmp_path: Path, name: str, cells: str) -> None:
    beside_edema(tmp_path, name, cells)
    with pytest.raises(InputError, match=rf"f\.csv: column '{name}' looks like a finding"):
        renamed(tmp_path / "f.csv", {})
    assert renamed(tmp_path / "f.csv", {name: ""})[1] == {"image", "Edema"}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("sex", "M F"),
        ("gender", "m f"),
        ("side", "left right none"),
        ("follow-up", "0 1 2"),
        ("hospital", "A B"),
        ("race", "white black unknown"),
        ("position", "standing supine"),
        ("comment", "none normal"),
        ("note on effusion", "yes no"),
        ("Effusion", "NA -"),
        ("died", "no no"),
    ],
)
def test_columns_of_another_kind_are_not_asked_about(tmp_path: Path, name: str, cells: str) -> None:
    beside_edema(tmp_path, name, cells)
    assert renamed(tmp_path / "f.csv", {})[1] - {"sex"} == {"image", "Edema"}


def test_several_columns_of_one_finding_are_joined(folder: Path) -> None:
    def spread(table: pd.DataFrame) -> pd.DataFrame:
        n = len(table)
        table["Mass"] = ["1", "0", "", "-1", *["0"] * (n - 4)]
        table["Nodule"] = ["0", "1", "", "0", *["0"] * (n - 4)]
        return table.drop(columns=["Lung Lesion"])

    edit(folder, spread)
    both = {**COLUMNS, "Mass": "Lung Lesion", "Nodule": "Lung Lesion"}
    lesion = read(folder, both).films.films.set_index("image_id")["Lung Lesion"]
    table = pd.read_csv(folder / "findings.csv", dtype=str, keep_default_na=False)
    ids = [Path(n).with_suffix("").as_posix().replace("/", "__") for n in table["image"]]
    assert lesion[ids[:2]].tolist() == [1, 1]
    assert np.isnan(lesion[ids[2]])
    assert lesion[ids[3]] == -1
    edit(folder, lambda t: t.assign(Mass=t["Mass"].where(t.index != 5, "yes")))
    with pytest.raises(InputError, match="row 7, column 'Lung Lesion': value 'yes'"):
        read(folder, both)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Efusion": "Pleural Effusion"}, "no column 'Efusion'.*did you mean 'Effusion'"),
        ({"Effusion": "Pleural Effusions"}, "'Pleural Effusions'.*did you mean 'Pleural Effusion'"),
    ],
)
def test_a_mapping_that_maps_nothing(folder: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, columns)


def test_a_table_of_other_films(folder: Path) -> None:
    edit(folder, lambda t: t.assign(image="x/" + t["image"]))
    with pytest.raises(InputError, match=r"none of its 40 films is in .*column 'image' holds"):
        read(folder)


def test_columns_without_a_name_are_passed_over(folder: Path) -> None:
    before = read(folder).films.films
    lines = (folder / "findings.csv").read_text().splitlines()
    (folder / "findings.csv").write_text("\n".join(f"{line},," for line in lines) + "\n")
    assert read(folder).films.films.equals(before)


def test_no_finding_at_all(folder: Path) -> None:
    edit(folder, lambda t: t[["image", "patient", "sex"]])
    with pytest.raises(InputError, match=r"no column of a finding among image, patient, sex"):
        read(folder, columns={})


def test_films_with_nothing_known_teach_nothing(folder: Path) -> None:
    def blank(table: pd.DataFrame) -> pd.DataFrame:
        table.iloc[:4, 3:] = ""
        return table

    edit(folder, blank)
    own = read(folder)
    assert own.facts["films with findings"] == 36
    assert "4 films without any finding teach no classifier" in own.notes


def test_only_patients_with_masks_have_findings(folder: Path) -> None:
    masked = {p.relative_to(folder / "masks" / "heart").parts[0]
              for p in (folder / "masks" / "heart").rglob("*.png")}  # fmt: skip
    edit(folder, lambda t: t[t["patient"].isin(masked)])
    with pytest.raises(InputError, match="0 films with findings are left to learn from"):
        read(folder)


def test_a_mask_of_another_size(folder: Path) -> None:
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(first_mask(folder))
    with pytest.raises(InputError, match=r"mask is 7x9, its image is \d+x\d+: put the mask on"):
        read(folder)


def test_a_mask_of_no_film(folder: Path) -> None:
    path = first_mask(folder)
    path.rename(path.with_name(path.stem + "_mask.png"))
    with pytest.raises(InputError, match=rf"{path.stem}_mask' is not in .*did you mean '.*film"):
        read(folder)


def test_a_mask_of_a_film_without_a_row(folder: Path) -> None:
    name = first_mask(folder).relative_to(folder / "masks" / "heart").with_suffix("").as_posix()
    edit(folder, lambda t: t[~t["image"].str.startswith(name)])
    with pytest.raises(InputError, match="has no row in the CSV file: add one, for its patient"):
        read(folder)


def test_a_mask_that_lost_its_outline(folder: Path) -> None:
    path = first_mask(folder)
    Image.open(path).save(path.with_suffix(".jpg"))
    with pytest.raises(InputError, match="saved as JPEG has lost its outline"):
        read(folder)


def test_a_second_mask_of_a_film(folder: Path) -> None:
    path = first_mask(folder)
    Image.open(path).save(path.with_suffix(".tif"))
    with pytest.raises(InputError, match="a second mask of film"):
        read(folder)


def test_classes(folder: Path) -> None:
    assert list(read(folder, classes=["Lungs"]).task.masks.columns) == ["lungs"]
    with pytest.raises(InputError, match=r"no folder of the class 'lung'; did you mean 'lungs'"):
        read(folder, classes=["lung", "heart"])
    with pytest.raises(InputError, match="each class once"):
        read(folder, classes=["heart", "Heart"])
    paths = (folder / "films", folder / "findings.csv", folder / "masks" / "heart")
    own = source.read(*paths, COLUMNS, ["heart"])
    assert list(own.task.masks.columns) == ["heart"]


def test_a_patient_in_two_splits(folder: Path) -> None:
    edit(folder, lambda t: t.assign(split=["train", "test"] * 20))
    with pytest.raises(InputError, match=r"is in split '\w+' here and in '\w+' in row"):
        read(folder)


def test_a_split_of_ones_own_rules(folder: Path) -> None:
    def split(table: pd.DataFrame) -> pd.DataFrame:
        number = {p: i for i, p in enumerate(sorted(set(table["patient"]), reverse=True))}
        return table.assign(split=[("test", "valid", "train")[number[p] % 3]
                                   for p in table["patient"]])  # fmt: skip

    edit(folder, split)
    own = read(folder)
    assert own.task.films["fold"].unique().tolist() == [0]
    table = pd.read_csv(folder / "findings.csv")
    assert own.films.films["split"].tolist() == table["split"].tolist()
    masked = table["patient"].isin(own.task.films["patient_id"])
    seen = int((masked & (table["split"] != "test")).sum())
    told = [n for n in own.notes if n.startswith("the column 'split' rules")]
    assert seen > 0
    assert [f"see {seen} films of patients with masks" in n for n in told] == [True]


def test_without_patients_it_says_so(folder: Path) -> None:
    edit(folder, lambda t: t.drop(columns=["patient"]))
    own = read(folder)
    assert any("no column 'patient'" in note for note in own.notes)


def test_two_films_of_one_name(folder: Path) -> None:
    path = sorted((folder / "films").rglob("*.png"))[0]
    Image.open(path).save(path.with_suffix(".jpg"))
    with pytest.raises(InputError, match="would share one mask: rename"):
        films_below(folder / "films")


def test_dicom_without_ending_is_a_film(folder: Path) -> None:
    path = sorted((folder / "films").rglob("*.dcm"))[0]
    path.rename(path.with_name("1.2.840.113"))
    (folder / "films" / "README").write_text("no film")
    names = films_below(folder / "films")
    assert len(names) == 40
    assert any(name.endswith("/1.2.840.113") for name in names)


def in_form(form: str, top: Path) -> None:
    """All below a folder renamed, with an umlaut for the word patient, in a Unicode form."""
    for path in sorted(top.rglob("*"), reverse=True):
        name = unicodedata.normalize(form, path.name.replace("patient", "Mü"))  # type: ignore[arg-type]
        path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("films", "table", "masks"),
    [("NFD", "NFC", "NFD"), ("NFC", "NFD", "NFC"), ("NFC", "NFC", "NFD"), ("NFD", "NFC", "NFC")],
)
def test_names_are_the_same_in_each_unicode_form(
    folder: Path, films: str, table: str, masks: str
) -> None:
    before = read(folder)
    in_form(films, folder / "films")
    in_form(masks, folder / "masks")
    listed = films_below(folder / "films")
    path = folder / "findings.csv"
    text = path.read_text().replace("patient0", "Mü0")
    path.write_text(unicodedata.normalize(table, text))  # type: ignore[arg-type]
    own = read(folder)
    assert own.facts == before.facts
    assert set(source.films_names(own.films, folder / "films")) <= set(listed)
    assert own.films.films["image_id"].tolist() == [
        Path(n).with_suffix("").as_posix().replace("/", "__")
        for n in source.films_names(own.films, folder / "films")
    ]
    asked = unicodedata.normalize(table, listed[0])  # type: ignore[arg-type]
    assert chosen(listed, [asked], folder) == [listed[0]]


def test_one_film_in_two_unicode_forms_stands_there_twice(folder: Path) -> None:
    in_form("NFD", folder / "films")
    path = folder / "findings.csv"
    lines = path.read_text().replace("patient0", "Mü0").splitlines()
    path.write_text("\n".join([*lines, unicodedata.normalize("NFD", lines[1])]))
    with pytest.raises(InputError, match=r"row 42: .* stands in row 2 too: keep one row"):
        read(folder)


def test_linked_folders_are_not_followed_and_told(folder: Path, tmp_path: Path) -> None:
    films = folder / "films"
    before = films_below(films)
    inner = sorted(p for p in films.iterdir() if p.is_dir())[0]
    (films / "again").symlink_to(inner)
    (films / "round").symlink_to(films)
    assert films_below(films) == before
    (films / "again").unlink()
    (films / "round").unlink()
    for real in (tmp_path / "elsewhere", films / ".hidden"):
        inner.rename(real)
        inner.symlink_to(real)
        with pytest.raises(InputError, match=rf"{inner}: a link to a folder, .*are not followed"):
            read(folder)
        inner.unlink()
        real.rename(inner)


def test_a_folder_that_cannot_be_read_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = sorted(p for p in (folder / "films").iterdir() if p.is_dir())[0]
    scandir = os.scandir

    def scan(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=rf"^{closed}: cannot be read \(Permission denied\): let"):
        films_below(folder / "films")


@pytest.mark.parametrize("some", [1, 40])
def test_a_film_that_cannot_be_looked_up_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, some: int
) -> None:
    closed = set(films_below(folder / "films")[:some])
    is_file = Path.is_file

    def look(path: Path) -> bool:
        if "/".join(path.parts[-2:]) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", look)
    message = rf"findings\.csv, row \d+: {folder / 'films'}/.* cannot be read \(Permission denied\)"
    with pytest.raises(InputError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("patients", "compare", "message"),
    [
        (5, True, "masks of 5 patients: too few to hold some out"),
        (1, False, "masks of 1 patient: draw masks of at least 2"),
        (6, True, None),
        (2, False, None),
    ],
)
def test_too_few_masks(patients: int, compare: bool, message: str | None) -> None:
    names = [str(p) for p in range(patients)]
    films = pd.DataFrame({"patient_id": names, "fold": [p % 2 for p in range(patients)]})
    if message is None:
        assert comparing.check_masks(films, compare, 1)
        return
    with pytest.raises(InputError, match=message):
        comparing.check_masks(films, compare, 1)


@pytest.mark.parametrize(
    ("per_patient", "folds", "n_valid", "fits"),
    [(1, 4, 4, False), (1, 4, 2, True), (3, 2, 2, True), (3, 2, 9, False)],
)
def test_folds_that_no_film_is_left_in_are_told_first(
    per_patient: int, folds: int, n_valid: int, fits: bool
) -> None:
    """Six patients: what the folds are asked for is what they are checked for."""
    rows = [(str(p), p % folds) for p in range(6) for _ in range(per_patient)]
    films = pd.DataFrame(rows, columns=["patient_id", "fold"])
    if fits:
        assert comparing.check_masks(films, True, n_valid)
        parts = run.split(films, 0, 1, n_valid, 0)
        who = films["patient_id"].to_numpy()
        assert 1 <= len(parts.valid) <= max(n_valid, per_patient)
        assert not set(who[parts.valid]) & (set(who[parts.pool]) | set(who[parts.test]))
        return
    with pytest.raises(InputError, match=rf"'n_valid' \({n_valid}\) and 'folds' \({folds}\)"):
        comparing.check_masks(films, True, n_valid)


@pytest.mark.parametrize(
    ("parts", "compare", "message"),
    [
        (["train"] * 5 + ["test"] * 3, True, "train 5, valid 0, test 3: put some into each of tra"),
        (["train"] * 5 + ["test"] * 3, False, "put some into each of train and valid"),
        (["train"] * 5 + ["valid"] * 3, True, "train 5, valid 3, test 0"),
        (["train"] * 5 + ["valid"] * 3, False, None),
    ],
)
def test_a_split_of_ones_own_needs_its_parts(
    parts: list[str], compare: bool, message: str | None
) -> None:
    names = [str(p) for p in range(8)]
    films = pd.DataFrame({"patient_id": names, "fold": 0, "split": parts})
    if message is None:
        assert comparing.check_masks(films, compare, 1)
        return
    with pytest.raises(InputError, match=message):
        comparing.check_masks(films, compare, 1)


def test_no_finding_alone_teaches_no_place(folder: Path) -> None:
    edit(folder, lambda t: t[["image", "patient"]].assign(**{"No Finding": "1"}))
    with pytest.raises(InputError, match="left to learn from, none with a positive one that can"):
        read(folder, {})


def test_validation_needs_a_positive_film(folder: Path) -> None:
    def rare(table: pd.DataFrame) -> pd.DataFrame:
        split = source.read(*(folder / n for n in ("films", "findings.csv", "masks")), COLUMNS)
        learning = split.films.films
        first = str(learning.loc[learning["split"] == "train", "patient_id"].iloc[0])
        return table.assign(Edema=[str(int(p == first)) for p in table["patient"]])[
            ["image", "patient", "Edema"]
        ]

    edit(folder, rare)
    with pytest.raises(InputError, match="films with findings are left for validation, none with"):
        read(folder, {})


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["check", "--films", str(folder / "films"), "--findings", str(folder / "findings.csv"),
            "--masks", str(folder / "masks")]  # fmt: skip
    assert __main__.main(call) == 2
    assert "looks like a finding" in capsys.readouterr().err
    assert __main__.main([*call, "--column", "Effusion=Pleural Effusion"]) == 0
    assert "films in the folder: 40" in capsys.readouterr().out


def test_an_example_is_not_written_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    with pytest.raises(InputError, match="holds something else"):
        write_example(tmp_path)


def as_list(folder: Path, between: str = "|", blank: int = 0) -> pd.DataFrame:
    """The example's table with its findings in one column, and the table as it was."""
    path = folder / "findings.csv"
    before = pd.read_csv(path, dtype=str, keep_default_na=False)
    found = [c for c in before if c in FINDINGS or c in COLUMNS]
    said = [
        between.join(f for f in found if row[f] == "1") or "Hernia" for _, row in before.iterrows()
    ]
    said[:blank] = [""] * blank
    before.drop(columns=found).assign(**{"Finding Labels": said}).to_csv(path, index=False)
    return before


@pytest.mark.parametrize(("between", "asked"), [("|", {}), ("; ", {"Finding Labels": "findings"})])
def test_a_column_that_lists_findings(folder: Path, between: str, asked: dict[str, str]) -> None:
    whole = read(folder).films.films.set_index("image_id")
    before = as_list(folder, between)
    own = read(folder, COLUMNS | asked | {"Hernia": ""}).films.films.set_index("image_id")
    assert (own.index == whole.index).all()
    for finding in {COLUMNS.get(c, c) for c in before.columns} & set(FINDINGS):
        positive = whole[finding] == 1
        assert ((own[finding] == 1) == positive).all(), finding
        # Who lists findings says of all others that they are not there.
        assert not positive.any() or (own.loc[~positive, finding] == 0).all(), finding


@pytest.mark.parametrize("blank", [",", " "])
def test_a_blank_row_of_a_list_is_passed_over(folder: Path, blank: str) -> None:
    as_list(folder)
    columns = COLUMNS | {"Hernia": ""}
    before = read(folder, columns).films.films.drop(columns="where")
    lines = (folder / "findings.csv").read_text().splitlines()
    (folder / "findings.csv").write_text("\n".join([*lines[:3], blank, *lines[3:], blank]))
    after = read(folder, columns).films.films
    assert after.drop(columns="where").equals(before)
    assert after["where"].iloc[-1].endswith(f"row {len(lines) + 1}")


def test_a_blank_list_says_nothing(folder: Path) -> None:
    as_list(folder, blank=40)
    with pytest.raises(InputError, match="no column of a finding"):
        read(folder, COLUMNS)


def test_lists_are_refused_by_name(folder: Path) -> None:
    as_list(folder)
    with pytest.raises(InputError, match=r"column 'Effusion' looks like a finding .*'Pleural Eff"):
        read(folder, {})
    edit(folder, lambda t: t.assign(Effusion="0"))
    with pytest.raises(InputError, match="names 'Effusion', which is a column too"):
        read(folder)
    words = [f"word {i}" for i in range(40)]
    edit(folder, lambda t: t.assign(Report=[f"{w}; {w} more" for w in words]))
    with pytest.raises(InputError, match="column 'Report' names 80 findings"):
        read(folder, {"Report": "findings", "Finding Labels": ""})


def test_nih_table_as_it_was_released(shared_dir: Path) -> None:
    path = shared_dir / "layouts" / "nih_chestxray14" / "Data_Entry_2017_v2020.csv"
    columns = {"Image Index": "image", "Patient ID": "patient", "Patient Gender": "sex"}
    columns |= {"View Position": "view", "Effusion": "Pleural Effusion"}
    with pytest.raises(InputError, match="'Infiltration': 'Lung Opacity'"):
        renamed(path, columns)
    columns |= {"Infiltration": "Lung Opacity", "Mass": "Lung Lesion", "Nodule": "Lung Lesion"}
    rows = pd.read_csv(path, header=None, skiprows=1, dtype=str)
    said = sorted({f for lists in rows[1] for f in lists.split("|")})
    columns |= {f: "" for f in said if f not in (*FINDINGS, *columns)}
    text, names = renamed(path, columns)
    made = pd.read_csv(io.StringIO(text), dtype=str)
    assert {"image", "patient", "Pleural Effusion", "Lung Opacity"} <= names
    for theirs, ours in (("Effusion", "Pleural Effusion"), ("Edema", "Edema")):
        there = rows[1].map(lambda v, name=theirs: name in v.split("|"))
        assert (made[ours] == "1").tolist() == there.tolist()
        assert there.any()
