"""``check``: what decoding tells of your films and masks before a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.data.masks import Mask, MaskFile
from dollkit.interactive.your_radiographs import __main__
from dollkit.interactive.your_radiographs import read as source
from dollkit.interactive.your_radiographs.example import COLUMNS, write_example


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    write_example(folder, n=40, masked=16, dicom=2)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the example to spoil."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def read(folder: Path, **more: object) -> source.Own:
    paths = (folder / "films", folder / "findings.csv", folder / "masks")
    return source.read(*paths, COLUMNS, **{"folds": 2, **more})  # type: ignore[arg-type]


def check(folder: Path, *more: str) -> int:
    given = ["--films", "films", "--findings", "findings.csv", "--masks", "masks"]
    given = [str(folder / v) if not v.startswith("--") else v for v in given]
    columns = [part for a, b in COLUMNS.items() for part in ("--column", f"{a}={b}")]
    return __main__.main(["check", *given, *columns, *more])


def redraw(folder: Path, kind: str, change: object) -> list[Path]:
    files = sorted((folder / "masks" / kind).rglob("*.png"))
    for path in files:
        pixels = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(change(pixels)).save(path)  # type: ignore[operator]
    return files


def as_mask(path: Path, values: np.ndarray) -> np.ndarray:
    Image.fromarray(values.astype(np.uint8)).save(path)
    mask: Mask = MaskFile(path, threshold=True)
    return mask.load(*values.shape)


@pytest.mark.parametrize("inside", [1, 2, 77, 128, 255])
def test_one_value_beside_zero_is_inside(inside: int, tmp_path: Path) -> None:
    drawn = np.zeros((8, 8), np.uint8)
    drawn[2:5, 3:6] = 1
    np.testing.assert_array_equal(as_mask(tmp_path / "m.png", drawn * inside), drawn)
    empty = as_mask(tmp_path / "m.png", drawn * 0)
    assert not empty.any()


def test_smooth_edges_are_cut_in_the_middle(tmp_path: Path) -> None:
    values = np.array([[0, 60, 127, 128, 200, 255]])
    np.testing.assert_array_equal(as_mask(tmp_path / "m.png", values), [[0, 0, 0, 1, 1, 1]])


def test_several_labels_in_one_file_are_refused(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [0, 1, 2]])
    with pytest.raises(InputError, match=r"m\.png: mask of values 0, 1, 2: several labels in one"):
        as_mask(tmp_path / "m.png", values)


def test_check_tells_what_the_masks_cover(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, "--decode") == 0
    said = capsys.readouterr().out
    frame, notes = source.at_masks(read(folder))
    assert notes == []
    assert frame["class"].tolist() == ["heart", "lungs"]
    truth = [
        np.mean([(np.asarray(Image.open(f).convert("L")) > 127).mean() for f in
                 sorted((folder / "masks" / kind).rglob("*.png"))])
        for kind in ("heart", "lungs")
    ]  # fmt: skip
    np.testing.assert_allclose(frame["share"], truth, rtol=0.02)
    covered = frame["share"].iloc[0]
    assert f"masks of heart: 15, 0 of them empty, the others cover {covered:.1%} of" in said
    assert "films read: " in said


def test_masks_of_labels_fail_and_others_are_asked_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redraw(folder, "lungs", lambda p: 255 - p)
    assert check(folder) == 0
    said = capsys.readouterr().out
    assert "note: masks of 15 films of " in said
    assert "note: masks of lungs cover" in said
    assert "is 255 inside in them?" in said
    redraw(folder, "heart", lambda p: p * 0)
    assert check(folder) == 2
    assert "error: no mask of heart has a pixel inside: mend them" in capsys.readouterr().err
    files = redraw(folder, "heart", lambda p: np.arange(p.size).reshape(p.shape).astype("u1") % 3)
    assert check(folder) == 2
    assert f"{files[0].name}: mask of values 0, 1, 2" in capsys.readouterr().err


def test_its_words_are_those_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder, "--folds", "40") == 2
    assert "error: --folds is 40: all masks" in capsys.readouterr().err
    assert check(folder, "--column", "nowhere=image") == 2
    assert "no column 'nowhere', --column names it" in capsys.readouterr().err


def test_what_is_missing_is_told_once_and_by_the_users_own_names(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "findings.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.drop(columns="patient").to_csv(path, index=False)
    assert check(folder) == 0
    said = capsys.readouterr().out
    assert said.count("no column 'patient'") == 1
    assert caplog.text == ""


def test_a_film_cut_short_is_found_where_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = sorted((folder / "films").rglob("*.png"))
    masked = {p.stem for p in (folder / "masks").rglob("*.png")}
    loose = next(f for f in films if f.stem not in masked)
    loose.write_bytes(loose.read_bytes()[:-200])
    assert check(folder) == 0
    capsys.readouterr()
    assert check(folder, "--decode") == 2
    assert loose.name in capsys.readouterr().err


def test_films_without_a_row_are_read_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions will be made on them."""
    (folder / "films" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert check(folder, "--decode") == 0
    assert "films read: 40\n" in capsys.readouterr().out
    (folder / "films" / "loose.png").write_bytes(b"no film")
    assert check(folder, "--decode") == 2
    assert "loose.png" in capsys.readouterr().err


def test_links_out_of_the_folder_are_named_as_such(folder: Path, tmp_path: Path) -> None:
    (folder / "films").rename(tmp_path / "elsewhere")
    for path in sorted((tmp_path / "elsewhere").rglob("*")):
        if path.is_file():
            link = folder / "films" / path.relative_to(tmp_path / "elsewhere")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    with pytest.raises(
        InputError, match=r"a link that leads out of .*not followed: name the folder"
    ):
        read(folder)


def test_masks_of_some_classes_only_are_explained(folder: Path) -> None:
    for path in sorted((folder / "masks" / "heart").rglob("*.png"))[1:]:
        path.unlink()
    with pytest.raises(
        InputError,
        match=r"'folds' is 2: all masks are there for films of 1 patient .*14 films more have "
        r"some of heart, lungs only\): draw masks of at least 2 patients",
    ):
        read(folder)


def test_a_finding_that_every_film_has_teaches_nothing(folder: Path) -> None:
    path = folder / "findings.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    theirs = next(k for k, v in COLUMNS.items() if v == "Pleural Effusion")
    table[theirs] = "1"
    table.to_csv(path, index=False)
    assert any("has Pleural Effusion: give films without" in note for note in read(folder).notes)
