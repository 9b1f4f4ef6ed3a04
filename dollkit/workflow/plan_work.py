"""Floating-point operations of every stage, counted on networks without arithmetic.

A multiply-add is two. A pass down costs as much as the pass up for the activations, and as much
again for the weights: twice under full tuning, once where the trained tensors are few, nothing
where the network below is frozen (PyTorch's counter finds 1.98, 0.99 to 1.03 and 0.07 passes on a
PSPNet; of grouped convolutions it counts too many, so its pass down is not used).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dollkit.classifiers import model
from dollkit.common.arm_names import OWN_LABELS
from dollkit.explanations.ensemble import Explain
from dollkit.finetuning import robustness
from dollkit.labels import Distil
from dollkit.labels.judge import variants
from dollkit.training import networks
from dollkit.workflow.plan_films import Films
from dollkit.workflow.plan_jobs import runs_of

DOWN = {"full": 2.0, "head": 0.0}
"""Passes down of a tuning, in passes up; 1 of those that are not named."""
WINDOWS = 100
"""Passes of occlusion, in passes up: its windows step by a tenth of the side."""

Given = Mapping[str, Any]


def _forward(net: nn.Module, side: int) -> int:
    net.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 1, side, side, device="meta"))
    return int(counter.get_total_flops())


@functools.cache
def classifier(architecture: str, depth: int, side: int) -> int:
    """One film's pass up through a classifier."""
    return _forward(model.Classifier(architecture, depth, "relu", "avg"), side)


@functools.cache
def network(kind: str, encoder: str, depth: int, classes: int, side: int) -> int:
    """One film's pass up through a segmentation network."""
    return _forward(networks.build(kind, encoder, classes, depth=depth), side)


@functools.cache
def numbers(kind: str, encoder: str, depth: int) -> int:
    """Numbers in a network's state; `kind` may be ``classifier``."""
    if kind == "classifier":
        net: nn.Module = model.Classifier(encoder, depth, "relu", "avg")
    else:
        net = networks.build(kind, encoder, 14, depth=depth)
    return sum(t.numel() for t in net.state_dict().values())


class Work:
    """Operations of the stages of one run.

    Args:
        size: side of the films in pixels.
        stores: of the run.
        models: classifier to its encoder depth.
        points: of a path, mean over pairs, by classifier, where a profile leaves them open;
            "" for any other.
        labels: parameters of notebook 03, which pre-training needs too.
    """

    def __init__(
        self, size: int, stores: Mapping[str, Films], models: Mapping[str, int],
        points: Mapping[str, float], labels: Given,
    ) -> None:  # fmt: skip
        self.size, self.stores, self.models = size, stores, models
        self.points, self.given = points, labels

    def of(self, family: str, given: Given) -> float:
        """Operations of a stage; 0 for one that is no matter of networks."""
        counted = {
            "classifiers": self._classifier,
            "labels": self._labels,
            "pretrain": self._pretrain,
            "finetune": self._finetune,
        }.get(family)
        return counted(given) if counted else 0.0

    def _classifier(self, given: Given) -> float:
        films = self.stores["films"]
        full = classifier(given["architecture"], given["depth"], self.size)
        low = full
        if given["small"]:
            low = classifier(given["architecture"], given["depth"], given["small"])
        steps = given["steps"]
        seen = given["batch"] * ((steps // 2) * low + (steps - steps // 2) * full)
        judged = _evaluations(given) * films.count("valid") + films.count("test")
        return float(3 * seen + judged * full)

    def _explain(self, how: Explain, films: int, pairs: int) -> float:
        """All classifiers' explanations; the pass up at a point is shared by a film's findings."""
        total = 0.0
        for name, depth in self.models.items():
            up = classifier(name, depth, self.size)
            if how.explainer == "occlusion":
                total += films * WINDOWS * up
                continue
            points = 1.0
            if how.explainer == "ig":
                points = float(how.steps or self.points.get(name, self.points[""]))
                points = points if how.steps else min(points, how.most_steps)
            total += points * (films + pairs) * up
        return total

    def _labels(self, given: Given) -> float:
        how = Explain(
            given["explainer"], given["baseline"], given["steps"], given["rule"],
            most_steps=given["most_steps"],
        )  # fmt: skip
        films = self.stores["films"]
        total = self._explain(how, *films.labelled(given["n_label"], given["n_hold"]))
        count, pairs, truth = films.judged(given["judge_split"], given["n_judge"])
        wanted = variants(list(self.models), how, Distil(), given["n_occlude"], given["n_few"])
        most: dict[Explain, int] = {}
        for v in wanted if truth else wanted[:1]:
            some = min(v.films or count, count)
            most[v.explain] = max(most.get(v.explain, 0), some)
        share = pairs / max(count, 1)
        return total + sum(self._explain(e, n, round(n * share)) for e, n in most.items())

    def _pretrain(self, given: Given) -> float:
        depth = networks.depth_of(given.get("network", "pspnet"), given["encoder_depth"])
        up = network(given.get("network", "pspnet"), given["encoder"], depth, 14, self.size)
        n_hold = self.given["n_hold"]
        one = 3 * up * given["batch"] * given["steps"] + _evaluations(given) * n_hold * up
        total = float(given.get("repeats", 1) * one)
        if given["arm"] in OWN_LABELS:
            rows = self.stores["films"].labelled(self.given["n_label"], n_hold)
            how = Explain(
                "gradcam" if given["arm"] == "gradcam" else self.given["explainer"],
                steps=self.given["steps"], most_steps=self.given["most_steps"],
            )  # fmt: skip
            share = 1 / len(self.models) if given["arm"] == "single" else 1.0
            total += share * self._explain(how, *rows)
        return total

    def _finetune(self, given: Given) -> float:
        films = self.stores[given["task"]]
        kind = given.get("network", "pspnet")
        depth = networks.depth_of(kind, given["encoder_depth"])
        up = network(kind, given["encoder"], depth, len(films.classes), self.size)
        changes = len(robustness.cells(given.get("robustness", {})))
        tested = films.tested
        total = 0.0
        for cell, _, trainings in runs_of(given, films):
            steps = (1 + DOWN.get(cell.tuning, 1.0)) * given["batch"] * given["steps"]
            judged = _evaluations(given) * given["n_valid"] + tested
            if cell.tuning == "full" and cell.n_train == given["n_train"]:
                judged += changes * tested
            total += trainings * (steps + judged) * up
        return total


def _evaluations(given: Given) -> int:
    return math.ceil(int(given["steps"]) / int(given["evaluate_every"]))
