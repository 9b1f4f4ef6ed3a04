"""The explorer without a browser: stored maps, what is shown, in which order, what is written."""

from __future__ import annotations

import io
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dollkit import labels
from dollkit.classifiers.model import load_classifiers
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.data.images import IGNORE
from dollkit.data.store import open_store
from dollkit.interactive.explorer import draw, layout, maps, saving, sources, view, widgets
from dollkit.interactive.explorer.__main__ import main as command
from dollkit.interactive.explorer.view import CONSENSUS, Choice, Cut, cut_of
from dollkit.interactive.explorer.widgets import Explorer
from dollkit.labels import Distil, make, threshold_rules
from dollkit.labels.make import make_labels
from dollkit.labels.threshold_rules import Rule
from dollkit.workflow import parameters, stages
from tests import explorer_run
from tests.explorer_run import HOW, SIDE

EXPLAINERS = ("ig", "gradient")
PROFILE = "smoke"
"""Any profile that is there: the explorer's own parameters come from the run, not from it."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOLLKIT_DEVICE", "cpu")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs with one finished run in it, which the tests only read."""
    root = tmp_path_factory.mktemp("runs")
    folder = explorer_run.run(root, PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOLLKIT_RUNS", str(root))
        maps.prepare(sources.open_run(PROFILE, 8, folder / "explorer"), EXPLAINERS)
    return root


@pytest.fixture(autouse=True)
def here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(runs))


@pytest.fixture
def source(runs: Path, tmp_path: Path) -> sources.Source:
    """The run, with a folder of its own for exports and the prepared maps in it."""
    kept = tmp_path / "explorer"
    shutil.copytree(runs / PROFILE / "explorer", kept)
    return sources.open_run(PROFILE, 8, kept)


@pytest.fixture
def atlas(source: sources.Source) -> maps.Atlas:
    return maps.prepare(source, EXPLAINERS)


@pytest.fixture
def explorer(source: sources.Source, atlas: maps.Atlas) -> Explorer:
    return Explorer(source, atlas)


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the notebooks, whose profiles may be written to."""
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    monkeypatch.setenv("DOLLKIT_NOTEBOOKS", str(tmp_path / "notebooks"))
    return tmp_path / "notebooks" / "params"


def choice(source: sources.Source, films: str, at: int, finding: str = "Lung Lesion") -> Choice:
    return Choice(films, at, finding, "ig", CONSENSUS, cut_of(source.distil, finding))


def test_a_run_has_its_film_sets(source: sources.Source) -> None:
    assert list(source.sets) == ["judged", "labelled", "pspnet-lungs"]
    judged, labelled = source.sets["judged"], source.sets["labelled"]
    # Rows 3 and 11 have no mask, 7 and 15 no finding.
    assert judged.image_ids == ("film01", "film05", "film09", "film13")
    assert labelled.image_ids == ("film00", "film02", "film04", "film08", "film10", "film12")
    assert source.distil == Distil()
    assert source.explain == HOW
    assert len(sources.open_run(PROFILE, 1, source.folder).sets["labelled"]) == 1


def test_the_label_shown_is_the_label_of_the_run(
    runs: Path, source: sources.Source, atlas: maps.Atlas
) -> None:
    stored = labels.open(runs / PROFILE / "labels" / "store")
    films, seen = source.sets["labelled"], 0
    for at, name in enumerate(films.image_ids):
        for finding, label in stored.for_image(name).items():
            shown = view.look(source, atlas, choice(source, "labelled", at, finding))
            assert shown.label is not None
            np.testing.assert_array_equal(shown.label, label)
            seen += 1
    assert seen == len(stored) == 6


def test_maps_are_made_once(
    source: sources.Source, atlas: maps.Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a network was read")

    monkeypatch.setattr(maps, "load_classifiers", never)
    again = maps.prepare(source, EXPLAINERS)
    key = ("judged", "ig")
    np.testing.assert_array_equal(again[key].made.maps, atlas[key].made.maps)


@pytest.mark.parametrize(
    "harm", ["gone", "cut off", "other code", "other weights", "other settings"]
)
def test_maps_that_do_not_fit_are_made_anew(
    source: sources.Source, atlas: maps.Atlas, harm: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = source.folder / "judged-ig.npz"
    before = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut off":
        path.write_bytes(before[:1000])
    elif harm == "other code":
        monkeypatch.setattr(
            maps, "code_of", lambda _: {"dollkit/explanations/ensemble.py": "another"}
        )
    elif harm == "other weights":
        others = explorer_run.models(tmp_path / "others", "ba")
        source = replace(source, classifiers={name: others[name] for name in "ab"})
    else:
        source = replace(source, explain=replace(source.explain, steps=3))
    made = maps.prepare(source, ["ig"])["judged", "ig"].made.maps
    same = np.array_equal(made, atlas["judged", "ig"].made.maps)
    assert same == (harm in ("gone", "cut off", "other code"))
    assert (path.read_bytes() == before) == (harm in ("gone", "cut off"))
    assert [f.name for f in source.folder.glob("*.part")] == []


@pytest.mark.parametrize(
    ("given", "message"), [(["captum"], "names 'captum': use some of ig"), ([], "is empty")]
)
def test_unknown_explainers_are_named(
    source: sources.Source, given: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        maps.prepare(source, given)


def test_a_missing_run_names_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path))
    with pytest.raises(InputError, match=r"needs data .*: run `make reproduce PROFILE=laptop`"):
        sources.open_run("laptop", 4)


def test_without_a_name_the_newest_labels_are_shown(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no run here has labels"):
        sources.open_run("", 4)
    for name, when in (("later", 3), ("early", 1), ("torso", 9)):
        shutil.copytree(runs / PROFILE, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "labels" / "manifest.json", (when, when))
    (tmp_path / "runs" / "torso" / "data" / "manifest.json").unlink()
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    assert sources.open_run("", 4).name == "later"


@pytest.mark.parametrize("gone", ["labels/manifest.json", "classifiers/b/manifest.json"])
def test_an_unfinished_run_names_what_is_missing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / PROFILE / gone).unlink()
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    with pytest.raises(InputError, match=f"needs {Path(gone).parent}.*make reproduce"):
        sources.open_run(PROFILE, 4)


def test_films_are_at_least_one() -> None:
    with pytest.raises(InputError, match="'n_films' is 0"):
        sources.open_run(PROFILE, 0)


def test_thresholds_are_those_of_the_equation(source: sources.Source, atlas: maps.Atlas) -> None:
    one = choice(source, "judged", 0)
    shown = view.look(source, atlas, replace(one, cut=Cut(Rule("peak", 0.5), 0.02, 0.4)))
    assert shown.map is not None
    assert shown.hi == pytest.approx(0.5 * shown.map.max())
    assert shown.lo == pytest.approx(0.4 * shown.hi)
    expected = np.where(shown.map >= shown.hi, 1, np.where(shown.map < shown.lo, 0, IGNORE))
    np.testing.assert_array_equal(shown.label, expected)
    quarter = view.look(source, atlas, replace(one, cut=Cut(Rule("quantile", 0.25), 0.02, 1.0)))
    assert quarter.scores["label area"] == pytest.approx(0.25, abs=1 / SIDE**2)
    assert quarter.scores["ignored area"] == 0


def test_one_classifiers_map_is_its_own(source: sources.Source, atlas: maps.Atlas) -> None:
    one = choice(source, "judged", 0)
    shown = [view.look(source, atlas, replace(one, classifier=n)).map for n in ("a", "b")]
    both = view.look(source, atlas, one).map
    assert shown[0] is not None
    assert shown[1] is not None
    assert not np.array_equal(shown[0], shown[1])
    assert both is not None
    assert not np.array_equal(both, shown[0])
    assert view.names_of(source) == [CONSENSUS, "a", "b"]


def test_scores_need_a_truth(source: sources.Source, atlas: maps.Atlas) -> None:
    judged = {"IoU at matched area", "IoU by chance", "IoU of the label"}
    with_mask = view.look(source, atlas, choice(source, "labelled", 0))
    assert judged <= set(with_mask.scores)
    assert with_mask.notes == ()
    without = view.look(source, atlas, choice(source, "labelled", 1, "Fracture"))
    assert without.truth is None
    assert without.label is not None
    assert not judged & set(without.scores)
    assert without.notes == ("no mask of the finding: nothing to judge by",)


def test_a_film_without_the_finding_has_no_label(source: sources.Source, atlas: maps.Atlas) -> None:
    shown = view.look(source, atlas, choice(source, "labelled", 0, "Edema"))
    assert shown.label is None
    assert shown.map is None
    assert np.isnan(shown.hi)
    assert shown.scores == {}
    assert "does not have the finding" in shown.notes[0]
    assert len(draw.png(shown)) > 1000


def test_unsettled_maps_give_no_label(source: sources.Source, atlas: maps.Atlas) -> None:
    strict = replace(source, explain=replace(source.explain, unsettled="ignore"))
    key = ("labelled", "ig")
    made = atlas[key].made._replace(settled=np.zeros_like(atlas[key].made.settled))
    shown = view.look(strict, {key: replace(atlas[key], made=made)}, choice(strict, "labelled", 0))
    assert shown.label is not None
    assert (shown.label == IGNORE).all()
    assert "has not settled" in shown.notes[0]


def test_dice_of_arms(source: sources.Source, atlas: maps.Atlas) -> None:
    shown = [view.look(source, atlas, choice(source, "pspnet-lungs", at)) for at in range(4)]
    # Film 1: 64 of 128 pixels of the lung are missing, the heart is whole.
    dice = [s.scores["Dice doll"] for s in shown]
    assert dice[:2] == pytest.approx([1.0, (2 / 3 + 1) / 2])
    assert np.isnan(dice[3])
    assert [s.scores["Dice random"] for s in shown[:3]] == [0, 0, 0]


def test_orders(source: sources.Source, atlas: maps.Atlas) -> None:
    like = choice(source, "judged", 0)
    best = view.order(source, atlas, like, "best")
    score = [
        view.look(source, atlas, replace(like, at=at)).scores["IoU at matched area"] for at in best
    ]
    assert score == sorted(score, reverse=True)
    assert view.order(source, atlas, like, "worst") != best
    assert view.order(source, atlas, like, "stored") == sorted(best)
    everything = view.order(source, atlas, replace(like, finding="Fracture"), "best", only=False)
    assert sorted(everything) == list(range(len(source.sets["judged"])))
    task = choice(source, "pspnet-lungs", 0)
    # Films with the finding alone; without a mask of it, by what the arms drew; unknown last.
    assert view.order(source, atlas, task, "best") == [0, 1]
    assert view.order(source, atlas, task, "best", only=False) == [0, 1, 2, 3]
    assert view.order(source, atlas, task, "worst", only=False) == [2, 1, 0, 3]


def test_disagreement_comes_first(source: sources.Source, atlas: maps.Atlas) -> None:
    key = ("judged", "ig")
    pairs = atlas[key].pairs_of("Lung Lesion")
    changed = atlas[key].made.maps.copy()
    changed[1, pairs] = changed[0, pairs]
    changed[1, pairs[1]] = np.rot90(changed[0, pairs[1]], 2)
    alike = {**atlas, key: replace(atlas[key], made=atlas[key].made._replace(maps=changed))}
    first = view.order(source, alike, choice(source, "judged", 0), "classifiers")[0]
    assert first == atlas[key].film[pairs[1]]
    # Where doll drew nothing, both arms agree; on film 3 nobody drew anything: no score.
    task = choice(source, "pspnet-lungs", 0)
    assert view.order(source, atlas, task, "arms", only=False)[-1] == 3


def test_pictures(source: sources.Source, atlas: maps.Atlas) -> None:
    plain = view.look(source, atlas, choice(source, "judged", 0))
    task = view.look(source, atlas, choice(source, "pspnet-lungs", 0))
    for shown in (plain, task):
        sheet = layout.arrange(shown)
        image = Image.open(io.BytesIO(draw.png(shown)))
        assert image.size == (sheet.width, sheet.height)
        assert draw.png(shown) == draw.png(shown) != draw.png(shown, dark=True)
        assert Image.open(io.BytesIO(draw.png(shown, scale=2))).width == 2 * sheet.width
        inside = [s for s in sheet.shapes if isinstance(s, layout.Picture | layout.Box)]
        assert max(s.x + s.width for s in inside) <= sheet.width
        assert max(s.y + s.height for s in inside) <= sheet.height
        root = ET.fromstring(draw.svg(shown))
        assert root.tag.endswith("svg")
        assert draw.svg(shown) == draw.svg(shown)
    words = {s.text for s in layout.arrange(task).shapes if isinstance(s, layout.Text)}
    assert {"DoLL", "random", "lung", "heart", "Dice 1.00", "truth of the task"} <= words


def test_colours_of_the_picture_tell_the_label(source: sources.Source, atlas: maps.Atlas) -> None:
    shown = view.look(source, atlas, choice(source, "judged", 0))
    panels = {p.title: p for p in layout.explained(shown)}
    label = panels["label: Lung Lesion"].rgb
    film = panels[f"film ({SIDE} x {SIDE} px)"].rgb
    assert shown.label is not None
    assert label is not None
    assert film is not None
    np.testing.assert_array_equal((label == film).all(-1), shown.label == 0)
    red, blue = label[..., 0] - film[..., 0], label[..., 2] - film[..., 2]
    assert (red[shown.label == 1] > blue[shown.label == 1]).all()
    assert (red[shown.label == IGNORE] < blue[shown.label == IGNORE]).all()


def test_every_control_changes_the_picture(explorer: Explorer) -> None:
    explorer.pick_finding.value = "Lung Lesion"
    for widget, value in (
        (explorer.pick_film, 2),
        (explorer.pick_explainer, "gradient"),
        (explorer.pick_classifier, "b"),
        (explorer.smooth, 0.07),
        (explorer.ignore, 0.2),
        (explorer.pick_finding, "Fracture"),
        (explorer.pick_set, "pspnet-lungs"),
        (explorer.dark, True),
    ):
        before = explorer.png()
        widget.value = value
        assert explorer.png() != before, widget.description
    assert explorer.shown.choice.explainer == "gradient"
    assert explorer.shown.choice.classifier == "b"


def test_sliders_move_both_thresholds(explorer: Explorer) -> None:
    explorer.rule.value = "peak"
    explorer.hi.value, explorer.ignore.value = 0.8, 0.5
    few, scores = explorer.shown, explorer.scores.value
    explorer.hi.value = 0.3
    many = explorer.shown
    assert few.hi == pytest.approx(0.8)
    assert few.lo == pytest.approx(0.4)
    assert many.scores["label area"] > few.scores["label area"]
    assert explorer.scores.value != scores
    explorer.ignore.value = 1.0
    assert explorer.shown.scores["ignored area"] == 0


def test_another_rule_begins_at_the_same_label(explorer: Explorer) -> None:
    otsu = explorer.shown
    assert explorer.hi.disabled
    explorer.rule.value = "peak"
    assert not explorer.hi.disabled
    # No more than the slider's steps can tell.
    assert explorer.shown.hi == pytest.approx(otsu.hi, abs=explorer.hi.step / 2 + 1e-6)
    explorer.rule.value = "quantile"
    area = explorer.shown.scores["label area"]
    assert area == pytest.approx(otsu.scores["label area"], abs=0.01)


def test_reset_is_the_run_again(explorer: Explorer) -> None:
    before, status = explorer.png(), explorer.status.value
    explorer.rule.value = "peak"
    explorer.ignore.value = 0.9
    assert explorer.png() != before
    assert "changed: " in explorer.status.value
    explorer.reset.click()
    assert explorer.png() == before
    assert explorer.status.value == status
    assert explorer.corrected == {}


def test_a_value_between_two_steps_stays_as_it_is(
    source: sources.Source, atlas: maps.Atlas
) -> None:
    """A page sends the nearest step back for a value that it cannot show."""
    own = Distil(threshold="peak", level=0.303, smooth=0.012, ignore=0.63)
    explorer = Explorer(replace(source, distil=own), atlas)
    before = explorer.png()
    explorer.hi.value, explorer.smooth.value = 0.3025 + 2e-16, 0.01
    explorer.ignore.value = 0.65
    assert explorer.corrected == {}
    assert explorer.png() == before
    explorer.hi.value = 0.305
    cut = explorer.corrected[explorer.finding]
    assert cut == Cut(Rule("peak", 0.305), 0.012, 0.63)
    assert explorer.png() != before


def test_a_finding_keeps_its_cut(explorer: Explorer) -> None:
    first, other = "Lung Lesion", "Fracture"
    explorer.pick_set.value = "labelled"
    explorer.pick_finding.value = first
    explorer.smooth.value = 0.05
    explorer.pick_finding.value = other
    assert explorer.smooth.value == explorer.source.distil.smooth
    assert other not in explorer.corrected
    explorer.ignore.value = 0.3  # one for all findings
    assert explorer.corrected[first] == Cut(Rule("otsu"), 0.05, 0.3)
    explorer.reset.click()
    assert explorer.shown.lo == pytest.approx(0.3 * explorer.shown.hi)
    explorer.pick_finding.value = first
    assert explorer.smooth.value == 0.05
    assert explorer.shown.choice.cut == Cut(Rule("otsu"), 0.05, 0.3)


def test_steps_go_round_and_tell_where_one_is(explorer: Explorer) -> None:
    explorer.only.value = False
    n = len(explorer.places)
    assert n == 4
    assert explorer.status.value.startswith("film 1 of 4")
    explorer.previous.click()
    assert explorer.status.value.startswith("film 4 of 4")
    explorer.next.click()
    assert explorer.pick_film.value == 1
    seen = set()
    for _ in range(n):
        seen.add(explorer.shown.image_id)
        explorer.next.click()
    assert len(seen) == n


def test_sorting_starts_at_the_first_film_and_a_classifier_keeps_the_film(
    explorer: Explorer,
) -> None:
    explorer.only.value = False
    explorer.next.click()
    film = explorer.shown.image_id
    explorer.sort.value = "best"
    assert explorer.pick_film.value == 1
    for at in range(1, 5):
        explorer.pick_film.value = at
        if explorer.shown.image_id == film:
            break
    explorer.pick_classifier.value = "b"
    explorer.pick_explainer.value = "gradient"
    assert explorer.shown.image_id == film


def test_a_set_without_the_finding_shows_all_its_films(explorer: Explorer) -> None:
    explorer.pick_finding.value = "Edema"
    assert len(explorer.places) == len(explorer.source.sets["judged"])
    assert "0 of 4 judged test films have Edema" in explorer.status.value
    assert explorer.shown.label is None
    before = explorer.png()
    explorer.rule.value = "peak"  # nothing to cut, and nothing breaks
    assert explorer.png() != before  # the heading tells the rule


def test_every_control_has_a_class_in_the_page(explorer: Explorer) -> None:
    found: list[str] = []

    def collect(widget: object) -> None:
        found.extend(getattr(widget, "_dom_classes", ()))
        for child in getattr(widget, "children", ()):
            collect(child)

    collect(explorer.box)
    assert len(found) == len(set(found))
    text = widgets.Controls.__module__
    assert text == "dollkit.interactive.explorer.controls"
    documented = __import__(text, fromlist=["x"]).__doc__
    assert [name for name in found if name.removeprefix("dollkit") not in documented] == []
    assert {"dollkit-view", "dollkit-film", "dollkit-finding", "dollkit-set"} <= set(found)


def test_one_classifier_needs_no_consensus(tmp_path: Path) -> None:
    explorer_run.films(tmp_path / "films")
    folders = explorer_run.models(tmp_path / "models", "a")
    out = tmp_path / "labels"
    make.make(tmp_path / "films", [tmp_path / "models"], out, how=HOW)
    source = sources.open_labels(out, list(folders.values()), 20, films=tmp_path / "films")
    shown = Explorer(source, maps.prepare(source, ["ig"]))
    assert dict(shown.pick_classifier.options) == {"a": "a"}
    shown.sort.value = "classifiers"
    assert shown.places == sorted(shown.places)
    assert shown.corrected == {}
    stored = labels.open(out)
    for at, name in enumerate(source.sets["labelled"].image_ids):
        for finding, label in stored.for_image(name).items():
            one = replace(choice(source, "labelled", at, finding), classifier="a")
            np.testing.assert_array_equal(view.look(source, shown.atlas, one).label, label)


def test_a_label_set_wants_its_own_classifiers(tmp_path: Path) -> None:
    explorer_run.films(tmp_path / "films")
    explorer_run.models(tmp_path / "models", "ab")
    out = tmp_path / "labels"
    make.make(tmp_path / "films", [tmp_path / "models"], out, how=HOW, limit=2)
    with pytest.raises(InputError, match="made by a classifier 'b' that is not among those given"):
        sources.open_labels(out, [tmp_path / "models" / "a"], 5, films=tmp_path / "films")
    other = explorer_run.models(tmp_path / "other", "xab")  # other seeds
    with pytest.raises(InputError, match="made by a classifier 'a'"):
        sources.open_labels(out, [other["a"], other["b"]], 5, films=tmp_path / "films")
    with pytest.raises(InputError, match="no store here"):
        sources.open_labels(out, [tmp_path / "models"], 5)


def test_the_picture_is_written(explorer: Explorer) -> None:
    explorer.save_picture.click()
    folder = explorer.source.folder / "pictures"
    assert sorted(f.suffix for f in folder.iterdir()) == [".png", ".svg"]
    assert folder.name in explorer.message.value
    png = next(folder.glob("*.png"))
    assert png.read_bytes() == draw.png(explorer.shown, scale=3)
    explorer.pick_classifier.value = "a"
    explorer.save_picture.click()
    assert len(list(folder.iterdir())) == 4


def test_thresholds_reach_the_labels_stage(
    explorer: Explorer, profiles: Path, tmp_path: Path
) -> None:
    explorer.pick_set.value = "labelled"
    explorer.pick_finding.value = "Lung Lesion"
    explorer.rule.value = "quantile"
    explorer.hi.value, explorer.smooth.value, explorer.ignore.value = 0.12, 0.03, 0.5
    explorer.name.value = "mine"
    explorer.save_thresholds.click()
    assert "make reproduce PROFILE=mine" in explorer.message.value
    content, before = parameters.read_profile("mine"), parameters.read_profile(PROFILE)
    assert content.pop("labels").keys() == {"threshold", "ignore"}
    assert content == before
    planned = {i.name: i for i in stages.plan("mine")}
    given = planned["labels"].parameters
    # No stage depends on the explorer: a change of it makes no run stale.
    assert [f for i in planned.values() for f in i.files if "explorer" in f.parts] == []
    # As notebook 03 does.
    cut = threshold_rules.settings(str(given["threshold"]))
    own = Distil(ignore=float(str(given["ignore"])), **cut)  # type: ignore[arg-type]
    assert own.rule("Lung Lesion") == Rule("quantile", 0.12)
    assert own.sigma("Lung Lesion") == 0.03
    assert cut_of(own, "Fracture") == replace(
        cut_of(explorer.source.distil, "Fracture"), ignore=0.5
    )
    store = open_store(paths.runs() / PROFILE / "data" / "films")
    nets = load_classifiers(explorer.source.classifiers, torch.device("cpu"))
    rows = np.array([0])
    made = make_labels(nets, store, rows, HOW, own, tmp_path / "out", dict.fromkeys(nets, ""))
    assert explorer.shown.image_id == "film00"
    np.testing.assert_array_equal(made.label(0), explorer.shown.label)


def test_other_thresholds_are_another_parameter(explorer: Explorer, profiles: Path) -> None:
    explorer.name.value = "mine"
    named = []
    for value in (0.3, 0.4, 0.3):
        explorer.smooth.value = value / 10
        explorer.save_thresholds.click()
        named.append(parameters.read_profile("mine")["labels"]["threshold"])
    assert named[0] == named[2] != named[1]
    assert len(list(profiles.glob("mine-*.csv"))) == 2


def test_tuned_rules_of_the_run_are_kept(source: sources.Source) -> None:
    tuned = replace(source, distil=Distil(threshold="tuned"))
    cut = Cut(Rule("peak", 0.2), 0.01, 0.6)
    table = saving.rules_table(tuned, {"Edema": cut}).set_index("finding")
    assert len(table) == len(threshold_rules.read(threshold_rules.PHANTOM)["thresholds"])
    assert table.loc["Edema"].tolist() == ["peak 0.2", "0.01"]
    kept = table.drop("Edema")
    expected = [str(tuned.distil.rule(f)) for f in kept.index]
    assert kept["rule"].tolist() == expected


def test_thresholds_of_a_label_set_are_a_file_for_the_command(source: sources.Source) -> None:
    own = replace(source, profile=None)
    saved = saving.save_thresholds(own, {"Edema": Cut(Rule("peak", 0.2), 0.01, 0.7)}, "mine")
    assert saved.profile is None
    given = saved.command.split("--distil ")[1].split()
    made = make.settings(Distil, given, "--distil")
    assert cut_of(made, "Edema") == Cut(Rule("peak", 0.2), 0.01, 0.7)


@pytest.mark.parametrize(
    ("name", "cuts", "message"),
    [
        ("mine", {}, "no threshold was changed"),
        ("../mine", {"Edema": Cut(Rule("otsu"), 0.02, 0.6)}, "use letters, digits"),
        ("laptop", {"Edema": Cut(Rule("otsu"), 0.02, 0.6)}, "not written by the explorer"),
        (
            "mine",
            {"Edema": Cut(Rule("otsu"), 0.02, 0.6), "Fracture": Cut(Rule("otsu"), 0.02, 0.5)},
            r"several values \(0.5, 0.6\)",
        ),
    ],
)
def test_what_cannot_be_written_is_one_line(
    source: sources.Source, profiles: Path, name: str, cuts: dict[str, Cut], message: str
) -> None:
    before = sorted(f.name for f in profiles.iterdir())
    with pytest.raises(InputError, match=message):
        saving.save_thresholds(source, cuts, name)
    assert sorted(f.name for f in profiles.iterdir()) == before


def test_the_message_says_why_not(explorer: Explorer, profiles: Path) -> None:
    explorer.save_thresholds.click()
    assert "no threshold was changed" in explorer.message.value
    explorer.smooth.value = 0.05
    explorer.name.value = "<b>"
    explorer.save_thresholds.click()
    assert "&lt;b&gt;" in explorer.message.value


def test_the_command_prepares_and_measures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["--films", "2", "--explainers", "gradient", "--folder", str(tmp_path / "kept")]
    assert command([*given, "--repeats", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["films", "change", "median_ms", "worst_ms", "cpu_ms", "n"]
    assert any(line.split()[:2] == ["judged", "smooth"] for line in out)
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 3
    assert command(["--profile", "nothing"]) == 2
    assert "make reproduce PROFILE=nothing" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(source: sources.Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        maps.prepare(replace(source, folder=tmp_path / "file" / "inner"), ["ig"])
    assert os.listdir(tmp_path / "explorer")  # noqa: PTH208
