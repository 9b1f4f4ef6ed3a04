"""The explorer without a browser, and the quickstart on a network that has learned nothing."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dollkit.common import paths
from dollkit.common.machine import sha256
from dollkit.data.images import IGNORE
from dollkit.explanations.ensemble import ExplainerSettings
from dollkit.interactive import quickstart
from dollkit.interactive.explorer import (
    CONSENSUS,
    Explorer,
    Run,
    View,
    cut_of,
    disagreement,
    look,
    open_run,
)
from dollkit.labels import make
from dollkit.labels.maps_to_labels import LabelSettings, Rule
from dollkit.labels.store import open_labels
from dollkit.training import weights
from dollkit.training.classifiers import create, load_classifiers
from dollkit.workflow.parameters import check_cell, declared
from tests.label_films import noise, write_films, write_models
from tests.small_files import error_of

PROFILE, LESION = "tiny", "Lung Lesion"
SIDE, N = 32, 16
EXPLAIN = ExplainerSettings(steps=2, unsettled="keep")


def finish(folder: Path, **parameters: object) -> None:
    text = json.dumps({"outputs": {}, "parameters": parameters})
    (folder / "manifest.json").write_text(text)


def make_run(folder: Path) -> None:
    """Lung Lesion, which alone has masks, and Fracture in turns, every fourth pair without either;
    of the task four films, of which arm doll drew film 0 exactly and random none. What is no
    diagnosis tells Fracture as well as the classifiers do.
    """
    which = np.arange(N) // 2 % 4
    states = {LESION: which % 2 == 0, "Fracture": which == 1}
    marks = np.zeros((N, SIDE, SIDE), np.uint8)
    for i, (top, left) in enumerate(np.random.default_rng(0).integers(2, 20, (N, 2))):
        marks[i, top : top + 8, left : left + 8] = 1
    store = write_films(
        folder / "data" / "films", noise(N, SIDE) // 2 + 100 * marks, states,
        {LESION: marks * states[LESION][:, None, None]}, split=["train", "test"] * (N // 2),
    )  # fmt: skip
    task = write_films(folder / "data" / "lungs", noise(N, SIDE, 1), states)
    classifiers = write_models(folder / "classifiers")
    folders = {name: classifiers / name for name in "ab"}
    for place in (folder / "data", *folders.values()):
        finish(place)
        finding = {"finding": [LESION, "Fracture"]}
        hard = finding | {"probe_auroc": [0.5, 0.9], "probe_lo": [0.4, 0.8]}
        pd.DataFrame(hard).to_csv(place / "difficulty.csv")
        pd.DataFrame(finding | {"auroc": [0.9, 0.9]}).to_csv(place / "metrics.csv")
    hashes = {name: sha256(place / weights.FILE) for name, place in folders.items()}
    models = load_classifiers(folders, torch.device("cpu"))
    rows, out = make.rows_to_label(store, 6, 2), folder / "labels"
    make.make_labels(models, store, rows, EXPLAIN, LabelSettings(), out, hashes)
    finish(out, judge_split="test", n_judge=8, n_label=6, n_hold=2)
    truth = np.zeros((4, 2, SIDE, SIDE), np.uint8)
    truth[:3, 0, 4:12, 4:20] = truth[:3, 1, 20:28, 4:12] = 1  # film 3 has no truth at all
    prediction = np.stack([np.zeros_like(truth), truth, np.zeros_like(truth)])
    prediction[1, 1, 0, :8] = 0
    prediction[1, 2, :, :22] = 0
    tuned = folder / "finetune" / "pspnet-lungs"
    tuned.mkdir(parents=True)
    np.savez(
        tuned / "examples.npz", task="lungs", network="pspnet", image=task.images[:4],
        image_id=task.films["image_id"].to_numpy()[:4].astype("U"), truth=truth,
        classes=["lung", "heart"], arms=["random", "doll", "truth"],
        prediction=prediction, iou=np.zeros((3, 4)),
    )  # fmt: skip
    finish(tuned)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Path]:
    """Folder of runs with one finished run in it."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOLLKIT_DEVICE", "cpu")
        patch.setenv("DOLLKIT_RUNS", str(root))
        make_run(root / PROFILE)
        yield root


@pytest.fixture(scope="module")
def run(runs: Path) -> Run:
    return open_run("", 8)


@pytest.fixture
def explorer(run: Run) -> Explorer:
    return Explorer(run, ["ig", "gradient"])


def view(run: Run, films: str, at: int, finding: str = LESION, **cut: object) -> View:
    settings = cut_of(run.label_settings, finding, **cut)
    return look(run, films, at, finding, "ig", CONSENSUS, settings)


def test_a_run_has_its_film_sets(run: Run) -> None:
    assert run.name == PROFILE
    assert list(run.sets) == ["judged", "labelled", "pspnet-lungs"]
    # Rows 3 and 11 have no mask, 7 and 15 no finding.
    assert run.sets["judged"].image_ids == tuple(f"film {i}" for i in (1, 5, 9, 13))
    assert run.sets["labelled"].image_ids == tuple(f"film {i}" for i in (0, 2, 4, 8, 10, 12))
    assert (run.label_settings, run.explain) == (LabelSettings(), EXPLAIN)
    assert len(open_run(PROFILE, 1).sets["labelled"].images) == 1


def test_the_label_shown_is_the_label_of_the_run(runs: Path, run: Run) -> None:
    stored = open_labels(runs / PROFILE / "labels" / "store")
    assert len(stored) == 6
    for pair, row in stored.pairs.iterrows():
        at = run.sets["labelled"].image_ids.index(row["image_id"])
        shown = view(run, "labelled", at, row["finding"]).label
        np.testing.assert_array_equal(shown, stored.label(pair))


def test_what_cannot_be_opened_is_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'n_films' is 0: use 1 or more" in error_of(open_run, PROFILE, 0)
    assert "run `make reproduce PROFILE=laptop`" in error_of(open_run, "laptop", 4)
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    assert "no run here has labels" in error_of(open_run, "", 4)
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / PROFILE / "classifiers" / "b" / "manifest.json").unlink()
    assert "needs classifiers/b" in error_of(open_run, "", 4)


def test_thresholds_are_those_of_the_equation(run: Run) -> None:
    quarter = view(run, "judged", 0, rule=Rule("quantile", 0.25), ignore=1.0)
    assert quarter.scores["label area"] == pytest.approx(0.25, abs=1 / SIDE**2)
    assert quarter.scores["ignored area"] == 0


def test_scores_need_a_truth_and_labels_a_finding(run: Run) -> None:
    shown = view(run, "labelled", 0)
    label, truth = shown.label == 1, shown.truth == 1
    overlap = (label & truth).sum() / (label | truth).sum()
    assert shown.scores["IoU of the label"] == pytest.approx(overlap)
    unknown = view(run, "labelled", 1, "Fracture")
    assert unknown.truth is None
    assert list(unknown.scores) == ["label area", "ignored area"]
    other = view(run, "labelled", 0, "Edema")
    assert other.label is None
    assert np.isnan(other.threshold)


def test_iou_of_networks(run: Run) -> None:
    shown = [view(run, "pspnet-lungs", at) for at in range(4)]
    # Film 1: 64 of 128 pixels of the lung are missing, the heart is whole.
    assert [s.scores["IoU doll"] for s in shown[:2]] == [1.0, 0.75]
    assert [s.scores["IoU random"] for s in shown[:3]] == [0, 0, 0]
    assert np.isnan(shown[3].scores["IoU doll"])
    # An initialisation is called truth, too: it was pre-trained on true masks.
    assert [s.scores["IoU truth"] for s in shown[:3]] == [0, 0, 0]
    assert all(s.task.any() and not s.drawn["truth"].any() for s in shown[:3])


def test_disagreement_is_what_two_networks_or_classifiers_do_not_share(run: Run) -> None:
    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - (a & b).sum() / (a | b).sum()

    settings = cut_of(run.label_settings, LESION)
    a, b = (look(run, "judged", 0, LESION, "ig", name, settings).label == 1 for name in "ab")
    assert disagreement(run, "judged", 0, LESION, "ig", settings) == pytest.approx(apart(a, b))
    task = run.sets["pspnet-lungs"]
    drawn = {"imagenet": task.drawn["doll"][[1, 1, 1, 3]], "doll": task.drawn["doll"]}
    films = replace(run, sets={"task": replace(task, drawn=drawn)})
    values = [disagreement(films, "task", at, LESION, "ig", settings) for at in range(4)]
    # Of film 0, 64 of 192 pixels are not drawn by imagenet.
    assert values[:2] == [pytest.approx(64 / 192), 0]
    assert values[2] == pytest.approx(apart(drawn["imagenet"][2], drawn["doll"][2]))
    assert values[3] == 0  # neither draws anything
    explorer = Explorer(films)
    explorer.finding.value, explorer.order.value = "Edema", "disagreement"  # all films
    assert [values[i] for i in explorer.places] == sorted(values, reverse=True)


def test_a_link_shows_the_same_again(run: Run, explorer: Explorer) -> None:
    explorer.films.value, explorer.finding.value = "labelled", "Fracture"
    assert "Fracture is possibly a shortcut" in explorer.scores.value
    explorer.film.value, explorer.explainer.value, explorer.classifier.value = 2, "gradient", "b"
    explorer.rule.value, explorer.hi.value, explorer.smooth.value = "quantile", 0.3, 0.05
    link = html.unescape(explorer.link.value.removeprefix("<code>").removesuffix("</code>"))
    assert link.endswith(f"  # run {PROFILE}")
    other = Explorer(run, ["ig", "gradient"])
    assert "shortcut" not in other.scores.value
    exec(link, {"explorer": other})
    assert other.view.value == explorer.view.value
    assert other.scores.value == explorer.scores.value
    assert "no film 'film 99' here" in error_of(other.show, "film 99")


def test_every_control_changes_the_picture(explorer: Explorer) -> None:
    for name, value in (
        ("films", "labelled"), ("finding", "Fracture"), ("film", 2), ("explainer", "gradient"),
        ("classifier", "b"), ("smooth", 0.07), ("ignore", 0.2), ("rule", "quantile"), ("hi", 0.3),
        ("films", "pspnet-lungs"),
    ):  # fmt: skip
        before = explorer.view.value
        getattr(explorer, name).value = value
        assert explorer.view.value != before, name
        assert f"dollkit-{name}" in getattr(explorer, name)._dom_classes
    explorer.rule.value = "peak"
    explorer.hi.value, explorer.ignore.value = 0.8, 0.5
    assert explorer.shown.threshold == pytest.approx(0.8)
    assert "lo 0.40" in explorer.scores.value
    explorer.reset.click()
    assert explorer.cut == cut_of(explorer.run.label_settings, explorer.finding.value)
    explorer.finding.value = "Edema"  # no film has it: all are shown
    assert len(explorer.places) == 4
    assert explorer.shown.label is None


def test_a_value_between_two_steps_stays_as_it_is(run: Run) -> None:
    own = LabelSettings(threshold="peak", level=0.303, smooth=0.012, ignore=0.631)
    explorer = Explorer(replace(run, label_settings=own))
    before = cut_of(own, LESION, rule=Rule("peak", 0.303), smooth=0.012, ignore=0.631)
    # A page sends the nearest step back for a value that it cannot show.
    explorer.hi.value, explorer.smooth.value, explorer.ignore.value = 0.3025, 0.0125, 0.63
    assert explorer.cut == before
    explorer.hi.value = 0.31
    assert explorer.cut == cut_of(before, LESION, rule=Rule("peak", 0.31))


def test_unknown_explainers_are_named(run: Run) -> None:
    assert "names 'captum': use some of ig" in error_of(Explorer, run, ["captum"])
    assert "names ''" in error_of(Explorer, run, [])


def test_the_median_film_is_explained() -> None:
    few = quickstart.phantom_films(96, 64, 7)
    model = create("tu-test_resnet", 3, "silu", "avg", 0, torch.device("cpu")).eval()
    for finding in ("Pleural Effusion", "Pneumothorax"):
        case = quickstart.explain(model, few, finding)
        for part in (case.image, case.map, case.label, case.truth):
            assert part.shape == (64, 64)
        assert 1 in case.label
        assert {*np.unique(case.label)} <= {0, 1, IGNORE}
        assert case.map.max() == 1
        assert case.truth.any()
        assert 0 <= case.iou <= 1
        assert 0 < case.chance < 1
    for more, words in (
        ({"finding": "No Finding"}, "is 'No Finding'"), ({"size": 64.0}, "'size' is 64.0"),
        ({"seed": 7.0}, "'seed' is 7.0"), ({"n_films": "64"}, "'n_films' is '64'"),
        ({"size": 50}, "'size' is 50"), ({"n_films": 20}, "'n_films' is 20"),
    ):  # fmt: skip
        given = declared(paths.NOTEBOOKS / quickstart.NOTEBOOK)().model_dump() | more
        assert words in error_of(check_cell, quickstart.NOTEBOOK, given, quickstart.RANGES)
