"""Films of a finished run, with all that the run knows of them, for people to look at."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dollkit.common import compute, paths
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, PATHOLOGIES, POSITIVE
from dollkit.data.images import IGNORE, U8
from dollkit.data.store import Store, open_store
from dollkit.explanations.ensemble import Explained, ExplainerSettings, explain_all, positives
from dollkit.labels.judge import judged_rows
from dollkit.labels.make import rows_to_label
from dollkit.labels.steps import LabelSettings
from dollkit.report.rows import TASK_ARRAYS, load_examples
from dollkit.training.classifiers import Classifier, load_classifiers
from dollkit.workflow.stage import MANIFEST, check_artefact, read_manifest


@dataclass(frozen=True)
class FilmSet:
    """Some films with all that a run knows of them.

    `truth` (n, 13, S, S) in {0, 1, 255 = unknown} are masks of the findings that have a place;
    `drawn` maps an initialisation, or ``truth``, to (n, C, S, S).
    """

    title: str
    image_ids: tuple[str, ...]
    images: U8
    states: npt.NDArray[np.int8]
    truth: U8
    drawn: Mapping[str, U8]

    def targets(self) -> list[list[int]]:
        """Positive findings of each film that have a place: what is explained."""
        return [[t for t in film if t > 0] for film in positives(self.states)]

    def pair_of(self, at: int, finding: str) -> int | None:
        """Which of all pairs of the set a film and a finding are; None if it has it not."""
        pairs = [(i, t) for i, film in enumerate(self.targets()) for t in film]
        pair = at, FINDINGS.index(finding)
        return pairs.index(pair) if pair in pairs else None

    def with_finding(self, finding: str) -> npt.NDArray[np.int64]:
        """Places of the films that have the finding."""
        return np.flatnonzero(self.states[:, FINDINGS.index(finding)] == POSITIVE)

    def truth_of(self, at: int, finding: str) -> U8 | None:
        """(S, S) uint8 in {0, 1}; None if the film has no mask of the finding."""
        mask = self.truth[at, PATHOLOGIES.index(finding)]
        return None if (mask == IGNORE).all() else np.asarray(mask == 1, np.uint8)


@dataclass(frozen=True)
class Run:
    """Film sets by name, the classifiers that explain them, and the settings that labels had."""

    name: str
    sets: Mapping[str, FilmSet]
    classifiers: Mapping[str, Path]
    explain: ExplainerSettings
    label_settings: LabelSettings
    _explained: dict[tuple[str, str], Explained] = field(default_factory=dict, init=False)

    @functools.cached_property
    def _models(self) -> dict[str, Classifier]:
        return load_classifiers(self.classifiers, compute.device())

    def explained(self, films: str, explainer: str) -> Explained:
        """Maps of all pairs of a film set, by all classifiers; computed when first asked for."""
        if (films, explainer) not in self._explained:
            x = compute.to_input(self.sets[films].images, compute.device())
            settings = replace(self.explain, explainer=explainer)
            made = explain_all(self._models, x, self.sets[films].targets(), settings)
            self._explained[films, explainer] = made
        return self._explained[films, explainer]


def open_run(profile: str, n_films: int) -> Run:
    """A finished run; "": the one whose labels were made last.

    Its film sets are ``judged`` (test films that labels were judged on), ``labelled`` (films that
    networks were pre-trained on), and one per fine-tuning task, named as its folder; each has at
    most `n_films`.
    """
    if n_films < 1:
        raise InputError(f"parameter 'n_films' is {n_films}: use 1 or more")
    profile = profile or _newest()
    run = paths.runs() / profile
    for instance in ("data", "labels"):
        check_artefact(instance, profile, needed_by="10_explorer")
    classifiers, explain, label_settings = _label_settings(run / "labels" / "store" / "labels.json")
    for name in classifiers:
        check_artefact(f"classifiers/{name}", profile, needed_by="10_explorer")
    params = (read_manifest(run / "labels") or {})["parameters"]
    store = open_store(run / "data" / "films")
    judged = judged_rows(store, params["judge_split"], params["n_judge"])
    labelled = rows_to_label(store, params["n_label"], params["n_hold"])
    sets = {
        "judged": _films("judged test films", store, judged[:n_films], {}),
        "labelled": _films("labelled training films", store, labelled[:n_films], {}),
    }
    for path in sorted((run / "finetune").glob("*/examples.npz")):
        if read_manifest(path.parent) is not None:
            sets[path.parent.name] = _task_films(path, run / "data", n_films)
    sets = {name: films for name, films in sets.items() if len(films.images)}
    folders = {name: run / "classifiers" / name for name in classifiers}
    return Run(profile, sets, folders, explain, label_settings)


def _newest() -> str:
    manifests = [
        m for m in paths.runs().glob(f"*/labels/{MANIFEST}")
        if (m.parent.parent / "data" / MANIFEST).is_file()
    ]  # fmt: skip
    if not manifests:
        raise InputError(f"{paths.runs()}: no run here has labels: `make reproduce` makes one")
    return max(manifests, key=lambda m: m.stat().st_mtime_ns).parent.parent.name


def _label_settings(path: Path) -> tuple[list[str], ExplainerSettings, LabelSettings]:
    """Names of the classifiers, and how labels were made of their explanations."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        names, explain = list(stored["classifiers"]), ExplainerSettings(**stored["explain"])
        return names, explain, LabelSettings(**stored["distil"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run 03_labels.ipynb again") from None


def _films(
    title: str, store: Store, rows: npt.NDArray[np.int64], drawn: Mapping[str, U8]
) -> FilmSet:
    truth = np.full((len(rows), len(PATHOLOGIES), store.size, store.size), IGNORE, np.uint8)
    masked = [finding for finding in PATHOLOGIES if finding in store.mask_classes]
    truth[:, [PATHOLOGIES.index(finding) for finding in masked]] = store.targets(rows, masked)
    names = tuple(str(name) for name in store.films["image_id"].to_numpy()[rows])
    return FilmSet(title, names, np.asarray(store.images[rows]), store.states[rows], truth, drawn)


def _task_films(path: Path, data: Path, n_films: int) -> FilmSet:
    """Test films kept with their predictions, and what the task's store knows of their findings."""
    kept = load_examples(path, [name for name in TASK_ARRAYS if name not in ("task", "network")])
    name = path.parent.name
    store = open_store(data / (str(kept["task"]) if "task" in kept else name.split("-")[-1]))
    rows = {str(image_id): i for i, image_id in enumerate(store.films["image_id"])}
    ids = [str(image_id) for image_id in kept["image_id"][:n_films]]
    if missing := [image_id for image_id in ids if image_id not in rows]:
        raise InputError(f"{path}: film {missing[0]!r} is not in {store.path}: run its stage again")
    arms = zip(map(str, kept["arms"]), kept["prediction"], strict=True)
    drawn = {"truth": kept["truth"][:n_films], **{arm: p[:n_films] for arm, p in arms}}
    title = f"test films of {name.replace('-', ' ')}"
    return _films(title, store, np.array([rows[i] for i in ids]), drawn)
