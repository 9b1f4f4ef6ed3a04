"""The five steps from maps to labels, the label store, and the scores against the truth."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.filters import gaussian as skimage_gaussian

from dollkit import labels
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, UNCERTAIN
from dollkit.data.images import IGNORE
from dollkit.labels import Distil
from dollkit.labels import shards as codec
from dollkit.labels import store as labelstore
from dollkit.training import metrics


def blob(y: float, x: float, s: int = 32, sigma: float = 3.0) -> np.ndarray:
    yy, xx = np.mgrid[:s, :s]
    return np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2)).astype(np.float32)


def test_scale_clips_at_the_percentile() -> None:
    m = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10)
    out = labels.scale(m, "positive", 50.0)
    assert out.max() == 1.0
    assert (out == 1).sum() == 50
    assert out[0, 0, 0] == pytest.approx(1 / 50.5)


@pytest.mark.parametrize(("part", "expected"), [("positive", 0.0), ("magnitude", 1.0)])
def test_parts_treat_evidence_against_differently(part: str, expected: float) -> None:
    m = np.full((1, 4, 4), -2.0, np.float32)
    assert (labels.scale(m, part, 99.0) == expected).all()


def test_scale_of_nothing_is_nothing() -> None:
    m = np.zeros((2, 8, 8), np.float32)
    m[1, 0, 0] = np.nan
    assert (labels.scale(m, "magnitude", 99.5) == 0).all()


def test_a_sparse_map_is_scaled_by_its_maximum() -> None:
    m = np.zeros((1, 32, 32), np.float32)
    m[0, 3, 3] = 4.0
    assert labels.scale(m, "positive", 99.0)[0, 3, 3] == 1.0


def test_consensus_leaves_out_who_is_wrong_unless_all_are() -> None:
    maps = np.stack([np.full((2, 2, 2), v, np.float32) for v in (1.0, 3.0)])
    probability = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    agreed = labels.consensus(maps, probability, "agree")
    assert (agreed[0] == 1.0).all()  # only the first calls it
    assert (agreed[1] == 2.0).all()  # neither does: both count
    assert (labels.consensus(maps, probability, "all") == 2.0).all()


def test_boost_smooths_like_scikit_image() -> None:
    m = np.zeros((1, 32, 32), np.float32)
    m[0, 16, 16] = 1.0
    ours = labels.boost(m, 2 / 32)[0]
    theirs = skimage_gaussian(m[0], 2.0, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(ours, theirs / theirs.max(), atol=1e-5)


def test_threshold_bands_are_nested() -> None:
    m = blob(16, 16)[None]
    hi = labels.threshold(m, Distil())
    label = labels.to_label(m, hi, 0.5)[0]
    assert set(np.unique(label)) == {0, 1, IGNORE}
    assert (m[0][label == 1] >= hi[0]).all()
    assert (m[0][label == 0] < 0.5 * hi[0]).all()
    assert ((m[0][label == IGNORE] >= 0.5 * hi[0]) & (m[0][label == IGNORE] < hi[0])).all()


def test_quantile_threshold_takes_its_share() -> None:
    m = np.random.default_rng(0).random((1, 40, 40)).astype(np.float32)
    how = Distil(threshold="quantile", area=0.1, ignore=1.0)
    label = labels.to_label(m, labels.threshold(m, how), how.ignore)
    assert (label == 1).mean() == pytest.approx(0.1, abs=0.002)
    assert not (label == IGNORE).any()


def test_a_constant_map_is_all_ignored_never_guessed() -> None:
    maps = np.zeros((3, 1, 16, 16), np.float32)
    _, label, hi = labels.distil(maps, np.ones((3, 1), np.float32), Distil(guide=0.0))
    assert (label == IGNORE).all()
    assert np.isnan(hi).all()


@pytest.mark.parametrize(
    "change",
    [{"part": "negative"}, {"trust": "some"}, {"threshold": "mean"}, {"percentile": 101.0},
     {"smooth": -0.1}, {"area": 0.0}, {"ignore": 1.5}],
)  # fmt: skip
def test_bad_label_settings_are_named(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Distil(**change)  # type: ignore[arg-type]


def pairs_of(rows: list[int], findings: list[str]) -> pd.DataFrame:
    n = len(rows)
    return pd.DataFrame(
        {"row": rows, "image_id": [f"film{r}" for r in rows], "finding": findings,
         "threshold": np.linspace(0.4, 0.6, n), "error": np.zeros(n), "probability": np.ones(n)}
    )  # fmt: skip


def noise(n: int, s: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 1, IGNORE], np.uint8), (n, s, s))


@pytest.fixture
def store(tmp_path: Path) -> tuple[labelstore.LabelStore, np.ndarray]:
    made = noise(3)
    labelstore.write_shard(tmp_path / "a.npz", pairs_of([4, 4], ["Edema", "Fracture"]), made[:2])
    labelstore.write_shard(tmp_path / "b.npz", pairs_of([9], ["Edema"]), made[2:])
    meta = {"size": 16, "films": "f" * 64}
    shards = [tmp_path / "a.npz", tmp_path / "b.npz"]
    return labelstore.merge(shards, tmp_path / "store", meta), made


@pytest.mark.parametrize("size", [1, 8, 13, 224])
def test_a_packed_label_comes_back(size: int) -> None:
    for label in (*noise(3, size), *(np.full((3, size, size), [[[0]], [[1]], [[255]]], np.uint8))):
        np.testing.assert_array_equal(codec.decode(codec.encode(label), size), label)


def test_packing_refuses_other_values_and_damage() -> None:
    label = noise(1)[0]
    packed = codec.encode(label)
    with pytest.raises(ValueError, match="0, 1 and 255"):
        codec.encode(label + np.uint8(1))
    with pytest.raises(ValueError, match="damaged"):
        codec.decode(packed[:-3], 16)
    with pytest.raises(ValueError, match="24 x 24"):
        codec.decode(packed, 24)


def test_a_smooth_label_of_224_px_takes_less_than_two_kilobytes() -> None:
    m = np.maximum(blob(80, 90, 224, 25.0), 0.8 * blob(150, 120, 224, 18.0))
    label = labels.to_label(m[None], np.array([0.5], np.float32), 0.6)[0]
    assert 0.03 < (label == 1).mean() < 0.3
    assert len(codec.encode(label)) < 2000  # two bare planes: 12,544


def test_label_store_gives_back_what_was_written(
    store: tuple[labelstore.LabelStore, np.ndarray],
) -> None:
    opened = labelstore.open(store[0].path, verify=True)
    for i in range(3):
        np.testing.assert_array_equal(opened.label(i), store[1][i])
    with pytest.raises(IndexError):
        opened.label(3)
    assert opened.rows.tolist() == [4, 9]
    states = np.zeros((3, 14), np.int8)
    states[0, 2] = UNCERTAIN
    out = opened.targets(np.array([4, 9, 5]), states)
    np.testing.assert_array_equal(out[0, FINDINGS.index("Fracture")], store[1][1])
    np.testing.assert_array_equal(out[1, FINDINGS.index("Edema")], store[1][2])
    assert (out[0, 2] == IGNORE).all()
    assert out[2].sum() == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).label(2), store[1][2])


def test_a_film_is_found_by_its_name(store: tuple[labelstore.LabelStore, np.ndarray]) -> None:
    opened = labels.open(store[0].path)
    found = opened.for_image("film4")
    assert list(found) == ["Edema", "Fracture"]
    np.testing.assert_array_equal(found["Fracture"], store[1][1])
    assert opened.of_finding("Edema").tolist() == [0, 2]
    with pytest.raises(InputError, match="no label of film 'film5'"):
        opened.for_image("film5")
    with pytest.raises(InputError, match="unknown finding 'Oedema'"):
        opened.of_finding("Oedema")


def test_further_columns_maps_and_odd_names_are_kept(tmp_path: Path) -> None:
    pairs = pairs_of([0, 1], ["Edema", "Edema"])
    pairs["image_id"] = ["007", "NA"]
    pairs["steps"], pairs["settled"] = [8, 32], [True, False]
    values = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)
    for column, part in labelstore.by_classifier(["a", "b,c"], error=values).items():
        pairs[column] = part
    made, maps = noise(2), np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    labelstore.write_shard(tmp_path / "a.npz", pairs, made, maps=maps)
    labelstore.merge([tmp_path / "a.npz"], tmp_path / "store", {"size": 16})
    opened = labelstore.open(tmp_path / "store")
    assert opened.pairs["image_id"].tolist() == ["007", "NA"]
    assert opened.pairs["settled"].tolist() == [True, False]
    assert opened.pairs["steps"].tolist() == [8, 32]
    assert opened.by_classifier("error").to_dict("list") == {"a": [0.25, 0.5], "b,c": [0.75, 1.0]}
    assert opened.by_classifier("probability").empty
    np.testing.assert_allclose(opened.pairs["area"], (made == 1).mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(opened.pairs["ignored"], (made == 255).mean((1, 2)), rtol=1e-6)
    assert opened.maps is not None
    np.testing.assert_array_equal(opened.maps, maps.astype(np.float16))


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_label_store_notices_what_is_wrong_with_its_files(
    store: tuple[labelstore.LabelStore, np.ndarray],
) -> None:
    path = store[0].path
    whole = {f.name: f.read_bytes() for f in path.iterdir()}
    change(path / "planes.npy", -20)
    with pytest.raises(InputError, match=r"planes.npy: does not match its sha256"):
        labelstore.open(path, verify=True)
    with pytest.raises(InputError, match=r"planes.npy: label 2: damaged"):
        labelstore.open(path).label(2)
    (path / "planes.npy").write_bytes(whole["planes.npy"][:-5])
    with pytest.raises(InputError, match=r"planes.npy: is cut off"):
        labelstore.open(path)
    np.save(path / "planes.npy", np.load(path / "ends.npy"))
    with pytest.raises(InputError, match=r"planes.npy: is int64"):
        labelstore.open(path)
    (path / "planes.npy").unlink()
    with pytest.raises(InputError, match=r"planes.npy: is missing"):
        labelstore.open(path)
    (path / "planes.npy").write_bytes(whole["planes.npy"])
    for name in ("pairs.csv", "ends.npy"):
        change(path / name, -2)
        with pytest.raises(InputError, match=f"{name}: does not match"):
            labelstore.open(path)
        (path / name).write_bytes(whole[name])
    assert len(labelstore.open(path)) == 3
    for text in ("{", "[]", '{"n": 3, "sha256": "of an older version"}', '{"sha256": {}}'):
        (path / "labels.json").write_text(text)
        with pytest.raises(InputError, match=r"labels\.json: is"):
            labelstore.open(path)
    (path / "labels.json").unlink()
    with pytest.raises(InputError, match="not a label store"):
        labelstore.open(path)


class Films:
    """As much of a film store as is looked at."""

    def __init__(self, size: int, digest: str) -> None:
        self.size, self.digest, self.path = size, digest, Path("films")


def test_labels_of_other_films_are_refused(
    store: tuple[labelstore.LabelStore, np.ndarray],
) -> None:
    path = store[0].path
    assert len(labelstore.open(path, films=Films(16, "f" * 64))) == 3  # type: ignore[arg-type]
    with pytest.raises(InputError, match="labels of 16 px, films of 32 px"):
        labelstore.open(path, films=Films(32, "f" * 64))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="made of other films"):
        labelstore.open(path, films=Films(16, "e" * 64))  # type: ignore[arg-type]


def test_a_broken_shard_is_not_taken_for_done(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert labelstore.shard_key(path) is None
    labelstore.write_shard(path, pairs_of([1], ["Edema"]), np.zeros((1, 8, 8), np.uint8), "k")
    assert labelstore.shard_key(path) == "k"
    path.write_bytes(path.read_bytes()[:100])
    assert labelstore.shard_key(path) is None
    with pytest.raises(InputError, match=r"a\.npz"):
        labelstore.merge([path], tmp_path / "store", {"size": 8})
    with pytest.raises(InputError, match="no shard to merge"):
        labelstore.merge([], tmp_path / "store", {"size": 8})


def test_shards_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    def shard(name: str, rows: list[int], size: int = 8, **more: object) -> Path:
        path = tmp_path / f"{name}.npz"
        pairs = pairs_of(rows, ["Edema"] * len(rows)).assign(**more)
        labelstore.write_shard(path, pairs, noise(len(rows), size))
        return path

    first = shard("first", [0, 1])
    labelstore.merge([first], tmp_path / "store", {"size": 8})
    before = (tmp_path / "store" / "labels.json").read_bytes()
    wrong = {
        "film 'film1' is in first.npz too": shard("twice", [1, 2]),
        "row 1 is in first.npz too": shard("row", [1], image_id="other"),
        "one film under two rows": shard("x", [5, 6], image_id="x", finding=["Edema", "Fracture"]),
        "other size than first.npz": shard("size", [3], 16),
        "other columns than first.npz": shard("columns", [3], steps=4),
    }  # fmt: skip
    for message, path in wrong.items():
        with pytest.raises(InputError, match=message) as caught:
            labelstore.merge([first, path], tmp_path / "store", {"size": 8})
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="labels of 8 px, 16 px are wanted"):
        labelstore.merge([first], tmp_path / "store", {"size": 16})
    # The store that was there is whole, and nothing else is left.
    assert (tmp_path / "store" / "labels.json").read_bytes() == before
    assert len(labelstore.open(tmp_path / "store", verify=True)) == 2
    assert not list((tmp_path / "store").glob("*.part"))
    with pytest.raises(InputError, match="unknown finding 'Oedema'"):
        shard("unknown", [1], finding="Oedema")
    with pytest.raises(InputError, match="'film1' has two labels of 'Edema'"):
        shard("pair", [1, 1])


def test_merging_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    made, maps = noise(8, 48), np.zeros((8, 48, 48), np.float16)
    shards = []
    for i in range(100):
        pairs = pairs_of(list(range(8 * i, 8 * i + 8)), ["Edema"] * 8)
        shards.append(tmp_path / f"{i:05d}.npz")
        labelstore.write_shard(shards[-1], pairs, made, maps=maps)
    one = maps.nbytes + made.nbytes
    tracemalloc.start()
    whole = labelstore.merge(shards, tmp_path / "store", {"size": 48})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(whole) == 800
    assert (tmp_path / "store" / "maps.npy").stat().st_size == 100 * maps.nbytes + 128
    assert peak < 30 * one, f"{peak / one:.0f} shards in memory"
    np.testing.assert_array_equal(whole.label(799), made[7])


WRITER = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
from dollkit.labels import store
folder, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for i in range(first, 10, step):
    pairs = pd.DataFrame({"row": [2 * i, 2 * i + 1], "finding": ["Edema", "Fracture"]})
    pairs["image_id"] = [f"film{row}" for row in pairs["row"]]
    pairs["threshold"], pairs["error"], pairs["probability"] = 0.5, 0.01, 0.9
    made = np.random.default_rng(i).choice(np.array([0, 1, 255], np.uint8), (2, 16, 16))
    store.write_shard(folder / f"{i:05d}.npz", pairs, made, "key")
assert "torch" not in sys.modules
"""


def test_two_processes_write_one_set(tmp_path: Path) -> None:
    for name in ("both", "alone"):
        (tmp_path / name).mkdir()
    jobs = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / name, *share], cwd=paths.ROOT)
        for name, *share in (("both", "0", "2"), ("both", "1", "2"), ("alone", "0", "1"))
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    (tmp_path / "both" / "00003.77.part.npz").write_bytes(b"of a killed writer")
    stores = {}
    for name in ("both", "alone"):
        shards = sorted((tmp_path / name).glob("?????.npz"))
        assert len(shards) == 10
        labelstore.merge(shards, tmp_path / f"{name}-store", {"size": 16})
        stores[name] = {f.name: f.read_bytes() for f in (tmp_path / f"{name}-store").iterdir()}
    assert stores["both"] == stores["alone"]
    assert sorted(stores["both"]) == ["ends.npy", "labels.json", "pairs.csv", "planes.npy"]
    assert not list((tmp_path / "both").glob("*.part.npz"))


def test_matched_area_has_the_area_of_the_truth() -> None:
    truth = (blob(10, 20) > 0.5).astype(np.uint8)[None]
    perfect = metrics.matched(blob(10, 20)[None], truth)
    np.testing.assert_array_equal(perfect, truth)
    elsewhere = metrics.matched(blob(28, 4)[None], truth)
    assert elsewhere.sum() == truth.sum()
    assert metrics.iou_of_masks(elsewhere, truth)[0] == 0


def test_a_constant_map_scores_chance() -> None:
    truth = np.zeros((1, 64, 64), np.uint8)
    truth[0, :16] = 1
    flat = np.zeros((1, 64, 64), np.float32)
    chance = metrics.iou_chance(truth)[0]
    assert chance == pytest.approx(0.25 / 1.75)
    assert metrics.iou_matched(flat, truth)[0] == pytest.approx(chance, abs=0.03)


def test_chance_is_what_random_masks_reach() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 40), np.uint8)
    truth[0, 5:15, 5:25] = 1
    drawn = [
        metrics.iou_matched(rng.random((1, 40, 40)).astype(np.float32), truth)[0]
        for _ in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(metrics.iou_chance(truth)[0], abs=0.005)


def test_hit_precision_recall() -> None:
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[0, 2:4, 2:6] = 1
    label = np.zeros((1, 8, 8), np.uint8)
    label[0, 2:4, 4:8] = 1
    label[0, 2, 2] = IGNORE
    precision, recall = metrics.precision_recall(label, truth)
    assert (precision[0], recall[0]) == (0.5, 0.5)
    assert metrics.hit((truth * 1.0).astype(np.float32), truth)[0]
    assert not metrics.hit((label == 1)[:, ::-1].astype(np.float32), truth)[0]


def test_prior_never_sees_its_own_patient() -> None:
    truth = np.stack([np.eye(4, dtype=np.uint8)] * 2 + [np.ones((4, 4), np.uint8)])
    patients = np.array(["a", "a", "b"], object)
    prior = metrics.prior_maps(truth, patients)
    np.testing.assert_array_equal(prior[0], np.ones((4, 4)))
    np.testing.assert_array_equal(prior[2], np.eye(4))
    given = metrics.prior_maps(truth, patients, np.zeros((5, 4, 4), np.uint8))
    assert given.sum() == 0
