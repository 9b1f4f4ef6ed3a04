"""How hard a data set is: what a linear model on thumbnails, and what the anatomy alone, can do.

A classification set that a linear model on 16 x 16 thumbnails solves teaches a network nothing
about place, and a finding that the mean mask of other patients outlines needs no explanation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dollkit.classifiers.model import split_rows
from dollkit.common.findings import FINDINGS, MOBILE, PATHOLOGIES, POSITIVE
from dollkit.data.store import Store
from dollkit.training import metrics

THUMB = 16
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def thumbnails(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Mean grey value on a 16 x 16 grid: (n, S, S) uint8, S a multiple of 16 -> (n, 256)."""
    n, s, _ = images.shape
    k = s // THUMB
    means: npt.NDArray[np.float64] = images.reshape(n, THUMB, k, THUMB, k).mean((2, 4))
    return means.reshape(n, -1)


def linear_probe(store: Store) -> pd.DataFrame:
    """Test AUROC of a logistic regression per pathology, its penalty chosen on validation.

    Returns:
        Columns finding, linear_auroc; pathologies with both classes in every split.
    """
    parts = {s: split_rows(store, s) for s in ("train", "valid", "test")}
    x = {s: thumbnails(np.asarray(store.images[rows])) for s, rows in parts.items()}
    scaler = StandardScaler().fit(x["train"])
    x = {s: scaler.transform(v) for s, v in x.items()}
    rows = []
    for finding in PATHOLOGIES:
        y = {s: store.states[r, FINDINGS.index(finding)] == POSITIVE for s, r in parts.items()}
        if not all(0 < v.sum() < len(v) for v in y.values()):
            continue
        tried = []
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=500).fit(x["train"], y["train"])
            valid, test = (
                metrics.weighted_auroc(y[s], model.decision_function(x[s]), np.ones((1, len(y[s]))))
                for s in ("valid", "test")
            )
            tried.append((float(valid[0]), penalty, float(test[0])))
        rows.append((finding, max(tried)[2]))
    return pd.DataFrame(rows, columns=["finding", "linear_auroc"])


def prior_overlap(store: Store) -> pd.DataFrame:
    """IoU at matched area of the training patients' mean mask, per pathology, on test films.

    Returns:
        Columns finding, mobile, iou_prior, n; pathologies whose masks are known in both splits.
    """
    rows = []
    for finding in (f for f in PATHOLOGIES if f in store.mask_classes):
        positive = store.states[:, FINDINGS.index(finding)] == POSITIVE
        train, test = (
            store.masks(r[positive[r] & store.mask_valid(r, [finding])[:, 0]], [finding])[:, 0]
            for r in (split_rows(store, "train"), split_rows(store, "test"))
        )
        test = test[test.any((1, 2))]
        if len(train) and len(test):
            mean = np.broadcast_to(train.mean(0, dtype=np.float32), test.shape)
            overlap = metrics.iou_matched(mean, test).mean()
            rows.append((finding, finding in MOBILE, overlap, len(test)))
    return pd.DataFrame(rows, columns=["finding", "mobile", "iou_prior", "n"])


def table(store: Store) -> pd.DataFrame:
    """Both scores side by side: finding, linear_auroc, iou_prior, mobile, n; last row ``macro``."""
    both = linear_probe(store).merge(prior_overlap(store), on="finding", how="left")
    if both.empty:
        return both
    macro = {"finding": "macro", "linear_auroc": both["linear_auroc"].mean()}
    return pd.concat([both, pd.DataFrame([macro])], ignore_index=True)
