"""Spoiled files in every layout: one clear line or a sound result, never anything else.

A tree of each data set is made once; each example spoils one of its files, reads, decodes and
builds, and puts the file back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dollkit.common.errors import InputError
from dollkit.data import DATASETS
from dollkit.data.__main__ import survey
from dollkit.data.store import open_store
from dollkit.data.store_builder import build_store
from tests import test_covid_chestxray, test_nih, test_own, test_v7
from tests.chexpert_trees import segmented, write_chexpert, write_truth
from tests.phantom_layouts import write_layout

pytestmark = pytest.mark.slow

SIZE = 16


def chexpert(root: Path) -> None:
    write_chexpert(root / "CheXpert-v1.0-small")
    truth = {"patient00007_study1_view1_frontal": segmented((80, 64), Edema=np.eye(80, 64))}
    write_truth(root / "CheXlocalize" / "gt_segmentations_val.json", truth)


def v7(root: Path) -> None:
    tree = test_v7.Tree(root)
    tree.note("10", "original.jpg", test_v7.COVID)
    tree.film("10.png")
    tree.note("11", "person3_virus_7.jpeg", ["Viral Pneumonia"])
    tree.film("person3_virus_7.jpeg")


def generalblockchain(root: Path) -> None:
    whole, _, lungs = test_covid_chestxray.FILMS
    test_covid_chestxray.write_masks(root, [whole, lungs])


def own(root: Path) -> None:
    test_own.write(root)
    test_own.mask(root, "lungs", "a")
    test_own.mask(root, "lungs", "deep/c")
    grey = np.arange(6, dtype=np.uint16).reshape(3, 2) * 600
    test_own.write_dicom(root / "images" / "d", grey)


def phantom(root: Path, layout: str, n: int) -> None:
    write_layout(root, layout, n, 64, 0)


TREES: dict[str, Callable[[Path], object]] = {
    "chexpert": chexpert,
    "nih": test_nih.write_tree,
    "jsrt": partial(phantom, layout="jsrt", n=2),
    "montgomery": partial(phantom, layout="montgomery", n=3),
    "shenzhen": partial(phantom, layout="shenzhen", n=3),
    "covid_qu_ex": partial(phantom, layout="covid-qu-ex", n=5),
    "generalblockchain": generalblockchain,
    "v7": v7,
    "folder": own,
}


@pytest.fixture(scope="session", params=list(TREES))
def tree(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp(request.param)
    TREES[request.param](root)
    return request.param, root


def spoilt(kind: str, data: bytes, at: int, other: bytes) -> bytes:
    place = at % max(len(data), 1)
    if kind == "truncate":
        return data[:place]
    if kind == "swap":
        return other
    if kind == "flip":
        flipped = bytes(byte ^ (1 + at % 255) for byte in data[place : place + 1])
        return data[:place] + flipped + data[place + 1 :]
    junk = (b"\0", b"..", b"\\", b"\xff", b",,", b'"', b"\n", b"-1e999", b"\xef\xbb\xbf")
    return data[:place] + junk[at % len(junk)] + data[place:]


def run(name: str, root: Path, out: Path, skip_bad: bool) -> str:
    """Read, check and build; "" or the one line of the error."""
    try:
        tables = DATASETS[name].tables(root, skip_bad=skip_bad)
        for store, table in tables.items():
            build_store(table, out / store, SIZE, skip_bad, workers=1)
    except InputError as error:
        return str(error)
    for store, table in tables.items():
        opened = open_store(out / store, verify=True)
        assert 0 < len(opened) <= len(table)
        assert opened.images.shape[1:] == (SIZE, SIZE)
        assert set(np.unique(opened.masks(range(len(opened))))) <= {0, 1}
    return ""


HOW = st.tuples(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from(["truncate", "swap", "flip", "insert"]),
    st.integers(0, 10**9),
    st.booleans(),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(HOW)
def test_a_spoiled_file_gives_one_line_or_a_sound_result(
    tree: tuple[str, Path], tmp_path: Path, how: tuple[int, int, str, int, bool]
) -> None:
    (name, root), (which, second, kind, at, skip_bad) = tree, how
    files = sorted(p for p in root.rglob("*") if p.is_file())
    victim = files[which % len(files)]
    data = victim.read_bytes()
    victim.write_bytes(spoilt(kind, data, at, files[second % len(files)].read_bytes()))
    try:
        message = run(name, root, tmp_path, skip_bad)
        assert "\n" not in message
        if message:
            assert str(root) in message or str(tmp_path) in message, message
        try:
            survey(DATASETS[name], root, subset=True, decode=True)
        except InputError as error:
            message = str(error)
        assert "\n" not in message
    finally:
        victim.write_bytes(data)


def test_the_trees_are_sound_before_they_are_spoiled(
    tree: tuple[str, Path], tmp_path: Path
) -> None:
    name, root = tree
    assert run(name, root, tmp_path, skip_bad=False) == ""
    report = survey(DATASETS[name], root, subset=True, decode=True)
    assert report.sound, report.problems.to_string()
