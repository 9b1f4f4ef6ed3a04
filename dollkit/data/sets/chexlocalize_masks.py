"""CheXlocalize's truth files: where radiologists saw ten findings in CheXpert's films."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import BadRows, reject
from dollkit.data.masks import Mask, Polygons, Runs

LOCALIZED: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
"""The ten findings that were drawn, in CheXpert's order."""

OTHER_NAMES: dict[str, str] = {"Airspace Opacity": "Lung Opacity"}

KINDS: tuple[str, ...] = ("segmentations", "annotations")
"""What a truth file holds: run lengths of masks, or the contours that were drawn."""

_KEY = re.compile(r"[a-z]+\d+_study\d+_view\d+_[a-z]+")
_AGAIN = "fetch the file again"


def truth_name(kind: str, part: str) -> str:
    """Name of the truth file of `kind` (one of `KINDS`) for `part` (val or test)."""
    return f"gt_{kind}_{part}.json"


def find_truth(root: Path) -> Path | None:
    """Truth file of CheXpert's own ``valid.csv``, in or beside its root; None if there is none."""
    above = root.absolute().parent
    for folder in (root, root / "CheXlocalize", above / "CheXlocalize", above):
        for kind in KINDS:
            if os.path.lexists(folder / truth_name(kind, "val")):  # what cannot be read is told
                return folder / truth_name(kind, "val")
    return None


def load_truth(path: Path, bad: BadRows | None = None) -> dict[str, dict[str, Mask]]:
    """One truth file: either ``gt_segmentations_*.json`` or ``gt_annotations_*.json``.

    Segmentations hold every finding of a key, all zeros where there is none: an empty mask.
    Annotations name only findings that are there, so that the rest of the ten are empty too.

    Args:
        path: the file; told apart by its content (``img_size`` marks annotations).
        bad: where wrong keys go; None: the first is an error.

    Returns:
        image key (``patient64541_study1_view1_frontal``, lateral films too) -> finding -> mask.
        A key without an entry for a finding has no mask of it.
    """
    data = _parse(path)
    out: dict[str, dict[str, Mask]] = {}
    for key, entry in data.items():
        try:
            if key in data.twice:
                _fail(path, key, f"stands there twice: {_AGAIN}")
            out[key] = _entry(path, key, entry)
        except InputError as error:
            if bad is None:
                raise
            bad.add(path, f"{path}, key {key!r}", str(error))
    return out


def truth_masks(
    films: pd.DataFrame,
    truth: Mapping[str, Mapping[str, Mask]],
    path: Path,
    listed: Collection[str],
    bad: BadRows | None = None,
) -> pd.DataFrame:
    """Masks of the `LOCALIZED` findings, one row per film; None where `truth` has none.

    Args:
        films: films table; ``image_id`` is looked up.
        truth: of `load_truth`; path: its file.
        listed: all image ids that belong to it, films that were left out included.
    """
    if truth and not any(key in listed for key in truth):
        fault = f"none of its {len(truth)} keys is a listed film (first: {next(iter(truth))!r})"
        reject(bad, path, str(path), f"{fault}: put the truth file of these films there")
    columns = {
        finding: [truth.get(i, {}).get(finding) for i in films["image_id"]] for finding in LOCALIZED
    }
    return pd.DataFrame(columns, index=films.index, dtype=object)


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys stood there twice."""

    twice: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    out = _Object(pairs)
    names = [name for name, _ in pairs]
    repeated = {n for n in names if names.count(n) > 1} if len(out) < len(names) else set()
    out.twice = frozenset(repeated)
    return out


def _parse(path: Path) -> _Object:
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_object)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: fetch CheXlocalize again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error}): {_AGAIN}") from None
    if not isinstance(data, _Object):
        raise InputError(f"{path}: holds no JSON object of image keys: {_AGAIN}")
    return data


def _fail(path: Path, key: str, reason: str) -> NoReturn:
    raise InputError(f"{path}, key {key!r}: {reason}")


def _entry(path: Path, key: str, entry: object) -> dict[str, Mask]:
    if not _KEY.fullmatch(key):
        _fail(path, key, "use the form patient64541_study1_view1_frontal")
    if not isinstance(entry, _Object) or not entry:
        _fail(path, key, f"holds no findings but {_brief(entry)}: {_AGAIN}")
    if entry.twice:
        _fail(path, key, f"finding {min(entry.twice)!r} stands there twice: {_AGAIN}")
    drawn = "img_size" in entry
    out: dict[str, Mask] = {}
    for name, value in entry.items():
        finding = OTHER_NAMES.get(name, name)
        if name == "img_size":
            continue
        if finding not in LOCALIZED:
            _fail(path, key, f"unknown finding {name!r}: use one of {', '.join(LOCALIZED)}")
        if finding in out:
            _fail(path, key, f"finding {finding!r} stands there under two names: {_AGAIN}")
        where = f"key {key!r}, {name}"
        mask = _polygons if drawn else _runs
        out[finding] = mask(path, where, value, entry.get("img_size"))
    if drawn:
        for finding in LOCALIZED:
            where = f"key {key!r}, {finding}"
            out.setdefault(finding, _polygons(path, where, [], entry["img_size"]))
    return {f: out[f] for f in FINDINGS if f in out}


def _polygons(path: Path, where: str, contours: object, size: Any) -> Polygons:
    if not isinstance(contours, list):
        raise InputError(f"{path}, {where}: no list of contours but {_brief(contours)}: {_AGAIN}")
    mask = Polygons(path, where, tuple(size) if isinstance(size, list) else size, contours)
    mask.check()
    return mask


def _runs(path: Path, where: str, value: object, _: object) -> Runs:
    if not isinstance(value, _Object) or set(value) != {"size", "counts"} or value.twice:
        raise InputError(f"{path}, {where}: no size and counts but {_brief(value)}: {_AGAIN}")
    size = value["size"]
    mask = Runs(path, where, tuple(size) if isinstance(size, list) else size, value["counts"])
    mask.check()
    return mask


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
