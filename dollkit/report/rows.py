"""Reading a run's per-case rows, checking them, and the one definition of mean IoU.

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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.arm_names import ARMS, TUNINGS
from dollkit.common.errors import InputError
from dollkit.common.statistics import Floats, patient_values
from dollkit.data import store

TASKS = ("lungs", "infection", "organs")

SETTING = ["task", "network", "n_train", "tuning", "arm"]
"""What one row of a table is about; seeds, folds, films and classes are averaged over."""

CASE_COLUMNS = [
    "task", "network", "arm", "tuning", "n_train", "seed", "fold",
    "image_id", "patient_id", "class", "tp", "fp", "fn", "iou", "dice",
]  # fmt: skip
CURVE_COLUMNS = [
    "task", "network", "arm", "tuning", "n_train", "seed", "fold",
    "lr", "step", "seconds", "val_miou",
]  # fmt: skip
RUN_COLUMNS = [
    "task", "network", "arm", "tuning", "n_train", "seed", "fold", "lr", "steps", "best_step",
    "best_val_miou", "trainable", "total", "seconds", "checkpoint_bytes", "memory_mb",
    "n_valid",
]  # fmt: skip
SELECTION_COLUMNS = [
    "task", "network", "arm", "tuning", "n_train", "seed", "fold", "lr", "steps", "val_miou",
    "selected",
]  # fmt: skip
LABEL_COLUMNS = [
    "finding", "explainer", "n_classifiers", "iou_matched", "iou_matched_lo", "iou_matched_hi",
    "iou_chance", "iou_prior", "precision", "recall", "hit_rate", "n",
]  # fmt: skip
LABEL_CASE_COLUMNS = [
    "image_id", "patient_id", "finding", "explainer", "classifiers", "n_classifiers", "variant",
    "iou_matched", "iou_label", "iou_chance", "iou_prior", "precision", "recall", "hit",
]  # fmt: skip
ABLATION_COLUMNS = [
    "factor", "value", "iou_matched", "iou_lo", "iou_hi", "hit_rate", "n",
    "delta", "delta_lo", "delta_hi",
]  # fmt: skip
CLASSIFIER_COLUMNS = ["classifier", "finding", "auroc", "auroc_lo", "auroc_hi", "ap", "n_pos", "n"]

_TEXT = {
    "task", "network", "arm", "tuning", "image_id", "patient_id", "class", "finding",
    "explainer", "classifiers", "variant", "classifier", "factor", "value", "start",
}  # fmt: skip
_UNIT_INTERVAL = ("iou", "dice", "val_miou", "iou_matched", "iou_label", "auroc", "best_val_miou",
    "label_iou", "own_iou", "true_iou",
)  # fmt: skip


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
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; run its stage again")
    for column in columns:
        if len(frame) and column not in _TEXT and frame[column].dtype.kind not in "ifb":
            raise InputError(f"{path}: column {column!r} holds text where a number belongs")
    for column, known in (("arm", ARMS), ("task", TASKS), ("tuning", TUNINGS)):
        if column in columns:
            strange = sorted(set(frame[column].astype(str)) - set(known))
            if strange:
                raise InputError(
                    f"{path}: column {column!r} holds {strange[0]!r}: use one of {', '.join(known)}"
                )
    for column in _UNIT_INTERVAL:
        if column in columns:
            values = frame[column].to_numpy(np.float64)
            bad = np.flatnonzero((values < 0) | (values > 1))
            if bad.size:
                raise InputError(
                    f"{path}: row {bad[0] + 2}, column {column!r} is {values[bad[0]]:g}, "
                    "outside [0, 1]"
                )
    return frame


def instances(run: Path, family: str, name: str, only: Collection[str] | None) -> list[Path]:
    """One file of every instance of a stage family that has it, in order of instance.

    Args:
        only: instances of the run, `stage.RunningStage.planned`: folders of others, such as an
            arm that has left the profile, are passed over. None: all that are there.
    """
    found = sorted((run / family).glob(f"*/{name}"))
    return [p for p in found if only is None or f"{family}/{p.parent.name}" in only]


def _gather(
    run: Path, family: str, name: str, columns: Sequence[str], only: Collection[str] | None
) -> pd.DataFrame:
    """One file of every instance of a stage family, concatenated in order of instance."""
    paths = instances(run, family, name, only)
    if not paths:
        raise InputError(f"{run / family}: no */{name}; run the stage that writes it")
    return pd.concat([read_table(p, columns) for p in paths], ignore_index=True)


def check_cases(cases: pd.DataFrame, place: str = "cases") -> pd.DataFrame:
    """Per-case rows in canonical order; a doubled or inconsistent row is an `InputError`."""
    key = [*SETTING, "seed", "fold", "image_id", "class"]
    doubled = cases.duplicated(key)
    if doubled.any():
        row = cases.loc[doubled, key].iloc[0]
        raise InputError(f"{place}: two rows for {', '.join(f'{k}={row[k]}' for k in key)}")
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


def load_cases(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``finetune/*/cases.csv.gz`` of a run, checked, in canonical order."""
    rows = _gather(run, "finetune", "cases.csv.gz", CASE_COLUMNS, only)
    return check_cases(rows, str(run / "finetune"))


def load_curves(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``finetune/*/curves.csv``: validation mIoU against steps."""
    return _gather(run, "finetune", "curves.csv", CURVE_COLUMNS, only)


def load_runs(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``finetune/*/runs.csv``: one per network trained to the end."""
    return _gather(run, "finetune", "runs.csv", RUN_COLUMNS, only)


def load_selection(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``finetune/*/selection.csv``: every learning rate tried, and which was taken."""
    return _gather(run, "finetune", "selection.csv", SELECTION_COLUMNS, only)


def load_classifiers(run: Path, only: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of ``classifiers/*/metrics.csv``: test AUROC and AP per finding."""
    return _gather(run, "classifiers", "metrics.csv", CLASSIFIER_COLUMNS, only)


def load_labels(run: Path) -> pd.DataFrame:
    """``labels/labels.csv``: label quality per finding and explainer."""
    return read_table(run / "labels" / "labels.csv", LABEL_COLUMNS)


def load_label_cases(run: Path) -> pd.DataFrame:
    """``labels/label_cases.csv.gz``: label quality per film, finding and way of making it."""
    frame = read_table(run / "labels" / "label_cases.csv.gz", LABEL_CASE_COLUMNS)
    key = ["explainer", "classifiers", "variant", "finding", "image_id"]
    if frame.duplicated(key).any():
        row = frame.loc[frame.duplicated(key), key].iloc[0]
        raise InputError(
            f"{run / 'labels' / 'label_cases.csv.gz'}: two rows for "
            + ", ".join(f"{k}={row[k]}" for k in key)
        )
    return frame.sort_values(key, kind="stable", ignore_index=True)


def load_ablation(run: Path) -> pd.DataFrame:
    """``labels/ablation.csv``: one row per changed factor of label making."""
    return read_table(run / "labels" / "ablation.csv", ABLATION_COLUMNS)


def load_not_run(run: Path, only: Collection[str] | None = None) -> dict[str, str]:
    """Arms that could not run and why: ``notes.not_run`` of the fine-tuning manifests."""
    reasons: dict[str, str] = {}
    for path in instances(run, "finetune", "manifest.json", only):
        try:
            manifest: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}); run its stage again") from error
        notes = manifest.get("notes") or {}
        for arm, reason in (notes.get("not_run") or {}).items():
            reasons.setdefault(str(arm), str(reason))
    return reasons


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV with the same bytes every time: 6 significant digits, ``\\n``, gzip mtime 0."""
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".gz":
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream:
        stream.write(text.encode())
    path.write_bytes(buffer.getvalue())


def write_rows(run: Path, folder: Path, only: Collection[str] | None = None) -> list[Path]:
    """Copy a run's rows to ``folder``: all that tables, curves and claims are made from.

    Returns:
        classifiers.csv, labels.csv, cases.csv.gz, label_cases.csv.gz, curves.csv.gz, runs.csv,
        selection.csv. (Rows of perturbed test films are written by `dollkit.report.robustness`.)
    """
    made = {
        "classifiers.csv": load_classifiers(run, only),
        "labels.csv": load_labels(run),
        "cases.csv.gz": load_cases(run, only),
        "label_cases.csv.gz": load_label_cases(run),
        "curves.csv.gz": load_curves(run, only),
        "runs.csv": load_runs(run, only),
        "selection.csv": load_selection(run, only),
    }
    for name, frame in made.items():
        write_csv(frame, folder / name)
    return [folder / name for name in made]


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


def miou(cases: pd.DataFrame, value: str = "iou") -> float:
    """Mean IoU (or Dice) of one setting by this module's definition; NaN without rows."""
    if cases.empty:
        return float("nan")
    return float(contributions(cases, value)[2].mean())


def case_means(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per film and trained network: iou and dice averaged over the defined classes."""
    key = [*SETTING, "seed", "fold", "image_id", "patient_id"]
    return cases.groupby(key, as_index=False, sort=True)[["iou", "dice"]].mean()


def explainer_of(labels: pd.DataFrame) -> str:
    """Explainer of the labels that a run teaches.

    Args:
        labels: rows of label_cases.csv.gz, where variant ``shipped`` tells it; or of labels.csv,
            where it is the one that was tried with fewer classifiers too (of several, IG).
    """
    shipped = labels[labels["variant"] == "shipped"] if "variant" in labels else labels[:0]
    if len(shipped):
        return str(shipped["explainer"].iloc[0])
    counts = labels.groupby("explainer")["n_classifiers"].nunique()
    first = counts.index[counts == counts.max()].tolist() if len(counts) else []
    return "ig" if "ig" in first or not first else str(first[0])


# Which of several networks and training sizes tables, claims and pictures are about.


def main_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the training size that tables and claims are about, per task and network.

    It is the one with most arms and tunings; then the smallest, where pre-training can show.
    Other sizes are for label efficiency (`dollkit.report.label_efficiency`).
    """
    kept: list[pd.DataFrame] = []
    for _, part in frame.groupby(["task", "network"], sort=True):
        settings = part[["n_train", "arm", "tuning"]].drop_duplicates().groupby("n_train").size()
        kept.append(part[part["n_train"] == min(settings.index, key=lambda n: (-settings[n], n))])
    return pd.concat(kept, ignore_index=True) if kept else frame


def main_network(frame: pd.DataFrame) -> str:
    """The network that pictures and verdicts are about.

    It is the one with most arms and tunings; then PSPNet, the paper's; then the first by name.
    """
    settings = frame[["network", "arm", "tuning"]].drop_duplicates().groupby("network").size()
    names = [str(n) for n in settings.index]
    return min(names, key=lambda n: (-settings[n], n.lower() != "pspnet", n))


def at_the_edge(selection: pd.DataFrame) -> list[str]:
    """Notes that name the settings whose chosen learning rate is the last of its grid.

    A better rate may lie beyond it, so these rows may undersell their setting.

    Args:
        selection: rows of selection.csv.
    """
    found: dict[str, list[str]] = {"lowest": [], "highest": []}
    for key, part in main_size(selection).groupby([*SETTING, "fold"], sort=True):
        chosen = part.loc[part["selected"], "lr"]
        name = f"{key[0]} {key[3]}/{key[4]}"
        for side, last in (("lowest", part["lr"].min()), ("highest", part["lr"].max())):
            if part["lr"].nunique() > 1 and (chosen == last).any() and name not in found[side]:
                found[side].append(name)
    return [
        f"Chosen rate is the {side} of its grid, so that a better one may lie beyond: "
        f"{', '.join(names)}."
        for side, names in found.items()
        if names
    ]


# Reading the arrays behind the pictures, and the rule that picks which of them are shown.


LABEL_ARRAYS = ("image", "image_id", "finding", "map", "label", "truth", "iou")
TASK_ARRAYS = (
    "task", "network", "image", "image_id", "truth", "classes", "arms", "prediction", "iou",
)  # fmt: skip
Arrays = dict[str, npt.NDArray[Any]]


def load_examples(path: Path, names: Sequence[str]) -> Arrays:
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
