"""From films and trained classifiers to a label store, in one call that can be stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from dollkit import compute, labelling
from dollkit.buildkey import code_of
from dollkit.classifiers import load_classifiers
from dollkit.errors import InputError
from dollkit.explaining import Explain
from dollkit.findings import POSITIVE
from dollkit.labelling import make_labels
from dollkit.labels import Distil, filmset
from dollkit.labels.store import LabelStore, merge
from dollkit.labels.store import open as open_labels
from dollkit.machine import sha256
from dollkit.parts import Part
from dollkit.store import Store
from dollkit.storewriter import unwritable

log = logging.getLogger(__name__)

SHARD = 64
"""Films per shard: what a killed run may have to do again."""

BEGUN = "made_by.json"
PARTS = "parts"


def find_classifiers(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders of trained classifiers by name: those given, or all just below one given."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give folders with weights.safetensors")
        inner = sorted(f for f in folder.iterdir() if (f / "weights.safetensors").is_file())
        listed = [folder] if (folder / "weights.safetensors").is_file() else inner
        if not listed:
            raise InputError(f"{folder}: no weights.safetensors here: train a classifier first")
        for one in listed:
            name = one.resolve().name
            if name in found:
                raise InputError(f"{one}: a second classifier named {name!r}: rename its folder")
            found[name] = one
    return found


def settings(kind: type[Any], given: Sequence[str], what: str) -> Any:
    """A settings class from ``name=value`` texts, each value of its default's type."""
    known = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise InputError(f"{what} {text!r}: use NAME=VALUE with one of {', '.join(known)}")
        try:
            values[name] = _typed(value, known[name])
        except ValueError:
            wanted = type(known[name]).__name__
            raise InputError(
                f"{what} {name!r} is {value!r}: use a value of type {wanted}"
            ) from None
    return kind(**values)


def _typed(value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    return type(default)(value) if isinstance(default, int | float) else value


def make(
    films: Path,
    classifiers: Sequence[Path],
    out: Path,
    *,
    findings: Path | None = None,
    size: int | None = None,
    how: Explain | None = None,
    distil: Distil | None = None,
    part: Part | None = None,
    limit: int | None = None,
    workers: int | None = None,
    keep_maps: bool = False,
) -> LabelStore | None:
    """Label films with trained classifiers.

    A stopped call goes on where it was. Several processes share the work if each is called with
    its own `part`; then one call without joins them, after doing what is missing. However it was
    cut, the store is the same, byte by byte, on one kind of machine.

    Args:
        films: a film store or a folder of images, see `filmset.open_films`.
        classifiers: folders, see `find_classifiers`.
        out: folder of the label store.
        findings: CSV of findings, see `filmset.read_states`; None: the films' own table, and if
            that says nothing, what the classifiers call.
        size: side in pixels of films from a folder.
        how, distil: settings; None: the defaults.
        part: the share of this process; None: all of it.
        limit: only the first films with a positive finding.
        workers: decoding threads for a folder.
        keep_maps: keep the maps that are cut, too: 2 bytes a pixel of each label.

    Returns:
        The label store, with ``positives`` and ``source`` in its `meta`; None after a `part`.
    """
    folders = find_classifiers(classifiers)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    store = filmset.open_films(films, out / "films", size, workers)
    models = load_classifiers(folders, compute.device())
    hashes = {name: sha256(folder / "weights.safetensors") for name, folder in folders.items()}
    how, distil = how or Explain(), distil or Distil()
    positives = _positives(store, findings)
    if findings is not None:
        store.states = filmset.read_states(findings, store)
    begun: dict[str, Any] = {
        "classifiers": hashes,
        "films": store.digest,
        "explain": asdict(how),
        "distil": asdict(distil),
        "positives": positives,
        "limit": limit,
        "maps": keep_maps,
        "code": code_of([labelling.__name__, __name__]),
    }
    if findings is not None:
        begun["findings"] = sha256(findings)
    # What is noted first counts: a call that joins the parts need not know how many.
    count = _begin(out, begun, part)
    if (out / "labels.json").is_file():
        log.info("%s: kept, nothing that makes it has changed", out)
        return open_labels(out)
    if findings is None and not filmset.mentioned(store):
        log.info(
            "no findings given: what the classifiers call (mean probability above %g) counts as "
            "positive, see %s",
            filmset.CALLED,
            out / "findings.csv",
        )
        store.states = filmset.calls(models, store, out / "findings.csv")
    rows = np.flatnonzero((store.states == POSITIVE).any(1))[:limit]
    if not len(rows):
        raise InputError(f"{films}: no film has a positive finding: {filmset.HINT}")
    log.info("%d of %d films have a positive finding", len(rows), len(store))
    meta: dict[str, Any] = {}
    shards: list[Path] = []
    for number in range(1, count + 1):
        if part is not None and part.number != number:
            continue
        some = rows[_bounds(len(rows), number, count)]
        folder = out / PARTS / Part(number, count).name
        if len(some):
            began = time.perf_counter()
            made = make_labels(models, store, some, how, distil, folder, hashes, SHARD, keep_maps)
            meta = {k: v for k, v in made.meta.items() if k not in ("n", "sha256")}
            log.info("%s: %d films, %.0f s", folder, len(some), time.perf_counter() - began)
            shards += sorted((folder / "shards").glob("[0-9]*[0-9].npz"))
    if part is not None:
        text = "part %d of %d is done; join them by the same call without --part"
        log.info(text, part.number, part.count)
        return None
    source = store.made_from.get("source", "unknown")
    joined = merge(shards, out, {**meta, "positives": positives, "source": source})
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return joined


def _positives(store: Store, findings: Path | None) -> str:
    if findings is not None:
        return f"given by a table ({findings.name})"
    if filmset.mentioned(store):
        return "given by the table of the films"
    return f"called by the classifiers (mean probability above {filmset.CALLED:g})"


def _bounds(n: int, number: int, count: int) -> slice:
    """Films of a part: whole shards, so that any number of parts makes the same shards."""
    shards = -(-n // SHARD)
    first, last = (number - 1) * shards // count, number * shards // count
    return slice(first * SHARD, last * SHARD)


def _begin(out: Path, begun: Mapping[str, Any], part: Part | None) -> int:
    """Note what makes the labels, or hold it against what was noted; returns the parts."""
    path = out / BEGUN
    if not path.is_file() and (out / "labels.json").is_file():
        raise InputError(f"{out}: a label store of unknown making is there: choose another --out")
    count = 1 if part is None else part.count
    fresh = path.with_name(f"{BEGUN}.{os.getpid()}.part")
    try:
        text = json.dumps({**begun, "parts": count}, indent=1, sort_keys=True) + "\n"
        fresh.write_text(text, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # of two processes that begin at once, one is first
        fresh.unlink()
    except OSError as error:
        raise unwritable(out, error) from None
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        parts = int(old["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: cannot be read: choose another --out, or delete it") from None
    other = _difference(old, json.loads(json.dumps(begun)))
    if part is not None and parts != part.count and not other:
        other = f"{parts} parts, not {part.count}"
    if other:
        raise InputError(
            f"{out}: labels were begun there with {other}: choose another --out, or delete it"
        )
    return parts


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs, in words; "" if nothing."""
    for key in new:
        before, now = old.get(key), new[key]
        if before == now:
            continue
        if not isinstance(before, dict) or not isinstance(now, dict):
            short = str(before)[:60], str(now)[:60]
            return f"other {key} ({short[0]}, now {short[1]})"
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                if key != "classifiers":
                    short = str(before.get(name))[:20], str(now.get(name))[:20]
                    return f"another {name} ({short[0]}, now {short[1]})"
                if name not in now or name not in before:
                    return f"other classifiers ({name} is in one of the two)"
                return f"other weights of classifier {name} ({before[name][:12]})"
    return ""
