"""Do two profiles fine-tune alike? What their ``provenance.json`` say of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dollkit.errors import InputError

FREE = (
    "profile", "arms", "tunings", "seeds", "folds", "sizes", "size_arms", "robustness",
    "n_examples",
)  # fmt: skip
"""Parameters of fine-tuning that choose which runs there are, and change none of them."""


def _record(folder: Path) -> Mapping[str, Any]:
    """A profile's provenance; empty if it has none."""
    path = folder / "provenance.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record, stages=dict(record["stages"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no provenance ({error}); run its claims stage again") from error


def _parameters(record: Mapping[str, Any], stage: str) -> dict[str, Any]:
    found: dict[str, Any] = record.get("stages", {}).get(stage, {}).get("parameters", {})
    return found


def pretrained_on(folder: Path) -> str:
    """Source of a profile's films, such as "pre-trained on: phantom"; empty if not known.

    Args:
        folder: ``figures/<profile>``.
    """
    data = _parameters(_record(folder), "data")
    source = (data.get("stores") or {}).get("films", data.get("source", ""))
    return f"pre-trained on: {source}" if source else ""


def differences(a: Path, b: Path, stages: Iterable[tuple[str, str]]) -> list[str]:
    """One line per fine-tuning stage in which two profiles differ by more than pre-training.

    Args:
        a, b: ``figures/<profile>``; without provenance there is nothing to compare.
        stages: (network, task) of those to look at.
    """
    records = _record(a), _record(b)
    lines = []
    for network, task in stages:
        one, other = (_parameters(r, f"finetune/{network}-{task}") for r in records)
        if not (one and other):
            lines.append(f"{task}: no provenance in both, so settings were not compared.")
            continue
        found = [
            f"{key} {one[key]!r} and {other[key]!r}"
            for key in sorted(set(one) & set(other) - {*FREE, "lrs"})
            if one[key] != other[key]
        ]
        rates = [p.get("lrs", {}) for p in (one, other)]
        full = [r.get("full", r.get("other")) for r in rates]
        if all(full) and full[0] != full[1]:
            found.append(f"learning rates {full[0]!r} and {full[1]!r}")
        store = f"data/{task}/store.json"
        hashes = [r.get("data", {}).get(store) for r in records]
        if hashes[0] != hashes[1]:
            found.append("stores of other bytes")
        if found:
            lines.append(f"{task}: fine-tuning differs in {'; '.join(found)}.")
    return lines
