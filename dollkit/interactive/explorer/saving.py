"""What one found, as files: the shown picture, and corrected thresholds that the pipeline reads."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.store_writer import unwritable
from dollkit.interactive.explorer import draw
from dollkit.interactive.explorer.sources import Source
from dollkit.interactive.explorer.view import Cut, View, cut_of
from dollkit.labels.threshold_rules import OTHER
from dollkit.workflow import parameters, stages
from dollkit.workflow.stage import make_writable

WRITTEN = "# Written by dollkit's explorer"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class Saved:
    """Files of corrected thresholds.

    Attributes:
        rules: CSV of rules, see `dollkit.labels.threshold_rules.read`.
        profile: parameter file that names it; None for a label set of one's own.
        command: what makes labels by them.
    """

    rules: Path
    profile: Path | None
    command: str


def save_picture(source: Source, view: View, dark: bool = False) -> tuple[Path, Path]:
    """Write the shown picture as PNG (three times the screen's size) and SVG.

    The name tells set, film, finding, explainer and classifier, and a few letters the cut.
    """
    choice = view.choice
    parts = [choice.films, view.image_id, choice.finding, choice.explainer, choice.classifier]
    stem = re.sub(r"[^\w.+-]+", "_", "-".join(parts))[:150]
    stem += "-" + hashlib.sha256(repr((choice, dark)).encode()).hexdigest()[:6]
    folder = source.folder / "pictures"
    make_writable(folder)
    paths = folder / f"{stem}.png", folder / f"{stem}.svg"
    _write(paths[0], draw.png(view, dark, scale=3))
    _write(paths[1], draw.svg(view, dark))
    return paths


def rules_table(source: Source, corrected: Mapping[str, Cut]) -> pd.DataFrame:
    """Columns finding, rule, smooth: corrected findings, those the run has rules for, ``other``."""
    ignore_of(source, corrected)
    own = source.distil.thresholds
    named = [f for f in PATHOLOGIES if f in corrected or (isinstance(own, Mapping) and f in own)]
    cuts = {f: corrected.get(f, cut_of(source.distil, f)) for f in named}
    cuts[OTHER] = cut_of(source.distil, OTHER)
    rows = [(f, str(c.rule), f"{c.smooth:g}") for f, c in cuts.items()]
    return pd.DataFrame(rows, columns=["finding", "rule", "smooth"])


def ignore_of(source: Source, corrected: Mapping[str, Cut]) -> float:
    """The one `ignore` of all corrected findings; the run's if there are none."""
    found = {c.ignore for c in corrected.values()} or {source.distil.ignore}
    if len(found) > 1:
        values = ", ".join(f"{v:g}" for v in sorted(found))
        raise InputError(f"parameter 'ignore' has several values ({values}): use one for all")
    return found.pop()


def save_thresholds(source: Source, corrected: Mapping[str, Cut], name: str) -> Saved:
    """Write corrected thresholds as something that the labels stage accepts.

    Of a run: ``notebooks/params/<name>.yaml``, the run's profile with ``threshold``, ``ignore`` of
    the labels stage set, and beside it the CSV of rules that it names. The CSV's name holds a hash
    of its content, so that other thresholds are another parameter, and the stage runs again. Of a
    label set: the CSV alone.

    Args:
        corrected: finding to its cut; findings not in it keep the run's.
        name: of the new profile, or of the file.
    """
    if not corrected:
        raise InputError("no threshold was changed: move a slider first")
    if not NAME.fullmatch(name):
        raise InputError(f"name {name!r}: use letters, digits, and _ . + -")
    text = rules_table(source, corrected).to_csv(index=False, lineterminator="\n")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    ignore = ignore_of(source, corrected)
    if source.profile is None:
        make_writable(source.folder)
        rules = source.folder / f"{name}-{digest}.csv"
        _write(rules, text.encode())
        table = shlex.quote(f"thresholds={rules.resolve()}")
        more = f"--distil threshold=tuned {table} ignore={ignore:g}"
        return Saved(rules, None, f"python -m dollkit.labels make ... {more}")
    folder = parameters.profile_file(source.profile).parent
    profile = folder / f"{name}.yaml"
    _mine(profile)
    content = parameters.read_profile(source.profile)
    rules = folder / f"{name}-{digest}.csv"
    section = stages.STAGES["labels"].section
    # Absolute: a kernel's working folder is the run's under make, and the notebook's by hand.
    set_here = {"threshold": str(rules.resolve()), "ignore": ignore}
    content[section] = {**(content.get(section) or {}), **set_here}
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    make_writable(folder)
    _write(rules, text.encode())
    _write(profile, f"{WRITTEN} from profile {source.profile}.\n{body}".encode())
    data = " DATA=folder" if content.get("needs_data") else ""
    return Saved(rules, profile, f"make reproduce PROFILE={name}{data}")


def _mine(profile: Path) -> None:
    """Raise `InputError` if a profile is there that someone wrote."""
    if not profile.exists():
        return
    try:
        own = profile.read_text(encoding="utf-8").startswith(WRITTEN)
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise InputError(f"{profile}: not written by the explorer: choose another name")


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from None
