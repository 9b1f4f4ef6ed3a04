"""Intervals, paired tests and multiplicity for rows that are clustered by patient.

Two designs occur. Labels are made once, so their effects vary over patients alone: percentile
bootstrap over patients and a sign-flip permutation test. Segmentation networks are trained
again for every seed, so their effects vary over patients *and* training runs; an interval over
patients alone would call the luck of three seeds a finding. There the seeds x patients matrix
is analysed as a two-way crossed random-effects design, as in multi-reader studies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats as sps

Floats = npt.NDArray[np.float64]

LEVEL = 0.95  # of every interval
N_BOOT = 2000
N_FLIPS = 9999
FEWEST = 5
"""Patients below which a class is left out of a mean over classes: it would weigh as much as one
of a hundred, and nothing tells how it varies."""


class Effect(NamedTuple):
    """A mean difference with what is needed to judge it. All NaN where it cannot be estimated."""

    estimate: float
    lo: float
    hi: float
    p: float
    se: float
    df: float


NO_EFFECT = Effect(*(float("nan"),) * 6)


def patient_values(
    values: npt.ArrayLike, patients: npt.ArrayLike, classes: npt.ArrayLike
) -> tuple[npt.NDArray[np.object_], Floats]:
    """Linearised contribution of every patient to a mean of class means.

    The reported mean is m = mean over classes c of m_c, with m_c the mean over the defined rows
    of class c. Patient p contributes u_p = m + P * sum_c sum_(i in p, c) (x_i - m_c) / (C n_c),
    the influence function of m. The plain mean of u over the P patients is m *exactly*, and its
    variance over patients is the cluster-robust variance of m, also when patients have several
    films or a class is undefined (NaN) in some of them.

    `values` are (n,), NaN where truth and prediction are both empty. Returns the P patients in
    sorted order, as str objects, and their contributions (P,) float64. A class that is undefined
    everywhere is left out; if all are, the contributions are NaN.
    """
    x = np.asarray(values, dtype=np.float64)
    names, p = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    _, c = np.unique(np.asarray(classes).astype(str), return_inverse=True)
    defined = np.isfinite(x)
    # Sorting first makes the sums, and so the last bits, independent of the order of rows.
    order = np.lexsort((x, c, p))
    x, p, c = x[order], p[order], c[order]
    ok = defined[order]
    counts = np.bincount(c[ok], minlength=int(c.max()) + 1 if c.size else 0).astype(np.float64)
    if not counts.any():
        return names.astype(object), np.full(len(names), np.nan)
    sums = np.bincount(c[ok], weights=x[ok], minlength=len(counts))
    used = counts > 0
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=used)
    share = np.divide(1.0, used.sum() * counts, out=np.zeros_like(counts), where=used)
    part = np.bincount(p[ok], weights=(x[ok] - means[c[ok]]) * share[c[ok]], minlength=len(names))
    return names.astype(object), means[used].mean() + len(names) * part


def seen_enough(
    patients: npt.ArrayLike, classes: npt.ArrayLike, fewest: int = FEWEST
) -> npt.NDArray[np.bool_]:
    """Which rows are of a class that at least `fewest` patients have.

    A class of one patient adds a constant to each patient's contribution (see `patient_values`):
    the mean moves with it, and no interval or test over patients sees that it might not have.
    """
    pairs = pd.DataFrame({"patient": np.asarray(patients), "class": np.asarray(classes)})
    enough = pairs.groupby("class")["patient"].transform("nunique") >= fewest
    return enough.to_numpy(dtype=bool)


def bootstrap_interval(units: npt.ArrayLike, n_boot: int = N_BOOT) -> tuple[float, float]:
    """Percentile bootstrap interval (lo, hi) of the mean of independent units (Efron 1979)."""
    x = np.asarray(units, dtype=np.float64)
    if x.size < 2 or not np.isfinite(x).all():  # one unit says nothing about spread
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = np.empty(n_boot)
    step = max(1, 4_000_000 // x.size)
    for start in range(0, n_boot, step):
        stop = min(start + step, n_boot)
        means[start:stop] = x[rng.integers(0, x.size, (stop - start, x.size))].mean(1)
    lo, hi = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(lo), float(hi)


def sign_flip_p(units: npt.ArrayLike, n_flips: int = N_FLIPS) -> Floats:
    """Two-sided p of the sign-flip permutation test that paired differences centre on zero.

    All 2^n sign patterns are enumerated when there are no more than ``n_flips + 1`` of them;
    otherwise ``n_flips`` random ones are drawn and the observed one is counted in, so that p is
    never 0 (Phipson & Smyth 2010). With five patients or fewer p cannot fall below 0.05.

    `units` are (..., n); leading axes are tests that share the sign patterns. NaN where a
    difference is not finite or n = 0.
    """
    x = np.asarray(units, dtype=np.float64)
    n = x.shape[-1]
    flat = x.reshape(-1, n)
    observed = np.abs(flat.sum(-1))
    # A sum that ties with the observed one counts; the slack absorbs its rounding.
    limit = observed - 1e-12 * np.abs(flat).sum(-1)
    exact = n < 60 and 2**n <= n_flips + 1
    total = 2**n if exact else n_flips
    hits = np.zeros(len(flat))
    rng = np.random.default_rng(0)
    step = max(1, 8_000_000 // max(n, 1))
    for start in range(0, total, step):
        stop = min(start + step, total)
        if exact:
            bits = (np.arange(start, stop)[:, None] >> np.arange(n)) & 1
        else:
            bits = rng.integers(0, 2, (stop - start, n), dtype=np.int8)
        sums = (2.0 * bits - 1.0) @ flat.T
        hits += (np.abs(sums) >= limit).sum(0)
    p = hits / total if exact else (hits + 1) / (total + 1)
    p = np.where(np.isfinite(observed) & (n > 0), p, np.nan)
    return np.asarray(p.reshape(x.shape[:-1]))


def paired(units: npt.ArrayLike) -> Effect:
    """Effect of (n,) paired differences over patients: bootstrap interval and sign-flip p."""
    x = np.asarray(units, dtype=np.float64)
    if x.size == 0 or not np.isfinite(x).all():
        return NO_EFFECT
    lo, hi = bootstrap_interval(x)
    se = float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan")
    p = float(sign_flip_p(x)) if x.size > 1 else float("nan")
    return Effect(float(x.mean()), lo, hi, p, se, float(x.size - 1))


def crossed(matrix: npt.ArrayLike) -> dict[str, Floats]:
    """Mean of a seeds x units matrix of differences, both factors random.

    Model D_su = mu + a_s + b_u + e_su. With the mean squares of the two-way layout, Var(mean) =
    max(MS_s + MS_u - MS_e, MS_s, MS_u) / (S U): no component of variance is below zero.
    Satterthwaite's degrees of freedom, total^2 / (MS_s^2 / (S - 1) + MS_u^2 / (U - 1) + MS_e^2
    / ((S - 1) (U - 1))) and at least min(S, U) - 1, keep the term of the seeds also where their
    spread comes out below the rest's, as it often does by chance with three: without it small p
    values, which decide after Holm's correction, come ten times too often. The random-reader
    random-case analysis of multi-reader studies (Hillis 2007) takes the readers' mean square
    alone there, and truncates the cases' component. With one seed, or one unit, it is the
    ordinary paired t-test over the other factor.

    `matrix` is (..., S, U); leading axes are separate analyses. All is NaN where S = U = 1 or a
    value is missing. No spread (rounded or copied numbers) tests nothing: p is NaN, or 1 for 0.
    """
    d = np.asarray(matrix, dtype=np.float64)
    s, u = d.shape[-2:]
    nan = np.full(d.shape[:-2], np.nan)
    mean = d.mean((-1, -2)) if s * u else nan
    if s * u < 2:
        return {"estimate": mean, "lo": nan, "hi": nan, "p": nan, "se": nan, "df": nan}
    rows = d.mean(-1) - mean[..., None]
    columns = d.mean(-2) - mean[..., None]
    if s == 1 or u == 1:
        var = ((rows**2).sum(-1) + (columns**2).sum(-1)) / (s * u - 1) / (s * u)
        df = np.full_like(var, s * u - 1.0)
    else:
        rest = d - mean[..., None, None] - rows[..., :, None] - columns[..., None, :]
        ms_s = u * (rows**2).sum(-1) / (s - 1)
        ms_u = s * (columns**2).sum(-1) / (u - 1)
        ms_e = (rest**2).sum((-1, -2)) / ((s - 1) * (u - 1))
        total = np.maximum(ms_s + ms_u - ms_e, np.maximum(ms_s, ms_u))
        spread = ms_u**2 / (u - 1) + ms_s**2 / (s - 1) + ms_e**2 / ((s - 1) * (u - 1))
        var = total / (s * u)
        df = np.divide(total**2, spread, out=np.full_like(var, u - 1.0), where=spread > 0)
        df = np.maximum(df, min(s, u) - 1)
    se = np.sqrt(var)
    half = sps.t.ppf((1 + LEVEL) / 2, df) * se
    zero = se <= 1e-15 * np.maximum(1.0, np.abs(mean))
    t = np.divide(np.abs(mean), se, out=np.zeros_like(mean), where=~zero)
    p = np.where(zero, np.where(mean == 0, 1.0, np.nan), 2 * sps.t.sf(t, df))
    p = np.where(np.isfinite(mean), p, np.nan)
    return {"estimate": mean, "lo": mean - half, "hi": mean + half, "p": p, "se": se, "df": df}


def crossed_effect(matrix: npt.ArrayLike) -> Effect:
    """`crossed` for one (S, U) matrix, as an `Effect`."""
    out = crossed(matrix)
    return Effect(*(float(out[name]) for name in Effect._fields))


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p values (Holm 1979); NaN (not testable) does not count."""
    raw = np.asarray(p, dtype=np.float64)
    out = np.full(raw.shape, np.nan)
    ok = np.flatnonzero(np.isfinite(raw))
    order = ok[np.argsort(raw[ok], kind="stable")]
    scaled = raw[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return out


def smallest_effect(se: float, df: float) -> float:
    """Smallest true effect that one two-sided test at 0.05, uncorrected, finds with power 0.8."""
    if not (np.isfinite(se) and np.isfinite(df) and df > 0):
        return float("nan")
    return float((sps.t.ppf(0.975, df) + sps.t.ppf(0.8, df)) * se)
