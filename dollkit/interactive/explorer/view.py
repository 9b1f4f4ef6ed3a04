"""What is shown of one film, and in which order films come; the label steps alone, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from dollkit.common.findings import FINDINGS
from dollkit.data.images import IGNORE
from dollkit.explanations.ensemble import Explained, pair_settled
from dollkit.interactive.explorer.maps import Atlas, Maps
from dollkit.interactive.explorer.sources import FilmSet, Source, Task
from dollkit.labels import Distil, distil
from dollkit.labels.threshold_rules import Rule
from dollkit.training import metrics

Bytes = npt.NDArray[np.uint8]
FloatMaps = npt.NDArray[np.float32]

CONSENSUS = "consensus"
ORDERS = {
    "stored": "as stored",
    "best": "best first",
    "worst": "worst first",
    "classifiers": "classifiers disagree most",
    "arms": "arms disagree most",
}


@dataclass(frozen=True)
class Cut:
    """How a map becomes a label: `hi` by `rule`, ``lo = ignore * hi``, after `smooth`."""

    rule: Rule
    smooth: float
    ignore: float

    def distil(self, finding: str, of: Distil) -> Distil:
        """The settings of a label of this finding; all but the cut are `of`'s."""
        return replace(
            of,
            threshold="tuned",
            thresholds={finding: str(self.rule)},
            smooths={finding: self.smooth},
            ignore=self.ignore,
        )


def cut_of(settings: Distil, finding: str) -> Cut:
    """The cut that a run's settings make for a finding."""
    return Cut(settings.rule(finding), settings.sigma(finding), settings.ignore)


@dataclass(frozen=True)
class Choice:
    """What is picked: film `at` of set `films`, a finding, whose maps, and the cut.

    `classifier` is a name, or `CONSENSUS` of all.
    """

    films: str
    at: int
    finding: str
    explainer: str
    classifier: str
    cut: Cut


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes:
        choice: what was picked.
        image_id: name of the film.
        image: (S, S) uint8.
        map: (S, S) float32 in [0, 1], what is cut; None if the finding was not explained here.
        label: (S, S) uint8 in {0, 1, 255}; None likewise.
        lo, hi: both thresholds as shares of the map's maximum; NaN if there are none.
        truth: (S, S) uint8 in {0, 1}; None if the film has no mask of the finding.
        notes: what a reader must know of what is missing.
        task: None, or what networks drew: truth (1, C, S, S), prediction (A, 1, C, S, S).
        scores: name to value; only those that can be had, NaN where one is not defined.
        probability: of the finding, by classifier.
    """

    choice: Choice
    image_id: str
    image: Bytes
    map: FloatMaps | None
    label: Bytes | None
    lo: float
    hi: float
    truth: Bytes | None
    notes: tuple[str, ...]
    task: Task | None
    scores: dict[str, float] = field(default_factory=dict)
    probability: dict[str, float] = field(default_factory=dict)


def names_of(source: Source) -> list[str]:
    """`CONSENSUS` and the classifiers; of one classifier, the classifier alone."""
    names = list(source.classifiers)
    return names if len(names) == 1 else [CONSENSUS, *names]


def look(source: Source, atlas: Atlas, choice: Choice) -> View:
    """Everything that is shown of a choice."""
    films, maps = source.sets[choice.films], atlas[choice.films, choice.explainer]
    image, truth = films.images[choice.at], films.truth_of(choice.at, choice.finding)
    pair = maps.pair(choice.at, choice.finding)
    notes: list[str] = []
    scores: dict[str, float] = {}
    boosted = label = None
    lo = hi = float("nan")
    probability: dict[str, float] = {}
    if pair is None:
        notes.append("the film does not have the finding: not explained, no label")
    else:
        pairs = np.array([pair])
        all_maps, labels, levels = _cut(source, maps, pairs, choice, films.images[[choice.at]])
        boosted, label, hi = all_maps[0], labels[0], float(levels[0])
        lo = choice.cut.ignore * hi
        known = zip(source.classifiers, maps.made.probability[:, pair], strict=True)
        probability = {name: float(p) for name, p in known}
        if not np.isfinite(hi):
            notes.append("the map is constant: the label is all ignored")
        elif (label == IGNORE).all():
            notes.append("the map has not settled: the label is all ignored")
        scores["label area"] = float((label == 1).mean())
        scores["ignored area"] = float((label == IGNORE).mean())
        if truth is not None:
            scores |= _against(all_maps, labels, truth[None])
    if truth is None:
        notes.append("no mask of the finding: nothing to judge by")
    elif not truth.any():
        notes.append("the mask of the finding is empty")
    task = None
    if films.task is not None:
        own = slice(choice.at, choice.at + 1)
        t = films.task
        task = replace(t, truth=t.truth[own], prediction=t.prediction[:, own])
        for arm, value in zip(t.arms, dice_of(task)[:, 0], strict=True):
            scores[f"Dice {arm}"] = float(value)
    return View(
        choice, films.image_ids[choice.at], image, boosted, label, lo, hi, truth,
        tuple(notes), task, scores, probability,
    )  # fmt: skip


def _cut(
    source: Source, maps: Maps, pairs: npt.NDArray[np.int64], choice: Choice, images: Bytes
) -> tuple[FloatMaps, Bytes, FloatMaps]:
    """Maps, labels and `hi` of some pairs of one finding, made as the labels stage makes them."""
    use = slice(None)
    if choice.classifier != CONSENSUS:
        k = list(source.classifiers).index(choice.classifier)
        use = slice(k, k + 1)
    all_, some = maps.made, (use, pairs)
    made = Explained(
        all_.maps[some], all_.probability[some], all_.error[some], all_.steps[some],
        all_.settled[some],
    )  # fmt: skip
    how = choice.cut.distil(choice.finding, source.distil)
    names = [choice.finding] * len(pairs)
    boosted, label, hi = distil(made.maps, made.probability, how, names, images)
    if source.explain.unsettled == "ignore":
        label[~pair_settled(made, how.trust)] = IGNORE
    return boosted, label, hi


def _against(maps: FloatMaps, labels: Bytes, truth: Bytes) -> dict[str, float]:
    called = (labels == 1).astype(np.uint8)
    return {
        "IoU at matched area": float(metrics.iou_matched(maps, truth)[0]),
        "IoU by chance": float(metrics.iou_chance(truth)[0]),
        "IoU of the label": float(metrics.iou_of_masks(called, truth)[0]),
    }


def dice_of(task: Task) -> npt.NDArray[np.float64]:
    """Dice of each arm, mean over the classes that a film has: (A, n); NaN if it has none."""
    truth = np.broadcast_to(task.truth, task.prediction.shape)
    return _mean(metrics.dice(*metrics.counts(task.prediction, truth)))


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the last axis of what is known."""
    known = np.isfinite(values)
    count = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    out: npt.NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


def order(source: Source, atlas: Atlas, like: Choice, by: str, only: bool = True) -> list[int]:
    """Places of a set's films in the order that they are shown.

    The score of a film is the IoU at matched area of the map that is picked, cut as the run cuts
    it, or where the finding has no mask, the mean Dice of the arms: so an order does not change
    under the hand that moves a threshold. Disagreement is one minus the mean IoU of two labels of
    single classifiers, or of two arms' predictions. Films without a score come last.

    Args:
        like: set, finding, explainer and classifier; its film and cut do not matter.
        by: one of `ORDERS`.
        only: leave out films without the finding; if no film has it, none is left out.
    """
    films = source.sets[like.films]
    has = films.positive(like.finding)
    wanted = np.flatnonzero(has) if only and has.any() else np.arange(len(films))
    if by == "stored":
        return [int(i) for i in wanted]
    values = _values(source, atlas, like, by)[wanted]
    keys = np.nan_to_num(values if by == "worst" else -values, nan=np.inf)
    return [int(i) for i in wanted[np.argsort(keys, kind="stable")]]


def _values(source: Source, atlas: Atlas, like: Choice, by: str) -> npt.NDArray[np.float64]:
    """Score or disagreement of all films of a set: (n,), NaN where there is none."""
    films = source.sets[like.films]
    out = np.full(len(films), np.nan)
    if by == "arms":
        return out if films.task is None else _arms(films.task)
    maps = atlas[like.films, like.explainer]
    pairs = maps.pairs_of(like.finding)
    at = maps.film[pairs]
    plain = replace(like, cut=cut_of(source.distil, like.finding))
    if by == "classifiers":
        if len(source.classifiers) > 1 and len(pairs):
            every = [replace(plain, classifier=name) for name in source.classifiers]
            drawn = [_cut(source, maps, pairs, one, films.images[at])[1] == 1 for one in every]
            out[at] = _apart([d.astype(np.uint8) for d in drawn])
        return out
    if films.task is not None:
        out = _mean(dice_of(films.task).T)
    truths = [(i, films.truth_of(int(i), like.finding)) for i in at]
    judged = np.array([t is not None and bool(t.any()) for _, t in truths], bool)
    if judged.any():
        boosted, _, _ = _cut(source, maps, pairs[judged], plain, films.images[at[judged]])
        truth = np.stack([t for _, t in truths if t is not None and t.any()])
        out = np.full(len(films), np.nan)
        out[at[judged]] = metrics.iou_matched(boosted, truth)
    return out


def _apart(masks: Sequence[Bytes]) -> npt.NDArray[np.float64]:
    """One minus the mean IoU of each two of several (n, ..., S, S) masks: (n, ...)."""
    return 1 - _mean(np.stack([metrics.iou_of_masks(a, b) for a, b in combinations(masks, 2)], -1))


def _arms(task: Task) -> npt.NDArray[np.float64]:
    if len(task.arms) < 2:
        return np.full(len(task.truth), np.nan)
    pairs = combinations(task.prediction, 2)
    return 1 - _mean(_mean(np.stack([metrics.iou(*metrics.counts(a, b)) for a, b in pairs], -1)))


def counts(films: FilmSet) -> dict[str, int]:
    """How many films of a set have each finding that has a place."""
    return {f: int(films.positive(f).sum()) for f in FINDINGS[1:]}
