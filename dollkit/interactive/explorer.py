"""Look at a finished run film by film (notebook 10): map, label and truth under moving thresholds.

The run is only read: a film is explained when it is first looked at, and then a threshold moves
without any network.
"""

from __future__ import annotations

import functools
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
from dollkit.explanations import EXPLAINERS
from dollkit.explanations.ensemble import Explained, pair_settled
from dollkit.interactive.finished_run import Run
from dollkit.labels import LabelSettings, distil
from dollkit.labels.threshold_rules import Rule
from dollkit.report.style import ARM_LOOKS, CLASS_COLORS, GREEN, context, film
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
    hi: float
    truth: U8 | None
    drawn: Mapping[str, U8]
    scores: Mapping[str, float]


def look(
    run: Run, films: str, at: int, finding: str, explainer: str, classifier: str, cut: Cut
) -> View:
    """Map, label and scores of a film, made as the labels stage makes them."""
    of = run.sets[films]
    truth, drawn = of.truth_of(at, finding), {arm: d[at] for arm, d in of.drawn.items()}
    scores: dict[str, float] = {}
    pair = of.pair_of(at, finding)
    the_map = label = None
    hi = float("nan")
    if pair is not None:
        use = [list(run.classifiers).index(classifier)] if classifier != CONSENSUS else slice(None)
        parts = run.explained(films, explainer)
        made = Explained._make(part[use][:, [pair]] for part in parts)
        how = replace(
            run.distil, threshold="tuned", thresholds={finding: str(cut.rule)},
            smooths={finding: cut.smooth}, ignore=cut.ignore,
        )  # fmt: skip
        maps, labels, levels = distil(made.maps, made.probability, how, [finding], of.images[[at]])
        if run.explain.unsettled == "ignore":
            labels[~pair_settled(made, how.trust)] = IGNORE
        the_map, label, hi = maps[0], labels[0], float(levels[0])
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
    return View(of.image_ids[at], of.images[at], the_map, label, hi, truth, drawn, scores)


def _mean_iou(one: U8, other: U8) -> float:
    """Over the classes that either draws; NaN if neither draws any."""
    values = metrics.iou_of_masks(one, other)
    return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan


def picture(view: View, finding: str) -> bytes:
    """The view as PNG: film, map, label, truth; below them what each network drew."""
    panels: list[tuple[str, Callable[[Any], object]]] = [
        (view.image_id, lambda ax: _grey(ax, view.image)),
        ("map" if view.map is not None else "map: not explained", lambda ax: _heat(ax, view)),
        (f"label: {finding}", lambda ax: _labelled(ax, view)),
        ("truth" if view.truth is not None else "truth: unknown", lambda ax: _truth(ax, view)),
    ]
    for arm, masks in view.drawn.items():
        name = "truth of the task" if arm == "truth" else ARM_LOOKS[arm].label
        value = view.scores.get(f"IoU {arm}", np.nan)
        title = name if np.isnan(value) else f"{name}: IoU {value:.2f}"
        panels.append((title, functools.partial(_prediction, view=view, masks=masks)))
    rows = -(-len(panels) // 4)
    with context():
        figure = Figure(figsize=(8, 2.25 * rows), dpi=96)
        canvas: Any = FigureCanvasAgg(figure)
        for i, (title, draw) in enumerate(panels):
            place = (i % 4 + 0.01) / 4, 1 - (i // 4 + 0.99) / rows, 0.98 / 4, 0.88 / rows
            axis = figure.add_axes(place)
            axis.set_axis_off()
            axis.set_title(title)
            draw(axis)
        out = io.BytesIO()
        canvas.print_png(out, pil_kwargs={"compress_level": 1})  # a slider waits for it
    return out.getvalue()


def _grey(axis: Any, image: U8) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def _heat(axis: Any, view: View) -> None:
    values = np.zeros(view.image.shape) if view.map is None else view.map
    alpha = np.clip(1.2 * values, 0, 0.85)[..., None]
    colour = mpl.colormaps["magma"](values)[..., :3]
    axis.imshow(alpha * colour + (1 - alpha) * view.image[..., None] / 255)


def _labelled(axis: Any, view: View) -> None:
    film(axis, view.image, label=view.label)
    _outline(axis, view.truth, GREEN)
    iou = view.scores.get("IoU of the label", np.nan)
    if not np.isnan(iou):
        axis.text(2, 2, f"IoU {iou:.2f}", va="top", fontsize=8, color="w", backgroundcolor="k")


def _truth(axis: Any, view: View) -> None:
    _grey(axis, view.image)
    _outline(axis, view.truth, GREEN)


def _prediction(axis: Any, view: View, masks: U8) -> None:
    _grey(axis, view.image)
    for mask, colour in zip(masks, CLASS_COLORS, strict=False):
        _outline(axis, mask, colour)


def _outline(axis: Any, mask: U8 | None, colour: str) -> None:
    if mask is not None and 0 < mask.mean() < 1:
        axis.contour(mask, [0.5], colors=[colour], linewidths=1.2)


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
        self._on(self._enter_set, self.films)
        self._on(self._enter_finding, self.finding)
        self._on(self._show, self.film, self.explainer, self.classifier)
        self._on(self._show, self.smooth, self.rule, self.hi, self.ignore)
        self.reset.on_click(self._event(self._reset))
        self._event(self._enter_set)(None)

    def _on(self, react: Callable[[], None], *widgets: Any) -> None:
        for widget in widgets:
            widget.observe(self._event(react), names="value")

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
        own = cut_of(self.run.distil, self.finding.value)
        kind = self.rule.value
        value = own.rule.value if own.rule.kind == kind else np.nan
        rule = Rule(kind) if kind == "otsu" else Rule(kind, _read(self.hi, value))
        return Cut(rule, _read(self.smooth, own.smooth), _read(self.ignore, own.ignore))

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
        cut = cut_of(self.run.distil, self.finding.value)
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
        shown = [f"hi {self.shown.hi:.2f}", f"lo {self.ignore.value * self.shown.hi:.2f}"]
        shown += [f"{name} {value:.3f}" for name, value in self.shown.scores.items()]
        self.scores.value = html.escape("; ".join(shown))


def _read(slider: Any, own: float) -> float:
    return own if abs(slider.value - own) <= slider.step / 2 + 1e-9 else float(slider.value)
