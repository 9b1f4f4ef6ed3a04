"""Maps of a bounded number of films, made once by every classifier and kept on disk.

The run itself keeps its labels, and of the judged films the maps *after* smoothing; a smoothing
that moves needs them as the explainer gave them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from dollkit.classifiers.model import load_classifiers
from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.common.machine import sha256
from dollkit.data import store
from dollkit.data.build_key import code_of
from dollkit.data.store_writer import unwritable
from dollkit.explanations import EXPLAINERS, ensemble
from dollkit.explanations.ensemble import Explain, Explained, explain_all, positives
from dollkit.interactive.explorer.sources import FilmSet, Source
from dollkit.labels.make import fingerprint
from dollkit.training import weights
from dollkit.workflow.stage import make_writable

log = logging.getLogger(__name__)
BATCH = 16
NO_MATTER = ("budget_mb", "unsettled")
"""Settings that leave maps as they are."""


@dataclass(frozen=True)
class Maps:
    """Maps of one film set by one explainer.

    Attributes:
        made: of K classifiers and all pairs, see `Explained`.
        film: (pairs,) int64, place in the set.
        channel: (pairs,) int64, place in `FINDINGS`.
    """

    made: Explained
    film: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]

    def pair(self, at: int, finding: str) -> int | None:
        """Pair of a film and a finding; None if the finding was not explained there."""
        found = np.flatnonzero((self.film == at) & (self.channel == FINDINGS.index(finding)))
        return int(found[0]) if len(found) else None

    def pairs_of(self, finding: str) -> npt.NDArray[np.int64]:
        """Pairs of a finding, film by film."""
        return np.flatnonzero(self.channel == FINDINGS.index(finding))


Atlas = Mapping[tuple[str, str], Maps]
"""Maps by (film set, explainer)."""


def prepare(source: Source, explainers: Sequence[str]) -> dict[tuple[str, str], Maps]:
    """Maps of every film set by every explainer: read where they stand, else made and kept.

    Each file holds a key of what made it (films, findings asked for, weights, settings); one that
    does not match, or cannot be read, is made anew.

    Args:
        explainers: names in `EXPLAINERS`.
    """
    for name in explainers:
        if name not in EXPLAINERS:
            known = ", ".join(EXPLAINERS)
            raise InputError(f"parameter 'explainers' names {name!r}: use some of {known}")
    if not explainers:
        raise InputError(f"parameter 'explainers' is empty: use some of {', '.join(EXPLAINERS)}")
    hashes = {n: sha256(f / weights.FILE) for n, f in source.classifiers.items()}
    atlas: dict[tuple[str, str], Maps] = {}
    missing: list[tuple[str, Explain, str]] = []
    for name, films in source.sets.items():
        for explainer in dict.fromkeys(explainers):
            how = replace(source.explain, explainer=explainer)
            key = _key(films, how, hashes)
            found = _read(_path(source, name, explainer), key)
            if found is None:
                missing.append((name, how, key))
            else:
                atlas[name, explainer] = found
    if missing:
        make_writable(source.folder)
        _make(source, missing, atlas)
    return atlas


def _make(
    source: Source, missing: Sequence[tuple[str, Explain, str]], atlas: dict[tuple[str, str], Maps]
) -> None:
    where = compute.device()
    models = load_classifiers(source.classifiers, where)
    total = sum(len(source.sets[name]) for name, _, _ in missing)
    bar = tqdm(total=total, desc="maps", unit="film", disable=None, leave=False)
    for name, how, key in missing:
        films = source.sets[name]
        targets = _targets(films)
        parts: list[Explained] = []
        for start in range(0, len(films), BATCH):
            some = slice(start, start + BATCH)
            x = compute.to_input(films.images[some], where)
            # The first batch also gives arrays without pairs their shapes.
            if any(targets[some]) or not parts:
                parts.append(explain_all(models, x, targets[some], how))
            bar.update(len(x))
        made = Explained(*(np.concatenate(part, 1) for part in zip(*parts, strict=True)))
        pairs = [(i, t) for i, wanted in enumerate(targets) for t in wanted]
        film, channel = np.array(pairs, np.int64).reshape(-1, 2).T
        atlas[name, how.explainer] = Maps(made, film, channel)
        _write(_path(source, name, how.explainer), atlas[name, how.explainer], key)
    bar.close()


def _targets(films: FilmSet) -> list[list[int]]:
    """Positive findings of each film; No Finding has no place."""
    return [[t for t in wanted if t > 0] for wanted in positives(films.states)]


def _key(films: FilmSet, how: Explain, hashes: Mapping[str, str]) -> str:
    settings = {k: v for k, v in asdict(how).items() if k not in NO_MATTER}
    if how.explainer != "ig":
        settings = {"explainer": how.explainer, "precision": how.precision}
    pixels = fingerprint(films.images.shape, films.images.tobytes().hex())
    code = code_of([ensemble.__name__])
    return fingerprint(list(hashes.items()), settings, code, pixels, _targets(films))


def _path(source: Source, name: str, explainer: str) -> Path:
    return source.folder / f"{name}-{explainer}.npz"


def _read(path: Path, key: str) -> Maps | None:
    try:
        kept = store.read(path)
        if str(kept["key"]) != key:
            log.info("%s: made anew, what makes it has changed", path.name)
            return None
        made = Explained(*(kept[name] for name in Explained._fields))
        return Maps(made, kept["film"], kept["channel"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        log.info("%s: made anew, it cannot be read (%s)", path.name, error)
        return None


def _write(path: Path, maps: Maps, key: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            arrays = maps.made._asdict() | {"film": maps.film, "channel": maps.channel}
            np.savez(stream, key=np.array(key), **arrays)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from None
