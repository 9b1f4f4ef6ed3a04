"""Masks on the film's own grid: whatever the shape, the padding is undone exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydicom import dcmread

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.machine import sha256
from dollkit.data.images import fit, fit_mask, frame, load_image
from dollkit.interactive.your_radiographs import __main__, predict, predictions
from dollkit.interactive.your_radiographs import read as looking
from dollkit.interactive.your_radiographs.example import SPACING, write_example
from dollkit.interactive.your_radiographs.predictions import JOURNAL, Journal
from dollkit.training import networks, weights

SHAPES = [(96, 96), (97, 131), (400, 150), (150, 400), (33, 501), (41, 40), (1201, 903)]
SIZE = 64


class Bright(torch.nn.Module):
    """Logit = grey above 0.7, and grey below 0.3: it draws what is bright, and what is dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = x * compute.STD + compute.MEAN
        return torch.cat([(grey - 0.7) * 8, (0.3 - grey) * 8], dim=1)


def corners(height: int, width: int) -> np.ndarray:
    """A film that tells its orientation: bright at the top left, dark at the bottom right."""
    film = np.full((height, width), 128, np.uint8)
    film[: height // 2, : width // 3] = 255
    film[2 * height // 3 :, width // 2 :] = 0
    return film


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_comes_back_to_its_place(shape: tuple[int, int]) -> None:
    """A network that draws what is bright finds the bright corner to within a coarse pixel."""
    height, width = shape
    film = corners(height, width)
    on_grid = predict.Film("f", height, width, fit(film, SIZE))
    logits = predict.logits_of(Bright(), [on_grid], torch.device("cpu"))
    bright, dark = predict.drawn(logits[0], height, width)
    coarse = max(1.0, max(height, width) / SIZE)
    for mask, truth in ((bright.mask, film == 255), (dark.mask, film == 0)):
        assert mask.shape == shape
        assert mask.dtype == np.uint8
        for axis in (0, 1):
            have, want = (np.flatnonzero(m.any(axis=axis)) for m in (mask, truth))
            assert abs(have[0] - want[0]) <= coarse
            assert abs(have[-1] - want[-1]) <= coarse
    assert 0.5 < bright.probability < 1


@pytest.mark.parametrize(("rows", "columns", "scale"), [(64, 64, 4), (64, 32, 6), (20, 64, 3)])
def test_whole_scales_are_exact(rows: int, columns: int, scale: int) -> None:
    """Where one coarse pixel is a whole block of the film, straight edges come back exactly."""
    height, width = rows * scale, columns * scale
    f = frame(height, width, 64)
    assert (f.rows, f.cols) == (rows, columns)
    truth = np.zeros((height, width), np.uint8)
    truth[: 8 * scale, :] = 1  # a band over the whole width: no corners to round
    logits = np.where(fit_mask(truth, 64) == 1, 3.0, -3.0).astype(np.float32)
    (got,) = predict.drawn(logits[None], height, width)
    np.testing.assert_array_equal(got.mask, truth)


def test_padding_is_never_drawn_on() -> None:
    """Logits that are high in the padding alone leave the film empty."""
    f = frame(300, 100, SIZE)
    logits = np.full((1, SIZE, SIZE), 9.0, np.float32)
    logits[:, f.top : f.top + f.rows, f.left : f.left + f.cols] = -9.0
    (got,) = predict.drawn(logits, 300, 100)
    assert not got.mask.any()
    assert np.isnan(got.probability)


def test_the_likelier_class_wins_in_one_picture() -> None:
    logits = np.full((3, 32, 32), -1.0, np.float32)
    logits[0, :16], logits[1, 8:24], logits[2, :, :4] = 1.0, 2.0, 0.5
    values = predict.values_of(logits, 32, 32)
    assert values[4, 20] == 1
    assert values[12, 20] == 2
    assert values[28, 1] == 3
    assert values[28, 20] == 0


def network(folder: Path, classes: list[str]) -> Path:
    folder.mkdir(parents=True)
    with compute.seeded(3):
        net = networks.build("pspnet", "tu-resnet10t", len(classes))
    weights.save(net, folder, networks.config_of(net))
    predict.save_note(folder, classes, SIZE)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder and an untrained network: what it draws does not matter here."""
    root = tmp_path_factory.mktemp("own")
    write_example(root / "example", n=16, masked=8, size=64, dicom=3)
    network(root / "network", ["lungs", "heart"])
    return root


def test_predictions_of_a_folder(world: Path) -> None:
    films, out = world / "example" / "films", world / "png"
    index = predict.predict(predict.load(world / "network"), films, out)
    assert len(index) == 2 * 16
    for row in index.itertuples():
        mask, film = load_image(out / row.mask), load_image(films / row.file)
        assert mask.shape == film.shape
        assert set(np.unique(mask)) <= {0, 255}
        assert row.pixels == (mask == 255).sum()
        if row.file.endswith(".dcm"):
            assert row.area_mm2 == pytest.approx(row.pixels * SPACING**2)
            assert row.spacing_from == "PixelSpacing"
        else:
            assert pd.isna(row.area_mm2)
    stored = json.loads((out / "predictions.json").read_text())
    assert stored["classes"] == {"lungs": 1, "heart": 2}
    assert [p["mask"] for p in stored["predictions"]] == index["mask"].tolist()
    read = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    assert read["pixels"].tolist() == index["pixels"].tolist()


def test_turned_grey_and_depth_do_not_move_a_mask(tmp_path: Path) -> None:
    """The same film as 8-bit PNG, 16-bit PNG and JPEG-free DICOM of both polarities."""
    write_example(tmp_path, n=16, masked=8, dicom=2)
    dicoms = sorted((tmp_path / "films").rglob("*.dcm"))
    kinds = {dcmread(p).PhotometricInterpretation for p in dicoms}
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}
    for path in dicoms:
        grey = load_image(path)
        Image.fromarray(grey).save(tmp_path / "8.png")
        deep = grey.astype(np.uint16) * 257
        deep[0, 0] = 65535  # the range of 16 bits, as the loader reads it
        Image.fromarray(deep).save(tmp_path / "16.png")
        found = [
            predict.logits_of(Bright(), [predict.read_film(p.parent, p.name, SIZE)],
                             torch.device("cpu"))
            for p in (path, tmp_path / "8.png", tmp_path / "16.png")
        ]  # fmt: skip
        np.testing.assert_array_equal(found[0], found[1])
        inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
        np.testing.assert_array_equal(found[0][inner], found[2][inner])


def test_a_killed_call_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films, out = world / "example" / "films", world / "again"
    segmenter = predict.load(world / "network")
    whole = predict.predict(segmenter, films, world / "whole")
    real, seen = predict.read_film, []

    def counted(folder: Path, name: str, size: int) -> predict.Film:
        seen.append(name)
        if len(seen) == 11:
            raise KeyboardInterrupt
        return real(folder, name, size)

    monkeypatch.setattr(predict, "read_film", counted)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(segmenter, films, out)
    with (out / JOURNAL).open("a") as file:
        file.write('{"film": "cut o')
    resumed = predict.predict(segmenter, films, out)
    assert len(seen) == 11 + 16 - predict.BATCH
    pd.testing.assert_frame_equal(resumed, whole)
    predict.predict(segmenter, films, out)
    assert len(seen) == 11 + 16 - predict.BATCH
    predict.predict(segmenter, films, out, to="values")
    assert len(seen) == 11 + 2 * 16 - predict.BATCH


def plain_films(root: Path, names: str) -> Path:
    for i, name in enumerate(names.split()):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(corners(40 + i, 48)).save(path)
    return root


def test_a_film_that_cannot_be_read_stops_no_other(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films, out = plain_films(tmp_path / "films", "a b c"), tmp_path / "out"
    (films / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (films / "b.png").write_bytes(b"no film")
    call = ["predict", "--network", str(world / "network"), "--films", str(films)]
    assert __main__.main([*call, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {films / 'b.png'}: ")
    assert "(1 of 3 films could not be read" in said
    assert said.count("\n") == 1
    assert pd.read_csv(out / "predictions.csv")["file"].unique().tolist() == ["a.png", "c.png"]
    assert pd.read_csv(out / predictions.FAILED)["file"].tolist() == ["b.png"]
    stored = json.loads((out / "predictions.json").read_text())
    assert [f["file"] for f in stored["failed"]] == ["b.png"]
    plain_films(films, "x b")
    before = (out / "lungs" / "a.png").stat().st_mtime_ns
    assert __main__.main([*call, "--out", str(out)]) == 0
    assert (out / "lungs" / "a.png").stat().st_mtime_ns == before
    assert pd.read_csv(out / "predictions.csv")["file"].nunique() == 4
    assert not (out / predictions.FAILED).exists()


def test_who_takes_the_unreadable_films_gets_no_error(world: Path, tmp_path: Path) -> None:
    films, failed = plain_films(tmp_path / "films", "a b"), {"other": "reason"}
    segmenter = predict.load(world / "network")
    predict.predict(segmenter, films, tmp_path / "out")
    (films / "b.png").write_bytes(b"no film")
    index = predict.predict(segmenter, films, tmp_path / "out", failed=failed)
    assert list(failed) == ["other", "b.png"]
    assert index["file"].unique().tolist() == ["a.png"]
    assert not list((tmp_path / "out").rglob("b.png"))  # of the film as it was
    (films / "a.png").write_bytes(b"no film")
    assert predict.predict(segmenter, films, tmp_path / "out", failed=failed).empty
    with pytest.raises(InputError, match="2 of 2 films"):
        predict.predict(segmenter, films, tmp_path / "out")


def other(segmenter: predict.Segmenter, *classes: str) -> predict.Segmenter:
    """The same, as if it were another network."""
    return replace(segmenter, digest="f" * 64, classes=classes or segmenter.classes)


def test_corrected_masks_are_never_overwritten(world: Path, tmp_path: Path) -> None:
    films, out = plain_films(tmp_path / "films", "a b c"), tmp_path / "out"
    segmenter = predict.load(world / "network")
    predict.predict(segmenter, films, out)
    for name in ("a", "b"):
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(out / "lungs" / f"{name}.png")
    corrected = (out / "lungs" / "a.png").read_bytes()
    predict.predict(segmenter, films, out)
    (told,) = looking.at_drawn(tmp_path)
    assert told.startswith(f"2 masks in {out} were corrected by hand, the first is lungs/a.png")
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    with pytest.raises(InputError, match=r"lungs/a\.png \(and 1 more\).*move it to your masks"):
        predict.predict(other(segmenter), films, out)
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before
    assert (out / "lungs" / "a.png").read_bytes() == corrected
    for name in ("a", "b"):
        (out / "lungs" / f"{name}.png").unlink()
    assert looking.at_drawn(tmp_path) == []
    assert len(predict.predict(other(segmenter), films, out)) == 6
    (tmp_path / "own" / "heart").mkdir(parents=True)
    (tmp_path / "own" / "heart" / "b.png").write_bytes(b"drawn by hand")
    with pytest.raises(InputError, match=r"heart/b\.png: not as it was written"):
        predict.predict(segmenter, films, tmp_path / "own")


def test_masks_half_written_when_killed_are_no_corrected_ones(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films, out = plain_films(tmp_path / "films", "a b"), tmp_path / "out"
    segmenter = predict.load(world / "network")
    predict.predict(segmenter, films, out)
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        real(self, target)
        if Path(target) == out / "lungs" / "a.png":
            raise KeyboardInterrupt
        return Path(target)

    (films / "a.png").write_bytes((films / "b.png").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(segmenter, films, out)
    assert len(predict.predict(other(segmenter), films, out)) == 4


def test_a_journal_that_is_none_stops_nothing(world: Path, tmp_path: Path) -> None:
    films = plain_films(tmp_path / "films", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).write_text('{"key": 1}\n{"file": "a"}\n')
    index = predict.predict(predict.load(world / "network"), films, tmp_path / "out")
    assert len(index) == 2


@pytest.mark.parametrize("up", [True, False])
def test_a_journal_removes_nothing_outside_its_folder(
    world: Path, tmp_path: Path, up: bool
) -> None:
    films, out = plain_films(tmp_path / "films", "a"), tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("mine")
    file = "../precious" if up else str(tmp_path / "precious")
    line = {"file": file, "film": "gone.png", "to": "png", "sums": [sha256(tmp_path / "precious")]}
    (out / JOURNAL).write_text(f'{{"key": "k"}}\n{json.dumps(line)}\n')
    predict.predict(predict.load(world / "network"), films, out)
    assert (tmp_path / "precious").read_text() == "mine"


def test_no_mask_outlives_its_film_or_class(world: Path, tmp_path: Path) -> None:
    films, out = plain_films(tmp_path / "films", "a deep/b c"), tmp_path / "out"
    segmenter = predict.load(world / "network")
    predict.predict(segmenter, films, out)
    (films / "deep" / "b.png").unlink()
    (films / "c.png").unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(out / "heart" / "c.png")
    predict.predict(segmenter, films, out, to="values")
    assert (out / "lungs" / "deep").is_dir()  # another format says nothing of these
    predict.predict(segmenter, films, out)
    masks = sorted(f.relative_to(out).as_posix() for f in out.rglob("*.png"))
    assert masks == ["heart/a.png", "heart/c.png", "lungs/a.png", "values/a.png"]
    assert not (out / "lungs" / "deep").exists()
    predict.predict(other(segmenter, "lungs", "aorta"), films, out)
    assert not (out / "heart" / "a.png").exists()
    assert (out / "heart" / "c.png").exists()


def test_some_films_are_drawn_beside_the_others(world: Path, tmp_path: Path) -> None:
    films, out = plain_films(tmp_path / "films", "a b"), tmp_path / "out"
    segmenter = predict.load(world / "network")
    predict.predict(segmenter, films, out, trained_on=["b"])
    whole = pd.read_csv(out / "predictions.csv")
    index = predict.predict(segmenter, films, out, only=["a"])
    assert index["file"].unique().tolist() == ["a.png"]
    pd.testing.assert_frame_equal(pd.read_csv(out / "predictions.csv"), whole)
    with pytest.raises(InputError, match=r"another network.*masks of 1 film that is not asked"):
        predict.predict(other(segmenter), films, out, only=["a"])
    pd.testing.assert_frame_equal(pd.read_csv(out / "predictions.csv"), whole)


def test_values_and_chosen_films(world: Path) -> None:
    films, out = world / "example" / "films", world / "values"
    name = "patient00001/film0000"
    index = predict.predict(predict.load(world / "network"), films, out, to="values", only=[name])
    assert index["file"].unique().tolist() == [f"{name}.png"]
    values = load_image(out / "values" / f"{name}.png")
    assert index["pixels"].tolist() == [(values == k).sum() for k in (1, 2)]


def test_marks_what_it_was_trained_on(world: Path) -> None:
    index = predict.predict(
        predict.load(world / "network"), world / "example" / "films", world / "png",
        trained_on=["patient00001__film0000"],
    )  # fmt: skip
    assert set(index.loc[index["trained_on"], "file"]) == {"patient00001/film0000.png"}


def test_bad_calls_say_so_first(world: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    films = world / "example" / "films"
    segmenter = predict.load(world / "network")
    with pytest.raises(InputError, match="'to' is 'nifti'"):
        predict.predict(segmenter, films, tmp_path, to="nifti")
    with pytest.raises(InputError, match=r"no film 'patient00001/film9'; did you mean"):
        predict.predict(segmenter, films, tmp_path, only=["patient00001/film9"])
    with pytest.raises(InputError, match="lies in the folder of the films"):
        predict.predict(segmenter, films, films / "out")
    with pytest.raises(InputError, match="2 channels"):
        predict.load(world / "network", ["lungs"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no film here"):
        predict.predict(segmenter, tmp_path / "empty", tmp_path / "out")
    call = ["predict", "--network", str(world / "network"), "--films", str(films)]
    assert __main__.main([*call, "--out", str(tmp_path / "seg"), "--to", "dicom-seg"]) == 2
    assert "no DICOM file" in capsys.readouterr().err
    assert not (tmp_path / "seg").exists()
    assert __main__.main([*call, "--out", str(tmp_path / "o"), "--only", "patient00001/film0000"])\
        == 0  # fmt: skip
    assert "1 films, 2 classes" in capsys.readouterr().out


def test_segmentations_are_asked_of_dicom_films_only(world: Path, tmp_path: Path) -> None:
    """Where there is none, a class without a code is nobody's worry."""
    films, both = plain_films(tmp_path / "films", "a b"), ["png", "dicom-seg"]
    assert predict.formats(films, both, ["infection"]) == {"png": []}
    with pytest.raises(InputError, match=r"'to' is \['dicom-seg'\], and no film in"):
        predict.formats(films, ["dicom-seg"], ["infection"])
    mixed = world / "example" / "films"
    found = predict.formats(mixed, both, ["lungs"])
    assert found["png"] == []
    assert [name.endswith(".dcm") for name in found["dicom-seg"]] == [True] * 3
    with pytest.raises(InputError, match="'infection' has no code"):
        predict.formats(mixed, both, ["infection"])


def test_dicom_without_preamble_is_dicom(world: Path, tmp_path: Path) -> None:
    """In the list of films, for its spacing, and to refer to."""
    film = dcmread(sorted((world / "example" / "films").rglob("*.dcm"))[0])
    del film.file_meta
    (tmp_path / "films").mkdir()
    film.save_as(tmp_path / "films" / "1.2.840", implicit_vr=False, little_endian=True)
    for to in ("png", "dicom-seg"):
        index = predict.predict(
            predict.load(world / "network"), tmp_path / "films", tmp_path / to, to=to
        )
        assert index["spacing_from"].tolist() == ["PixelSpacing"] * 2
    made = dcmread(tmp_path / "dicom-seg" / index["mask"].iloc[0])
    assert made.pixel_array.sum(axis=(1, 2)).tolist() == index["pixels"].tolist()


@pytest.mark.parametrize(
    "note", ["[1]", "{", '{"classes": null, "size": 64}', '{"classes": ["a", "b"], "size": "64"}']
)
def test_a_note_that_is_none(note: str, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "network", tmp_path / "network")
    (tmp_path / "network" / predict.NOTE).write_text(note)
    with pytest.raises(InputError, match=r"segmenter\.json: not like"):
        predict.load(tmp_path / "network")


def test_a_full_disk_is_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    films = plain_films(tmp_path / "films", "a b")
    monkeypatch.setattr(Journal, "_add", full)
    for name in ("a", "b"):
        with pytest.raises(InputError, match=r"cannot write here .No space left on device"):
            predict.predict(predict.load(world / "network"), films, tmp_path / name)
        (films / "a.png").write_bytes(b"no film")


def test_nih_originals(world: Path, shared_dir: Path, tmp_path: Path) -> None:
    """Films as NIH released them, in its folders: 1024 px, some of them RGBA."""
    root = shared_dir / "layouts" / "nih_chestxray14"
    if not root.is_dir():
        pytest.skip(f"no films in {root}")
    index = predict.predict(predict.load(world / "network"), root, tmp_path / "out")
    films = sorted(root.rglob("*.png"))
    assert index["file"].unique().tolist() == [f.relative_to(root).as_posix() for f in films]
    for row in index.itertuples():
        assert load_image(tmp_path / "out" / row.mask).shape == load_image(root / row.file).shape
