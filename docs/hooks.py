"""What mkdocs.yml cannot say: which files of the repository are pages, and how they are read.

Pages keep their place in the repository (``docs/labels.md``, ``figures/laptop/index.md``), so that
a relative link means the same in the site and on a code host. Notebooks become Markdown, executed
ones with their outputs; equations become MathML, which browsers draw without scripts or fonts.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from docutils.utils.math.latex2mathml import tex2mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.exporters import MarkdownExporter

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.report import page as index
from dollkit.workflow import stages

WIDGET = "application/vnd.jupyter.widget-view+json"
NOTICE = (
    "This page shows radiographs of the data sets that the run has read. Their terms apply to it: "
    "look them up before you pass it on."
)

GROUPS = {
    "Common": "common",
    "Data": "data",
    "Training": "training",
    "Explanations": "explanations",
    "Labels": "labels",
    "Pre-training": "pretraining",
    "Fine-tuning": "finetuning",
    "Evidence": "report",
    "Stages": "workflow",
    "By hand": "interactive",
}
"""Top-level modules and packages by the stage of the paper that they serve; the rest is "More"."""

RESULTS = {
    "laptop": "Phantom",
    "desk": "Phantom, five seeds",
    "open": "Real radiographs",
    "to-real": "Phantom to real",
}
RESULTS |= {"to-phantom": "Real to phantom", "across": "Domain shift"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation, from the files that there are."""
    texts = [_place(path) for path in sorted((paths.ROOT / "docs").glob("*.md"))]
    books: list[Any] = []
    for stem, executed in notebooks(config.extra["profile"]).items():
        pages = [{name: f"notebooks/{name}.md"} for name in executed]
        books.append(pages[0] if len(pages) == 1 else {stem: pages})
    config.nav = [
        {"dollkit": ["README.md", *texts, "data/README.md", "CONTRIBUTING.md"]},
        {"Results": [{RESULTS.get(f.name, f.name): _results(f)} for f in _folders()]},
        {"Notebooks": books},
        {"API": [{group: _tree(names)} for group, names in modules().items()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page, and every file that a page shows or names."""
    root = paths.ROOT
    found = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("data/*.md")]
    found += [*root.glob("docs/*.png"), *root.glob("figures/bench*.json")]
    found += [f for folder in _folders() for f in folder.iterdir() if _shareable(f)]
    for path in sorted([*found, *paths.NOTEBOOKS.glob("*.ipynb")]):
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    for stem, executed in notebooks(config.extra["profile"]).items():
        for name, path in executed.items():
            text, pictures = notebook(path, stem, config.extra["profile"])
            files.append(File.generated(config, f"notebooks/{name}.md", content=text))
            for picture, content in pictures.items():
                files.append(File.generated(config, f"notebooks/{picture}", content=content))
    for name in (name for names in modules().values() for name in names):
        files.append(File.generated(config, page_of(name), content=f"::: {name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Folded tables are Markdown inside HTML, which must be told; a table has no outline."""
    if page.file.src_uri.startswith("figures/") and page.file.name != "index":
        page.meta["hide"] = ["toc"]
    return markdown.replace("<details>", "<details markdown>")


def on_page_content(content: str, **_: object) -> str:
    """Equations as MathML, and intervals in one line."""
    content = re.sub(
        r'<(span|div) class="arithmatex">(.*?)</\1>', _mathml, content, flags=re.DOTALL
    )
    return re.sub(
        r"<td[^>]*>[^<]*\[[^<]*</td>", lambda cell: cell[0].replace(", ", ",&nbsp;"), content
    )


def modules() -> dict[str, list[str]]:
    """Dotted names of the public modules, by group; a name with a leading underscore is private."""
    group_of = {name: group for group, names in GROUPS.items() for name in names.split()}
    found: dict[str, list[str]] = {group: [] for group in [*GROUPS, "More"]}
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        parts = path.relative_to(paths.ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found[group_of.get(".".join(parts[1:2]), "More")].append(".".join(parts))
    return {group: sorted(names) for group, names in found.items() if names}


def page_of(module: str) -> str:
    """Page of a module; that of a package is an index, which the navigation puts on its name."""
    package = (paths.ROOT / Path(*module.split("."))).is_dir()
    return f"api/{module}/index.md" if package else f"api/{module}.md"


def notebooks(profile: str) -> dict[str, dict[str, Path]]:
    """Stem of each notebook -> names and files of what to show of it.

    That is each of its instances that a run of the profile has executed, or else the source.
    """
    run = paths.runs() / profile / "notebooks"
    family = {Path(s.notebook).stem: s.family for s in stages.STAGES.values()}
    found = {}
    for source in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        name = family.get(source.stem, source.stem)
        executed = sorted([*run.glob(f"{name}.ipynb"), *run.glob(f"{name}-*.ipynb")])
        found[source.stem] = {
            source.stem + path.stem.removeprefix(name): path for path in executed
        } or {source.stem: source}
    return found


def notebook(path: Path, stem: str, profile: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its pictures by file name.

    Raises:
        PluginError: not a notebook.
    """
    try:
        book = _read(path)
    except InputError as error:
        raise PluginError(str(error)) from error
    for cell in (c for c in book.cells if c.cell_type == "code"):
        # Bars of progress and warnings of libraries tell a reader nothing.
        cell.outputs = [
            o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})
        ]
    place = {"unique_key": path.stem, "output_files_dir": "outputs"}
    text, resources = MarkdownExporter().from_notebook_node(book, place)
    # Material draws plain tables; pandas brings a class and a style of its own.
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    text = text.replace(' border="1" class="dataframe"', "")
    title, _, rest = text.strip().partition("\n")
    told = f"*[Source]({stem}.ipynb); not executed: there is no run of it.*"
    if path.parent != paths.NOTEBOOKS:
        told = f"*[Source]({stem}.ipynb), executed as `{path.stem}` in profile `{profile}`.*"
        if _real(paths.figures() / profile):
            told += f"\n\n!!! warning\n    {NOTICE}"
    return f"{title}\n\n{told}\n{rest}\n", dict(resources["outputs"])


def _mathml(found: re.Match[str]) -> str:
    tex = html.unescape(found[2]).strip()
    return str(tex2mathml(tex[2:-2], as_block=found[1] == "div"))


def _place(path: Path) -> str:
    return path.relative_to(paths.ROOT).as_posix()


def _real(folder: Path) -> bool:
    """Whether pictures of a profile may show real films; True where its record cannot be read."""
    try:
        return index.shows_real_films(index.read_record(folder))
    except InputError:
        return True


def _shareable(path: Path) -> bool:
    return path.is_file() and not (path.stem in index.FILMS and _real(path.parent))


def _folders() -> list[Path]:
    """Folders of results in the order of `RESULTS`, others behind."""
    ranks = list(RESULTS)
    found = [p for p in (paths.ROOT / "figures").iterdir() if any(p.glob("*.md"))]
    return sorted(found, key=lambda p: (p.name not in ranks, [*ranks, p.name].index(p.name)))


def _results(folder: Path) -> list[dict[str, str]]:
    """Pages of a profile: the one with everything, the claims, then each table."""
    stems = sorted(
        (p.stem for p in folder.glob("*.md")), key=lambda s: (s != "index", s != "claims", s)
    )
    titles = {s: re.sub(r"(?<=[a-z])(?=\d)|_", " ", s).capitalize() for s in stems}
    titles["index"] = "All on one page"
    return [{titles[s]: f"{_place(folder)}/{s}.md"} for s in stems]


def _tree(names: Sequence[str]) -> list[Any]:
    """Entries of the navigation: a package's modules stand under it."""
    entries: dict[str, Any] = {}
    for name in names:
        head, _, rest = name.removeprefix("dollkit").strip(".").partition(".")
        own = entries.setdefault(head or "dollkit", [])
        own.append({rest: page_of(name)} if rest else page_of(name))
    return [{head: own[0] if len(own) == 1 else own} for head, own in entries.items()]


def _read(path: Path) -> Any:
    """A notebook without the state of its widgets."""
    try:
        book: Any = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise InputError(f"{path}: not a notebook ({error}); run its stage again") from error
    book.metadata.pop("widgets", None)
    return book
