"""Reading a run's rows, checking them, and the one definition of mean IoU.

mIoU here: foreground classes only; per class the mean over the test films in which truth or
prediction is not empty (a film where just one of them is empty counts 0, one where both are is
undefined); then the mean over classes; then over seeds. Folds of one seed are pooled first, as
each film is tested in exactly one of them.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import ARMS, TUNINGS
from dollkit.common.errors import InputError
from dollkit.common.statistics import NO_EFFECT, Effect, Floats, crossed_effect, patient_values
from dollkit.data import store
from dollkit.finetuning.robustness import KINDS
from dollkit.labels import summary

TASKS = ("lungs", "infection", "organs")

SETTING = ["task", "network", "n_train", "tuning", "arm"]
"""What one row of a table is about; seeds, folds, films and classes are averaged over."""

_TRAINED = ["task", "network", "arm", "tuning", "n_train", "seed", "fold"]
CASE_COLUMNS = [*_TRAINED, "image_id", "patient_id", "class", "tp", "fp", "fn", "iou", "dice"]
ROBUST_COLUMNS = [*CASE_COLUMNS, "perturbation", "level"]
CURVE_COLUMNS = [*_TRAINED, "lr", "step", "seconds", "val_miou"]
RUN_COLUMNS = [
    *_TRAINED, "lr", "steps", "best_step", "best_val_miou", "trainable", "total", "seconds",
    "checkpoint_bytes", "memory_mb", "n_valid",
]  # fmt: skip
SELECTION_COLUMNS = [*_TRAINED, "lr", "steps", "val_miou", "selected"]
LABEL_CASE_COLUMNS = [
    "image_id", "patient_id", "finding", "explainer", "classifiers", "n_classifiers", "variant",
    "iou_matched", "iou_label", "iou_chance", "iou_prior", "precision", "recall", "hit",
]  # fmt: skip
CLASSIFIER_COLUMNS = ["classifier", "finding", "auroc", "auroc_lo", "auroc_hi", "ap", "n_pos", "n"]
PRETRAINING_COLUMNS = [
    "network", "arm", "start", "steps", "batch", "films", "seed", "label_iou", "own_iou",
    "true_iou",
]  # fmt: skip
"""IoU of what was taught with the truth, of the trained network with what it was taught, and with
the truth; the first on its training films, the others on held-out ones."""

_TEXT = {
    "task", "network", "arm", "tuning", "image_id", "patient_id", "class", "finding", "explainer",
    "classifiers", "variant", "classifier", "factor", "value", "start", "perturbation", "status",
    "claim", "contrast", "verdict", "note",
}  # fmt: skip
_KNOWN: dict[str, Collection[str]] = {
    "arm": ARMS, "task": TASKS, "tuning": TUNINGS, "perturbation": KINDS,
}  # fmt: skip
_UNIT_INTERVAL = {
    "iou", "dice", "val_miou", "iou_matched", "iou_label", "auroc", "best_val_miou", "label_iou",
    "own_iou", "true_iou",
}  # fmt: skip


class Source(NamedTuple):
    """Where a run and the stored results of a profile have rows of one kind."""

    family: str
    file: str
    stored: str
    columns: list[str]
    optional: bool = False


SOURCES = {
    "classifiers": Source("classifiers/*", "metrics.csv", "classifiers.csv", CLASSIFIER_COLUMNS),
    "labels": Source("labels", "labels.csv", "labels.csv", summary.SUMMARY_COLUMNS),
    "cases": Source("finetune/*", "cases.csv.gz", "cases.csv.gz", CASE_COLUMNS),
    "label_cases": Source("labels", "label_cases.csv.gz", "label_cases.csv.gz", LABEL_CASE_COLUMNS),
    "curves": Source("finetune/*", "curves.csv", "curves.csv.gz", CURVE_COLUMNS),
    "runs": Source("finetune/*", "runs.csv", "runs.csv", RUN_COLUMNS),
    "selection": Source("finetune/*", "selection.csv", "selection.csv", SELECTION_COLUMNS),
    "robust": Source("finetune/*", "robust.csv.gz", "robust.csv.gz", ROBUST_COLUMNS, True),
    "pretraining": Source(
        "pretrain/*", "pretraining.csv", "pretraining.csv", PRETRAINING_COLUMNS, True
    ),
}


@dataclass
class Rows:
    """All rows that tables, curves and claims of a profile are made from.

    Without perturbed films, or a record of pre-training, these frames are empty. `ablation` has
    one row per changed factor of label making; `not_run` says why an arm could not run.
    """

    classifiers: pd.DataFrame
    labels: pd.DataFrame
    cases: pd.DataFrame
    label_cases: pd.DataFrame
    curves: pd.DataFrame
    runs: pd.DataFrame
    selection: pd.DataFrame
    robust: pd.DataFrame
    pretraining: pd.DataFrame
    ablation: pd.DataFrame
    not_run: dict[str, str]

    def write(self, folder: Path) -> list[Path]:
        """Write each kind to ``figures/<profile>``, from where `read_stored` reads it."""
        made = []
        for name, source in SOURCES.items():
            if len(frame := getattr(self, name)) or not source.optional:
                write_csv(frame, folder / source.stored)
                made.append(folder / source.stored)
        return made


def read_run(run: Path, only: Collection[str] | None = None) -> Rows:
    """Rows of ``runs/<profile>``, checked, in order of instance.

    Args:
        only: instances of the run, `stage.RunningStage.planned`; folders of others, such as an
            arm that has left the profile, are passed over. None: all that are there.
    """

    def every(name: str) -> pd.DataFrame:
        family, file, _, columns, optional = SOURCES[name]
        paths = _instances(run, family, file, only)
        if not paths and optional:
            return pd.DataFrame(columns=columns)
        if not paths:
            raise InputError(f"{run}: no {family}/{file}; run the stage that writes it")
        parts = [read_table(p, columns) for p in paths]
        if name == "robust":
            parts = [check_robust(part, str(p)) for part, p in zip(parts, paths, strict=True)]
        return pd.concat(parts, ignore_index=True)

    frames = {name: every(name) for name in SOURCES}
    frames["cases"] = check_cases(frames["cases"], str(run / "finetune"))
    frames["label_cases"] = _check_label_cases(frames["label_cases"], str(run / "labels"))
    ablation = read_table(run / "labels" / "ablation.csv", summary.ABLATION_COLUMNS)
    reasons: dict[str, str] = {}
    for path in _instances(run, "finetune/*", "manifest.json", only):
        for arm, reason in ((read_json(path).get("notes") or {}).get("not_run") or {}).items():
            reasons.setdefault(str(arm), str(reason))
    return Rows(**frames, ablation=ablation, not_run=reasons)


def read_stored(folder: Path) -> Rows:
    """Rows of ``figures/<profile>``; IoU and Dice to full precision from their pixel counts."""
    frames = {}
    for name, (_, _, file, columns, optional) in SOURCES.items():
        if optional and not (folder / file).is_file():
            frames[name] = pd.DataFrame(columns=columns)
        else:
            frames[name] = read_table(folder / file, columns)
    for name in ("cases", "robust"):
        frames[name] = _from_counts(frames[name], str(folder / SOURCES[name].stored))
    frames["cases"] = check_cases(frames["cases"], str(folder / "cases.csv.gz"))
    labels = _check_label_cases(frames["label_cases"], str(folder / "label_cases.csv.gz"))
    frames["label_cases"] = labels
    printed = read_table(folder / "table1.csv", ("arm", "status"))
    absent = printed[printed["status"].str.startswith(NOT_RUN)]
    reasons = dict(zip(absent["arm"], absent["status"].str.removeprefix(NOT_RUN), strict=True))
    return Rows(**frames, ablation=summary.ablation(labels), not_run=reasons)


NOT_RUN = "not run: "
"""Begins the status of an arm in Table 1 that could not run."""


def _instances(run: Path, family: str, file: str, only: Collection[str] | None) -> list[Path]:
    found = sorted(run.glob(f"{family}/{file}"))
    return [
        p
        for p in found
        if only is None or "*" not in family or p.parent.relative_to(run).as_posix() in only
    ]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a stage has written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not JSON ({error}); run its stage again") from error


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """One CSV (plain or gzip) with its columns and ranges checked.

    Text columns stay text, whatever they look like ("00012" is a name, not 12).
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it")
    try:
        frame = pd.read_csv(
            path, dtype=dict.fromkeys(_TEXT, "str"), keep_default_na=False, na_values=["", "nan"]
        )
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); run its stage again") from error
    for column in columns:
        if column not in frame:
            raise InputError(f"{path}: column {column!r} is missing; run its stage again")
        if len(frame) and column not in _TEXT and frame[column].dtype.kind not in "ifb":
            raise InputError(f"{path}: column {column!r} holds text where a number belongs")
        known = _KNOWN.get(column)
        strange = sorted(set(frame[column].astype(str)) - set(known)) if known else []
        if strange and known:
            raise InputError(
                f"{path}: column {column!r} holds {strange[0]!r}: use one of {', '.join(known)}"
            )
        if column in _UNIT_INTERVAL:
            values = frame[column].to_numpy(np.float64)
            for row in np.flatnonzero((values < 0) | (values > 1))[:1]:
                raise InputError(
                    f"{path}: row {row + 2}, column {column!r} is {values[row]:g}, outside [0, 1]"
                )
    return frame


def check_cases(cases: pd.DataFrame, place: str = "cases") -> pd.DataFrame:
    """Per-case rows in canonical order; a doubled or inconsistent row is an `InputError`."""
    key = [*SETTING, "seed", "fold", "image_id", "class"]
    _check_single(cases, key, place)
    counts = cases[["tp", "fp", "fn"]].to_numpy(np.float64)
    union = counts.sum(1)
    iou = np.divide(counts[:, 0], union, out=np.full(len(union), np.nan), where=union > 0)
    wrong = ~np.isclose(iou, cases["iou"].to_numpy(np.float64), rtol=0, atol=1e-4, equal_nan=True)
    if wrong.any():
        row = cases.loc[wrong].iloc[0]
        raise InputError(
            f"{place}: image {row['image_id']}, class {row['class']}: iou {row['iou']} does not "
            "follow from its tp, fp, fn"
        )
    return cases.sort_values(key, kind="stable", ignore_index=True)


def _check_single(frame: pd.DataFrame, key: list[str], place: str) -> None:
    doubled = frame.duplicated(key)
    if doubled.any():
        row = frame.loc[doubled, key].iloc[0]
        raise InputError(f"{place}: two rows for {', '.join(f'{k}={row[k]}' for k in key)}")


def check_robust(rows: pd.DataFrame, place: str) -> pd.DataFrame:
    """Rows of perturbed films, each perturbation and level by itself as `check_cases`."""
    if rows["level"].isna().any():
        raise InputError(f"{place}: column 'level' has a blank; run its stage again")
    cells = rows.groupby(["perturbation", "level"], sort=True)
    return pd.concat([check_cases(part, f"{place}: {k[0]} {k[1]:g}") for k, part in cells])


def _check_label_cases(frame: pd.DataFrame, place: str) -> pd.DataFrame:
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    _check_single(frame, key, place)
    return frame.sort_values(key, kind="stable", ignore_index=True)


def _from_counts(rows: pd.DataFrame, place: str) -> pd.DataFrame:
    """Rows with IoU and Dice from tp, fp and fn; a stored value that is another is an error."""
    tp, fp, fn = (rows[c].astype(np.float64) for c in ("tp", "fp", "fn"))
    exact = {"iou": tp / (tp + fp + fn), "dice": 2 * tp / (2 * tp + fp + fn)}
    for column, values in exact.items():
        ours, stored = ([f"{v:.{DIGITS}g}" for v in x] for x in (values, rows[column]))
        for row in [i for i, (a, b) in enumerate(zip(ours, stored, strict=True)) if a != b][:1]:
            raise InputError(
                f"{place}: row {row + 2}: {column} is {stored[row]}, its counts give {ours[row]}"
            )
    return rows.assign(**exact)


DIGITS = 6
"""Significant digits of a stored number."""


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV with the same bytes every time: `DIGITS`, ``\\n``, gzip without a time."""
    text = frame.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream:
            stream.write(text)
        text = buffer.getvalue()
    path.write_bytes(text)


def contributions(cases: pd.DataFrame, value: str) -> tuple[list[int], list[str], Floats]:
    """Seeds, patients and the (S, P) contributions to mIoU (or mean Dice) of one setting.

    The plain mean of row s is the mIoU of seed s by this module's definition; the mean of the
    matrix is the setting's. A patient whom a seed did not test contributes that seed's mean, so
    that it moves no mean; with complete designs this never happens.

    Args:
        cases: rows of one setting (see `SETTING`), all seeds and folds.
        value: column to average, "iou" or "dice".
    """
    seeds = sorted({int(s) for s in cases["seed"]})
    patients = np.unique(cases["patient_id"].to_numpy().astype(str))
    out = np.empty((len(seeds), len(patients)))
    for row, seed in enumerate(seeds):
        part = cases[cases["seed"] == seed]
        names, units = patient_values(part[value], part["patient_id"], part["class"])
        out[row] = units.mean()
        out[row, np.searchsorted(patients, names.astype(str))] = units
    return seeds, [str(p) for p in patients], out


def aligned(parts: Sequence[pd.DataFrame]) -> tuple[list[int], list[Floats], int]:
    """Seeds, `contributions` to mIoU and number of films that several settings all have.

    Each setting's is an (S, P) matrix with the same patients in the same columns.
    """
    films = set.intersection(*(set(p["image_id"]) for p in parts))
    seeds = set.intersection(*({int(s) for s in p["seed"]} for p in parts))
    matrices: list[Floats] = []
    for part in parts:
        keep = part[part["image_id"].isin(films) & part["seed"].isin(seeds)]
        matrices.append(contributions(keep, "iou")[2] if len(keep) else np.empty((0, 0)))
    return sorted(seeds), matrices, len(films)


def effect_of(matrix: Floats) -> Effect:
    """`crossed_effect`; `NO_EFFECT` of an empty matrix."""
    return crossed_effect(matrix) if matrix.size else NO_EFFECT


def difference(one: pd.DataFrame, other: pd.DataFrame) -> Effect:
    """mIoU of one setting minus another's, over seeds and patients of the films that both have."""
    _, (a, b), _ = aligned([one, other])
    return effect_of(a - b)


def explainer_of(labels: pd.DataFrame) -> str:
    """Explainer of the labels that a run teaches.

    In rows of label_cases.csv.gz variant ``shipped`` tells it; in those of labels.csv it is the one
    that was tried with fewer classifiers too (of several, IG).
    """
    shipped = labels[labels["variant"] == "shipped"] if "variant" in labels else labels[:0]
    if len(shipped):
        return str(shipped["explainer"].iloc[0])
    counts = labels.groupby("explainer")["n_classifiers"].nunique()
    first = counts.index[counts == counts.max()].tolist() if len(counts) else []
    return "ig" if "ig" in first or not first else str(first[0])


def shipped_quality(labels: pd.DataFrame) -> pd.DataFrame:
    """Rows of labels.csv about the labels as shipped, with the most classifiers."""
    taught: pd.DataFrame = labels[labels["explainer"] == explainer_of(labels)]
    taught = taught[taught["n_classifiers"] == taught["n_classifiers"].max()]
    if "variant" in taught and (taught["variant"] == "shipped").any():
        taught = taught[taught["variant"] == "shipped"]
    return taught


# Which of several networks and training sizes tables, claims and pictures are about.


def main_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the training size that tables and claims are about, per task and network.

    It is the one with most arms and tunings; then the smallest, where pre-training can show.
    """
    kept: list[pd.DataFrame] = []
    for _, part in frame.groupby(["task", "network"], sort=True):
        settings = part[["n_train", "arm", "tuning"]].drop_duplicates().groupby("n_train").size()
        kept.append(part[part["n_train"] == min(settings.index, key=lambda n: (-settings[n], n))])
    return pd.concat(kept, ignore_index=True) if kept else frame


def main_network(frame: pd.DataFrame) -> str:
    """The network of pictures: most arms and tunings; then PSPNet, the paper's; then by name."""
    settings = frame[["network", "arm", "tuning"]].drop_duplicates().groupby("network").size()
    names = [str(n) for n in settings.index]
    return min(names, key=lambda n: (-settings[n], n.lower() != "pspnet", n))


# The arrays behind the pictures, and the rule that picks which of them are shown.


LABEL_ARRAYS = ("image", "image_id", "finding", "map", "label", "truth", "iou")
TASK_ARRAYS = (
    "task", "network", "image", "image_id", "truth", "classes", "arms", "prediction", "iou",
)  # fmt: skip
Arrays = Mapping[str, npt.NDArray[Any]]


def load_examples(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``examples.npz``; a missing or empty one is an `InputError`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it")
    try:
        arrays = store.read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run its stage again") from error
    for name in names:
        if name not in arrays:
            raise InputError(f"{path}: array {name!r} is missing; run its stage again")
    if len(arrays["image"]) == 0:
        raise InputError(f"{path}: holds no example; raise the number of examples of its stage")
    return arrays


def at_quantile(values: npt.ArrayLike, quantile: float) -> int:
    """Index of the case whose value has this rank (nearest rank, ties by position)."""
    x = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-1.0)
    order = np.argsort(x, kind="stable")
    return int(order[round(quantile * (len(order) - 1))])
