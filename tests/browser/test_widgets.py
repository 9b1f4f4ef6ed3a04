"""ipywidgets in this JupyterLab, and whether `move` tells a live control from a dead one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser import widgets
from tests.browser.conftest import Opener

TOY = """\
import io
import ipywidgets as w
import numpy as np
from PIL import Image

def named(control, name):
    return control.add_class(f"dollkit-{name}")

finding = named(w.Dropdown(options=["x", "y"]), "finding")
smooth = named(w.FloatSlider(min=0, max=1, description="smooth"), "smooth")
step = named(w.Button(description="next"), "next")
dead = named(w.IntSlider(description="dead"), "dead")
broken = named(w.Checkbox(description="broken"), "broken")
single = named(w.Dropdown(options=["only"]), "single")
off = named(w.Checkbox(disabled=True), "off")
view = named(w.Image(format="png"), "view")
presses = [0]

def draw(_=None):
    state = [finding.value, smooth.value, presses, broken.value]
    pixels = np.random.default_rng(list(repr(state).encode())).integers(0, 255, (32, 32), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    view.value = file.getvalue()
    return 1 / (not broken.value)

for control in (finding, smooth, broken):
    control.observe(draw, "value")
step.on_click(lambda _: (presses.append(1), draw()))
draw()
w.VBox([finding, smooth, step, dead, broken, single, off, view])
"""
LIVE = ["finding", "smooth", "next"]


def test_widgets_are_drawn_and_alive(opened: Opener, written: Callable[..., str]) -> None:
    book = opened(written("widgets.ipynb", ("py", TOY)))
    book.run_all()
    assert list(dict.fromkeys(widgets.controls(book))) == LIVE + ["dead", "broken", "single", "off"]
    for name in LIVE:
        assert widgets.usable(book, name) == ""
        widgets.move(book, name)
    assert widgets.usable(book, "single") == "one choice only"
    assert widgets.usable(book, "off") == "disabled"
    assert widgets.foreign(book) == []
    loaded = book.page.evaluate(widgets.ORIGIN)
    assert [a for a in loaded if "/lab/extensions/@jupyter-widgets/jupyterlab-manager/" in a]
    assert book.noise == []
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        widgets.move(book, "broken")
    book.limit(5)
    with pytest.raises(AssertionError, match="'dead' was moved and the picture has not changed"):
        widgets.move(book, "dead")
