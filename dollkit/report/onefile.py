"""A run in one HTML file that opens offline: ``make report PROFILE=laptop``.

It holds the page of the profile with its pictures, the graph of the stages, how long each took, in
what environment and with which parameters, and the executed notebooks. It asks nothing of the
network: no script, no style sheet and no picture outside the file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image
from pygments.formatters import HtmlFormatter

from dollkit import paths
from dollkit.errors import InputError
from dollkit.report import dag, index, provenance

PIXELS, QUALITY = 1400, 82
"""Pictures are at most this wide, in WebP of this quality: the originals lie in figures/."""

WIDGET = "application/vnd.jupyter.widget-view+json"
STYLE = """
body { font: 15px/1.5 sans-serif; color: #111; max-width: 1120px; margin: 1.5em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc } h3 { margin-top: 1.5em }
table { border-collapse: collapse; font-size: 0.85em; display: block; overflow-x: auto; margin: 0.7em 0 }
th, td { border: 1px solid #ddd; padding: 0.25em 0.6em; text-align: left; vertical-align: top }
th { background: #f3f3f3 }
img, svg { max-width: 100%; height: auto; display: block; margin: 0.7em 0 }
pre { overflow-x: auto; font-size: 0.85em; margin: 0.3em 0; padding: 0.4em 0.7em }
.input_area pre { background: #f6f6f6; border-left: 3px solid #0072B2 }
.prompt, .output_prompt { display: none }
details { border: 1px solid #ddd; border-radius: 4px; padding: 0.3em 0.9em; margin: 0.5em 0 }
summary { cursor: pointer; font-weight: bold }
nav a { margin-right: 1em } .bar { background: #0072B2; height: 0.7em; display: block }
.notice { background: #fff3cd; border: 1px solid #b58900; padding: 0.6em 1em }
@media print { details { border: none } }
""".strip()  # noqa: E501

NOTICE = (
    "This file shows films of the data sets that the run has read (in its notebooks). Their terms "
    "hold for it too: do not pass it on without looking them up."
)


def picture(png: bytes, alt: str = "") -> str:
    """An ``<img>`` that holds a PNG as WebP, at most `PIXELS` wide.

    Raises:
        InputError: not a picture.
    """
    try:
        with Image.open(io.BytesIO(png)) as opened:
            image = opened.convert("RGBA")
    except OSError as error:
        raise InputError(
            f"{alt or 'a picture'}: cannot be read ({error}); run its stage"
        ) from error
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.width > PIXELS:
        image = image.resize(
            (PIXELS, round(image.height * PIXELS / image.width)), Image.Resampling.LANCZOS
        )
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(packed.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img {size} alt="{escape(alt)}" src="data:image/webp;base64,{text}">'


def results(folder: Path) -> str:
    """The page of `dollkit.report.index` as HTML: pictures inside, names in place of file links."""
    html = str(markdown2html(index.page(folder)))

    def embed(found: re.Match[str]) -> str:
        name = found[1]
        return (
            f'<div id="{Path(name).stem}">' + picture((folder / name).read_bytes(), name) + "</div>"
        )

    html = re.sub(r'<img [^>]*?src="([^":]+)"[^>]*>', embed, html)
    # The files lie beside the page, and this one may be far from it.
    html = re.sub(r'<a href="(?!#|\w+:)([^"]+)">(.*?)</a>', r"\2 <code>\1</code>", html)
    return re.sub(r'<a class="anchor-link".*?</a>', "", html)


def read_notebook(path: Path) -> Any:
    """A notebook without the state of its widgets.

    Raises:
        InputError: not a notebook.
    """
    try:
        book: Any = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise InputError(f"{path}: not a notebook ({error}); run its stage again") from error
    book.metadata.pop("widgets", None)
    return book


def notebook(path: Path, shown: Mapping[str, str]) -> tuple[str, str]:
    """Title and HTML of an executed notebook, without scripts, widgets and repeated pictures.

    Args:
        path: an ``.ipynb``.
        shown: SHA-256 of a PNG to the name under which the page shows it already.

    Raises:
        InputError: not a notebook.
    """
    book = read_notebook(path)
    for cell in book.cells:
        if cell.cell_type == "code":
            # Bars of progress are widgets: nothing without their scripts.
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            for output in cell.outputs:
                _inline(output.get("data", {}), shown)
    first = next((c.source for c in book.cells if c.source.startswith("# ")), path.stem)
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)
    html, _ = exporter.from_notebook_node(book)
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return first.partition("\n")[0].lstrip("# "), re.sub(r' id="[^"]*"', "", html)


def _inline(data: dict[str, Any], shown: Mapping[str, str]) -> None:
    """Put an ``<img>``, or the name of a picture that is shown elsewhere, in place of a PNG."""
    if "image/png" not in data:
        return
    png = base64.b64decode(data["image/png"])
    name = shown.get(hashlib.sha256(png).hexdigest())
    html = f'<p><a href="#{name}">{name}, shown above</a></p>' if name else picture(png)
    data.clear()
    data["text/html"] = html


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML already."""
    top = "".join(f"<th>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>"


def stages(record: Mapping[str, Any]) -> str:
    """Graph, times, versions and parameters of a run.

    Args:
        record: what `provenance.collect` gives.
    """
    found: Mapping[str, Mapping[str, Any]] = record["stages"]
    seconds = {name: float(s.get("seconds") or 0) for name, s in found.items()}
    graph = {name: list(s.get("inputs") or {}) for name, s in found.items()}
    longest = max(seconds.values(), default=0) or 1
    order = [name for column in dag.columns(graph) for name in column]
    times = [
        [escape(n), escape(str(found[n].get("started", "–"))), f"{seconds[n]:.1f}"]
        + [f'<span class="bar" style="width: {160 * seconds[n] / longest:.0f}px"></span>']
        + [escape(str(found[n].get("precision") or "–"))]
        + [escape(", ".join(map(str, found[n].get("seeds") or [])) or "–")]
        for n in order
    ]
    shared = record.get("environment") or {}
    machine = {k: v for k, v in shared.items() if k not in ("versions", "code")}
    facts = machine | (shared.get("code") or {}) | (shared.get("versions") or {})
    parts = ["<h2 id='stages'>Stages</h2>"]
    parts.append(dag.svg(graph, {n: index.minutes(s) for n, s in seconds.items()}))
    parts.append(
        "<p>Each stage reads those at its left; lines that longer ways imply are left out.</p>"
    )
    parts.append(_table(["stage", "started", "seconds", "", "precision", "seeds"], times))
    parts += ["<h2 id='environment'>Environment</h2>", _facts(facts)]
    parts.append("<h2 id='parameters'>Parameters</h2>")
    for name in order:
        inside = _facts(found[name].get("parameters") or {})
        own = found[name].get("environment")
        inside += f"<p>Its own environment:</p>{_facts(own)}" if own else ""
        parts.append(f"<details><summary>{escape(name)}</summary>{inside}</details>")
    return "\n".join(parts)


def _facts(values: Mapping[str, Any]) -> str:
    rows = [
        [escape(k), f"<code>{escape(json.dumps(v, ensure_ascii=False))}</code>"]
        for k, v in sorted(values.items())
    ]
    return _table(["name", "value"], rows)


def report(profile: str) -> str:
    """The whole of a profile's run as one HTML text.

    Raises:
        InputError: the profile was not run to its claims, or a file of it is damaged.
    """
    folder, run = paths.figures() / profile, paths.runs() / profile
    if not (folder / "provenance.json").is_file():
        raise InputError(f"{folder}: no results there; make reproduce PROFILE={profile} first")
    # Folders of stages that have left the profile may still lie in the run.
    planned = {*index.read_record(folder)["stages"], "claims", "cost"}
    record = provenance.collect(run, planned)
    shown = {
        hashlib.sha256(p.read_bytes()).hexdigest(): p.stem
        for p in sorted(folder.glob("*.png"))
        if not (index.shows_real_films(record) and p.stem in index.FILMS)
    }
    books, order = [], dag.columns({n: list(s["inputs"]) for n, s in record["stages"].items()})
    for name in (n for column in order for n in column):
        path = run / "notebooks" / f"{name.replace('/', '-')}.ipynb"
        if not path.is_file():
            books.append(f"<p>{escape(name)}: its executed notebook is gone.</p>")
            continue
        title, html = notebook(path, shown)
        summary = f"{escape(title)} <code>{escape(name)}</code>"
        books.append(f"<details><summary>{summary}</summary>\n{html}\n</details>")
    links = {"stages": "Stages", "environment": "Environment", "parameters": "Parameters"}
    links |= {"notebooks": "Executed notebooks"}
    code = HtmlFormatter(style="default").get_style_defs(".highlight")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>dollkit, profile {escape(profile)}</title>",
            f"<style>\n{STYLE}\n{code}\n</style></head><body>",
            f'<p class="notice">{NOTICE}</p>' if index.shows_real_films(record) else "",
            "<nav>" + "".join(f'<a href="#{k}">{v}</a>' for k, v in links.items()) + "</nav>",
            results(folder),
            stages(record),
            "<h2 id='notebooks'>Executed notebooks</h2>",
            *books,
            "</body></html>\n",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: writes ``runs/<profile>/report.html``; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.report.onefile", description="A run in one HTML file."
    )
    parser.add_argument("--profile", default="laptop", help="a profile that was run (%(default)s)")
    parser.add_argument("--out", type=Path, help="file to write; default: report.html of the run")
    given = parser.parse_args(arguments)
    try:
        text = report(given.profile)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    out = given.out or paths.runs() / given.profile / "report.html"
    out.write_text(text, encoding="utf-8", newline="\n")
    print(f"{out}: {len(text.encode()) / 1e6:.1f} MB; opens in any browser, offline too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
