"""The ipywidgets of the explorer, each with a class of its own in the page.

=======================  ==============================================================
class                    widget
=======================  ==============================================================
dollkit-explorer         all of it (VBox)
dollkit-set              film set (Dropdown)
dollkit-finding          finding (Dropdown)
dollkit-only             leave out films without the finding (Checkbox)
dollkit-sort             order of the films (Dropdown)
dollkit-film             number of the film (IntSlider; arrow keys when it has the focus)
dollkit-previous, -next  step through the films (Button; space or enter)
dollkit-explainer        explainer (Dropdown)
dollkit-classifier       consensus or one classifier (Dropdown)
dollkit-smooth           sigma, share of the side (FloatSlider)
dollkit-rule             rule of `hi` (Dropdown)
dollkit-hi               value of the rule (FloatSlider)
dollkit-ignore           ``lo / hi`` (FloatSlider)
dollkit-reset            back to the run's cut of this finding (Button)
dollkit-dark             dark ground (Checkbox)
dollkit-view             the picture (Image)
dollkit-status           where one is, and among how many films (HTML)
dollkit-scores           scores and probabilities (HTML)
dollkit-name             name of the profile to write (Text)
dollkit-save-picture     write PNG and SVG (Button)
dollkit-save-thresholds  write thresholds (Button)
dollkit-message          what was written, or why not (HTML)
=======================  ==============================================================
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets

from dollkit.interactive.explorer.view import ORDERS, View
from dollkit.labels.threshold_rules import RULES
from dollkit.report.style import short

RULE_NAMES = {"otsu": "Otsu", "peak": "share of the maximum", "quantile": "share of the pixels"}
SMOOTH_MOST = 0.1


def named(widget: Any, name: str) -> Any:
    """The widget, with its class in the page: ``dollkit-<name>``."""
    widget.add_class(f"dollkit-{name}")
    return widget


def _dropdown(name: str, text: str, options: Any = (), width: str = "300px") -> Any:
    layout = ipywidgets.Layout(width=width)
    made = ipywidgets.Dropdown(options=options, description=text, layout=layout)
    return named(made, name)


def _checkbox(name: str, text: str, value: bool, width: str) -> Any:
    layout = ipywidgets.Layout(width=width)
    made = ipywidgets.Checkbox(value, description=text, indent=False, layout=layout)
    return named(made, name)


def _button(name: str, text: str, tooltip: str, icon: str = "") -> Any:
    made = ipywidgets.Button(description=text, tooltip=tooltip, icon=icon)
    return named(made, name)


def _slider(name: str, text: str, lo: float, hi: float, tooltip: str, step: float = 0.005) -> Any:
    layout = ipywidgets.Layout(width="330px")
    made = ipywidgets.FloatSlider(
        lo, min=lo, max=hi, step=step, description=text, readout_format=".4f", layout=layout,
        tooltip=tooltip,
    )  # fmt: skip
    return named(made, name)


def fill(widget: Any, options: Sequence[tuple[str, str]], value: str | None = None) -> None:
    """Options of a Dropdown; the first one is picked, or `value`."""
    widget.options = options
    widget.value = options[0][1] if value is None else value


def snapped(slider: Any, value: float) -> float:
    """The step of a slider that is nearest to a value."""
    steps = round((value - slider.min) / slider.step)
    return round(float(slider.min + steps * slider.step), 6)


def read(slider: Any, before: float) -> float:
    """What a slider says; `before` where the page has only moved that to the nearest step.

    A page shows no value between two steps: it sends the nearer one back, with rounding errors,
    and a cut that nobody touched would count as changed.
    """
    now = float(slider.value)
    echoed = before == before and abs(now - snapped(slider, before)) < 1e-6
    return before if echoed or abs(now - before) < 1e-6 else round(now, 4)


class Controls:
    """All widgets, without any life; `widgets.Explorer` gives it to them."""

    def __init__(self) -> None:
        self.pick_set = _dropdown("set", "films")
        self.pick_finding = _dropdown("finding", "finding")
        self.only = _checkbox("only", "only with it", True, "130px")
        self.sort = _dropdown("sort", "order", [(text, key) for key, text in ORDERS.items()])
        wide = ipywidgets.Layout(width="420px")
        film = ipywidgets.IntSlider(1, min=1, max=1, description="film", layout=wide)
        self.pick_film = named(film, "film")
        self.previous = _button("previous", "previous", "the film before", "arrow-left")
        self.next = _button("next", "next", "the film after", "arrow-right")
        self.pick_explainer = _dropdown("explainer", "explainer")
        self.pick_classifier = _dropdown("classifier", "map of")
        said = "Gaussian sigma as a share of the side of the film"
        self.smooth = _slider("smooth", "smooth", 0, SMOOTH_MOST, said)
        rules = [(RULE_NAMES[kind], kind) for kind in RULES]
        self.rule = _dropdown("rule", "hi by", rules)
        said = "finding where the map is at least hi: share of its maximum, or of the pixels"
        self.hi = _slider("hi", "hi", 0.0025, 0.9975, said, 0.0025)
        said = "background where the map is below lo = ignore x hi"
        self.ignore = _slider("ignore", "ignore", 0, 1, said, 0.05)
        self.reset = _button("reset", "as the run", "the run's own cut of this finding", "undo")
        self.dark = _checkbox("dark", "dark", False, "90px")
        self.view = named(ipywidgets.Image(format="png"), "view")
        self.view.layout.max_width = "100%"
        self.view.layout.align_self = "flex-start"
        self.status, self.scores, self.message = (
            named(ipywidgets.HTML(), name) for name in ("status", "scores", "message")
        )
        self.name = named(ipywidgets.Text(description="name"), "name")
        self.save_picture = _button("save-picture", "picture", "write PNG and SVG", "save")
        said = "write the changed thresholds as a profile"
        self.save_thresholds = _button("save-thresholds", "thresholds", said, "save")
        self.box = named(
            ipywidgets.VBox(
                [
                    ipywidgets.HBox([self.pick_set, self.pick_finding, self.only, self.sort]),
                    ipywidgets.HBox([self.pick_film, self.previous, self.next, self.status]),
                    ipywidgets.HBox([self.pick_explainer, self.pick_classifier, self.dark]),
                    ipywidgets.HBox([self.smooth, self.rule, self.hi, self.ignore, self.reset]),
                    self.view,
                    self.scores,
                    ipywidgets.HBox([self.name, self.save_picture, self.save_thresholds]),
                    self.message,
                ]
            ),
            "explorer",
        )
        for row in self.box.children:
            if isinstance(row, ipywidgets.HBox):
                row.layout.flex_flow = "row wrap"
                row.layout.align_items = "center"


def told(text: str) -> str:
    """Text as HTML."""
    return html.escape(text)


def table(view: View) -> str:
    """Scores and probabilities as an HTML table, in the colours of the page."""
    parts = [(name, _number(value)) for name, value in view.scores.items()]
    finding = view.choice.finding
    parts += [(f"p({finding}) {short(n)}", _number(p)) for n, p in view.probability.items()]
    return _columns(dict(parts))


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def _columns(values: Mapping[str, str]) -> str:
    style = "padding: 1px 14px 1px 0; text-align: left"
    heads = "".join(f'<th style="{style}; font-weight: normal">{told(n)}</th>' for n in values)
    cells = "".join(f'<td style="{style}"><b>{told(v)}</b></td>' for v in values.values())
    return f"<table><tr>{heads}</tr><tr>{cells}</tr></table>" if values else ""
