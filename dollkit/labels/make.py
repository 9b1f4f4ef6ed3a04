"""Explain the positive findings of many films and label them, shard by shard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from dollkit.classifiers.model import Classifier, load_classifiers
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, POSITIVE
from dollkit.common.machine import sha256
from dollkit.common.shares import Part
from dollkit.data.build_key import code_of
from dollkit.data.images import IGNORE
from dollkit.data.store import Store
from dollkit.data.store_writer import unwritable
from dollkit.explanations.ensemble import Explain, Explained, explain_all, pair_settled, positives
from dollkit.labels import Distil, distil, film_set
from dollkit.labels import store as labelstore
from dollkit.labels.store import LabelStore, merge
from dollkit.labels.store import open as open_labels

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]


def rows_to_label(store: Store, n_train: int, n_valid: int) -> Rows:
    """First films with a positive finding of split ``train``, then of ``valid``, as rows.

    Asking for more than there are gives all of them.
    """
    some = (store.states == POSITIVE).any(1)
    split = store.films["split"].to_numpy()
    train = np.flatnonzero(some & (split == "train"))[:n_train]
    held = np.flatnonzero(some & (split == "valid"))[:n_valid]
    return np.concatenate([train, held])


def batches(
    store: Store, rows: Rows, size: int, where: torch.device
) -> Iterator[tuple[Rows, torch.Tensor, list[list[int]]]]:
    """Films with their targets, `size` at a time; films without positives are passed over."""
    targets = positives(store.states[rows])
    keep = [i for i, t in enumerate(targets) if t]
    for i in range(0, len(keep), size):
        some = keep[i : i + size]
        chosen = rows[some]
        yield chosen, compute.to_input(store.images[chosen], where), [targets[j] for j in some]


def fingerprint(*parts: object) -> str:
    """Short sha256 of JSON-able settings."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_labels(
    models: Mapping[str, Classifier],
    store: Store,
    rows: Rows,
    how: Explain,
    settings: Distil,
    folder: Path,
    weights: Mapping[str, str],
    shard: int = 64,
    keep_maps: bool = False,
    part: Part | None = None,
) -> labelstore.LabelStore:
    """Label films shard by shard; a killed call goes on where it stopped.

    A shard that other settings, classifiers, films or modules have made is made anew.

    Args:
        models: the classifiers by name.
        rows: rows of `store` to label.
        folder: gets `shards/` while working and `store/` at the end.
        weights: sha256 of each classifier's weights, kept with the labels.
        shard: films per shard.
        keep_maps: keep the maps that are cut, too, as float16.
        part: share of this process: its shards are written, none are joined.

    Returns:
        The label store.

    Raises:
        Done: after a part.
    """
    where = next(next(iter(models.values())).parameters()).device
    # Few enough films that their maps are small beside the passes' own memory.
    batch = max(4, min(64, (1 << 22) // store.size**2))
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    meta = {
        "explain": asdict(how),
        "distil": asdict(settings),
        "classifiers": dict(weights),
        "films": store.digest,
        "size": store.size,
    }
    if keep_maps:
        meta["maps"] = True
    code = code_of([__name__])
    paths, began, done = [], time.perf_counter(), 0
    bar = tqdm(total=len(rows), desc="labels", unit="film", disable=None)
    for number, start in enumerate(range(0, len(rows), shard)):
        if part is not None and not part.takes(number):
            continue
        some = rows[start : start + shard]
        key = fingerprint(meta, code, some.tolist())
        path = folder / "shards" / f"{number:05d}.npz"
        paths.append(path)
        if labelstore.shard_key(path) != key:
            tables, labels, maps = [], [], []
            for chosen, x, targets in batches(store, some, batch, where):
                made = explain_all(models, x, targets, how)
                names = [FINDINGS[t] for wanted in targets for t in wanted]
                films = store.images[np.repeat(chosen, [len(t) for t in targets])]
                boosted, label, hi = distil(made.maps, made.probability, settings, names, films)
                settled = pair_settled(made, settings.trust)
                if how.unsettled == "ignore":
                    label[~settled] = IGNORE
                tables.append(_pairs(store, list(models), chosen, targets, hi, made, settled))
                labels.append(label)
                maps.append(boosted)
            if tables:
                table = pd.concat(tables, ignore_index=True)
                kept = np.concatenate(maps) if keep_maps else None
                labelstore.write_shard(path, table, np.concatenate(labels), key, kept)
            else:
                paths.pop()
            done += len(some)
        bar.update(len(some))
        if done and number % 8 == 7:
            rate = done / (time.perf_counter() - began)
            log.info("labels  %d / %d films  %.1f films/s", start + len(some), len(rows), rate)
    bar.close()
    if part is not None:
        part.end()
    if not paths:
        raise InputError(f"{store.path}: none of the {len(rows)} films has a positive finding")
    return labelstore.merge(paths, folder / "store", meta)


def _pairs(
    store: Store, names: Sequence[str], rows: Rows, targets: Sequence[Sequence[int]],
    hi: npt.NDArray[np.float32], made: Explained, settled: npt.NDArray[np.bool_],
) -> pd.DataFrame:  # fmt: skip
    """The pairs table: of error and steps the largest over classifiers, and each one's own."""
    films = [(int(r), FINDINGS[t]) for r, wanted in zip(rows, targets, strict=True) for t in wanted]
    ids = store.films["image_id"].to_numpy()
    return pd.DataFrame(
        {
            "row": [r for r, _ in films],
            "image_id": [ids[r] for r, _ in films],
            "finding": [f for _, f in films],
            "threshold": hi,
            "error": made.error.max(0),
            "probability": made.probability.mean(0),
            "steps": made.steps.max(0),
            "settled": settled,
            **labelstore.by_classifier(names, error=made.error, probability=made.probability),
        }
    )


# From films and trained classifiers to a label store, in one call that can be stopped.


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
    store = film_set.open_films(films, out / "films", size, workers)
    models = load_classifiers(folders, compute.device())
    hashes = {name: sha256(folder / "weights.safetensors") for name, folder in folders.items()}
    how, distil = how or Explain(), distil or Distil()
    positives = _positives(store, findings)
    if findings is not None:
        store.states = film_set.read_states(findings, store)
    begun: dict[str, Any] = {
        "classifiers": hashes,
        "films": store.digest,
        "explain": asdict(how),
        "distil": asdict(distil),
        "positives": positives,
        "limit": limit,
        "maps": keep_maps,
        "code": code_of([__name__]),
    }
    if findings is not None:
        begun["findings"] = sha256(findings)
    # What is noted first counts: a call that joins the parts need not know how many.
    count = _begin(out, begun, part)
    if (out / "labels.json").is_file():
        log.info("%s: kept, nothing that makes it has changed", out)
        return open_labels(out)
    if findings is None and not film_set.mentioned(store):
        log.info(
            "no findings given: what the classifiers call (mean probability above %g) counts as "
            "positive, see %s",
            film_set.CALLED,
            out / "findings.csv",
        )
        store.states = film_set.calls(models, store, out / "findings.csv")
    rows = np.flatnonzero((store.states == POSITIVE).any(1))[:limit]
    if not len(rows):
        raise InputError(f"{films}: no film has a positive finding: {film_set.HINT}")
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
    if film_set.mentioned(store):
        return "given by the table of the films"
    return f"called by the classifiers (mean probability above {film_set.CALLED:g})"


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
