"""The films that can be looked at: of a finished run, or of a label set of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dollkit import labels
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, PATHOLOGIES, POSITIVE
from dollkit.common.machine import sha256
from dollkit.data.store import Store, open_store
from dollkit.explanations.ensemble import Explain
from dollkit.labels import Distil
from dollkit.labels.judge import judged_rows
from dollkit.labels.make import find_classifiers, rows_to_label
from dollkit.report.rows import TASK_ARRAYS, load_examples
from dollkit.workflow.stage import MANIFEST, check_artefact, read_manifest

Bytes = npt.NDArray[np.uint8]
NEEDED_BY = "10_explorer"


@dataclass(frozen=True)
class Task:
    """What fine-tuned networks drew on the films of a set.

    Attributes:
        classes: C names.
        arms: A names.
        truth: (n, C, S, S) uint8 in {0, 1}.
        prediction: (A, n, C, S, S) uint8 in {0, 1}.
    """

    classes: tuple[str, ...]
    arms: tuple[str, ...]
    truth: Bytes
    prediction: Bytes


@dataclass(frozen=True)
class FilmSet:
    """Some films with all that a run knows of them.

    Attributes:
        title: what a reader is told.
        image_ids: n names.
        images: (n, S, S) uint8.
        states: (n, 14) int8 label states, see `dollkit.common.findings`.
        truth: (n, 13, S, S) uint8 in {0, 1}, masks of the findings that have a place.
        known: (n, 13) bool, whether the film has this mask at all.
        task: None where no network was fine-tuned on such films.
    """

    title: str
    image_ids: tuple[str, ...]
    images: Bytes
    states: npt.NDArray[np.int8]
    truth: Bytes
    known: npt.NDArray[np.bool_]
    task: Task | None = None

    def __len__(self) -> int:
        return len(self.images)

    def positive(self, finding: str) -> npt.NDArray[np.bool_]:
        """(n,) bool: which films have the finding."""
        return np.asarray(self.states[:, FINDINGS.index(finding)] == POSITIVE)

    def truth_of(self, at: int, finding: str) -> Bytes | None:
        """(S, S) uint8 in {0, 1}; None if the film has no mask of the finding."""
        place = PATHOLOGIES.index(finding)
        return self.truth[at, place] if self.known[at, place] else None


@dataclass(frozen=True)
class Source:
    """Film sets, the classifiers that are asked about them, and the settings that labels had.

    Attributes:
        name: profile, or folder of the label set.
        profile: None for a label set of one's own.
        sets: by short name.
        classifiers: name to folder.
        explain, distil: settings of the labels.
        folder: where maps and exports are kept.
    """

    name: str
    profile: str | None
    sets: Mapping[str, FilmSet]
    classifiers: Mapping[str, Path]
    explain: Explain
    distil: Distil
    folder: Path


def open_run(profile: str, n_films: int, folder: Path | None = None) -> Source:
    """Films of a finished run.

    Sets ``judged`` (test films that labels were judged on), ``labelled`` (films that networks were
    pre-trained on), and one per fine-tuning task, named as its folder (``pspnet-lungs``).

    Args:
        profile: name of the run; "": the one whose labels were made last.
        n_films: most films of each set, at least 1.
        folder: for maps and exports; default ``runs/<profile>/explorer``.
    """
    _at_least_one(n_films)
    profile = profile or newest()
    run = paths.runs() / profile
    for instance in ("data", "labels"):
        check_artefact(instance, profile, needed_by=NEEDED_BY)
    meta = _description(run / "labels" / "store" / "labels.json")
    for name in meta["classifiers"]:
        check_artefact(f"classifiers/{name}", profile, needed_by=NEEDED_BY)
    given = (read_manifest(run / "labels") or {})["parameters"]
    store = open_store(run / "data" / "films")
    judged = judged_rows(store, given["judge_split"], given["n_judge"])
    labelled = rows_to_label(store, given["n_label"], given["n_hold"])
    sets = {
        "judged": _of_store("judged test films", store, judged[:n_films]),
        "labelled": _of_store("labelled training films", store, labelled[:n_films]),
    }
    for path in sorted((run / "finetune").glob("*/examples.npz")):
        if read_manifest(path.parent) is not None:
            sets[path.parent.name] = _of_task(path, run / "data", n_films)
    return Source(
        profile,
        profile,
        {name: films for name, films in sets.items() if len(films)},
        {name: run / "classifiers" / name for name in meta["classifiers"]},
        _settings(Explain, meta["explain"]),
        _settings(Distil, meta["distil"]),
        folder or run / "explorer",
    )


def newest() -> str:
    """Name of the run whose labels were made last."""
    made = {
        f.parent.parent: f.stat().st_mtime_ns for f in paths.runs().glob(f"*/labels/{MANIFEST}")
    }
    made = {run: when for run, when in made.items() if (run / "data" / MANIFEST).is_file()}
    if not made:
        raise InputError(f"{paths.runs()}: no run here has labels: `make reproduce` makes one")
    return max(made, key=lambda run: made[run]).name


def open_labels(
    path: Path,
    classifiers: Sequence[Path],
    n_films: int,
    films: Path | None = None,
    folder: Path | None = None,
) -> Source:
    """Films of a label set that ``python -m dollkit.labels make`` wrote.

    Args:
        path: folder of the label store.
        classifiers: folders of the classifiers that made it, see `find_classifiers`.
        n_films: most films, at least 1.
        films: the film store; default: the one that was built inside the label store.
        folder: for maps and exports; default ``<path>/explorer``.
    """
    _at_least_one(n_films)
    store = open_store(path / "films" if films is None else films)
    made = labels.open(path, films=store)
    folders = find_classifiers(classifiers)
    for name, digest in made.meta["classifiers"].items():
        weights = folders.get(name, path) / "weights.safetensors"
        if name not in folders or sha256(weights) != digest:
            raise InputError(
                f"{path}: its labels were made by a classifier {name!r} that is not among those "
                f"given ({', '.join(folders)}): name its folder"
            )
    rows = made.rows[:n_films]
    states = np.full((len(rows), len(FINDINGS)), NOT_MENTIONED, np.int8)
    for i, row in enumerate(rows):
        found = made.pairs["finding"].iloc[made.pairs_of(int(row))]
        states[i, [FINDINGS.index(f) for f in found]] = POSITIVE
    return Source(
        path.name,
        None,
        {"labelled": _of_store("labelled films", store, rows, states)},
        {name: folders[name] for name in made.classifiers},
        _settings(Explain, made.meta["explain"]),
        _settings(Distil, made.meta["distil"]),
        folder or path / "explorer",
    )


def _at_least_one(n_films: int) -> None:
    if n_films < 1:
        raise InputError(f"parameter 'n_films' is {n_films}: use 1 or more")


def _description(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(found[k], dict) for k in ("classifiers", "explain", "distil")):
            raise TypeError("no settings")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run 03_labels.ipynb again") from None
    return found


def _settings(kind: type[Any], stored: Mapping[str, Any]) -> Any:
    """Settings as stored; older runs lack some, and have others that changed no result."""
    # Before there was step 5, maps went without; and no label was asked whether it had settled.
    stored = {"guide": 0.0, "unsettled": "keep", **stored}
    known = {f.name for f in fields(kind)}
    return kind(**{k: v for k, v in stored.items() if k in known})


def _of_store(
    title: str,
    store: Store,
    rows: npt.NDArray[np.int64],
    states: npt.NDArray[np.int8] | None = None,
    task: Task | None = None,
) -> FilmSet:
    n, s = len(rows), store.size
    truth = np.zeros((n, len(PATHOLOGIES), s, s), np.uint8)
    known = np.zeros((n, len(PATHOLOGIES)), bool)
    here = [f for f in PATHOLOGIES if f in store.mask_classes]
    if here and n:
        at = [PATHOLOGIES.index(f) for f in here]
        truth[:, at] = store.masks(rows, here)
        known[:, at] = store.mask_valid(rows, here)
    names = store.films["image_id"].to_numpy()[rows]
    own = store.states[rows] if states is None else states
    images = np.asarray(store.images[rows])
    return FilmSet(title, tuple(str(name) for name in names), images, own, truth, known, task)


def _of_task(path: Path, data: Path, n_films: int) -> FilmSet:
    """Test films kept with their predictions, and what the task's store knows of their findings."""
    kept = load_examples(path, [name for name in TASK_ARRAYS if name not in ("task", "network")])
    name = path.parent.name
    task = str(kept["task"]) if "task" in kept else name.split("-")[-1]
    store = open_store(data / task)
    rows = {str(image_id): i for i, image_id in enumerate(store.films["image_id"])}
    ids = [str(image_id) for image_id in kept["image_id"][:n_films]]
    if missing := [image_id for image_id in ids if image_id not in rows]:
        raise InputError(f"{path}: film {missing[0]!r} is not in {store.path}: run its stage again")
    drawn = Task(
        tuple(str(c) for c in kept["classes"]),
        tuple(str(a) for a in kept["arms"]),
        kept["truth"][:n_films],
        kept["prediction"][:, :n_films],
    )
    title = f"test films of {name.replace('-', ' ')}"
    return _of_store(title, store, np.array([rows[i] for i in ids]), task=drawn)
