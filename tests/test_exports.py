"""Exports, each read back by its own ecosystem's library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dollkit.common.findings import FINDINGS
from dollkit.data.drawn_masks import drawn_masks
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.labels import store as labelstore
from dollkit.labels.exports import export, file_names
from dollkit.labels.store import LabelStore
from dollkit.labels.summary import by_finding
from tests.label_films import noise, write_films
from tests.small_files import error_of

SIZE = 16
KINDS = ["Edema", "Pleural Effusion", "Edema", "No Finding", "Edema"]


@pytest.fixture
def films(tmp_path: Path) -> Store:
    split = ["train", "train", "valid", "valid", "train"]
    return write_films(tmp_path / "films", noise(5, SIZE), split=split)


@pytest.fixture
def store(tmp_path: Path, films: Store) -> LabelStore:
    made = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (5, SIZE, SIZE))
    made[4] = np.where(np.arange(SIZE) < 8, IGNORE, 0)  # no pixel of finding
    pairs = pd.DataFrame({"row": [0, 0, 1, 2, 3], "finding": KINDS, "threshold": 0.5})
    pairs["image_id"] = [f"film {row}" for row in pairs["row"]]
    pairs["error"], pairs["settled"] = [0.01, 0.02, 0.3, 0.04, 0.05], [True] * 4 + [False]
    pairs["probability"] = [0.9, 0.8, 0.7, 0.6, 0.4]
    labelstore.write_shard(tmp_path / "a.npz", pairs, made)
    meta = {"films": films.digest, "classifiers": {"small": "a1" * 32}, "explain": {"steps": 8}}
    return labelstore.merge({tmp_path / "a.npz": ""}, tmp_path / "labels", meta)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco_gives_every_label_back(tmp_path: Path, store: LabelStore) -> None:
    out = export(store, tmp_path / "out", "coco")
    coco = COCO(str(out / "annotations.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(FINDINGS)
    names = [image["file_name"] for image in coco.loadImgs(coco.getImgIds())]
    assert names == [f"film_{i}.png" for i in range(4)]
    found = np.zeros((5, SIZE, SIZE), np.uint8)
    for a in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(a)
        found[a["label"]][mask == 1] = IGNORE if a["iscrowd"] else 1
        pair = store.pairs.iloc[a["label"]]
        assert coco.loadImgs(a["image_id"])[0]["film"] == pair["image_id"]
        assert coco.loadCats(a["category_id"])[0]["name"] == pair["finding"]
        assert a["area"] == mask.sum()
        y, x = np.nonzero(mask)
        assert a["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    for pair in range(5):
        np.testing.assert_array_equal(found[pair], store.label(pair))
    # An empty label has no annotation but its crowd, where a detection counts neither way.
    (ignored,) = [a for a in coco.anns.values() if a["label"] == 4]
    inside = np.zeros((SIZE, SIZE), np.uint8, order="F")
    inside[:, 2:6] = 1
    assert coco_mask.iou([coco_mask.encode(inside)], [ignored["segmentation"]], [1])[0, 0] == 1


def test_png_masks_hold_the_labels(tmp_path: Path, store: LabelStore, films: Store) -> None:
    out = export(store, tmp_path / "out", "png")
    table = pd.read_csv(out / "masks.csv")
    assert table["finding"].tolist() == KINDS
    for pair, name in enumerate(table["file"]):
        np.testing.assert_array_equal(read(out / name), store.label(pair))
        (mask,) = drawn_masks([out / name])  # alone: 255 is ignored even where no pixel is inside
        np.testing.assert_array_equal(mask.load(store.size, store.size), store.label(pair))
    more = export(store, tmp_path / "more", "png", films=films)
    for row in range(4):
        np.testing.assert_array_equal(read(more / f"images/film_{row}.png"), films.images[row])


def test_nnunet_takes_a_data_set_per_finding(
    tmp_path: Path, store: LabelStore, films: Store
) -> None:
    out = export(store, tmp_path / "out", "nnunet", films=films)
    folders = sorted(f for f in out.iterdir() if f.is_dir())
    names = ["500_DoLL_NoFinding", "505_DoLL_Edema", "510_DoLL_PleuralEffusion"]
    assert [f.name for f in folders] == [f"Dataset{name}" for name in names]
    for folder, n in zip(folders, (1, 3, 1), strict=True):  # nnU-Net v2's rules for raw data
        description = json.loads((folder / "dataset.json").read_text())
        assert list(description["labels"].values()) == [0, 1, 2]
        assert list(description["labels"])[::2] == ["background", "ignore"]  # the highest value
        assert description["channel_names"].keys() == {"0"}
        cases = {f.name.removesuffix("_0000.png") for f in (folder / "imagesTr").iterdir()}
        assert cases == {f.name.removesuffix(".png") for f in (folder / "labelsTr").iterdir()}
        assert len(cases) == description["numTraining"] == n
    for pair, row in ((0, 0), (2, 1), (4, 3)):
        label = store.label(pair)
        written = read(folders[1] / f"labelsTr/film_{row}.png")
        np.testing.assert_array_equal(written, np.where(label == IGNORE, 2, label))
        image = read(folders[1] / f"imagesTr/film_{row}_0000.png")
        np.testing.assert_array_equal(image, films.images[row])
    splits = json.loads((folders[1] / "splits_final.json").read_text())
    assert splits == [{"train": ["film_0", "film_1"], "val": ["film_3"]}]


def test_hugging_face_datasets_reads_the_parquet(
    tmp_path: Path, store: LabelStore, films: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    out = export(store, tmp_path / "out", "parquet", films=films)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 3, "validation": 2}
    for pair, row in enumerate([*loaded["train"], *loaded["validation"]]):
        values = store.pairs.iloc[pair]
        assert {column: row[column] for column in store.pairs} == values.to_dict()
        np.testing.assert_array_equal(np.asarray(row["mask"]), store.label(pair))
        np.testing.assert_array_equal(np.asarray(row["image"]), films.images[values["row"]])
    bare = str(export(store, tmp_path / "bare", "parquet") / "data" / "train.parquet")
    kept = datasets.Dataset.from_parquet(bare, cache_dir=str(tmp_path / "cache"))
    assert "image" not in kept.column_names  # no film pixel is written unasked
    assert kept["finding"][:] == KINDS


@pytest.mark.parametrize("to", ["coco", "png", "nnunet"])
def test_no_film_pixel_is_written_unasked(tmp_path: Path, store: LabelStore, to: str) -> None:
    out = export(store, tmp_path / "out", to)
    assert all(set(np.unique(read(f))) <= {0, 1, 2, 255} for f in out.rglob("*.png"))
    assert "hold no film pixels" in (out / "README.md").read_text()


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, store: LabelStore, films: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, full = tmp_path / "out", tmp_path / "full" / "a.txt"
    full.parent.mkdir()
    full.write_text("mine")
    formats = "format 'voc': use one of coco, png, nnunet, parquet"
    assert formats in error_of(export, store, out, "voc")
    for place in (full.parent, Path("/"), Path()):
        assert "not an empty folder" in error_of(export, store, place, "png")
    assert full.read_text() == "mine"
    store.meta["films"] = "0" * 64
    assert "made of other films" in error_of(export, store, out, "png", films=films)
    monkeypatch.setattr(LabelStore, "label", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(store, out, "png")
    assert not out.exists()  # whole or not at all
    assert file_names(["a/b c", "..x", "é"]) == {"a/b c": "a_b_c", "..x": "x", "é": "_"}
    both = "'a/b' and 'A_b' would both be written as 'A_b'"
    assert both in error_of(file_names, ["a/b", "A_b"])


def test_the_summary_counts_labels(store: LabelStore) -> None:
    table = by_finding(store)
    counts = {"No Finding": 1, "Edema": 3, "Pleural Effusion": 1, "all": 5}
    assert table["labels"].to_dict() == counts
    edema = table.loc["Edema"]
    assert edema["error"] == pytest.approx(0.12)
    assert [edema[c] for c in ("empty", "unsettled", "uncalled")] == pytest.approx([1 / 3] * 3)
