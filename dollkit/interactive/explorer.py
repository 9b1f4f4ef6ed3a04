"""Look at a finished run film by film (notebook 10): map, label and truth under moving thresholds.

The run is only read: a film is explained when it is first looked at, and then a threshold moves
without any network.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.images import IGNORE, U8
from dollkit.explanations.ensemble import EXPLAINERS, Explained, pair_settled
from dollkit.interactive.finished_run import Run
from dollkit.labels.steps import LabelSettings, Rule, maps_to_labels
from dollkit.report import style
from dollkit.report.style import ARM_LOOKS, CLASS_COLORS, GREEN, context
from dollkit.training import metrics

CONSENSUS = "consensus"
_RULES = {"Otsu": "otsu", "share of the maximum": "peak", "share of the pixels": "quantile"}


@dataclass(frozen=True)
class Cut:
    """How a map becomes a label: `hi` by `rule`, ``lo = ignore * hi``, after `smooth`."""

    rule: Rule
    smooth: float
    ignore: float


def cut_of(settings: LabelSettings, finding: str) -> Cut:
    """The cut that a run's settings make for a finding."""
    return Cut(settings.rule(finding), settings.sigma(finding), settings.ignore)


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
    drawn: Mapping[str, U8]
    scores: Mapping[str, float]


def look(
    run: Run, films: str, at: int, finding: str, explainer: str, classifier: str, cut: Cut
) -> View:
    """Map, label and scores of a film, made as the labels stage makes them."""
    film_set = run.sets[films]
    truth = film_set.truth_of(at, finding)
    drawn = {arm: masks[at] for arm, masks in film_set.drawn.items()}
    scores: dict[str, float] = {}
    pair = film_set.pair_of(at, finding)
    the_map = label = None
    threshold = float("nan")
    if pair is not None:
        use = [list(run.classifiers).index(classifier)] if classifier != CONSENSUS else slice(None)
        parts = run.explained(films, explainer)
        made = Explained._make(part[use][:, [pair]] for part in parts)
        settings = replace(
            run.label_settings, threshold="tuned", thresholds={finding: str(cut.rule)},
            smooths={finding: cut.smooth}, ignore=cut.ignore,
        )  # fmt: skip
        image = film_set.images[[at]]
        maps, labels, levels = maps_to_labels(
            made.maps, made.probability, settings, [finding], image
        )
        if run.explain.unsettled == "ignore":
            labels[~pair_settled(made, settings.trust)] = IGNORE
        the_map, label, threshold = maps[0], labels[0], float(levels[0])
        scores["label area"] = float((label == 1).mean())
        scores["ignored area"] = float((label == IGNORE).mean())
        if truth is not None:
            label_iou = metrics.iou_of_masks((labels == 1).astype(np.uint8), truth[None])
            scores["IoU of the label"] = float(label_iou[0])
            scores["IoU at matched area"] = float(metrics.iou_matched(maps, truth[None])[0])
            scores["IoU by chance"] = float(metrics.iou_chance(truth[None])[0])
    for arm, prediction in drawn.items():
        if arm != "truth":
            scores[f"IoU {arm}"] = _mean_iou(prediction, drawn["truth"])
    names = film_set.image_ids[at], film_set.images[at]
    return View(*names, the_map, label, threshold, truth, drawn, scores)


def _mean_iou(one: U8, other: U8) -> float:
    """Over the classes that either draws; NaN if neither draws any."""
    values = metrics.iou_of_masks(one, other)
    return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan


Outlines = Sequence[tuple[U8, str]]


def picture(view: View, finding: str) -> bytes:
    """The view as PNG: film, map, label, truth; below them what each network drew."""
    truth: Outlines = [] if view.truth is None else [(view.truth, GREEN)]
    panels: list[tuple[str, Outlines]] = [
        (view.image_id, []),
        ("map" if view.map is not None else "map: not explained", []),
        (f"label: {finding}", truth),
        ("truth" if truth else "truth: unknown", truth),
    ]
    for arm, masks in view.drawn.items():
        name = "truth of the task" if arm == "truth" else ARM_LOOKS[arm].label
        value = view.scores.get(f"IoU {arm}", np.nan)
        title = name if np.isnan(value) else f"{name}: IoU {value:.2f}"
        panels.append((title, list(zip(masks, CLASS_COLORS, strict=False))))
    rows = -(-len(panels) // 4)
    with context():
        figure = Figure(figsize=(8, 2.25 * rows), dpi=96)
        canvas: Any = FigureCanvasAgg(figure)
        for i, (title, outlines) in enumerate(panels):
            place = (i % 4 + 0.01) / 4, 1 - (i // 4 + 0.99) / rows, 0.98 / 4, 0.88 / rows
            axis = figure.add_axes(place)
            axis.set_axis_off()
            axis.set_title(title)
            axis.imshow(view.image, cmap="gray", vmin=0, vmax=255)
            if i == 1 and view.map is not None:
                alpha = np.clip(1.2 * view.map, 0, 0.85)[..., None]
                colour = mpl.colormaps["magma"](view.map)[..., :3]
                axis.imshow(alpha * colour + (1 - alpha) * view.image[..., None] / 255)
            if i == 2 and view.label is not None:
                style.label(axis, view.label)
            for mask, line in outlines:
                if 0 < mask.mean() < 1:
                    axis.contour(mask, [0.5], colors=[line], linewidths=1.2)
            iou = view.scores.get("IoU of the label", np.nan)
            if i == 2 and not np.isnan(iou):
                box: Any = {"va": "top", "fontsize": 8, "color": "w", "backgroundcolor": "k"}
                axis.text(2, 2, f"IoU {iou:.2f}", **box)
        out = io.BytesIO()
        canvas.print_png(out, pil_kwargs={"compress_level": 1})  # a slider waits for it
    return out.getvalue()


def _slider(text: str, high: float, tooltip: str) -> Any:
    return ipywidgets.FloatSlider(
        0, min=0, max=high, step=0.0025, description=text, readout_format=".4f", tooltip=tooltip
    )


class Explorer:
    """Widgets around `look` and `picture`; show `box`.

    Everything can be driven from Python: set a widget's ``value``, or ``click()`` a button. In the
    page each widget has the class ``dollkit-<name of its attribute>``. `shown` is the view on the
    screen, `places` are the films of the set in the order that they are shown.
    """

    def __init__(self, run: Run, explainers: Sequence[str] = ("ig",)) -> None:
        for name in explainers or [""]:
            if name not in EXPLAINERS:
                known = ", ".join(EXPLAINERS)
                raise InputError(f"parameter 'explainers' names {name!r}: use some of {known}")
        self.run = run
        self.places: list[int] = []
        self.shown: View
        many = [CONSENSUS] if len(run.classifiers) > 1 else []
        sets = [(f"{s.title} ({len(s.images)})", name) for name, s in run.sets.items()]
        self.films = ipywidgets.Dropdown(options=sets, description="films")
        self.finding = ipywidgets.Dropdown(description="finding")
        self.film = ipywidgets.IntSlider(1, min=1, max=1, description="film")
        self.explainer = ipywidgets.Dropdown(options=list(explainers), description="explainer")
        self.classifier = ipywidgets.Dropdown(
            options=[*many, *run.classifiers], description="map of"
        )
        self.smooth = _slider("smooth", 0.1, "Gaussian sigma as a share of the side of the film")
        self.rule = ipywidgets.Dropdown(options=list(_RULES.items()), description="hi by")
        self.hi = _slider("hi", 0.9975, "finding where the map is at least hi")
        self.ignore = _slider("ignore", 1, "background where the map is below lo = ignore x hi")
        self.reset = ipywidgets.Button(description="as the run", icon="undo")
        self.view = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.scores = ipywidgets.HTML()
        rows = (
            ("films", "finding", "film", "explainer", "classifier"),
            ("smooth", "rule", "hi", "ignore", "reset"),
            ("view",),
            ("scores",),
        )
        lines = []
        for row in rows:
            widgets = [getattr(self, name).add_class(f"dollkit-{name}") for name in row]
            lines.append(ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap")))
        self.box = ipywidgets.VBox(lines).add_class("dollkit-explorer")
        self._still = False  # while one event sets other widgets, they raise none
        self.films.observe(self._event(self._enter_set), names="value")
        self.finding.observe(self._event(self._enter_finding), names="value")
        for name in ("film", "explainer", "classifier", "smooth", "rule", "hi", "ignore"):
            getattr(self, name).observe(self._event(self._show), names="value")
        self.reset.on_click(self._event(self._reset))
        self._event(self._enter_set)(None)

    def _event(self, react: Callable[[], None]) -> Callable[[object], None]:
        def handle(_: object) -> None:
            if not self._still:
                self._still = True
                try:
                    react()
                finally:
                    self._still = False

        return handle

    @property
    def cut(self) -> Cut:
        """The cut that the sliders say; the run's own values where they are untouched.

        A slider shows no value between two steps, and sends the nearer one back.
        """
        run, kind = cut_of(self.run.label_settings, self.finding.value), self.rule.value
        value = run.rule.value if run.rule.kind == kind else np.nan
        rule = Rule(kind) if kind == "otsu" else Rule(kind, _read(self.hi, value))
        return Cut(rule, _read(self.smooth, run.smooth), _read(self.ignore, run.ignore))

    def _enter_set(self) -> None:
        films = self.run.sets[self.films.value]
        count = {f: len(films.with_finding(f)) for f in PATHOLOGIES}
        best = self.finding.value
        if not count.get(best):
            best = max(count, key=count.__getitem__)
        self.finding.options = [(f"{f} ({n})", f) for f, n in count.items()]
        self.finding.value = best
        self._enter_finding()

    def _enter_finding(self) -> None:
        films = self.run.sets[self.films.value]
        places = films.with_finding(self.finding.value)
        self.places = [int(i) for i in (places if len(places) else range(len(films.images)))]
        self.film.max, self.film.value = len(self.places), 1
        self._reset()

    def _reset(self) -> None:
        cut = cut_of(self.run.label_settings, self.finding.value)
        self.smooth.max = max(0.1, cut.smooth)
        self.smooth.value, self.ignore.value = cut.smooth, cut.ignore
        self.rule.value = cut.rule.kind
        self.hi.value = cut.rule.value or 0.5
        self._show()

    def _show(self) -> None:
        self.hi.disabled = self.rule.value == "otsu"
        picked = (self.finding.value, self.explainer.value, self.classifier.value, self.cut)
        self.shown = look(self.run, self.films.value, self.places[self.film.value - 1], *picked)
        self.view.value = picture(self.shown, self.finding.value)
        threshold = self.shown.threshold
        shown = [f"hi {threshold:.2f}", f"lo {self.ignore.value * threshold:.2f}"]
        shown += [f"{name} {value:.3f}" for name, value in self.shown.scores.items()]
        self.scores.value = html.escape("; ".join(shown))


def _read(slider: Any, run: float) -> float:
    return run if abs(slider.value - run) <= slider.step / 2 + 1e-9 else float(slider.value)
