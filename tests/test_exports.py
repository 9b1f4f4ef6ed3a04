"""Exports, each read back by its own ecosystem's library, and the dataset card."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image
from pycocotools.coco import COCO

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.film_table import COLUMNS
from dollkit.data.images import IGNORE
from dollkit.data.store import Store, open_store
from dollkit.data.store_writer import StoreWriter
from dollkit.labels import store as labelstore
from dollkit.labels.card import card
from dollkit.labels.export_formats import file_names
from dollkit.labels.exports import export
from dollkit.labels.summary import by_finding, lines

SIZE = 16
ROWS = [0, 0, 1, 2, 3]
KINDS = ["Edema", "Pleural Effusion", "Edema", "No Finding", "Edema"]
NO_PYARROW = importlib.util.find_spec("pyarrow") is None


@pytest.fixture
def films(tmp_path: Path) -> Store:
    table = pd.DataFrame("", index=range(5), columns=list(COLUMNS))
    table["image_id"] = table["patient_id"] = table["study_id"] = [f"film {i}" for i in range(5)]
    table["split"] = ["train", "train", "valid", "valid", "train"]
    table["fold"], table["width"], table["height"] = -1, SIZE, SIZE
    table["age"] = np.nan
    table[list(FINDINGS)] = np.nan
    for row, finding in zip(ROWS, KINDS, strict=True):
        table.loc[row, finding] = 1
    table.loc[2, "Pleural Effusion"] = -1
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE)).astype(np.uint8)
    with StoreWriter(tmp_path / "films", SIZE, [], 5, {"source": "test"}) as out:
        out.write(0, images)
        out.finish(table)
    return open_store(tmp_path / "films")


@pytest.fixture
def store(tmp_path: Path, films: Store) -> labelstore.LabelStore:
    made = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (5, SIZE, SIZE))
    made[4] = np.where(np.arange(SIZE) < 8, IGNORE, 0)  # no pixel of finding
    pairs = pd.DataFrame(
        {
            "row": ROWS,
            "image_id": [f"film {r}" for r in ROWS],
            "finding": KINDS,
            "threshold": 0.5,
            "error": [0.01, 0.02, 0.3, 0.04, 0.05],
            "probability": [0.9, 0.8, 0.7, 0.6, 0.4],
            "settled": [True, True, True, True, False],
        }
    )
    labelstore.write_shard(tmp_path / "a.npz", pairs, made)
    meta = {
        "size": SIZE,
        "films": films.digest,
        "classifiers": {"small": "a1" * 32, "large": "b2" * 32},
        "explain": {"explainer": "ig", "kind": "black", "steps": 8},
        "distil": {"smooth": 0.03, "threshold": "otsu"},
    }
    return labelstore.merge([tmp_path / "a.npz"], tmp_path / "labels", meta)


def files(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco_gives_every_label_back(tmp_path: Path, store: labelstore.LabelStore) -> None:
    out = export(store, tmp_path / "out", "coco")
    assert files(out) == ["README.md", "annotations.json"]
    coco = COCO(str(out / "annotations.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(FINDINGS)
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == [
        f"film_{i}.png" for i in range(4)
    ]
    found = np.zeros((5, SIZE, SIZE), np.uint8)
    for a in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(a)
        found[a["label"]][mask == 1] = IGNORE if a["iscrowd"] else 1
        image = coco.loadImgs(a["image_id"])[0]
        assert image["film"] == store.pairs["image_id"][a["label"]]
        assert coco.loadCats(a["category_id"])[0]["name"] == store.pairs["finding"][a["label"]]
        assert a["area"] == mask.sum()
        y, x = np.nonzero(mask)
        box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert a["bbox"] == box
    for pair in range(5):
        np.testing.assert_array_equal(found[pair], store.label(pair))
    # An empty label has no annotation that is not a crowd.
    assert [a["iscrowd"] for a in coco.loadAnns(coco.getAnnIds()) if a["label"] == 4] == [1]


def test_coco_scores_ignored_pixels_neither_way(
    tmp_path: Path, store: labelstore.LabelStore
) -> None:
    from pycocotools import mask as coco_mask

    out = export(store, tmp_path / "out", "coco", findings=["Edema"])
    coco = COCO(str(out / "annotations.json"))
    ignored = next(a for a in coco.loadAnns(coco.getAnnIds()) if a["label"] == 4)
    inside = np.zeros((SIZE, SIZE), np.uint8, order="F")
    inside[:, 2:6] = 1
    assert coco_mask.iou([coco_mask.encode(inside)], [ignored["segmentation"]], [1])[0, 0] == 1


def test_png_masks_hold_the_labels(
    tmp_path: Path, store: labelstore.LabelStore, films: Store
) -> None:
    out = export(store, tmp_path / "out", "png", findings=["Pleural Effusion", "Edema"])
    table = pd.read_csv(out / "masks.csv")
    assert table["finding"].tolist() == ["Edema", "Pleural Effusion", "Edema", "Edema"]
    for pair, name in zip([0, 1, 2, 4], table["file"], strict=True):
        np.testing.assert_array_equal(read(out / name), store.label(pair))
    assert files(out) == ["README.md", "masks.csv", *sorted(table["file"])]
    with_films = export(store, tmp_path / "more", "png", films=films)
    for row in range(4):
        np.testing.assert_array_equal(
            read(with_films / f"images/film_{row}.png"), films.images[row]
        )


def nnunet_cases(folder: Path) -> int:
    """Cases of a data set that holds nnU-Net v2's rules for raw data."""
    given = json.loads((folder / "dataset.json").read_text())
    values = list(range(len(given["labels"])))
    assert re.fullmatch(r"Dataset\d{3}_\w+", folder.name)
    assert given["labels"]["background"] == 0
    assert sorted(given["labels"].values()) == values
    assert given["labels"]["ignore"] == values[-1]  # the highest
    assert (given["channel_names"].keys(), given["file_ending"]) == ({"0"}, ".png")
    cases = {f.name.removesuffix("_0000.png") for f in (folder / "imagesTr").iterdir()}
    assert cases == {f.name.removesuffix(".png") for f in (folder / "labelsTr").iterdir()}
    assert len(cases) == given["numTraining"]
    for case in cases:
        label = read(folder / f"labelsTr/{case}.png")
        assert set(np.unique(label)) <= set(values)
        assert label.shape == read(folder / f"imagesTr/{case}_0000.png").shape
    return len(cases)


def test_nnunet_takes_a_data_set_per_finding(
    tmp_path: Path, store: labelstore.LabelStore, films: Store
) -> None:
    out = export(store, tmp_path / "out", "nnunet", films=films, findings=KINDS[:2])
    folders = sorted(f.name for f in out.iterdir() if f.is_dir())
    assert folders == ["Dataset505_DoLL_Edema", "Dataset510_DoLL_PleuralEffusion"]
    folder = out / folders[0]
    assert nnunet_cases(folder) == 3
    given = json.loads((folder / "dataset.json").read_text())
    assert given["labels"] == {"background": 0, "Edema": 1, "ignore": 2}
    for pair, row in ((0, 0), (2, 1), (4, 3)):
        label = store.label(pair)
        written = read(folder / f"labelsTr/film_{row}.png")
        np.testing.assert_array_equal(written, np.where(label == IGNORE, 2, label))
        image = read(folder / f"imagesTr/film_{row}_0000.png")
        np.testing.assert_array_equal(image, films.images[row])
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == [{"train": ["film_0", "film_1"], "val": ["film_3"]}]


def test_nnunet_negatives_are_background_and_uncertain_films_left_out(
    tmp_path: Path, store: labelstore.LabelStore, films: Store
) -> None:
    out = export(store, tmp_path / "out", "nnunet", films=films, negatives=True)
    folder = out / "Dataset510_DoLL_PleuralEffusion"
    # Of the labelled films 1 to 3, film 2 is uncertain; film 4 has no label.
    assert sorted(f.name for f in (folder / "labelsTr").iterdir()) == [
        f"film_{i}.png" for i in (0, 1, 3)
    ]
    assert read(folder / "labelsTr/film_3.png").sum() == 0
    assert nnunet_cases(folder) == 3
    with pytest.raises(InputError, match="--negatives goes with"):
        export(store, tmp_path / "more", "nnunet", negatives=True)


@pytest.mark.skipif(NO_PYARROW, reason="pyarrow is not installed")
def test_parquet_says_what_its_columns_are(
    tmp_path: Path, store: labelstore.LabelStore, films: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("dollkit.labels.export_others.FILE", 2)
    out = export(store, tmp_path / "out", "parquet")
    names = [f"data/train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert files(out) == ["README.md", *names]
    rows = [row for name in names for row in pq.read_table(out / name).to_pylist()]
    assert [row["finding"] for row in rows] == KINDS
    assert "image" not in rows[0]
    for pair, row in enumerate(rows):
        with Image.open(io.BytesIO(row["mask"]["bytes"])) as mask:
            np.testing.assert_array_equal(np.asarray(mask), store.label(pair))
        assert row["error"] == store.pairs["error"][pair]
        assert row["settled"] == int(store.pairs["settled"][pair])


def test_hugging_face_datasets_reads_the_parquet(
    tmp_path: Path,
    store: labelstore.LabelStore,
    films: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    out = export(store, tmp_path / "out", "parquet", films=films)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 3, "validation": 2}
    for name, pairs in (("train", [0, 1, 2]), ("validation", [3, 4])):
        for pair, row in zip(pairs, loaded[name], strict=True):
            assert row["image_id"] == store.pairs["image_id"][pair]
            np.testing.assert_array_equal(np.asarray(row["mask"]), store.label(pair))
            film = films.images[int(store.pairs["row"][pair])]
            np.testing.assert_array_equal(np.asarray(row["image"]), film)


@pytest.mark.parametrize("to", ["coco", "png", "nnunet", "parquet"])
def test_no_film_pixel_is_written_unasked(
    tmp_path: Path, store: labelstore.LabelStore, films: Store, to: str
) -> None:
    if to == "parquet" and NO_PYARROW:
        pytest.skip("pyarrow is not installed")
    out = export(store, tmp_path / "out", to)
    values = [read(f) for f in out.rglob("*.png")]
    assert all(set(np.unique(v)) <= {0, 1, 2, 255} for v in values)
    assert not list(out.glob("images/*")) + list(out.rglob("imagesTr/*"))
    text = (out / "README.md").read_text()
    assert "inherit the terms" in text
    assert "They hold no film pixels" in text


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, store: labelstore.LabelStore, films: Store
) -> None:
    with pytest.raises(InputError, match="format 'voc': use one of coco, png, nnunet, parquet"):
        export(store, tmp_path / "out", "voc")
    with pytest.raises(InputError, match="unknown finding 'Oedema'"):
        export(store, tmp_path / "out", "png", findings=["Oedema"])
    with pytest.raises(InputError, match="no label of Fracture"):
        export(store, tmp_path / "out", "png", findings=["Fracture"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        export(store, tmp_path / "full", "png")
    assert (tmp_path / "full" / "a.txt").read_text() == "mine"
    store.meta["films"] = "0" * 64
    with pytest.raises(InputError, match="made of other films"):
        export(store, tmp_path / "out", "png", films=films)
    assert not (tmp_path / "out").exists()


def test_a_stopped_export_leaves_no_half_folder(
    tmp_path: Path, store: labelstore.LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(labelstore.LabelStore, "label", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(store, tmp_path / "out", "png")
    assert not (tmp_path / "out").exists()
    assert len(files(export(store, tmp_path / "out", "png"))) == 7
    assert not (tmp_path / "out.part").exists()


def test_names_of_files_are_plain_and_apart() -> None:
    assert file_names(["a/b c", "..x", "é"]) == {"a/b c": "a_b_c", "..x": "x", "é": "_"}
    with pytest.raises(InputError, match="'a/b' and 'A_b' would both be written as 'A_b'"):
        file_names(["a/b", "A_b"])


def test_the_card_is_one_that_the_hub_reads(store: labelstore.LabelStore) -> None:
    text = card(store)
    data = DatasetCard(text).data.to_dict()
    assert data["license"] == "other"
    assert data["task_categories"] == ["image-segmentation"]
    assert data["size_categories"] == ["n<1K"]
    front = yaml.safe_load(text.split("---")[1])
    assert front == data
    assert "5 segmentation labels of 3 findings on 4 films, 16 x 16 pixels" in text
    for wanted in ("a1" * 32, "b2" * 32, store.meta["films"], "steps=8", "kind=black", "smooth"):
        assert str(wanted) in text
    for heading in (
        "Counts",
        "How the labels were made",
        "Known failures",
        "Intended use",
        "Licence",
    ):
        assert f"\n## {heading}\n" in text


def test_the_card_says_what_the_numbers_say(store: labelstore.LabelStore) -> None:
    table = by_finding(store)
    assert table["labels"].to_dict() == {
        "No Finding": 1, "Edema": 3, "Pleural Effusion": 1, "all": 5
    }  # fmt: skip
    edema = table.loc["Edema"]
    assert edema["error50"] == pytest.approx(0.05)
    assert [edema[c] for c in ("poor", "empty", "unsettled")] == pytest.approx([1 / 3] * 3)
    assert edema["area"] == store.pairs["area"][[0, 2, 4]].median()
    text = card(store)
    row = re.search(r"\| Edema \| 3 \|.*", text)
    assert row is not None
    assert "| 0.050 |" in row[0]
    failed = text.split("## Known failures")[1].split("##")[0]
    assert "Empty: no pixel reached the upper threshold. 20 % of all labels; Edema 33 %." in failed
    assert "Completeness error above 0.1" in failed
    assert "Not settled" in failed
    assert "All ignored" not in failed
    assert "No Finding has no place" in failed
    store.pairs["error"] = 0.01
    assert "Completeness error above" not in card(store)
    store.pairs["error"] = np.nan
    assert "No completeness error is known" in card(store)


def test_the_summary_shows_counts_and_making(store: labelstore.LabelStore) -> None:
    text = "\n".join(lines(store))
    assert re.search(r"^Edema +3 ", text, re.MULTILINE)
    assert re.search(r"^all +5 ", text, re.MULTILINE)
    assert f"classifier small: {'a1' * 32}" in text
    assert "4 labelled, 16 x 16 px" in text
