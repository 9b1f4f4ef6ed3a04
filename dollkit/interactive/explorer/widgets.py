"""The explorer in a notebook: ipywidgets around `view.look` and `draw.png`.

Everything can be driven from Python, as the tests do: set a widget's ``value``, or ``click()`` a
button. `controls` lists the widgets, and the class by which a page finds each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.interactive.explorer import draw, maps, saving, sources
from dollkit.interactive.explorer.controls import (
    SMOOTH_MOST,
    Controls,
    fill,
    read,
    snapped,
    table,
    told,
)
from dollkit.interactive.explorer.panels import titled
from dollkit.interactive.explorer.sources import Source
from dollkit.interactive.explorer.view import (
    Choice,
    Cut,
    View,
    counts,
    cut_of,
    look,
    names_of,
    order,
)
from dollkit.labels.threshold_rules import Rule
from dollkit.report.style import short


class Explorer(Controls):
    """The widgets of one source, alive; show `box`.

    Attributes:
        source, atlas: what is looked at.
        shown: the view on the screen.
        places: of the films in the set, in the order that they are shown.
        corrected: finding to the cut that a slider was moved to.
    """

    def __init__(self, source: Source, atlas: maps.Atlas, dark: bool = False) -> None:
        super().__init__()
        self.source, self.atlas = source, atlas
        self.corrected: dict[str, Cut] = {}
        self.places: list[int] = [0]
        self.shown: View
        self._still = True  # while one event sets other widgets, they raise none
        self.dark.value = dark
        self.name.value = f"{source.name}-explored"
        titles = [(f"{f.title} ({len(f)})", name) for name, f in source.sets.items()]
        fill(self.pick_set, titles)
        kinds = dict.fromkeys(explainer for _, explainer in atlas)
        fill(self.pick_explainer, [(titled(kind), kind) for kind in kinds])
        fill(self.pick_classifier, [(short(name), name) for name in names_of(source)])
        self.ignore.value = source.distil.ignore
        self._enter_set()
        self._connect()
        self._still = False

    def _connect(self) -> None:
        watched = {
            self._enter_set: (self.pick_set,),
            self._enter_finding: (self.pick_finding,),
            self._sorted_anew: (self.sort, self.only),
            self._keep_film: (self.pick_explainer, self.pick_classifier),
            self._show: (self.pick_film, self.dark),
            self._change_rule: (self.rule,),
            self._change_cut: (self.smooth, self.hi, self.ignore),
        }
        for react, widgets in watched.items():
            for widget in widgets:
                widget.observe(self._event(react), names="value")
        self.previous.on_click(lambda _: self.step(-1))
        self.next.on_click(lambda _: self.step(1))
        self.reset.on_click(self._event(self._reset))
        self.save_picture.on_click(lambda _: self._say(self._picture))
        self.save_thresholds.on_click(lambda _: self._say(self._thresholds))

    def _event(self, react: Any) -> Any:
        def handle(_: object) -> None:
            if self._still:
                return
            self._still = True
            try:
                react()
            finally:
                self._still = False

        return handle

    @property
    def finding(self) -> str:
        """The finding that is picked."""
        return str(self.pick_finding.value)

    @property
    def used(self) -> Cut:
        """The cut of the finding on the screen: as corrected, or else the run's.

        `ignore` is one for all findings.
        """
        ignore = saving.ignore_of(self.source, self.corrected)
        own = replace(cut_of(self.source.distil, self.finding), ignore=ignore)
        return self.corrected.get(self.finding, own)

    @property
    def cut(self) -> Cut:
        """The cut that the sliders say."""
        kind, used = str(self.rule.value), self.used
        before = used.rule.value if used.rule.kind == kind else float("nan")
        rule = Rule(kind) if kind == "otsu" else Rule(kind, read(self.hi, before))
        return Cut(rule, read(self.smooth, used.smooth), read(self.ignore, used.ignore))

    @property
    def choice(self) -> Choice:
        """Everything that is picked."""
        return Choice(
            self.pick_set.value,
            self.places[self.pick_film.value - 1],
            self.finding,
            self.pick_explainer.value,
            self.pick_classifier.value,
            self.used,
        )

    def step(self, by: int) -> None:
        """Go on by some films, round the end."""
        n = len(self.places)
        self.pick_film.value = (self.pick_film.value - 1 + by) % n + 1

    def restore(self) -> None:
        """Back to the run's own cuts, of all findings."""
        self.corrected.clear()
        self._event(self._reset)(None)

    def png(self) -> bytes:
        """What is on the screen."""
        return bytes(self.view.value)

    def _enter_set(self) -> None:
        """The finding that was picked, or if only others are there, the most frequent of them."""
        found = counts(self.source.sets[self.pick_set.value])
        best = self.pick_finding.value
        if best is None or (not found[best] and any(found.values())):
            best = max(found, key=found.__getitem__)
        fill(self.pick_finding, [(f"{f} ({n})", f) for f, n in found.items()], best)
        self._enter_finding()

    def _enter_finding(self) -> None:
        self._load(self.used)
        self._sorted_anew()

    def _load(self, cut: Cut) -> None:
        """Sliders as a cut says; `ignore` is one for all findings and stays."""
        self.smooth.max = max(SMOOTH_MOST, cut.smooth)
        self.smooth.value = cut.smooth
        self.rule.value = cut.rule.kind
        self.hi.disabled = cut.rule.kind == "otsu"
        if cut.rule.kind != "otsu":
            self.hi.value = cut.rule.value

    def _sorted_anew(self, keep: int | None = None) -> None:
        like = replace(self.choice, at=0)
        self.places = order(self.source, self.atlas, like, self.sort.value, self.only.value)
        self.pick_film.max = len(self.places)
        self.pick_film.value = 1 if keep not in self.places else self.places.index(keep) + 1
        self._show()

    def _keep_film(self) -> None:
        self._sorted_anew(self.shown.choice.at)

    def _change_rule(self) -> None:
        """Another rule begins where the last one was, so that the label stays as it is."""
        kind, now = self.rule.value, self.shown
        self.hi.disabled = kind == "otsu"
        if kind != "otsu" and now.map is not None and now.hi == now.hi:
            top = float(now.map.max())
            share = now.hi / top if kind == "peak" else float((now.map >= now.hi).mean())
            self.hi.value = min(max(snapped(self.hi, share), self.hi.min), self.hi.max)
        self._change_cut()

    def _change_cut(self) -> None:
        cut = self.cut
        if cut == self.used:
            return
        self.corrected = {f: replace(c, ignore=cut.ignore) for f, c in self.corrected.items()}
        self.corrected[self.finding] = cut
        self._show()

    def _reset(self) -> None:
        self.corrected.pop(self.finding, None)
        if not self.corrected:
            self.ignore.value = self.source.distil.ignore
        self._load(self.used)
        self._show()

    def _show(self) -> None:
        self.shown = look(self.source, self.atlas, self.choice)
        self.view.value = draw.png(self.shown, self.dark.value)
        self.scores.value = table(self.shown)
        films = self.source.sets[self.shown.choice.films]
        n, own = len(films), int(films.positive(self.finding).sum())
        said = [f"film {self.pick_film.value} of {len(self.places)}"]
        said.append(f"{own} of {n} {films.title} have {self.finding}")
        if self.corrected:
            said.append(f"changed: {', '.join(self.corrected)}")
        self.status.value = told("; ".join(said))

    def _say(self, do: Any) -> None:
        try:
            self.message.value = told(do())
        except InputError as error:
            self.message.value = f"<b>{told(str(error))}</b>"

    def _picture(self) -> str:
        paths = saving.save_picture(self.source, self.shown, self.dark.value)
        return f"written: {paths[0]} and {paths[1].name}"

    def _thresholds(self) -> str:
        saved = saving.save_thresholds(self.source, self.corrected, self.name.value.strip())
        files = ", ".join(str(p) for p in (saved.profile, saved.rules) if p is not None)
        return f"written: {files}; labels by them: {saved.command}"


def explore(
    profile: str, n_films: int, explainers: Sequence[str], folder: Path | None = None
) -> Explorer:
    """The explorer of a finished run; see `sets.open_run` and `maps.prepare`."""
    source = sources.open_run(profile, n_films, folder)
    return Explorer(source, maps.prepare(source, explainers))


# How long one change takes, from the moved control to the bytes of the new picture.


def measure(explorer: Explorer, repeats: int = 20) -> pd.DataFrame:
    """Median and worst milliseconds of each kind of change, in this process (no browser).

    Args:
        repeats: most changes of each kind.

    Returns:
        Columns films (set), change, median_ms, worst_ms, cpu_ms (median of the processor's time,
        which other programs on the machine move less), n.
    """
    rows = []
    for films in _options(explorer.pick_set):
        explorer.pick_set.value = films
        grid = 0.01 + 0.01 * np.arange(9)
        moves: dict[str, tuple[Any, list[Any]]] = {
            "smooth": (explorer.smooth, list(grid)),
            "hi": (explorer.hi, list(0.2 + 5 * grid)),
            "ignore": (explorer.ignore, list(0.2 + 5 * grid)),
            "film": (explorer.pick_film, list(range(1, explorer.pick_film.max + 1))),
            "classifier": (explorer.pick_classifier, _options(explorer.pick_classifier)),
            "explainer": (explorer.pick_explainer, _options(explorer.pick_explainer)),
            "finding": (explorer.pick_finding, _options(explorer.pick_finding)),
        }
        explorer.rule.value = "peak"
        for name, (widget, values) in moves.items():
            # A value that is there already is no change.
            taken = [
                _seconds(widget, value)
                for value in (values[i % len(values)] for i in range(repeats))
                if value != widget.value
            ]
            if taken:
                wall, own = 1e3 * np.array(taken).T
                rows.append((films, name, np.median(wall), max(wall), np.median(own), len(wall)))
        explorer.restore()
    columns = ["films", "change", "median_ms", "worst_ms", "cpu_ms", "n"]
    return pd.DataFrame(rows, columns=columns)


def _options(dropdown: Any) -> list[Any]:
    return list(dict(dropdown.options).values())


def _seconds(widget: Any, value: Any) -> tuple[float, float]:
    began, own = time.perf_counter(), time.process_time()
    widget.value = value
    return time.perf_counter() - began, time.process_time() - own
