"""Choose each finding's smoothing and threshold rule on films whose masks are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.labels.steps import Bytes, Distil, FloatMaps, boost, consensus, refine, scale
from dollkit.labels.threshold_rules import COLUMNS, OTHER, Rule
from dollkit.training import metrics

SMOOTHS = (0.01, 0.015, 0.02, 0.03)
PEAKS = tuple(round(0.1 + 0.05 * i, 2) for i in range(15))
AREAS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
CANDIDATES = (
    Rule("otsu"), *(Rule("peak", p) for p in PEAKS), *(Rule("quantile", a) for a in AREAS)
)  # fmt: skip
FEWEST = 3
"""A finding with fewer tuning films gets the rule that serves the others best."""


def tune(
    maps: FloatMaps,
    probability: FloatMaps,
    how: Distil,
    findings: Sequence[str],
    films: Bytes,
    truth: Bytes,
) -> pd.DataFrame:
    """Smoothing by IoU at matched area, then the rule by IoU of the label, for each finding.

    Ties go to Otsu, then to the smaller number. The row ``other`` holds the sigma and the rule
    with the best mean over findings: for findings with fewer than `FEWEST` films, and for those
    that occur later.

    Args:
        maps: (K, pairs, S, S) signed attributions on tuning films, none of them judged later.
        probability: (K, pairs).
        how: all other settings.
        findings: (pairs,) names.
        films: (pairs, S, S) uint8.
        truth: (pairs, S, S) masks in {0, 1}; pairs with an empty one are left out.

    Returns:
        Columns finding, rule, smooth, iou (of the label, mean over tuning films), iou_otsu (the
        same under Otsu's rule), n; one row per finding, then ``other``.
    """
    seen = truth.reshape(len(truth), -1).any(1) if len(truth) else np.zeros(0, bool)
    if not seen.any():
        raise InputError("threshold 'tuned': no tuning film has a mask: use otsu or a file")
    maps, probability, films, truth = maps[:, seen], probability[:, seen], films[seen], truth[seen]
    names = np.asarray(findings)[seen]
    mixed = consensus(scale(maps, how.part, how.percentile), probability, how.trust)
    sharp = [refine(boost(mixed, s), films, how.guide) for s in SMOOTHS]
    matched = np.stack([metrics.iou_matched(m, truth) for m in sharp])
    scores = np.stack([_scores(m, truth) for m in sharp])
    found = [f for f in FINDINGS if (names == f).any()]
    mean_matched = np.stack([matched[:, names == f].mean(1) for f in found])
    mean_scores = np.stack([scores[:, :, names == f].mean(2) for f in found])
    counts = np.array([(names == f).sum() for f in found])
    sigma = int(mean_matched.mean(0).argmax())
    rule = int(mean_scores[:, sigma].mean(0).argmax())
    rows = []
    for i, finding in enumerate(found):
        few = counts[i] < FEWEST
        s = sigma if few else int(mean_matched[i].argmax())
        r = rule if few else int(mean_scores[i, s].argmax())
        rows.append((finding, r, s, mean_scores[i, s, r], mean_scores[i, s, 0], counts[i]))
    pooled = mean_scores[:, sigma].mean(0)
    rows.append((OTHER, rule, sigma, pooled[rule], pooled[0], counts.sum()))
    table = [(f, str(CANDIDATES[r]), SMOOTHS[s], *rest) for f, r, s, *rest in rows]
    return pd.DataFrame(table, columns=COLUMNS)


def _scores(maps: FloatMaps, truth: Bytes) -> npt.NDArray[np.float64]:
    """IoU of each map's label under each candidate rule: (candidates, pairs)."""
    out = np.zeros((len(CANDIDATES), len(maps)))
    for j, (m, t) in enumerate(zip(maps, truth, strict=True)):
        if m.max() <= m.min():
            continue
        # Sorted once: any threshold's label is then a number of top pixels.
        order = np.argsort(-m, axis=None, kind="stable")
        inside = np.concatenate([[0], np.cumsum(t.reshape(-1)[order])])
        level = np.array([r.level(m) for r in CANDIDATES], np.float32)
        called = np.searchsorted(-m.reshape(-1)[order], -level, side="right")
        out[:, j] = inside[called] / (called + inside[-1] - inside[called])
    return out
