"""Reading a run's rows, checking them, and the one definition of mean IoU.

mIoU here: foreground classes only; per class the mean over the test films in which truth or
prediction is not empty (a film where just one of them is empty counts 0, one where both are is
undefined); then the mean over classes; then over seeds. Folds of one seed are pooled first, as
each film is tested in exactly one of them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common import ARMS, TUNINGS, tuning_of
from dollkit.common.errors import InputError
from dollkit.common.statistics import Effect, Floats, crossed_effect, patient_values
from dollkit.data import store
from dollkit.finetuning.robustness import KINDS
from dollkit.labels import summary
from dollkit.training import metrics

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
    "factor", "value", "iou_matched", "iou_label", "iou_chance", "iou_prior", "precision",
    "recall", "hit",
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
    "claim", "question", "scope", "contrast", "verdict", "note",
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

    in_run: str
    stored: str
    columns: list[str]
    optional: bool = False


SOURCES = {
    "classifiers": Source("classifiers/*/metrics.csv", "classifiers.csv", CLASSIFIER_COLUMNS),
    "labels": Source("labels/labels.csv", "labels.csv", summary.SUMMARY_COLUMNS),
    "cases": Source("finetune/*/cases.csv.gz", "cases.csv.gz", CASE_COLUMNS),
    "label_cases": Source("labels/label_cases.csv.gz", "label_cases.csv.gz", LABEL_CASE_COLUMNS),
    "curves": Source("finetune/*/curves.csv", "curves.csv.gz", CURVE_COLUMNS),
    "runs": Source("finetune/*/runs.csv", "runs.csv", RUN_COLUMNS),
    "selection": Source("finetune/*/selection.csv", "selection.csv", SELECTION_COLUMNS),
    "robust": Source("finetune/*/robust.csv.gz", "robust.csv.gz", ROBUST_COLUMNS, True),
    "pretraining": Source(
        "pretrain/*/pretraining.csv", "pretraining.csv", PRETRAINING_COLUMNS, True
    ),
    "difficulty": Source("data/difficulty.csv", "difficulty.csv", ["finding"], True),
}


@dataclass
class Rows:
    """All rows that tables, curves and claims of a profile are made from.

    Without perturbed films, a record of pre-training, or of how hard the data are, these frames are
    empty. `ablation` has one row per changed factor of label making; `not_run` the reason by arm.
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
    difficulty: pd.DataFrame
    ablation: pd.DataFrame
    not_run: dict[str, str]

    def write(self, folder: Path) -> list[Path]:
        """Write each kind to ``figures/<profile>``, from where `read_stored` reads it."""
        paths = []
        for name, source in SOURCES.items():
            if len(frame := getattr(self, name)) or not source.optional:
                paths.append(folder / source.stored)
                write_csv(frame, paths[-1])
        return paths


def read_run(run: Path, only: Collection[str] | None = None) -> Rows:
    """Rows of ``runs/<profile>``, checked, in order of instance.

    Instances not in `only`, such as an arm that has left the profile, are passed over.
    """
    frames = _read(run, "in_run", only)
    ablation = read_table(run / "labels" / "ablation.csv", summary.ABLATION_COLUMNS)
    reasons: dict[str, str] = {}
    for path in _files(run, "finetune/*/manifest.json", only):
        reasons = ((read_json(path).get("notes") or {}).get("not_run") or {}) | reasons
    return Rows(**frames, ablation=ablation, not_run=reasons)


def read_stored(folder: Path) -> Rows:
    """Rows of ``figures/<profile>``; IoU and Dice to full precision from their pixel counts."""
    frames = _read(folder, "stored")
    for name in ("cases", "robust"):
        frames[name] = frames[name].assign(**_from_counts(frames[name]))
    table1 = read_table(folder / "table1.csv", ("arm", "status"))
    absent = table1[table1["status"].str.startswith(NOT_RUN)]
    reasons = dict(zip(absent["arm"], absent["status"].str.removeprefix(NOT_RUN), strict=True))
    ablation = summary.ablation(frames["label_cases"])
    return Rows(**frames, ablation=ablation, not_run=reasons)


NOT_RUN = "not run: "  # begins the status of an arm in Table 1 that could not run


def _files(folder: Path, pattern: str, only: Collection[str] | None = None) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    if only is None or "*" not in pattern:
        return paths
    return [p for p in paths if p.parent.relative_to(folder).as_posix() in only]


def _read(folder: Path, place: str, only: Collection[str] | None = None) -> dict[str, pd.DataFrame]:
    """Rows of each kind; `place` is the field of `Source` that says where they are."""
    frames = {}
    for name, source in SOURCES.items():
        pattern = getattr(source, place)
        paths = _files(folder, pattern, only)
        if not paths and not source.optional:
            raise InputError(f"{folder}: no {pattern}; run the stage that writes it")
        parts = [read_table(path, source.columns) for path in paths]
        if name == "robust":
            parts = [check_cases(part, str(p)) for part, p in zip(parts, paths, strict=True)]
        frame = pd.concat(parts or [pd.DataFrame(columns=source.columns)], ignore_index=True)
        if name == "cases":
            frame = check_cases(frame, str(folder / pattern))
        if name == "label_cases":
            key = ["explainer", "classifiers", "variant", "finding", "image_id"]
            frame = _in_order(frame, key, str(folder / pattern))
        frames[name] = frame
    return frames


def _read_file(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file that a stage has written."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it")
    try:
        return read(path)
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run its stage again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a stage has written."""
    return dict(_read_file(path, lambda p: dict(json.loads(p.read_text(encoding="utf-8")))))


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """One CSV (plain or gzip) with its columns and ranges checked.

    Text columns stay text, whatever they look like ("00012" is a name, not 12).
    """
    as_text: Any = {"dtype": dict.fromkeys(_TEXT, "str"), "keep_default_na": False}
    frame: pd.DataFrame = _read_file(
        path, lambda p: pd.read_csv(p, na_values=["", "nan"], **as_text)
    )
    for column in columns:
        if column not in frame:
            raise InputError(f"{path}: column {column!r} is missing; run its stage again")
        if len(frame) and column not in _TEXT and frame[column].dtype.kind not in "ifb":
            raise InputError(f"{path}: column {column!r} holds text where a number belongs")
        known, names = _KNOWN.get(column, ()), frame[column].astype(str)
        if column == "tuning":  # such as lora16
            names = names.str.rstrip("0123456789")
        if known and (strange := sorted(set(names) - set(known))):
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


def _from_counts(cases: pd.DataFrame) -> dict[str, Floats]:
    counts = [cases[c] for c in ("tp", "fp", "fn")]
    return {"iou": metrics.iou(*counts), "dice": metrics.dice(*counts)}


def check_cases(cases: pd.DataFrame, place: str = "cases") -> pd.DataFrame:
    """Per-case rows in canonical order; a doubled or inconsistent row is an `InputError`."""
    within = ["perturbation", "level"] if "level" in cases else []
    if within and cases["level"].isna().any():
        raise InputError(f"{place}: column 'level' has a blank; run its stage again")
    cases = _in_order(cases, [*within, *SETTING, "seed", "fold", "image_id", "class"], place)
    for column, exact in _from_counts(cases).items():
        # Half a unit of the last stored digit, for values up to one.
        close = np.isclose(cases[column], exact, rtol=0, atol=0.51 * 10**-DIGITS, equal_nan=True)
        for row in cases[~close][:1].to_dict("records"):
            raise InputError(
                f"{place}: image {row['image_id']}, class {row['class']}: {column} {row[column]} "
                "does not follow from its tp, fp, fn"
            )
    return cases


def _in_order(frame: pd.DataFrame, key: list[str], place: str) -> pd.DataFrame:
    for row in frame.loc[frame.duplicated(key), key][:1].to_dict("records"):
        raise InputError(f"{place}: two rows for {', '.join(f'{k}={row[k]}' for k in key)}")
    return frame.sort_values(key, kind="stable", ignore_index=True)


DIGITS = 6  # significant digits of a stored number


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV with the same bytes every time: `DIGITS`, ``\\n``, gzip without a time."""
    text = frame.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".gz":
        path.write_bytes(text)
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
        stream.write(text)


def with_draws(frame: pd.DataFrame, pretraining: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column ``draw``: runs of one draw are no independent ones.

    It is the seed; or, where arms were pre-trained several times and less often than there are
    seeds, the number of the pre-training that a run starts from (`Initialisation.of`).
    """
    draw = frame["seed"].copy()
    arms = pretraining[pretraining["arm"] != "truth"]
    for network, repeats in arms.groupby(["network", "arm"])["seed"].nunique().groupby("network"):
        of_network = frame["network"] == network
        if 1 < repeats.min() < frame.loc[of_network, "seed"].nunique():
            draw[of_network] %= repeats.min()
    return frame.assign(draw=draw)


def contributions(cases: pd.DataFrame, value: str, by: str = "seed") -> Floats:
    """(S, P) contributions of seeds (or draws) and patients to mIoU (or Dice) of one setting.

    The plain mean of row s is the mIoU of seed s by this module's definition; the mean of the
    matrix is the setting's. A patient whom a seed did not test contributes that seed's mean, so
    that it moves no mean; with complete designs this never happens.
    """
    patients = np.unique(cases["patient_id"].to_numpy().astype(str))
    seeds = [part for _, part in cases.groupby(by)]
    matrix = np.empty((len(seeds), len(patients)))
    for row, part in zip(matrix, seeds, strict=True):
        names, units = patient_values(part[value], part["patient_id"], part["class"])
        row[:] = units.mean()
        row[np.searchsorted(patients, names.astype(str))] = units
    return matrix


def aligned(
    settings: Sequence[pd.DataFrame],
) -> tuple[list[Floats], npt.NDArray[np.str_], dict[str, int]]:
    """`contributions` to mIoU of seeds and films that all settings have, the patients, and counts.

    One row per draw, where the cases tell draws apart (`with_draws`).
    """
    films, seeds = (
        set.intersection(*(set(cases[c]) for cases in settings)) for c in ("image_id", "seed")
    )
    shared = [s[s["image_id"].isin(films) & s["seed"].isin(seeds)] for s in settings]
    by = "draw" if "draw" in shared[0] else "seed"
    matrices = [contributions(cases, "iou", by) for cases in shared]
    counts = {"n_cases": len(films), "n_patients": matrices[0].shape[1], "n_seeds": len(seeds)}
    return matrices, np.unique(shared[0]["patient_id"].to_numpy().astype(str)), counts


def difference(one: pd.DataFrame, other: pd.DataFrame) -> Effect:
    """mIoU of one setting minus another's, over seeds and patients of the films that both have."""
    (a, b), _, _ = aligned([one, other])
    return crossed_effect(a - b)


# Order and choice: of several networks and training sizes, which are tables and pictures about?


UNTOUCHED = "untouched"  # the perturbation of films as they are; their level is blank
ORDER: dict[str, Sequence[str]] = {
    "task": TASKS, "tuning": TUNINGS, "arm": ARMS, "perturbation": (UNTOUCHED, *KINDS),
}  # fmt: skip


def in_order(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows sorted by these columns, names of `ORDER` as they stand there."""

    def rank(column: pd.Series) -> pd.Series:
        places: Any = {name: i for i, name in enumerate(ORDER.get(str(column.name), ()))}
        if column.name == "tuning":
            sizes = {name: tuning_of(name) for name in column.unique()}
            places = {name: (places[kind], size) for name, (kind, size) in sizes.items()}
        return column.map(places) if places else column

    return frame.sort_values(list(columns), key=rank, ignore_index=True)


def _most_settings(
    frame: pd.DataFrame, column: str, rank: Callable[[Any], Any], of: Sequence[str] = ("arm",)
) -> Any:
    """The value of a column with most arms (and tunings); ties go to the first by `rank`."""
    settings = frame[[column, *of]].drop_duplicates().groupby(column).size()
    return min(settings.index, key=lambda value: (-settings[value], rank(value)))


def _paper_first(network: str) -> tuple[bool, str]:
    return network.lower() != "pspnet", network


def main_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the training size that tables and claims are about, per task and network.

    It is the one with most arms and tunings; then the smallest, where pre-training can show.
    """
    kept = [
        part[part["n_train"] == _most_settings(part, "n_train", int, ("arm", "tuning"))]
        for _, part in frame.groupby(["task", "network"])
    ]
    return pd.concat(kept, ignore_index=True) if kept else frame


def main_network(frame: pd.DataFrame) -> str:
    """The network of pictures: most arms; then PSPNet, the paper's; then by name."""
    return str(_most_settings(frame, "network", _paper_first))


def blocks(cases: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Task, network and training size of all rows; of each task those with the most arms first.

    Ties go to PSPNet, the paper's network, then to the smallest training set, where
    pre-training can show; a rule fixed before any result.
    """
    arms = cases.groupby(["task", "network", "n_train"])["arm"].nunique()
    ranked = sorted(
        (TASKS.index(task), -count, _paper_first(network), int(size))
        for task, network, size, count in arms.reset_index().itertuples(index=False)
    )
    return [(TASKS[task], network, size) for task, _, (_, network), size in ranked]


# The arrays behind the pictures, and the rule that picks which of them are shown.


LABEL_ARRAYS = (
    "image", "image_id", "finding", "map", "label", "truth", "iou", "maps", "probability",
    "classifiers",
)  # fmt: skip
"""Of ``labels/examples.npz``: of n pairs and K classifiers, ``maps`` is (n, K, S, S)."""

TASK_ARRAYS = (
    "task", "network", "image", "image_id", "truth", "classes", "arms", "prediction", "iou",
)  # fmt: skip


def load_examples(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``examples.npz``; a missing or empty one is an `InputError`."""
    arrays: dict[str, npt.NDArray[Any]] = _read_file(path, store.read)
    for name in names:
        if name not in arrays:
            raise InputError(f"{path}: array {name!r} is missing; run its stage again")
    if len(arrays["image"]) == 0:
        raise InputError(f"{path}: holds no example; raise the number of examples of its stage")
    return arrays


def at_quantile(values: npt.ArrayLike, quantile: float) -> int:
    """Index of the case whose value has this rank (nearest rank, ties by position)."""
    x = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-1.0)
    return int(np.argsort(x, kind="stable")[round(quantile * (len(x) - 1))])
