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

film = w.Select(options=["a", "b"], description="film").add_class("dollkit-film")
finding = w.Dropdown(options=["x", "y"]).add_class("dollkit-finding")
smooth = w.FloatSlider(min=0, max=1, description="smooth").add_class("dollkit-smooth")
dark = w.Checkbox(description="dark").add_class("dollkit-dark")
ways = w.ToggleButtons(options=["p", "q"]).add_class("dollkit-ways")
step = w.Button(description="next").add_class("dollkit-next")
dead = w.IntSlider(description="dead").add_class("dollkit-dead")
broken = w.Checkbox(description="broken").add_class("dollkit-broken")
single = w.Dropdown(options=["only"]).add_class("dollkit-single")
off = w.Checkbox(disabled=True).add_class("dollkit-off")
view = w.Image(format="png").add_class("dollkit-view")
presses = [0]
"""
ALIVE = """\
def draw(_=None):
    state = [film.value, finding.value, smooth.value, dark.value, ways.value, presses, broken.value]
    pixels = np.random.default_rng(list(repr(state).encode())).integers(0, 255, (32, 32), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    view.value = file.getvalue()
    return 1 / (not broken.value)

for control in (film, finding, smooth, dark, ways, broken):
    control.observe(draw, "value")
step.on_click(lambda _: (presses.append(1), draw()))
draw()
w.VBox([film, finding, smooth, dark, ways, step, dead, broken, single, off, view])
"""
LIVE = ["film", "finding", "smooth", "dark", "ways", "next"]


def test_widgets_are_drawn_and_alive(opened: Opener, written: Callable[..., str]) -> None:
    book = opened(written("widgets.ipynb", ("py", TOY), ("py", ALIVE)))
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
