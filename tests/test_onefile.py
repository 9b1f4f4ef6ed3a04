"""The report of a run in one file: whole, well formed, and asking nothing of the network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from PIL import Image

from dollkit import paths
from dollkit.errors import InputError
from dollkit.report import dag, onefile

VOID = {"meta", "img", "br", "hr", "path", "rect"}
SCRIPT = '<script src="https://a.b/c.js">x</script>'
LOADED = {"src", "href", "data", "srcset", "poster", "action", "xlink:href"}


class Checker(HTMLParser):
    """Collects what a browser would load, and tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [(tag, str(value)) for key, value in attrs if key in LOADED]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(f"/{tag}")


def _png(width: int, height: int, color: str = "navy") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (width, height), color).save(made, "PNG")
    return made.getvalue()


def _manifest(run: Path, name: str, inputs: list[str]) -> None:
    folder = run / name
    folder.mkdir(parents=True)
    content = {
        "instance": name, "profile": "toy", "inputs": dict.fromkeys(inputs, "ab"), "seeds": [7],
        "parameters": {"profile": "toy", "source": "phantom", "note": "a < b & <i>c</i>"},
        "started": "2024-01-01T00:00:00+00:00", "seconds": 12.5, "outputs": {}, "device": "cpu",
        "versions": {"numpy": "2.0"}, "python": "3.11", "cpus": 2,
        "code": {"commit": "c0ffee", "modified": False, "files": {}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of three stages, with a widget, a script and two pictures in a notebook."""
    real = paths.ROOT / "figures" / "laptop"
    if not real.is_dir():
        pytest.skip("no committed laptop results")
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path / "figures"))
    run, figures = tmp_path / "runs" / "toy", tmp_path / "figures" / "toy"
    figures.mkdir(parents=True)
    for name in ("claims.csv", "claims.md", "table1.md", "table1.csv"):
        shutil.copy(real / name, figures)
    (figures / "figure1.png").write_bytes(_png(2000, 100))
    (figures / "figure1.txt").write_text("Figure 1 (profile toy). A caption.\n")
    _manifest(run, "data", [])
    _manifest(run, "labels", ["data"])
    _manifest(run, "claims", ["data", "labels"])
    _manifest(run, "pretrain/left-over", ["data"])
    stages = {n: json.loads((run / n / "manifest.json").read_text()) for n in ("data", "labels")}
    record = {"profile": "toy", "seconds": 25, "environment": {}, "stages": stages}
    (figures / "provenance.json").write_text(json.dumps(record))
    v4 = nbformat.v4
    pictures = [
        v4.new_output("display_data", {"image/png": base64.b64encode(png).decode()})
        for png in ((figures / "figure1.png").read_bytes(), _png(60, 40, "red"))
    ]
    others = [
        v4.new_output("display_data", {onefile.WIDGET: {"id": "x"}, "text/plain": "bar 100%"}),
        v4.new_output("display_data", {"text/html": f"{SCRIPT}<b>kept</b>"}),
        v4.new_output("stream", text="counted 3 < 4"),
    ]  # fmt: skip
    cells = [v4.new_markdown_cell("# 03 · Labels"), v4.new_code_cell("x = 1 < 2")]
    cells[1].outputs = [*pictures, *others]
    (run / "notebooks").mkdir()
    for name in ("data", "labels"):
        nbformat.write(v4.new_notebook(cells=cells), run / "notebooks" / f"{name}.ipynb")
    return run


def test_one_file_that_asks_nothing_of_the_network(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert onefile.main(["--profile", "toy"]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert said.startswith(str(run / "report.html"))
    assert " MB;" in said
    seen = Checker(text)
    assert seen.wrong == []
    assert not {"script", "link", "iframe", "object", "embed", "video"} & set(seen.tags)
    assert [link for link in seen.links if not link[1].startswith(("#", "data:"))] == []
    assert re.findall(r"@import|url\(", text) == []
    ids = set(re.findall(r"""<\w+ id=["']([^"']+)""", text))
    assert {link[1:] for tag, link in seen.links if tag == "a"} <= ids
    assert onefile.report("toy") == text


def test_the_file_holds_page_graph_times_parameters_and_notebooks(run: Path) -> None:
    text = onefile.report("toy")
    assert "Figure 1 (profile toy). A caption." in text
    assert "Learning rate and step chosen on" in text  # Table 1
    assert "a &lt; b &amp; &lt;i&gt;c&lt;/i&gt;" in text
    assert text.count("<summary>03 · Labels <code>") == 2
    assert "claims: its executed notebook is gone" in text
    assert "<td>12.5</td>" in text
    assert "left-over" not in text
    assert "counted 3 &lt; 4" in text
    assert "<b>kept</b>" in text
    assert "bar 100%" not in text
    assert "a.b/c.js" not in text
    # One picture of the page and one of each notebook; the figure itself is not repeated.
    assert Checker(text).tags.count("img") == 3
    assert text.count("figure1, shown above") == 2
    assert onefile.NOTICE not in text


def test_a_run_of_real_films_says_so_and_embeds_none_in_its_page(run: Path) -> None:
    for folder in (run / "data", paths.figures() / "toy"):
        path = next(p for p in folder.glob("*.json"))
        path.write_text(path.read_text().replace("phantom", "jsrt"))
    text = onefile.report("toy")
    assert onefile.NOTICE in text
    assert 'id="figure1"' not in text
    assert "figure1, shown above" not in text


def test_pictures_are_made_small_and_keep_their_shape() -> None:
    html = onefile.picture(_png(2800, 700), 'a "name"')
    assert f'width="{onefile.PIXELS}" height="{onefile.PIXELS // 4}"' in html
    assert "a &quot;name&quot;" in html
    packed = base64.b64decode(html.split("base64,")[1].split('"')[0])
    with Image.open(io.BytesIO(packed)) as image:
        assert (image.format, image.size) == ("WEBP", (1400, 350))
        assert image.convert("RGB").getpixel((5, 5)) == pytest.approx((0, 0, 128), abs=6)
    with pytest.raises(InputError, match=r"x\.png: cannot be read"):
        onefile.picture(b"no picture", "x.png")


def test_what_is_missing_or_damaged_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onefile.main(["--profile", "other"]) == 2
    assert "make reproduce PROFILE=other first" in capsys.readouterr().err
    (run / "notebooks" / "labels.ipynb").write_text("{")
    assert onefile.main(["--profile", "toy"]) == 2
    told = capsys.readouterr().err
    assert "labels.ipynb: not a notebook" in told
    assert "run its stage again" in told
    assert not (run / "report.html").exists()


def test_graph_without_implied_edges_in_columns() -> None:
    graph = {"a": [], "b": ["a", "gone"], "c": ["a", "b"], "d": ["a", "b", "c"], "e": ["a"]}
    assert dag.reduced(graph) == {"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["a"]}
    assert dag.columns(graph) == [["a"], ["b", "e"], ["c"], ["d"]]
    assert dag.columns({}) == []


def test_graph_is_drawn_whole_and_within_its_frame() -> None:
    graph = {"a": [], "b/x": ["a"], "b/y": ["a"], "c&": ["a", "b/x", "b/y"]}
    root = ElementTree.fromstring(dag.svg(graph, {"a": "3 s"}))
    kinds = [element.tag.rpartition("}")[2] for element in root]
    assert (kinds.count("rect"), kinds.count("path")) == (4, 4)
    assert [e.text for e in root if e.tag.endswith("text")] == [
        "a",
        "3 s",
        "b",
        "x",
        "b",
        "y",
        "c&",
    ]
    width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
    boxes = [
        [float(e.attrib[k]) for k in ("x", "y", "width", "height")]
        for e in root if e.tag.endswith("rect")
    ]  # fmt: skip
    for x, y, w, h in boxes:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    assert len({(x, y) for x, y, _, _ in boxes}) == 4
