"""One page with everything of a profile, and where its results come from.

``figures/<profile>/index.md`` is made from the files beside it and from nothing else, so that it
can be made again anywhere; ``provenance.json`` gathers the manifests of a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data import PHANTOM, named
from dollkit.report import claims
from dollkit.report.render import escape_md
from dollkit.report.rows import read_json

SECTIONS: dict[str, tuple[str, ...]] = {
    "The approach": ("figure1",),
    "Labels": (
        "figure2", "figure6", "label_goals", "figure_s1", "table3", "table3_arms", "figure_s3",
        "label_losses", "figure_s2",
    ),
    "Segmentation with few masks": (
        "table1", "figure3", "figure4", "table2", "table_sizes", "figure5",
    ),
    "Perturbed films": ("robustness", "figure_s4"),
}  # fmt: skip
"""Tables and figures in the order of the argument; a profile need not have all of them."""

CONTRASTS = "figure_s5"
"""The verdicts as a picture."""

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
    "difficulty.csv": "per finding, AUROC of a linear model on thumbnails and IoU of the mean mask",
    "claims.csv": "every contrast of every claim",
    "provenance.json": "every stage: parameters, hashes of inputs and modules, seeds, seconds",
}
LONG = 40
"""Rows from which on a table is folded."""


def shows_real_films(record: Mapping[str, Any]) -> bool:
    """Whether pictures of a run may show real radiographs; True too where its record is silent."""
    data = record.get("stages", {}).get("data", {}).get("parameters", {})
    stores = data.get("stores") or {}
    sources = {data.get("source"), *stores.values()} - {""}
    return bool(data.get("data_dir")) or sources != {PHANTOM}


def read_record(folder: Path) -> dict[str, Any]:
    """``provenance.json`` of a profile's folder."""
    path = folder / "provenance.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the claims stage first")
    record = read_json(path)
    if not isinstance(record.get("stages"), dict):
        raise InputError(f"{path}: no provenance in it; run the claims stage again")
    return record


def page(folder: Path) -> str:
    """The page of a profile's folder, as Markdown.

    Figures that show real films are named and not linked, whether or not they are there: the page
    says the same where they must not be.
    """
    record = read_record(folder)
    for name in ("claims.csv", "claims.md"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; run the claims stage first")
    hidden = set(FILMS) if shows_real_films(record) else set()
    placed = {"index", "claims", CONTRASTS, *(s for stems in SECTIONS.values() for s in stems)}
    rest = {p.stem for p in folder.iterdir() if p.suffix in {".md", ".png"}} - placed
    parts = [_head(record, folder), _verdicts(pd.read_csv(folder / "claims.csv"))]
    parts += filter(None, [_item(folder, CONTRASTS, hidden)])
    for title, stems in (SECTIONS | {"Further results": tuple(sorted(rest))}).items():
        shown = [item for stem in stems if (item := _item(folder, stem, hidden))]
        parts += [f"## {title}", *shown] if shown else []
    found = [f"| [{n}]({n}) | {what} |" for n, what in ROWS.items() if (folder / n).is_file()]
    parts.append("\n".join(["## Rows behind it", "", "| file | what |", "| --- | --- |", *found]))
    return "\n\n".join(parts) + "\n"


def write_index(folder: Path) -> Path:
    """Write `page` of a profile's folder as its ``index.md``."""
    path = folder / "index.md"
    path.write_text(page(folder), encoding="utf-8", newline="\n")
    return path


def minutes(seconds: float) -> str:
    """A duration as read by people: "48 s", "37 min", "5.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def made_how(record: Mapping[str, Any]) -> dict[str, str]:
    """Commit, machine, seeds and time of a run, each in a few words."""
    shared = record.get("environment") or {}
    stages: list[Mapping[str, Any]] = list(record["stages"].values())
    own = [s.get("environment") or {} for s in stages]
    codes = [shared["code"]] if "code" in shared else [e.get("code") or {} for e in own]
    commits = {f"`{c.get('commit')}`{' modified' * bool(c.get('modified'))}" for c in codes}
    starts = [str(s["started"]) for s in stages if s.get("started")]
    seconds = float(record.get("seconds") or 0)
    devices = sorted({str(e.get("device", shared.get("device"))) for e in own})
    seeds = sorted({s for stage in stages for s in stage.get("seeds") or []})
    versions = shared.get("versions") or {}
    cpus = shared.get("cpus")
    walked = {str(s["precision"]) for s in stages if "precision" in s["parameters"]}
    return {
        "commit": ", ".join(sorted(commits)),
        "started": min(starts, default="–"),
        "stages": f"{len(stages)}, {seconds:.0f} s in all ({minutes(seconds)}; some run side by "
        "side)",
        "seeds": ", ".join(map(str, seeds)) or "none",
        "device": ", ".join(devices) + (f", {cpus} CPU cores" if cpus else ""),
        "precision": ", ".join(sorted(walked)) or "float32",
        "software": ", ".join(
            [f"Python {shared.get('python', '–')}"]
            + [f"{k} {versions[k]}" for k in ("torch", "timm", "captum") if k in versions]
        ),
    }


def stated_population(folder: Path) -> str:
    """Whose films a profile's numbers are about, as its ``claims.md`` says."""
    text = (folder / "claims.md").read_text(encoding="utf-8")
    found = re.search(r"^Population: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _head(record: Mapping[str, Any], folder: Path) -> str:
    profile, about = record.get("profile", folder.name), stated_population(folder)
    lines = [f"# Results, profile {profile}", ""]
    lines += [f"**Whom it is about.** {about}" if about else ""]
    lines += ["", "**How it was made.**", "", "| | |", "| --- | --- |"]
    lines += [f"| {k} | {escape_md(v)} |" for k, v in made_how(record).items()]
    lines += [f"| all of it | `make reproduce PROFILE={profile}`; [provenance](provenance.json) |"]
    return "\n".join(lines)


def _verdicts(rows: pd.DataFrame) -> str:
    lines = ["## Verdicts", "", "| claim | | verdict | |", "| --- | --- | --- | --- |"]
    for claim in claims.CLAIMS:
        told = escape_md(claims.sentence(rows, claim.key))
        verdict = claims.overall(rows, claim.key)
        lines.append(f"| {claim.key} | {claim.statement} | **{verdict}** | {told} |")
    links = "[Every contrast, and how to read it](claims.md) · [CSV](claims.csv)"
    return "\n".join([*lines, "", links])


def _item(folder: Path, stem: str, hidden: Collection[str]) -> str:
    """A figure or table with its links; "" if the folder has none of this name."""
    if stem in hidden:
        return (
            f"*{FILMS[stem]}*: not linked, since it shows real films, which are not passed on "
            f"with the results. A run writes it beside this page as `{stem}.png`."
        )
    picture, table = folder / f"{stem}.png", folder / f"{stem}.md"
    links = " · ".join(
        f"[{name}]({stem}{suffix})"
        for name, suffix in (("CSV", ".csv"), ("SVG", ".svg"), ("LaTeX", ".tex"))
        if (folder / f"{stem}{suffix}").is_file()
    )
    if picture.is_file():
        text = folder / f"{stem}.txt"
        caption = text.read_text(encoding="utf-8").strip() if text.is_file() else stem
        name = caption.partition(" (")[0] if caption.startswith("Figure") else stem
        return "\n\n".join(filter(None, (f"![{name}]({stem}.png)", caption, links)))
    if not table.is_file():
        return ""
    content = table.read_text(encoding="utf-8").strip()
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

    Keys: profile; commit (None where stages differ: each names its own then); environment (what all
    stages agree on); stages: instance -> `KEPT` and what differs from the environment; data and
    weights: file -> sha256; seconds (sum).
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.rglob("manifest.json")):
        name = path.parent.relative_to(run).as_posix()
        if only is not None and name not in only:
            continue
        manifest = read_json(path)
        if "parameters" not in manifest:
            raise InputError(f"{path}: no 'parameters' in it; run its stage again")
        # Each stage hashes its own modules; what is common to all is the commit.
        code = dict(manifest.get("code") or {})
        found[name] = manifest | {"code_files": code.pop("files", {}), "code": code}
    if not found:
        raise InputError(f"{run}: no manifest.json below it; run the profile first")
    first = next(iter(found.values()))
    shared = {
        key: first.get(key)
        for key in ENVIRONMENT
        if all(m.get(key) == first.get(key) for m in found.values())
    }
    stages: dict[str, Any] = {}
    data: dict[str, str] = {}
    weights: dict[str, str] = {}
    for name, manifest in found.items():
        stages[name] = {k: manifest[k] for k in KEPT if k in manifest}
        given = manifest["parameters"]
        if given.get("data_dir"):  # where the data lay is nobody's business
            stages[name]["parameters"] = given | {"data_dir": Path(given["data_dir"]).name}
        if own := {k: manifest[k] for k in ENVIRONMENT if k in manifest and k not in shared}:
            stages[name]["environment"] = own
        for file, described in sorted((manifest.get("outputs") or {}).items()):
            if file.endswith((*WEIGHTS, "store.json")):
                kind = weights if file.endswith(WEIGHTS) else data
                kind[f"{name}/{file}"] = described["sha256"]
    return {
        "profile": first.get("profile", run.name),
        "commit": (shared.get("code") or {}).get("commit"),
        "environment": shared,
        "data": data,
        "weights": weights,
        "seconds": round(sum(float(m.get("seconds") or 0) for m in found.values()), 3),
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
