"""Masks on each film's own grid: the padding is undone exactly, and nothing is written over."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pandas as pd
import pytest
import torch

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.data.images import load_image
from dollkit.interactive.your_radiographs import predict
from dollkit.interactive.your_radiographs.example import write_example
from dollkit.workflow.cli import main
from tests.small_files import error_of, save
from tests.small_run import save_network

SIZE = 64


class Bright(torch.nn.Module):
    """Logit = grey above 0.7, and grey below 0.3: it draws what is bright, and what is dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = x * compute.STD + compute.MEAN
        return torch.cat([(grey - 0.7) * 8, (0.3 - grey) * 8], dim=1)


BRIGHT = predict.Segmenter(Bright(), ("bright", "dark"), SIZE, "")


def corners(height: int, width: int) -> np.ndarray:
    """A film that tells its orientation: bright at the top left, dark at the bottom right."""
    film = np.full((height, width), 128, np.uint8)
    film[: height // 2, : width // 3] = 255
    film[2 * height // 3 :, width // 2 :] = 0
    return film


@pytest.mark.parametrize("shape", [(97, 131), (33, 501)])
def test_a_mask_comes_back_to_its_place(shape: tuple[int, int]) -> None:
    """A network that draws what is bright finds the bright corner to within a coarse pixel."""
    film = corners(*shape)
    bright, dark = predict.draw_film(BRIGHT, film)
    coarse = max(1.0, max(shape) / SIZE)
    for mask, truth in ((bright, film == 255), (dark, film == 0)):
        assert mask.shape == shape
        for axis in (0, 1):
            have, want = (np.flatnonzero(m.any(axis=axis))[[0, -1]] for m in (mask, truth))
            assert (abs(have - want) <= coarse).all()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder and an untrained network: what it draws does not matter here."""
    root = tmp_path_factory.mktemp("own")
    write_example(root / "example", n=16, masked=8, dicom=3)
    save_network(root / "network", classes=2)
    predict.save_note(root / "network", ["lungs", "heart"], SIZE)
    return root


@pytest.fixture
def segmenter(world: Path) -> predict.Segmenter:
    return predict.load_segmenter(world / "network")


def plain_films(root: Path, names: str) -> Path:
    for i, name in enumerate(names.split()):
        save(root / f"{name}.png", corners(40 + i, 48))
    return root


def content(folder: Path) -> dict[Path, bytes]:
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_predictions_of_a_folder(world: Path, segmenter: predict.Segmenter, tmp_path: Path) -> None:
    films, out = world / "example" / "films", tmp_path / "png"
    table, failed = predict.predict(segmenter, films, out, trained_on=["patient00001__film0000"])
    assert failed == {}
    assert len(table) == 2 * 16
    for row in table.itertuples():
        mask, film = load_image(out / row.mask), load_image(films / row.file)
        assert mask.shape == film.shape
        assert set(np.unique(mask)) <= {0, 255}
        assert row.pixels == (mask == 255).sum()
    assert set(table.loc[table["trained_on"], "file"]) == {"patient00001/film0000.png"}
    stored = json.loads((out / "predictions.json").read_text())
    assert stored["classes"] == ["lungs", "heart"]
    read = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    assert read["pixels"].tolist() == table["pixels"].tolist()
    assert [f.name for f in tmp_path.iterdir()] == ["png"]


def test_a_killed_call_goes_on(
    segmenter: predict.Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = plain_films(tmp_path / "films", "a b c d e f")
    whole, _ = predict.predict(segmenter, films, tmp_path / "whole")
    drawing = Mock(wraps=predict.draw_film)
    drawing.side_effect = [DEFAULT, DEFAULT, DEFAULT, KeyboardInterrupt, *[DEFAULT] * 9]
    monkeypatch.setattr(predict, "draw_film", drawing)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(segmenter, films, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (part,) = tmp_path.glob(".out.*")
    with (part / predict.LOG).open("a") as file:
        file.write('{"film": "cut o')
    for _ in range(2):
        resumed, _ = predict.predict(segmenter, films, tmp_path / "out")
        assert drawing.call_count == 4 + 3
        pd.testing.assert_frame_equal(resumed, whole)
    assert not part.exists()


def test_unreadable_films(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films, out = plain_films(tmp_path / "films", "a b c"), tmp_path / "out"
    (films / "b.png").write_bytes(b"no film")
    call = ["your-radiographs", "predict", "--network", f"{world}/network", "--films", str(films)]
    for _ in range(2):
        assert main([*call, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{films / 'b.png'}: ")
        assert "(1 films could not be read" in said
        assert said.count("\n") == 1
    assert pd.read_csv(out / "predictions.csv")["file"].unique().tolist() == ["a.png", "c.png"]
    assert list(json.loads((out / "predictions.json").read_text())["failed"]) == ["b.png"]


def test_nothing_is_written_over(
    segmenter: predict.Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    films, out = plain_films(tmp_path / "films", "a b"), tmp_path / "out"
    predict.predict(segmenter, films, out)
    save(out / "lungs" / "a.png", np.zeros((5, 5)))  # by hand
    before = content(out)
    predict.predict(segmenter, films, out)
    assert content(out) == before
    other = replace(segmenter, digest="f" * 64)
    with pytest.raises(InputError, match=r"out: is not empty, .* name another folder, or ask to"):
        predict.predict(other, films, out)
    assert content(out) == before
    with caplog.at_level("INFO"):
        predict.predict(other, films, out, overwrite=True)
    assert "what was there is in" in caplog.text
    plain_films(films, "c")
    predict.predict(other, films, out, overwrite=True)
    assert content(tmp_path / "out.1") == before
    assert not (tmp_path / "out.2" / "lungs" / "c.png").exists()
    (out / "lungs" / "c.png").unlink()
    assert "out: is not empty" in error_of(predict.predict, other, films, out)


def test_bad_calls_are_refused(world: Path, segmenter: predict.Segmenter, tmp_path: Path) -> None:
    films, png = world / "example" / "films", plain_films(tmp_path / "png", "a")
    for folder, out, to, message in (
        (films, tmp_path / "out", "nifti", "'to' is 'nifti'"),
        (films, films / "out", "png", "lies in the folder of the films"),
        (png, tmp_path / "out", "dicom-seg", "no DICOM film, which a segmentation refers to"),
    ):
        assert message in error_of(predict.predict, segmenter, folder, out, to=to)
        assert not out.exists()


@pytest.mark.parametrize(
    "note",
    [
        "{",
        '{"classes": ["a"], "size": 64}',
        '{"classes": ["a", "b"], "size": 65}',
        '{"classes": ["a", "A"], "size": 64}',
        '{"classes": ["a", "../b"], "size": 64}',
        '{"classes": "ab", "size": 64}',
        '{"classes": ["a", "b"], "size": "64"}',
    ],
)
def test_a_network_tells_what_it_draws(note: str, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "network", tmp_path / "network")
    (tmp_path / "network" / predict.NOTE).write_text(note)
    with pytest.raises(InputError, match=r"segmenter\.json: does not name 2 different classes"):
        predict.load_segmenter(tmp_path / "network")


def test_segmentations_are_of_dicom_films_only(world: Path, tmp_path: Path) -> None:
    """Where there is none, a class without a code is nobody's worry."""
    films, mixed = plain_films(tmp_path / "films", "a b"), world / "example" / "films"
    assert predict.formats_for(films, ["png", "dicom-seg"], ["infection"], None) == ["png"]
    with pytest.raises(InputError, match=r"'to': no film in .* is DICOM: add 'png'"):
        predict.formats_for(films, ["dicom-seg"], ["infection"], None)
    names, concepts = predict.films_for(mixed, "dicom-seg", ["lungs"], None)
    assert all(name.endswith(".dcm") for name in names)
    assert (len(names), len(concepts)) == (3, 1)
    with pytest.raises(InputError, match="'infection' has no code"):
        predict.films_for(mixed, "dicom-seg", ["infection"], None)
