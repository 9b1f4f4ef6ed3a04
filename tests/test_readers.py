"""Readers and the building of stores: one good tree, and every way in which it can be bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data import build, read
from dollkit.data.sets.chexpert import mask_path, read_chexpert
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests.chexpert_trees import write_chexpert

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A synthetic CheXpert tree; see `write_chexpert`."""
    return lambda **changed: write_chexpert(tmp_path / "CheXpert-v1.0-small", **changed)


def test_masks_beside_the_films(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    film = root / "train/patient00003/study1/view1_frontal.jpg"
    mask = np.zeros((40, 32), np.uint8)
    mask[20:, :] = 255
    Image.fromarray(mask).save(mask_path(film, "Pleural Effusion"))
    store = open_store(build_store(read_chexpert(root), tmp_path / "s", 40))
    assert store.mask_classes == PATHOLOGIES
    valid = store.mask_valid(slice(None))
    assert np.argwhere(valid).tolist() == [[2, PATHOLOGIES.index("Pleural Effusion")]]
    effusion = store.masks([2], ["Pleural Effusion"])[0, 0]
    assert effusion[20:, 4:36].all()
    assert effusion.sum() == 20 * 32


def test_missing_folder_and_files(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train.csv here or in CheXpert-v1.0-small"):
        read_chexpert(tmp_path)
    with pytest.raises(InputError, match=r"'data_dir' is '.*nowhere': no such folder"):
        read("chexpert", tmp_path / "nowhere")
    with pytest.raises(InputError, match="'data_dir' is ''"):
        build("open", "", tmp_path / "out", 64)
    root = tree()
    (root / "valid.csv").unlink()
    with pytest.raises(InputError, match=r"valid.csv: no such file"):
        read_chexpert(root)


def test_row_without_a_file_stops_before_decoding(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    (root / "train/patient00001/study1/view1_frontal.jpg").write_bytes(b"never looked at")
    (root / "train/patient00004/study1/view1_frontal.jpg").unlink()
    with pytest.raises(
        InputError, match=r"train.csv, row 6: no such file .*patient00004.*skip_bad"
    ):
        build("chexpert", root, tmp_path / "out", 64)
    assert not (tmp_path / "out" / "films").exists()


def test_mask_of_another_size(tree: Tree, tmp_path: Path) -> None:
    root = tree()
    mask = mask_path(root / "train/patient00001/study1/view1_frontal.jpg", "Edema")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"row 2: .*mask_Edema.png: mask is 40x32, its image is"):
        build("chexpert", root, tmp_path / "out", 64)


def test_parameters_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'mimic': use one of chexpert, "):
        build("mimic", tmp_path, tmp_path / "out", 64)
    with pytest.raises(InputError, match="'size' is 100: use a positive multiple of 8"):
        build("chexpert", tmp_path, tmp_path / "out", 100)
    with pytest.raises(InputError, match="'valid_fraction' is 1: use 0 to below 1"):
        read_chexpert(tmp_path, 1)
