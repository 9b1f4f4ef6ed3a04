"""A folder of your films: what is read, and what is told when it does not go together."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import read_and_check as reading
from dollkit.interactive.your_radiographs import settings
from dollkit.interactive.your_radiographs.example import COLUMNS, write_example
from dollkit.interactive.your_radiographs.read_and_check import (
    Radiographs,
    list_films,
    measure_masks,
)
from dollkit.workflow.cli import main
from dollkit.workflow.parameters import declared
from tests.small_files import error_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    write_example(folder, n=40, masked=16, dicom=2)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the example to spoil."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def read(folder: Path, columns: dict[str, str] | None = None, **more: object) -> Radiographs:
    paths = (folder / "films", folder / "findings.csv", folder / "masks")
    return reading.read_radiographs(*paths, COLUMNS if columns is None else columns, **more)  # type: ignore[arg-type]


def edit(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "findings.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def first_mask(folder: Path, kind: str = "heart") -> Path:
    return sorted((folder / "masks" / kind).rglob("*.png"))[0]


def redraw(folder: Path, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Change all masks of a class; returns the first."""
    for path in (folder / "masks" / kind).rglob("*.png"):
        Image.fromarray(change(np.asarray(Image.open(path).convert("L")))).save(path)
    return first_mask(folder, kind)


def check(folder: Path) -> int:
    text = (
        "films: films\nfindings: findings.csv\nmasks: masks\nfolds: 2\n"
        f"columns: {COLUMNS}\narchitectures: [tu-test_resnet]\narms: [random, doll]\n"
    )
    return main(["your-radiographs", "check", str(write(folder, text))])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command sets some of these: they are restored.
    for name in ("DOLLKIT_RUNS", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "PYTHONPATH"):
        monkeypatch.setenv(name, str(tmp_path / "runs"))


def test_films_findings_and_masks_are_read_as_one(made: Path) -> None:
    yours = read(made, folds=3)
    assert yours.facts["films in the folder"] == 40
    assert list(yours.task.masks.columns) == ["heart", "lungs"]
    assert yours.task.films["fold"].nunique() == 3
    assert yours.task.films.groupby("patient_id")["fold"].nunique().max() == 1
    learning = yours.films.films[yours.films.films["split"] != "test"]
    assert not set(yours.task.films["patient_id"]) & set(learning["patient_id"])
    assert {"train", "valid"} <= set(learning["split"])
    table = pd.read_csv(made / "findings.csv")
    assert yours.facts["positive: Pleural Effusion"] == table["Effusion"].sum()
    for i, film in yours.task.films.iterrows():
        path = Path(film["path"])
        inner = path.relative_to(made / "films").with_suffix(".png")
        assert yours.task.masks["lungs"][i].path == made / "masks" / "lungs" / inner
        assert film["where"].startswith(f"{made / 'findings.csv'}, row ")


def test_rows_are_named_as_a_spreadsheet_counts(folder: Path) -> None:
    lines = (folder / "findings.csv").read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[0], "nowhere/film.png")
    (folder / "findings.csv").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    message = r"row 5: no such file .*nowhere/film\.png: column 'image'"
    assert re.search(message, error_of(read, folder))


def test_columns_that_are_not_read_are_told(folder: Path) -> None:
    edit(folder, lambda t: t.rename(columns={"Edema": "lungs wet"}).assign(**{"note on it": "x"}))
    notes = read(folder, {"sex": ""}).notes
    (told,) = (note for note in notes if note.startswith("columns that are not read: "))
    assert set(told[27:].split(" (")[0].split(", ")) == {"Effusion", "lungs wet"}
    edit(folder, lambda t: t.rename(columns={"image": "file"}).assign(a="", b=""))
    path = folder / "findings.csv"
    path.write_text(path.read_text().replace(",a,b\n", ",,\n"))  # as spreadsheets leave them
    yours = read(folder, {"file": "image", "lungs wet": "Edema"})
    assert yours.facts["positive: Edema"] > 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Efusion": "Pleural Effusion"}, "no column 'Efusion'.*did you mean 'Effusion'"),
        ({"Effusion": "Pleural Effusions"}, "'Pleural Effusions'.*did you mean 'Pleural Effusion'"),
        ({"image": ""}, "no column 'image' .* among image, patient.*such as {'theirs': 'image'}"),
        ({"sex": "Edema"}, "column 'Edema' stands there twice"),
    ],
)
def test_a_mapping_that_does_not_fit(folder: Path, columns: dict[str, str], message: str) -> None:
    assert re.search(message, error_of(read, folder, columns))


def test_what_is_left_to_learn_from(folder: Path) -> None:
    before = (folder / "findings.csv").read_text()
    edit(folder, lambda t: t.assign(**{c: t[c].where(t.index >= 4, "") for c in t.columns[3:]}))
    assert "4 films without any finding teach no classifier" in read(folder).notes
    edit(folder, lambda t: t.assign(Effusion="1"))
    assert any("has Pleural Effusion: give films without" in note for note in read(folder).notes)
    edit(folder, lambda t: t[["image", "patient"]].assign(**{"No Finding": "1"}))
    assert "are left, none with a positive one that can be drawn" in error_of(read, folder, {})
    (folder / "findings.csv").write_text(before)
    masked = {p.parent.name for p in (folder / "masks" / "heart").rglob("*.png")}
    edit(folder, lambda t: t[t["patient"].isin(masked)])
    assert "0 films with findings are left" in error_of(read, folder)


def test_a_split_of_the_table_rules(folder: Path) -> None:
    table = pd.read_csv(folder / "findings.csv")
    people = sorted(set(table["patient"]), reverse=True)
    part = {p: ("test", "valid", "train")[i % 3] for i, p in enumerate(people)}
    edit(folder, lambda t: t.assign(split=t["patient"].map(part)))
    yours, split = read(folder), table["patient"].map(part)
    assert yours.task.films["fold"].unique().tolist() == [0]
    assert yours.films.films["split"].tolist() == split.tolist()
    seen = int((table["patient"].isin(yours.task.films["patient_id"]) & (split != "test")).sum())
    assert seen > 0
    assert any(f"see {seen} films of patients with masks" in note for note in yours.notes)
    edit(folder, lambda t: t.assign(split=["train", "test"] * 20))
    with pytest.raises(InputError, match=r"column 'split': value '.*': use one split per patient"):
        read(folder)


def test_wrong_masks(folder: Path) -> None:
    path = first_mask(folder)
    data, name = path.read_bytes(), path.relative_to(folder / "masks" / "heart").with_suffix("")
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(path)
    assert re.search(r"mask is 7x9, its image is \d+x\d+: put the mask on", error_of(read, folder))
    path.write_bytes(data)
    stranger = path.with_name(f"{path.stem}_mask.png")
    for other, message in (
        (path.with_suffix(".jpg"), "no mask of a class"),
        (path.with_suffix(".tif"), "a second mask of film"),
        (stranger, rf"no film .*{path.stem}_mask' has a row.*did you mean"),
    ):
        Image.open(path).save(other)
        assert re.search(message, error_of(read, folder))
        other.unlink()
    edit(folder, lambda t: t[~t["image"].str.startswith(name.as_posix())])
    assert f"no film '{name.as_posix()}' has a row" in error_of(read, folder)


def test_classes(folder: Path) -> None:
    assert list(read(folder, classes=["Lungs"]).task.masks.columns) == ["lungs"]
    with pytest.raises(InputError, match=r"no mask of the class 'lung'; did you mean 'lungs'"):
        read(folder, classes=["lung", "heart"])
    assert "each class once" in error_of(read, folder, classes=["heart", "Heart"])
    first, *others = sorted((folder / "masks" / "heart").rglob("*.png"))
    first.unlink()
    assert "1 films have some of the masks only: they are left out" in read(folder).notes
    for path in others[1:]:
        path.unlink()
    assert "'folds' is 2: films of 1 patients have all masks" in error_of(read, folder, folds=2)


def test_films_of_a_folder(folder: Path) -> None:
    films = folder / "films"
    path = sorted(films.rglob("*.dcm"))[0]
    path.rename(path.with_name("1.2.840.113"))
    for name in ("README", ".hidden.png", "Thumbs.db"):
        (films / name).write_text("no film")
    (films / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    names = list_films(films)
    assert len(names) == 40
    assert any(name.endswith("/1.2.840.113") for name in names)
    path = sorted(films.rglob("*.png"))[-1]
    (films / "again").symlink_to(path.parent)
    assert "again: links to folders are not followed" in error_of(list_films, films)
    (films / "again").unlink()
    Image.open(path).save(path.with_suffix(".jpg"))
    assert "would share one mask: rename" in error_of(list_films, films)
    (folder / "empty").mkdir()
    for name, message in (("nowhere", "no such folder"), ("empty", "no film here")):
        assert message in error_of(list_films, folder / name)


def test_check_tells_what_the_masks_cover(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    edit(folder, lambda t: t.drop(columns="patient"))
    assert check(folder) == 0
    said = capsys.readouterr().out
    frame, notes = measure_masks(read(folder).task)
    assert notes == []
    for row in frame.itertuples():
        masks = [np.asarray(Image.open(f)) > 0 for f in (folder / "masks" / row[1]).rglob("*.png")]
        assert row.share == pytest.approx(np.mean([mask.mean() for mask in masks]), rel=0.02)
    assert "films in the folder: 40" in said
    assert f"masks of heart: 15, 0 of them empty, the others cover {frame['share'][0]:.1%}" in said
    assert said.count("no column 'patient'") == 1
    assert caplog.text == ""
    page = (paths.runs() / "own" / "check.html").read_text(encoding="utf-8")
    assert page.count("no column &#x27;patient&#x27;") == 1
    positive = (read(folder).films.films["Pleural Effusion"] == 1).sum()
    assert re.search(rf"<th>Pleural Effusion</th>\s*<td>{positive}</td>", page)
    assert len(re.findall("src='data:image/png;base64,.{1000,}?'", page)) == 2


def test_masks_that_look_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    redraw(folder, "lungs", lambda p: 255 - p)
    assert check(folder) == 0
    said = capsys.readouterr().out
    assert "note: masks of 15 films of " in said
    assert "note: masks of lungs cover" in said
    redraw(folder, "heart", lambda p: p * 0)
    assert check(folder) == 2
    assert "no mask of heart has a pixel inside: mend them" in capsys.readouterr().err
    first = redraw(folder, "heart", lambda p: np.arange(p.size).reshape(p.shape).astype("u1") % 3)
    assert check(folder) == 2
    assert f"{first.name}: mask of values" in capsys.readouterr().err


# Notebook 11 by command: each parameter is checked first, and its errors arrive as one line.

DEFAULTS = declared(paths.NOTEBOOKS / settings.NOTEBOOK)().model_dump()


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_and_what_else_a_namespace_holds(tmp_path: Path) -> None:
    settings.check_settings({**DEFAULTS, "np": object()})
    # Classifiers given trained tell themselves what they are.
    for name, encoder in (
        ("ours", "tu-test_resnet"),
        ("theirs", "tu-swin_tiny_patch4_window7_224"),
    ):
        (tmp_path / name).mkdir()
        save_file({"x": torch.zeros(1)}, tmp_path / name / "weights.safetensors")
        about = {"architecture": encoder, "activation": "silu"}
        (tmp_path / name / "model.json").write_text(json.dumps(about))
    given = {**DEFAULTS, "classifiers": str(tmp_path), "architectures": [], "arms": ["doll"]}
    settings.check_settings(given)
    with pytest.raises(InputError, match=r"on 'tu-swin_tiny.*films of 64 pixels do not pass"):
        settings.check_settings({**given, "architectures": ["theirs"]})
    with pytest.raises(InputError, match="none: no such folder"):
        settings.check_settings({**given, "classifiers": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"size": 65}, "'size' is 65: .* a multiple of 32"),
        ({"to": ["nifti"]}, r"'to'\[0\] is 'nifti'"),
        ({"steps": {"classifier": 1}}, "'steps' is .*: give classifier, finetune, pretrain"),
        ({"arms": ["random", "chance"]}, r"'arms'\[1\] is 'chance'"),
        ({"predict_with": "shuffled"}, "'predict_with' is 'shuffled', not in 'arms'"),
        ({"architectures": ["tu-resnet10t"] * 2}, "'architectures' is .*: each one once"),
        ({"architectures": ["tu-resnet11t"]}, "no encoder 'tu-resnet11t'"),
        ({"architectures": ["tu-resnet10t"]}, "'arms' asks for ImageNet: no weights: no package"),
        ({"run": "smoke"}, "'run' is 'smoke': use a name of letters, no profile's"),
    ],
)
def test_bad_parameters_are_refused(more: dict[str, Any], message: str) -> None:
    assert re.search(message, error_of(settings.check_settings, {**DEFAULTS, **more}))


def test_settings_are_those_of_the_notebook(tmp_path: Path) -> None:
    text = "films: films\nmasks: /data/masks\nsizes: [8]\n"
    found = settings.read_settings(write(tmp_path, text))
    changed = {name: value for name, value in found.items() if value != DEFAULTS[name]}
    films = str((tmp_path / "films").resolve())
    assert changed == {"films": films, "masks": "/data/masks", "sizes": [8]}
    assert settings.read_settings(write(tmp_path, "")) == DEFAULTS
    for text, message in (
        ("film: /data", "unknown parameter 'film'.*did you mean 'films'"),
        ("size: 65", r"mine\.yaml: parameter 'size' is 65: .* a multiple"),
    ):
        assert re.search(message, error_of(settings.read_settings, write(tmp_path, text)))
    assert "cannot be read" in error_of(settings.read_settings, tmp_path / "none.yaml")


@pytest.mark.slow
def test_an_error_of_the_notebook_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "films: /nowhere\n")
    assert main(["your-radiographs", "run", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "parameter 'findings' is empty: give films, findings and masks"
