"""One page with everything of a profile, and where its results come from.

``index.md`` is made from the files beside it alone, so that it can be made again anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data import PHANTOM, named
from dollkit.report import claims
from dollkit.report.contrasts import CLAIM
from dollkit.report.render import escape_md
from dollkit.report.rows import read_json

SECTIONS: dict[str, tuple[str, ...]] = {
    "The approach": ("figure1",),
    "Labels": (
        "figure2", "figure6", "table3", "figure_s3", "label_losses", "figure_s2",
    ),
    "Segmentation with few masks": (
        "table1", "table_starts", "figure3", "figure4", "table2", "figure_s1", "table_sizes",
        "figure5",
    ),
    "Perturbed films": ("robustness",),
}  # fmt: skip
"""Tables and figures in the order of the argument; a profile need not have all of them."""

CONTRASTS = "figure_s5"  # the verdicts as a picture
FILMS = {
    "figure1": "Figure 1, the approach",
    "figure2": "Figure 2, labels beside the truth",
    "figure3": "Figure 3, segmentations side by side",
    "figure_s2": "Figure S2, how the label of each finding comes about",
}
"""Figures that show radiographs."""

ROWS = {
    "cases.csv.gz": "one row per test film, class, arm, tuning and seed: overlap counts, IoU, Dice",
    "robust.csv.gz": "the same for perturbed test films",
    "label_cases.csv.gz": "one row per film, finding and way of making its label",
    "curves.csv.gz": "validation mIoU during every training",
    "runs.csv": "one row per trained network: rate, steps, seconds, weights, memory",
    "selection.csv": "every learning rate that was tried, and which was taken",
    "classifiers.csv": "AUROC and average precision of every classifier and finding",
    "pretraining.csv": "one row per pre-trained network: IoU of what it was taught, and its own",
    "labels.csv": "quality of the labels per finding and explainer",
    "difficulty.csv": "per finding, AUROC of probes for shortcuts, and IoU of the mean mask",
    "claims.csv": "every contrast of every claim",
    "provenance.json": "every stage: parameters, hashes of inputs and modules, seeds, seconds",
}
LONG = 40  # rows from which on a table is folded


def shows_real_films(record: Mapping[str, Any]) -> bool:
    """Whether pictures of a run may show real radiographs; True too where its record is silent."""
    data = record.get("stages", {}).get("data", {}).get("parameters", {})
    stores = data.get("stores") or {}
    sources = {data.get("source"), *stores.values()} - {""}
    return bool(data.get("data_dir")) or sources != {PHANTOM}


def read_record(folder: Path) -> dict[str, Any]:
    """``provenance.json`` of a profile's folder."""
    path = folder / "provenance.json"
    record = read_json(path)
    if not isinstance(record.get("stages"), dict):
        raise InputError(f"{path}: no provenance in it; run the claims stage again")
    return record


def page(folder: Path) -> str:
    """The page of a profile's folder, as Markdown.

    Figures of real films are named and not linked: the page says the same where they must not be.
    """
    record = read_record(folder)
    for name in ("claims.csv", "claims.md"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; run the claims stage first")
    hidden = set(FILMS) if shows_real_films(record) else set()
    placed = {"index", "claims", CONTRASTS, *chain.from_iterable(SECTIONS.values())}
    rest = {p.stem for p in folder.iterdir() if p.suffix in {".md", ".png"}} - placed
    parts = [_head(record, folder), _verdicts(pd.read_csv(folder / "claims.csv"))]
    parts += filter(None, [_item(folder, CONTRASTS, hidden)])
    for title, stems in (SECTIONS | {"Further results": tuple(sorted(rest))}).items():
        shown = [item for stem in stems if (item := _item(folder, stem, hidden))]
        parts += [f"## {title}", *shown] if shown else []
    files = [f"| [{n}]({n}) | {what} |" for n, what in ROWS.items() if (folder / n).is_file()]
    parts.append("\n".join(["## Rows behind it", "", "| file | what |", "| --- | --- |", *files]))
    return "\n\n".join(parts) + "\n"


def write_index(folder: Path) -> Path:
    """Write `page` of a profile's folder as its ``index.md``."""
    path = folder / "index.md"
    path.write_text(page(folder), encoding="utf-8", newline="\n")
    return path


def stated_population(folder: Path) -> str:
    """Whose films a profile's numbers are about, as its ``claims.md`` says."""
    text = (folder / "claims.md").read_text(encoding="utf-8")
    stated = re.search(r"^Population: (.*)$", text, re.MULTILINE)
    return stated[1] if stated else ""


def _head(record: Mapping[str, Any], folder: Path) -> str:
    """Whom it is about, and commit, machine, seeds and time of the run, each in a few words."""
    shared = record.get("environment") or {}
    stages: list[Mapping[str, Any]] = list(record["stages"].values())
    environments = [s.get("environment") or {} for s in stages]
    codes = [shared["code"]] if "code" in shared else [e.get("code") or {} for e in environments]
    commits = {f"`{c.get('commit')}`{' modified' * bool(c.get('modified'))}" for c in codes}
    seconds = float(record.get("seconds") or 0)
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    time = time if seconds < 7200 else f"{seconds / 3600:.1f} h"
    devices = sorted({str(e.get("device", shared.get("device"))) for e in environments})
    versions, cpus = shared.get("versions") or {}, shared.get("cpus")
    software = [f"{k} {versions[k]}" for k in ("torch", "timm", "captum") if k in versions]
    made: dict[str, Any] = {
        "commit": sorted(commits),
        "started": [min((str(s["started"]) for s in stages if s.get("started")), default="–")],
        "stages": [len(stages), f"{seconds:.0f} s in all ({time}; some run side by side)"],
        "seeds": sorted({s for stage in stages for s in stage.get("seeds") or []}) or ["none"],
        "device": devices + ([f"{cpus} CPU cores"] if cpus else []),
        "precision": sorted({str(s["precision"]) for s in stages if "precision" in s["parameters"]})
        or ["float32"],
        "software": [f"Python {shared.get('python', '–')}", *software],
    }
    profile, about = record.get("profile", folder.name), stated_population(folder)
    lines = [f"# Results, profile {profile}", "", f"**Whom it is about.** {about}" if about else ""]
    lines += ["", "**How it was made.**", "", "| | |", "| --- | --- |"]
    lines += [f"| {k} | {escape_md(', '.join(map(str, v)))} |" for k, v in made.items()]
    lines += [f"| all of it | `make reproduce PROFILE={profile}`; [provenance](provenance.json) |"]
    return "\n".join(lines)


def _verdicts(rows: pd.DataFrame) -> str:
    lines = ["## Verdicts", "", "| claim | | verdict | |", "| --- | --- | --- | --- |"]
    for claim, question in claims.asked(rows):
        told = escape_md(claims.sentence(rows, claim.key, question))
        verdict = claims.overall(rows, claim.key, question)
        asked = claim.statement if question == CLAIM else claims.QUESTIONS[question]
        lines.append(f"| {claim.key} | {asked} | **{verdict}** | {told} |")
    links = "[Every contrast, and how to read it](claims.md) · [CSV](claims.csv)"
    return "\n".join([*lines, "", links])


def _item(folder: Path, stem: str, hidden: Collection[str]) -> str:
    """A figure or table with its links; "" if the folder has none of this name."""
    if stem in hidden:
        return (
            f"*{FILMS[stem]}*: not linked, since it shows real films, which are not passed on "
            f"with the results. A run writes it beside this page as `{stem}.png`."
        )
    files = {end: folder / f"{stem}.{end}" for end in ("png", "txt", "md", "csv", "svg", "tex")}
    has = {end for end, path in files.items() if path.is_file()}
    names = {"csv": "CSV", "svg": "SVG", "tex": "LaTeX"}
    links = " · ".join(f"[{name}]({stem}.{end})" for end, name in names.items() if end in has)
    if "png" in has:
        caption = files["txt"].read_text(encoding="utf-8").strip() if "txt" in has else stem
        name = caption.partition(" (")[0] if caption.startswith("Figure") else stem
        return "\n\n".join(filter(None, (f"![{name}]({stem}.png)", caption, links)))
    if "md" not in has:
        return ""
    content = files["md"].read_text(encoding="utf-8").strip()
    if content.count("\n| ") > LONG:
        name, _, rest = content.partition("\n")
        bold = name.strip("*")
        content = f"**{bold}**\n\n<details><summary>the table</summary>\n{rest}\n\n</details>"
    return "\n\n".join(filter(None, (content, links)))


# Where a profile's results come from, in one file: the manifests of its run, gathered.


ENVIRONMENT = ("code", "versions", "python", "platform", "cpus", "threads", "device")
KEPT = (
    "parameters", "inputs", "seeds", "precision", "started", "seconds", "peak_mb", "code_files",
)  # fmt: skip
"""Of each manifest; peak_mb is the most memory held, MiB."""

WEIGHTS = (".safetensors", ".pt", ".ckpt")


def collect(run: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """All manifests below a run, of the instances in `only` (None: every folder there is).

    The environment is what all stages agree on; a stage has `KEPT` and what differs from it.
    """
    manifests: dict[str, dict[str, Any]] = {}
    for path in sorted(run.rglob("manifest.json")):
        name = path.parent.relative_to(run).as_posix()
        if only is None or name in only:
            manifest = read_json(path)
            # Each stage hashes its own modules; what is common to all is the commit.
            code = dict(manifest.get("code") or {})
            manifests[name] = manifest | {"code_files": code.pop("files", {}), "code": code}
    if not manifests:
        raise InputError(f"{run}: no manifest.json below it; run the profile first")
    every = list(manifests.values())
    shared = {
        key: every[0].get(key)
        for key in ENVIRONMENT
        if all(m.get(key) == every[0].get(key) for m in every)
    }
    stages: dict[str, Any] = {}
    data: dict[str, str] = {}
    weights: dict[str, str] = {}
    for name, manifest in manifests.items():
        stages[name] = {k: manifest[k] for k in KEPT if k in manifest}
        if folder := manifest["parameters"].get("data_dir"):  # where it lay is nobody's business
            stages[name]["parameters"] = manifest["parameters"] | {"data_dir": Path(folder).name}
        if differs := {k: manifest[k] for k in ENVIRONMENT if k in manifest and k not in shared}:
            stages[name]["environment"] = differs
        for file, described in sorted((manifest.get("outputs") or {}).items()):
            if file.endswith((*WEIGHTS, "store.json")):
                hashes = weights if file.endswith(WEIGHTS) else data
                hashes[f"{name}/{file}"] = described["sha256"]
    return {
        "profile": every[0].get("profile", run.name),
        "commit": (shared.get("code") or {}).get("commit"),
        "environment": shared,
        "data": data,
        "weights": weights,
        "seconds": round(sum(float(m.get("seconds") or 0) for m in every), 3),
        "stages": stages,
    }


def population(run: Path) -> str:
    """Whom a run's numbers are about, one phrase: what its stores were made from."""
    stores_of: dict[str, list[str]] = {}
    for path in sorted((run / "data").glob("*/store.json")):
        # A set that gives several stores may tell which behind a dash: open-lungs.
        data_set = read_json(path)["made_from"]["source"].partition("-")[0]
        title = "synthetic chest phantom" if data_set == PHANTOM else named(data_set).title
        stores_of.setdefault(title, []).append(path.parent.name)
    if not stores_of:
        raise InputError(f"{run / 'data'}: no store below it; run the data stage first")
    if len(stores_of) == 1:
        return next(iter(stores_of))
    return "; ".join(f"{title} ({', '.join(names)})" for title, names in stores_of.items())


def write_provenance(run: Path, folder: Path, only: Collection[str] | None = None) -> Path:
    """Write ``provenance.json`` of a run into ``figures/<profile>``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(collect(run, only), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path = folder / "provenance.json"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
