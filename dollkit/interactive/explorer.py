"""Look at a finished run film by film (notebook 10): map, label and truth under moving thresholds.

The run is only read: a film is explained when it is first looked at, and then a threshold moves
without any network.
"""

from __future__ import annotations

import functools
import html
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from dollkit.common import compute, paths
from dollkit.common.errors import InputError, near
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.data.images import IGNORE, U8
from dollkit.data.store import Store, open_store
from dollkit.explanations import ensemble
from dollkit.explanations.ensemble import EXPLAINERS, Explained, ExplainerSettings
from dollkit.labels import judge, make
from dollkit.labels.maps_to_labels import LabelSettings, Rule, maps_to_labels
from dollkit.report import rows, style
from dollkit.training import metrics, shortcuts
from dollkit.training.classifiers import Classifier, load_classifiers
from dollkit.workflow.stage import MANIFEST, check_artefact, read_manifest

NOTEBOOK = "10_explorer.ipynb"
CONSENSUS = "consensus"
COMPARED = ("imagenet", "classifier", "doll")
"""Initialisations side by side, before all others; films are ordered by how these disagree."""
_LINKED = ("films", "finding", "order", "explainer", "classifier", "smooth", "rule", "hi", "ignore")
_RULES = {"Otsu": "otsu", "share of the maximum": "peak", "share of the pixels": "quantile"}


@dataclass(frozen=True)
class FilmSet:
    """Some films with all that a run knows of them."""

    title: str
    image_ids: tuple[str, ...]
    images: U8
    states: npt.NDArray[np.int8]
    truth: U8  # (n, 13, S, S) in {0, 1, 255 = unknown} of the findings that have a place
    drawn: Mapping[str, U8]  # initialisation -> (n, C, S, S) of its network
    task: U8 | None = None  # (n, C, S, S) true masks of the task

    def targets(self) -> list[list[int]]:
        """Positive findings of each film that have a place: what is explained."""
        return [[t for t in film if t > 0] for film in ensemble.positives(self.states)]

    def pairs(self) -> list[tuple[int, str]]:
        """Film and finding of each of `targets`."""
        return [(i, FINDINGS[t]) for i, film in enumerate(self.targets()) for t in film]

    def with_finding(self, finding: str) -> npt.NDArray[np.int64]:
        """Places of the films that have the finding."""
        return np.flatnonzero(self.states[:, FINDINGS.index(finding)] == POSITIVE)

    def truth_of(self, at: int, finding: str) -> U8 | None:
        """(S, S) uint8 in {0, 1}; None if the film has no mask of the finding."""
        mask = self.truth[at, PATHOLOGIES.index(finding)]
        return None if (mask == IGNORE).all() else np.asarray(mask == 1, np.uint8)


@dataclass(frozen=True)
class Run:
    """Film sets by name, the classifiers that explain them, and the settings that labels had."""

    name: str
    sets: Mapping[str, FilmSet]
    classifiers: Mapping[str, Path]
    explain: ExplainerSettings
    label_settings: LabelSettings
    shortcuts: tuple[str, ...]  # findings that may be told without the chest
    _explained: dict[tuple[str, str], Explained] = field(default_factory=dict, init=False)

    @functools.cached_property
    def _models(self) -> dict[str, Classifier]:
        return load_classifiers(self.classifiers, compute.device())

    def explained(self, films: str, explainer: str) -> Explained:
        """Maps of all pairs of a film set, by all classifiers; computed when first asked for."""
        key, targets = (films, explainer), self.sets[films].targets()
        if key not in self._explained:
            x = compute.to_input(self.sets[films].images, compute.device())
            settings = replace(self.explain, explainer=explainer)
            self._explained[key] = ensemble.explain_all(self._models, x, targets, settings)
        return self._explained[key]


def open_run(profile: str, n_films: int) -> Run:
    """A finished run; "": the one whose labels were made last.

    Its film sets, of at most `n_films`, are ``judged`` (labels were judged on them), ``labelled``
    (networks were pre-trained on them), and one per fine-tuning task, named as its folder.
    """
    if n_films < 1:
        raise InputError(f"parameter 'n_films' is {n_films}: use 1 or more")
    if not profile:
        manifests = [
            m for m in paths.runs().glob(f"*/labels/{MANIFEST}")
            if (m.parent.parent / "data" / MANIFEST).is_file()
        ]  # fmt: skip
        if not manifests:
            raise InputError(f"{paths.runs()}: no run here has labels: `make reproduce` makes one")
        profile = max(manifests, key=lambda m: m.stat().st_mtime_ns).parent.parent.name
    run = paths.runs() / profile
    for instance in ("data", "labels"):
        check_artefact(instance, profile, needed_by="10_explorer")
    made_by = run / "labels" / "store" / "labels.json"
    try:
        stored = json.loads(made_by.read_text(encoding="utf-8"))
        folders = {name: run / "classifiers" / name for name in stored["classifiers"]}
        explain = ExplainerSettings(**stored["explain"])
        label_settings = LabelSettings(**stored["distil"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{made_by}: cannot be read ({error}); run its stage again") from None
    for name in folders:
        check_artefact(f"classifiers/{name}", profile, needed_by="10_explorer")
    params = (read_manifest(run / "labels") or {})["parameters"]
    store = open_store(run / "data" / "films")
    judged = judge.judged_rows(store, params["judge_split"], params["n_judge"])
    labelled = make.rows_to_label(store, params["n_label"], params["n_hold"])
    sets = {
        "judged": _films("judged test films", store, judged[:n_films], {}),
        "labelled": _films("labelled training films", store, labelled[:n_films], {}),
    }
    for path in sorted((run / "finetune").glob("*/examples.npz")):
        if read_manifest(path.parent) is not None:
            sets[path.parent.name] = _task_films(path, run / "data", n_films)
    sets = {name: films for name, films in sets.items() if len(films.images)}
    judged_by = [pd.read_csv(folder / "metrics.csv") for folder in folders.values()]
    hard = pd.read_csv(run / "data" / "difficulty.csv")
    doubtful = tuple(shortcuts.flagged(hard, pd.concat(judged_by)))
    return Run(profile, sets, folders, explain, label_settings, doubtful)


def _films(
    title: str, store: Store, rows: npt.NDArray[np.int64], drawn: Mapping[str, U8]
) -> FilmSet:
    truth = np.full((len(rows), len(PATHOLOGIES), store.size, store.size), IGNORE, np.uint8)
    masked = [finding for finding in PATHOLOGIES if finding in store.mask_classes]
    truth[:, [PATHOLOGIES.index(finding) for finding in masked]] = store.targets(rows, masked)
    names = tuple(str(name) for name in store.films["image_id"].to_numpy()[rows])
    return FilmSet(title, names, np.asarray(store.images[rows]), store.states[rows], truth, drawn)


def _task_films(path: Path, data: Path, n_films: int) -> FilmSet:
    """Test films kept with their predictions, and what the task's store knows of their findings."""
    kept = rows.load_examples(path, rows.TASK_ARRAYS)
    name, store = path.parent.name, open_store(data / str(kept["task"]))
    row_of = {str(image_id): i for i, image_id in enumerate(store.films["image_id"])}
    ids = [str(image_id) for image_id in kept["image_id"][:n_films]]
    if missing := [image_id for image_id in ids if image_id not in row_of]:
        raise InputError(f"{path}: film {missing[0]!r} is not in {store.path}: run its stage again")
    arms = zip(map(str, kept["arms"]), kept["prediction"], strict=True)
    drawn = {arm: masks[:n_films] for arm, masks in arms}
    drawn = {arm: drawn[arm] for arm in dict.fromkeys((*COMPARED, *drawn)) if arm in drawn}
    title = f"test films of {name.replace('-', ' ')}"
    films = _films(title, store, np.array([row_of[i] for i in ids]), drawn)
    return replace(films, task=kept["truth"][:n_films])


def cut_of(settings: LabelSettings, finding: str, **changed: Any) -> LabelSettings:
    """The settings of one finding; `changed` are its `rule`, `smooth` and `ignore`, if others."""
    rule, smooth = settings.rule(finding), settings.sigma(finding)
    cut: dict[str, Any] = {"rule": rule, "smooth": smooth, "ignore": settings.ignore} | changed
    own: dict[str, Any] = {"thresholds": {finding: str(cut["rule"])}}
    own["smooths"] = {finding: cut["smooth"]}
    return replace(settings, threshold="tuned", ignore=cut["ignore"], **own)


@dataclass(frozen=True)
class View:
    """What is shown of one film: map and label are None if it does not have the finding, truth if
    it has no mask of it; scores that are not defined are NaN."""

    image_id: str
    image: U8
    map: npt.NDArray[np.float32] | None
    label: U8 | None
    threshold: float
    truth: U8 | None
    task: U8 | None
    drawn: Mapping[str, U8]
    scores: Mapping[str, float]


def look(
    run: Run, films: str, at: int, finding: str, explainer: str, classifier: str, cut: LabelSettings
) -> View:
    """Map, label and scores of a film, made as the labels stage makes them."""
    film_set = run.sets[films]
    truth, pairs = film_set.truth_of(at, finding), film_set.pairs()
    drawn = {arm: masks[at] for arm, masks in film_set.drawn.items()}
    scores: dict[str, float] = {}
    the_map, label, threshold = None, None, np.nan
    if (at, finding) in pairs:
        use = [list(run.classifiers).index(classifier)] if classifier != CONSENSUS else slice(None)
        parts = run.explained(films, explainer)
        film = Explained._make(part[use][:, [pairs.index((at, finding))]] for part in parts)
        image = film_set.images[[at]]
        maps, labels, levels = maps_to_labels(film.maps, film.probability, cut, [finding], image)
        if run.explain.unsettled == "ignore":
            labels[~ensemble.pair_settled(film, cut.trust)] = IGNORE
        the_map, label, threshold = maps[0], labels[0], float(levels[0])
        scores["label area"] = float((label == 1).mean())
        scores["ignored area"] = float((label == IGNORE).mean())
        if truth is not None:
            label_iou = metrics.iou_of_masks((labels == 1).astype(np.uint8), truth[None])
            scores["IoU of the label"] = float(label_iou[0])
            scores["IoU at matched area"] = float(metrics.iou_matched(maps, truth[None])[0])
            scores["IoU by chance"] = float(metrics.iou_chance(truth[None])[0])
    task = None if film_set.task is None else film_set.task[at]
    if task is not None:
        for arm, prediction in drawn.items():
            values = metrics.iou_of_masks(prediction, task)
            known = values[np.isfinite(values)]  # of the classes that either draws
            scores[f"IoU {arm}"] = float(known.mean()) if len(known) else np.nan
    names = film_set.image_ids[at], film_set.images[at]
    return View(*names, the_map, label, threshold, truth, task, drawn, scores)


def disagreement(
    run: Run, films: str, at: int, finding: str, explainer: str, cut: LabelSettings
) -> float:
    """One minus the mean IoU of every two masks of the film: by the networks of `COMPARED`, or in
    a set without predictions by the labels that each classifier alone would give."""
    drawn = run.sets[films].drawn
    masks = [drawn[arm][at] for arm in COMPARED if arm in drawn]
    if not drawn:
        views = [look(run, films, at, finding, explainer, name, cut) for name in run.classifiers]
        masks = [(v.label == 1).astype(np.uint8) for v in views if v.label is not None]
    both = [((a & b).sum(), (a | b).sum()) for a, b in itertools.combinations(masks, 2)]
    return float(np.mean([1 - overlap / union if union else 0 for overlap, union in both] or [0]))


Outlines = Sequence[tuple[U8, str]]


def picture(view: View, finding: str) -> bytes:
    """The view as PNG: film, map, label, truth; below them what each network drew."""
    truth: Outlines = [] if view.truth is None else [(view.truth, style.GREEN)]
    panels: list[tuple[str, Outlines]] = [
        (view.image_id, []),
        ("map" if view.map is not None else "map: not explained", []),
        (f"label: {finding}", truth),
        ("truth" if truth else "truth: unknown", truth),
    ]
    shown = {"truth of the task": view.task} if view.task is not None else {}
    for arm, masks in view.drawn.items():
        name, value = style.ARM_LOOKS[arm].label, view.scores[f"IoU {arm}"]
        shown[name if np.isnan(value) else f"{name}: IoU {value:.2f}"] = masks
    for title, masks in shown.items():
        panels.append((title, list(zip(masks, style.CLASS_COLORS, strict=False))))
    rows = -(-len(panels) // 4)
    with style.context():
        figure = Figure(figsize=(8, 2.25 * rows), dpi=96)
        for i, (title, outlines) in enumerate(panels):
            place = (i % 4 + 0.01) / 4, 1 - (i // 4 + 0.99) / rows, 0.98 / 4, 0.88 / rows
            axis = figure.add_axes(place)
            axis.set_axis_off()
            axis.set_title(title, fontsize=7)
            axis.imshow(view.image, cmap="gray", vmin=0, vmax=255)
            if i == 1 and view.map is not None:
                alpha = np.clip(1.2 * view.map, 0, 0.85)[..., None]
                colour = mpl.colormaps["magma"](view.map)[..., :3]
                axis.imshow(alpha * colour + (1 - alpha) * view.image[..., None] / 255)
            if i == 2 and view.label is not None:
                style.film(axis, view.image, label=view.label)
            for mask, line in outlines:
                if 0 < mask.mean() < 1:
                    axis.contour(mask, [0.5], colors=[line], linewidths=1.2)
            iou = view.scores.get("IoU of the label", np.nan)
            if i == 2 and not np.isnan(iou):
                box: Any = {"va": "top", "fontsize": 8, "color": "w", "backgroundcolor": "k"}
                axis.text(2, 2, f"IoU {iou:.2f}", **box)
        out = io.BytesIO()  # of little compression: a slider waits for it
        figure.savefig(out, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
    return out.getvalue()


def _slider(text: str, high: float, tooltip: str) -> Any:
    return ipywidgets.FloatSlider(
        0, min=0, max=high, step=0.0025, description=text, readout_format=".4f", tooltip=tooltip
    )


class Explorer:
    """Widgets around `look` and `picture`; show `box`.

    From Python set a widget's ``value``, or ``click()`` a button. In the page each widget has the
    class ``dollkit-<name of its attribute>``. `shown` is the view on the screen, `places` are the
    films of the set in the order that they are shown.
    """

    def __init__(self, run: Run, explainers: Sequence[str] = ("ig",)) -> None:
        if unknown := [name for name in explainers or [""] if name not in EXPLAINERS]:
            known = ", ".join(EXPLAINERS)
            raise InputError(f"parameter 'explainers' names {unknown[0]!r}: use some of {known}")
        self.run = run
        self.places: list[int] = []
        self.shown: View
        many = [CONSENSUS] if len(run.classifiers) > 1 else []
        sets = [(f"{s.title} ({len(s.images)})", name) for name, s in run.sets.items()]
        self.films = ipywidgets.Dropdown(options=sets, description="films")
        self.finding = ipywidgets.Dropdown(description="finding")
        self.order = ipywidgets.Dropdown(options=["as stored", "disagreement"], description="order")
        self.film = ipywidgets.IntSlider(1, min=1, max=1, description="film")
        self.explainer = ipywidgets.Dropdown(options=list(explainers), description="explainer")
        names = [*many, *run.classifiers]
        self.classifier = ipywidgets.Dropdown(options=names, description="map of")
        self.smooth = _slider("smooth", 0.1, "Gaussian sigma as a share of the side of the film")
        self.rule = ipywidgets.Dropdown(options=list(_RULES.items()), description="hi by")
        self.hi = _slider("hi", 0.9975, "finding where the map is at least hi")
        self.ignore = _slider("ignore", 1, "background where the map is below lo = ignore x hi")
        self.reset = ipywidgets.Button(description="as the run", icon="undo")
        self.view = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.scores, self.link = ipywidgets.HTML(), ipywidgets.HTML()
        lines = []
        for row in ("films finding order film explainer classifier", "smooth rule hi ignore reset",
                    "view", "scores", "link"):  # fmt: skip
            widgets = [getattr(self, name).add_class(f"dollkit-{name}") for name in row.split()]
            lines.append(ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap")))
        self.box = ipywidgets.VBox(lines).add_class("dollkit-explorer")
        self._still = False  # while one event sets other widgets, they raise none
        for widget in self.box.children[0].children + self.box.children[1].children:
            widget.observe(lambda change: self._react(change["owner"]), names="value")
        self.reset.on_click(self._react)
        self._react(self.films)

    def _react(self, moved: Any) -> None:
        enter = {self.films: self._enter_set, self.finding: self._enter_finding}
        enter[self.order] = self._enter_finding
        if not self._still:
            self._still = True
            try:
                enter.get(moved, self._reset if moved is self.reset else self._show)()
            finally:
                self._still = False

    @property
    def cut(self) -> LabelSettings:
        """The cut that the sliders say; the run's own values where they are untouched."""
        settings, finding, rule = self.run.label_settings, self.finding.value, self.rule.value
        theirs = settings.rule(finding)
        value = _read(self.hi, theirs.value if theirs.kind == rule else np.nan)
        return cut_of(
            settings, finding, rule=Rule(rule, 0.0 if rule == "otsu" else value),
            smooth=_read(self.smooth, settings.sigma(finding)),
            ignore=_read(self.ignore, settings.ignore),
        )  # fmt: skip

    def _enter_set(self) -> None:
        films = self.run.sets[self.films.value]
        count = {f: len(films.with_finding(f)) for f in PATHOLOGIES}
        best = self.finding.value
        if not count.get(best):
            best = max(count, key=count.__getitem__)
        doubt = dict.fromkeys(self.run.shortcuts, ", possibly a shortcut")
        self.finding.options = [(f"{f} ({n}{doubt.get(f, '')})", f) for f, n in count.items()]
        self.finding.value = best
        self._enter_finding()

    def _enter_finding(self) -> None:
        films = self.run.sets[self.films.value]
        places = films.with_finding(self.finding.value)
        self.places = [int(i) for i in (places if len(places) else range(len(films.images)))]
        if self.order.value == "disagreement":
            picked = self.finding.value, self.explainer.value, self.run.label_settings
            self.places.sort(key=lambda i: -disagreement(self.run, self.films.value, i, *picked))
        self.film.max, self.film.value = len(self.places), 1
        self._reset()

    def _reset(self) -> None:
        settings, finding = self.run.label_settings, self.finding.value
        rule, smooth = settings.rule(finding), settings.sigma(finding)
        self.smooth.max = max(0.1, smooth)
        self.smooth.value, self.ignore.value = smooth, settings.ignore
        self.rule.value, self.hi.value = rule.kind, rule.value or 0.5
        self._show()

    def _show(self) -> None:
        self.hi.disabled = self.rule.value == "otsu"
        picked = (self.finding.value, self.explainer.value, self.classifier.value, self.cut)
        self.shown = look(self.run, self.films.value, self.places[self.film.value - 1], *picked)
        self.view.value = picture(self.shown, self.finding.value)
        threshold = self.shown.threshold
        shown = [f"hi {threshold:.2f}", f"lo {self.ignore.value * threshold:.2f}"]
        shown += [f"{name} {value:.3f}" for name, value in self.shown.scores.items()]
        if picked[0] in self.run.shortcuts:
            shown.append(f"{picked[0]} is possibly a shortcut: see notebook 01")
        self.scores.value = html.escape("; ".join(shown))
        values = {name: getattr(self, name).value for name in _LINKED} | {
            "film": self.shown.image_id
        }
        code = ", ".join(f"{name}={value!r}" for name, value in values.items())
        self.link.value = f"<code>explorer.show({html.escape(code)})  # run {self.run.name}</code>"

    def show(self, film: str, **values: Any) -> None:
        """Show the film of this name with these values of widgets, as `link` prints them."""
        for name in (name for name in _LINKED if name in values):
            getattr(self, name).value = values[name]
        names = [self.run.sets[self.films.value].image_ids[i] for i in self.places]
        if film not in names:
            cure = "open the run with a larger 'n_films', or name another film"
            raise InputError(f"no film {film!r} here{near(film, names)}: {cure}")
        self.film.value = names.index(film) + 1


def _read(slider: Any, run: float) -> float:
    # A slider shows no value between two steps, and sends the nearer one back.
    return run if abs(slider.value - run) <= slider.step / 2 + 1e-9 else float(slider.value)
