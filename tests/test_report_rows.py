"""Rows of a run: what is read, what is refused, what the mean of them is."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common.errors import InputError
from dollkit.report import rows
from tests import synthetic_run as synthetic
from tests.small_files import error_of

Change = Callable[[pd.DataFrame], pd.DataFrame]


def small() -> pd.DataFrame:
    """Two films, two classes, one empty/empty: mIoU = (mean(1, .5) + mean(.25)) / 2 = .5."""
    full = {"full": 1.0}
    frame = synthetic.segmentation_cases({"doll": 0}, tasks=["organs"], tunings=full, patients=2)
    frame = frame.query("`class` != 'heart' and seed == 0").reset_index(drop=True)
    frame[["tp", "fp", "fn"]] = [[4, 0, 0], [1, 3, 0], [2, 1, 1], [0, 0, 0]]
    return frame.assign(iou=[1.0, 0.25, 0.5, np.nan], dice=[1.0, 0.4, 2 / 3, np.nan])


def miou(frame: pd.DataFrame, value: str = "iou") -> float:
    return float(rows.contributions(rows.check_cases(frame), value).mean())


def test_miou_by_hand() -> None:
    frame = small()  # a film that is empty on both sides does not count
    assert miou(frame) == pytest.approx(0.5, abs=1e-12)
    assert miou(frame, "dice") == pytest.approx((5 / 6 + 0.4) / 2, abs=1e-12)
    frame.loc[3, ["fp", "iou", "dice"]] = [5, 0.0, 0.0]  # one that is empty on one side counts 0
    assert miou(frame) == pytest.approx((0.75 + 0.125) / 2, abs=1e-12)


@pytest.fixture(scope="module")
def whole() -> rows.Rows:
    return synthetic.rows()


@pytest.fixture(scope="module")
def run(whole: rows.Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_run(tmp_path_factory.mktemp("run"), whole, size=16)


def test_rows_come_back_from_run_and_results(run: Path, whole: rows.Rows, tmp_path: Path) -> None:
    found = rows.read_run(run)
    made = found.write(tmp_path)
    assert {p.name for p in made} == {s.stored for s in rows.SOURCES.values()}
    pd.DataFrame({"arm": ["imagenet", "doll"], "status": ["not run: no weights", "run"]}).to_csv(
        tmp_path / "table1.csv"
    )
    stored = rows.read_stored(tmp_path)
    for name in rows.SOURCES:
        ours, theirs, back = (getattr(r, name) for r in (whole, found, stored))
        key = [c for c in ours if ours[c].dtype.kind not in "f"]
        for frame in (theirs, back):
            pd.testing.assert_frame_equal(
                frame.sort_values(key, ignore_index=True)[list(ours)],
                ours.sort_values(key, ignore_index=True), check_dtype=False, rtol=1e-5,
            )  # fmt: skip
    assert found.not_run == stored.not_run == {"imagenet": "no weights"}
    assert stored.cases["patient_id"].iloc[0] == "00000"
    # Full precision, from pixel counts.
    np.testing.assert_array_equal(stored.cases["iou"], whole.cases["iou"])


def test_what_has_left_the_profile_is_passed_over(run: Path) -> None:
    kept = {"finetune/lungs", "pretrain/doll", "classifiers/convnet"}
    found = rows.read_run(run, kept)
    assert set(found.cases["task"]) == set(found.selection["task"]) == {"lungs"}
    assert set(found.pretraining["arm"]) == {"doll"}


def test_written_rows_have_fixed_bytes(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        rows.write_csv(small(), tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"task,network,arm,")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="fold"), "column 'fold' is missing"),
        (lambda f: f.assign(arm="dol"), "column 'arm' holds 'dol'"),
        (lambda f: f.assign(iou=1.5), "row 2, column 'iou' is 1.5"),
        (lambda f: f.assign(tp="many"), "column 'tp' holds text"),
        (lambda f: f.assign(iou=0.5), "does not follow from its tp, fp, fn"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "two rows for perturbation=noise, level=10.0, "),
        (lambda f: f.assign(perturbation="blur"), "holds 'blur': use one of contrast"),
        (lambda f: f.assign(level=np.nan), "column 'level' has a blank"),
        (lambda f: f.assign(level="much"), "column 'level' holds text"),
    ],
)
def test_broken_rows_name_their_file(change: Change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "robust.csv.gz"
    broken = change(small().assign(perturbation="noise", level=10.0))
    path.write_bytes(gzip.compress(broken.to_csv(index=False).encode()))
    with pytest.raises(InputError, match=message) as caught:
        rows.check_cases(rows.read_table(path, rows.ROBUST_COLUMNS), str(path))
    assert str(path) in str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    assert "no classifiers/*/metrics.csv" in error_of(rows.read_run, tmp_path)
    path, arrays = tmp_path / "cases.csv.gz", tmp_path / "examples.npz"
    for read in (lambda: rows.read_table(path, ()), lambda: rows.load_examples(arrays, ())):
        assert "no such file" in error_of(read)
        rows.write_csv(small(), path)
        path.write_bytes(path.read_bytes()[:60])
        arrays.write_bytes(b"PK\x03\x04 broken")
        assert "cannot be read" in error_of(read)
        arrays.unlink()
    np.savez(arrays, image=np.zeros((0, 8, 8)))
    with pytest.raises(InputError, match="array 'maps' is missing; run its stage again"):
        rows.load_examples(arrays, ("maps",))
    assert "holds no example" in error_of(rows.load_examples, arrays, ("image",))


def test_the_main_size_and_network_have_most_settings() -> None:
    def some(network: str, size: int, tuning: str = "full") -> pd.DataFrame:
        settings = {"network": network, "n_train": size, "tuning": tuning, "task": "lungs"}
        return small().assign(**settings)

    few, many, head = some("pspnet", 4), some("pspnet", 16), some("pspnet", 16, "head")
    assert set(rows.main_size(pd.concat([many, few]))["n_train"]) == {4}  # then the smallest
    assert set(rows.main_size(pd.concat([many, few, head]))["n_train"]) == {16}
    apart = rows.main_size(pd.concat([few, many, some("unet", 64)]))
    assert apart.groupby("network")["n_train"].first().to_dict() == {"pspnet": 4, "unet": 64}
    unet = some("unet", 4)
    assert rows.main_network(pd.concat([unet, few])) == "pspnet"  # then the paper's
    more = some("unet", 4).assign(arm="imagenet")
    assert rows.main_network(pd.concat([unet, more, few])) == "unet"
    assert rows.main_network(pd.concat([unet, some("unet", 4, "bn"), few])) == "pspnet"
    assert rows.main_network(pd.concat([unet, some("fpn", 4)])) == "fpn"  # then by name
