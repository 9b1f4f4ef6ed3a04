"""CheXlocalize's truth files: where radiologists saw ten findings in CheXpert's films."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.csvfile import BadRows, reject
from dollkit.data.masks import Mask, Polygons, Runs
from dollkit.data.sets import common_steps as steps

LOCALIZED: tuple[str, ...] = tuple(
    finding
    for finding in FINDINGS
    if finding not in ("No Finding", "Pneumonia", "Pleural Other", "Fracture")
)
"""The ten findings that were drawn, in CheXpert's order."""

KINDS: tuple[str, ...] = ("segmentations", "annotations")
"""What a truth file holds: run lengths of masks, or the contours that were drawn."""

_OTHER_NAMES = {"Airspace Opacity": "Lung Opacity"}
_KEY = re.compile(r"[a-z]+\d+_study\d+_view\d+_[a-z]+")


def truth_name(kind: str, part: str) -> str:
    """Name of the truth file of `kind` (one of `KINDS`) for `part` (val or test)."""
    return f"gt_{kind}_{part}.json"


def find_truth(root: Path) -> Path | None:
    """Truth file of CheXpert's own ``valid.csv``, in or beside its root; None if there is none."""
    above = root.absolute().parent
    for folder in (root, root / "CheXlocalize", above / "CheXlocalize", above):
        for kind in KINDS:
            if os.path.lexists(folder / truth_name(kind, "val")):  # a broken link is reported
                return folder / truth_name(kind, "val")
    return None


def load_truth(path: Path, bad: BadRows | None = None) -> dict[str, dict[str, Mask]]:
    """Masks by image key (``patient64541_study1_view1_frontal``) and finding.

    An entry with ``img_size`` holds contours of the findings that are there, and the rest of the
    ten are empty masks. Any other entry holds run lengths; a finding that it lacks is unknown.
    """
    data = steps.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no JSON object of image keys: {steps.AGAIN}")
    out: dict[str, dict[str, Mask]] = {}
    for key, entry in data.items():
        try:
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

    `listed` are all image ids that `path` may name, those of films that were left out included.
    """
    if truth and not any(key in listed for key in truth):
        fault = f"none of its {len(truth)} keys is a listed film (first: {next(iter(truth))!r})"
        reject(bad, path, str(path), f"{fault}: put the truth file of these films there")
    columns = {
        finding: [truth.get(i, {}).get(finding) for i in films["image_id"]] for finding in LOCALIZED
    }
    return pd.DataFrame(columns, index=films.index, dtype=object)


def _entry(path: Path, key: str, entry: object) -> dict[str, Mask]:
    where = f"{path}, key {key!r}"
    if not _KEY.fullmatch(key):
        raise InputError(f"{where}: use the form patient64541_study1_view1_frontal")
    if not isinstance(entry, dict) or not entry:
        raise InputError(f"{where}: holds no findings but {entry!r:.60}: {steps.AGAIN}")
    drawn = "img_size" in entry
    values: dict[str, tuple[str, Any]] = {}
    for name, value in entry.items():
        finding = _OTHER_NAMES.get(name, name)
        if name == "img_size":
            continue
        if finding not in LOCALIZED:
            known = ", ".join(LOCALIZED)
            raise InputError(f"{where}: unknown finding {name!r}: use one of {known}")
        if finding in values:
            raise InputError(
                f"{where}: finding {finding!r} stands there under two names: {steps.AGAIN}"
            )
        values[finding] = (name, value)
    if drawn:
        values = {finding: (finding, []) for finding in LOCALIZED} | values
    return {f: _mask(path, key, *values[f], entry) for f in FINDINGS if f in values}


def _mask(path: Path, key: str, name: str, value: object, entry: dict[str, Any]) -> Mask:
    """Contours on the grid of size ``img_size``, or else run lengths."""
    where, drawn = f"key {key!r}, {name}", "img_size" in entry
    mask: Polygons | Runs
    if drawn and isinstance(value, list):
        mask = Polygons(path, where, _pair(entry["img_size"]), value)
    elif not drawn and isinstance(value, dict) and set(value) == {"size", "counts"}:
        mask = Runs(path, where, _pair(value["size"]), value["counts"])
    else:
        kind = "list of contours" if drawn else "size and counts"
        raise InputError(f"{path}, {where}: no {kind} but {value!r:.60}: {steps.AGAIN}")
    mask.check()
    return mask


def _pair(size: Any) -> Any:
    return tuple(size) if isinstance(size, list) else size
