"""How hard a data set is, and whether a finding can be told without looking at the chest.

A classifier may learn how films were taken in place of what is on them; its explanations then show
nothing of the finding, however good its AUROC. So small models are asked to tell each finding from
what says little or nothing of a diagnosis (`PROBES`), fitted on training films and scored on test
films, beside the network. After DeGrave et al. (Nature Machine Intelligence 2021); probes and
`SHARE` are ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from dollkit.common.findings import FINDINGS, MOBILE, PATHOLOGIES, POSITIVE, apply_policy
from dollkit.data.store import Store
from dollkit.training import metrics

Floats = npt.NDArray[np.float64]

PROBES = ("acquisition", "greys", "frame")
"""Who was filmed and how; grey values whatever their place; the film's edge, beside the chest."""
SHARE = 0.75
"""Of what a network ranks better than chance, from which on a probe makes a finding doubtful."""
THUMB, EDGE = 16, 1
"""Places a side of a thumbnail; those of them, on every side, that make up its frame."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
DRAWS = 500  # of the bootstrap over patients


def acquisition(films: pd.DataFrame) -> Floats:
    """(n, k) what a film table says of how films were taken: view, sex, age, size of the original,
    and the patient's place in the order of ids, by number and as text, which is that of time or of
    the hospital. Unknown is the mean, and a column of its own."""
    number = films["patient_id"].str.extract(r"(\d+)\D*$")[0].astype(float)
    values = films[["age", "width", "height"]].astype(float).assign(order=number)
    values["text"] = films["patient_id"].rank()
    unknown = values.isna()
    bins = values.rank(pct=True).fillna(0.5)
    # Steps, so that a linear model can follow a curve.
    curve = [np.clip(8 * bins.to_numpy() - step, 0, 1) for step in range(8)]
    named = pd.get_dummies(films[["view", "sex"]]).to_numpy(np.float64)
    return np.hstack([named, unknown.to_numpy(np.float64), *curve])


def greys(images: npt.NDArray[np.uint8]) -> Floats:
    """(n, 9) mean, SD, five percentiles, mean of the border and mean gradient of each film."""
    rows = []
    for film in images:  # one by one: all of CheXpert as float64 fills no memory
        film = film.astype(np.float64)
        border = np.concatenate([film[[0, -1]].ravel(), film[:, [0, -1]].ravel()])
        gradient = np.hypot(*np.gradient(film)).mean()
        percentiles = np.percentile(film, (5, 25, 50, 75, 95))
        rows.append([film.mean(), film.std(), *percentiles, border.mean(), gradient])
    return np.array(rows)


def features(store: Store) -> dict[str, Floats]:
    """(films, k) of every probe, and ``linear``: the whole thumbnail, which shows the chest."""
    side = store.size // THUMB
    small = store.images.reshape(-1, THUMB, side, THUMB, side).mean((2, 4))
    inside = slice(EDGE, THUMB - EDGE)
    edge = np.ones((THUMB, THUMB), bool)
    edge[inside, inside] = False
    out = {"acquisition": acquisition(store.films), "greys": greys(store.images)}
    out |= {"frame": small[:, edge], "linear": small.reshape(len(small), -1)}
    return out


def probe(store: Store) -> pd.DataFrame:
    """Test AUROC of a logistic regression on each of `features`, and on all `PROBES` together.

    A row per pathology with both classes in every split; the penalty is chosen on validation films.
    Columns ``<probe>_auroc``, and ``probe_auroc`` of all together with the ends of its 95 %
    interval over patients.
    """
    seen = features(store)
    seen["probe"] = np.hstack([seen[name] for name in PROBES])
    parts = {s: np.flatnonzero(store.films["split"] == s) for s in ("train", "valid", "test")}
    truth, sure = (part > 0 for part in apply_policy(store.states, "U-Ignore"))
    patients = store.films["patient_id"].to_numpy()
    rows = []
    for finding in PATHOLOGIES:
        c = FINDINGS.index(finding)
        kept = {split: rows[sure[rows, c]] for split, rows in parts.items()}
        if not all(0 < truth[rows, c].sum() < len(rows) for rows in kept.values()):
            continue
        row: dict[str, object] = {"finding": finding}
        for name, x in seen.items():
            scores = _scores({s: (x[rows], truth[rows, c]) for s, rows in kept.items()})
            test = kept["test"]
            many = DRAWS if name == "probe" else 1
            area, draws = metrics.auroc(truth[test, c], scores, patients[test], many)
            row[f"{name}_auroc"] = area
            if name == "probe":
                row |= dict(zip(("probe_lo", "probe_hi"), metrics.interval(draws), strict=True))
        rows.append(row)
    columns = ["finding", *(f"{name}_auroc" for name in seen), "probe_lo", "probe_hi"]
    return pd.DataFrame(rows, columns=columns)


def _scores(parts: dict[str, tuple[Floats, npt.NDArray[np.bool_]]]) -> Floats:
    """Scores of test films from a logistic regression on training films."""
    from sklearn.linear_model import LogisticRegression  # seconds, and most stages need neither
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(parts["train"][0])
    x = {split: scaler.transform(values) for split, (values, _) in parts.items()}
    best, scores = -1.0, np.empty(0)
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, solver="newton-cholesky").fit(
            x["train"], parts["train"][1]
        )
        valid = model.decision_function(x["valid"])
        area = float(metrics.weighted_auroc(parts["valid"][1], valid, np.ones((1, len(valid))))[0])
        if area > best:
            best, scores = area, model.decision_function(x["test"])
    return np.asarray(scores)


def flagged(difficulty: pd.DataFrame, classifiers: pd.DataFrame) -> list[str]:
    """Findings that may be shortcuts: what is no diagnosis tells them nearly as well as networks.

    Of the tables of `difficulty` and of classifiers' test AUROC. Doubtful is a finding whose probe
    is better than chance beyond doubt (its interval lies above 0.5) and reaches `SHARE` of the
    distance of the mean network from 0.5.
    """
    if "probe_auroc" not in difficulty:
        return []
    both = difficulty.set_index("finding").join(
        classifiers.groupby("finding")["auroc"].mean(), how="inner"
    )
    near = both["probe_auroc"] - 0.5 >= SHARE * (both["auroc"] - 0.5)
    doubtful = set(both.index[near & (both["probe_lo"] > 0.5)])
    return [finding for finding in PATHOLOGIES if finding in doubtful]


def prior_overlap(store: Store) -> pd.DataFrame:
    """IoU at matched area of the training patients' mean mask on test films: ``iou_prior``.

    A row per pathology whose masks are known in both splits, with ``mobile`` and ``n``.
    """
    rows = []
    for finding in (f for f in PATHOLOGIES if f in store.mask_classes):
        positive = store.states[:, FINDINGS.index(finding)] == POSITIVE
        train, test = (
            store.masks(r[positive[r] & store.mask_valid(r, [finding])[:, 0]], [finding])[:, 0]
            for r in (np.flatnonzero(store.films["split"] == s) for s in ("train", "test"))
        )
        test = test[test.any((1, 2))]
        if len(train) and len(test):
            mean = np.broadcast_to(train.mean(0, dtype=np.float32), test.shape)
            overlap = metrics.iou_matched(mean, test).mean()
            rows.append((finding, finding in MOBILE, overlap, len(test)))
    return pd.DataFrame(rows, columns=["finding", "mobile", "iou_prior", "n"])


def difficulty(store: Store) -> pd.DataFrame:
    """`probe` and `prior_overlap` side by side; the last row is ``macro``, the mean of AUROCs."""
    both = probe(store).merge(prior_overlap(store), on="finding", how="left")
    if both.empty:
        return both
    means = {name: both[name].mean() for name in both if str(name).endswith("_auroc")}
    return pd.concat([both, pd.DataFrame([{"finding": "macro", **means}])], ignore_index=True)
