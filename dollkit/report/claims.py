"""C1-C5 of the paper as data, and one function from per-case rows to a verdict on each.

A contrast is *confirmed* if its 95 % interval lies above zero, its effect reaches the claim's
threshold of relevance and its Holm-adjusted p is below 0.05; *contradicted* if the interval
lies below zero with adjusted p below 0.05; else *undecided*. Contrasts that decide a claim form
one Holm family over the whole profile; details (single findings, other networks and training
sizes, the area under the curve) form a second one and decide nothing.

A training run is a draw, too: contrasts between trained networks need at least `MIN_SEEDS`
seeds, and their intervals and tests cover runs as well as patients (`stats.crossed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.common.errors import InputError
from dollkit.common.statistics import FEWEST, holm
from dollkit.report.contrasts import NO_GAIN, label_rows, missing, segmentation_rows
from dollkit.report.render import format_value, markdown, p_value
from dollkit.report.rows import write_csv

ALPHA = 0.05
CONFIRMED, CONTRADICTED, UNDECIDED = "confirmed", "contradicted", "undecided"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and how it is put to the test here."""

    key: str
    statement: str
    source: str
    metric: str
    contrast: str
    test: str
    relevance: float
    """Smallest effect worth having, in units of ``metric``; chosen by this project."""


_PAIRED = "95 % percentile bootstrap over patients; two-sided sign-flip permutation test"
_CROSSED = "seeds x patients crossed random effects (t interval and test)"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "C1",
        "The labels made from explanations (DoLL) show where the findings are.",
        "arXiv 2401.08469, Figure 2",
        "IoU with the truth at matched area",
        "labels minus the mean-mask prior, minus chance, minus Grad-CAM labels",
        _PAIRED,
        0.01,
    ),
    Claim(
        "C2",
        "Pre-training the whole network on DoLL beats no pre-training, ImageNet, and "
        "pre-training the backbone alone on classification.",
        "arXiv 2401.08469, abstract and tables",
        "mIoU",
        "doll minus each other arm, all weights tuned; shuffled labels and the anatomy prior "
        "are the controls that tell diagnosis from dense pre-training",
        _CROSSED,
        0.005,
    ),
    Claim(
        "C3",
        "Networks pre-trained on DoLL converge in fewer steps.",
        "arXiv 2401.08469, Figure 4",
        "log ratio of steps to 95 % of the lower of both best validation mIoUs",
        "log(steps of the other arm / steps of doll), all weights tuned",
        "seeds (x folds) crossed random effects (t interval and test)",
        float(np.log(1.1)),
    ),
    Claim(
        "C4",
        "Adapters keep more than half of the gain at a small part of the trainable weights.",
        "arXiv 2401.08469, abstract (the share kept is this project's reading)",
        "mIoU",
        "doll/adapter minus [random/full + half of (doll/full minus random/full)]",
        _CROSSED,
        0.0,
    ),
    Claim(
        "C5",
        "Several classifiers give better labels than one.",
        "arXiv 2401.08469, approach; arXiv 2109.00707",
        "IoU with the truth at matched area",
        "labels of all K classifiers minus those of the single best one (best by its own mean "
        "on these same films, which favours the single one)",
        _PAIRED,
        0.005,
    ),
)

COLUMNS = [
    "claim", "contrast", "task", "effect", "lo", "hi", "p", "p_holm", "n_cases", "n_patients",
    "n_seeds", "mde", "relevance", "decides", "verdict", "network", "n_train", "note",
]  # fmt: skip


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Add p_holm, the verdict of each contrast, and a note where the design forbids one.

    Args:
        rows: `contrasts.COLUMNS`.
    """
    out = rows.copy()
    out["relevance"] = out["claim"].map({c.key: c.relevance for c in CLAIMS})
    out["p_holm"] = np.nan
    trained = out["claim"].isin(["C2", "C3", "C4"])
    few = trained & (out["n_seeds"] < MIN_SEEDS) & out["effect"].notna()
    idle = (out["claim"] == "C4") & out["note"].str.contains(NO_GAIN, regex=False)
    for decides in (True, False):
        family = (out["decides"] == decides) & ~few & ~idle
        out.loc[family, "p_holm"] = holm(out.loc[family, "p"])
    sure = out["p_holm"] < ALPHA
    up = sure & (out["lo"] > 0) & (out["effect"] >= out["relevance"])
    down = sure & (out["hi"] < 0)
    out["verdict"] = np.select([up, down], [CONFIRMED, CONTRADICTED], UNDECIDED)
    out.loc[few, "note"] = [
        "; ".join(filter(None, [n, f"fewer than {MIN_SEEDS} seeds"])) for n in out.loc[few, "note"]
    ]
    return out[COLUMNS]


def evaluate(
    labels: pd.DataFrame | None,
    cases: pd.DataFrame,
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    not_run: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """All contrasts of C1-C5 of one profile with effect, interval, Holm-adjusted p and verdict.

    Args:
        labels: rows of label_cases.csv.gz, or None if there is no truth to judge labels by.
        cases, curves, runs: rows of the fine-tuning artefacts (`dollkit.report.rows`).
        not_run: arm -> reason.

    Returns:
        `COLUMNS`; a positive effect speaks for the claim. ``mde`` is the smallest effect that
        this design finds with 80 % power at alpha 0.05 before correction. C3's n_cases counts
        pairs of runs.
    """
    rows = [] if labels is None or labels.empty else label_rows(labels)
    if not rows:
        rows = [
            missing(claim, contrast, "labels", "no per-case label quality")
            for claim, contrast in (("C1", "labels - mean-mask prior"), ("C5", "K - best single"))
        ]
    rows += segmentation_rows(cases, curves, runs, not_run or {})
    order = [c.key for c in CLAIMS]
    rows.sort(key=lambda r: order.index(str(r["claim"])))
    frame = pd.DataFrame(rows)
    frame["decides"] = frame["decides"].astype(bool)
    frame["n_train"] = frame["n_train"].astype("Int64")
    return judge(frame)


def overall(rows: pd.DataFrame, claim: str) -> str:
    """Verdict on a claim: confirmed if all deciding contrasts are, contradicted if any is."""
    part = rows[(rows["claim"] == claim) & rows["decides"]]
    if part.empty:
        return UNDECIDED
    if (part["verdict"] == CONTRADICTED).any():
        return CONTRADICTED
    return CONFIRMED if (part["verdict"] == CONFIRMED).all() else UNDECIDED


def sentence(rows: pd.DataFrame, claim: str) -> str:
    """What the rows mean, in one generated sentence with numbers."""
    part = rows[(rows["claim"] == claim) & rows["decides"]]
    tested = part[part["effect"].notna()]
    if tested.empty:
        return "Nothing in this profile tests it."
    count = {v: int((part["verdict"] == v).sum()) for v in (CONFIRMED, CONTRADICTED, UNDECIDED)}
    ranked = tested.sort_values("effect", kind="stable")
    low, high = ranked.iloc[0], ranked.iloc[-1]

    def quote(row: pd.Series) -> str:
        if claim == "C3":
            mean, lo, hi = (float(np.exp(row[k])) for k in ("effect", "lo", "hi"))
            text = f"{mean:.2f} times [{lo:.2f}, {hi:.2f}]"
        else:
            text = f"{row['effect']:+.3f} [{row['lo']:+.3f}, {row['hi']:+.3f}]"
        return f"{text} ({row['contrast']}, {row['task']})"

    span = quote(low) if len(tested) == 1 else f"from {quote(low)} to {quote(high)}"
    text = (
        f"Of {len(part)} deciding contrasts {count[CONFIRMED]} are confirmed, "
        f"{count[CONTRADICTED]} contradicted, {count[UNDECIDED]} undecided; effects run {span}."
    )
    gaps = rows[(rows["claim"] == claim) & rows["effect"].isna()]
    if len(gaps):
        named = sorted(
            {
                f"{c} ({n.removeprefix('not run: ')})"
                for c, n in zip(gaps["contrast"], gaps["note"], strict=True)
            }
        )
        text += f" Not tested: {', '.join(named)}."
    mde = tested.loc[tested["verdict"] == UNDECIDED, "mde"].dropna()
    if len(mde):
        best = f"{np.exp(mde.min()):.2f} times" if claim == "C3" else f"{mde.min():.3f}"
        text += f" The undecided ones could have shown effects of {best} at best."
    return text


def write_claims(
    rows: pd.DataFrame, folder: Path, *, profile: str, population: str, repeats: int = 1
) -> list[Path]:
    """Write ``claims.csv`` and ``claims.md``.

    Args:
        rows: result of `evaluate`.
        folder: ``figures/<profile>``.
        profile: its name.
        population: one phrase saying whose films these are, e.g. "synthetic chest phantom".
        repeats: pre-training runs of each arm, see `labelarms.repeats`; 0: not known.
    """
    missing = [c for c in COLUMNS if c not in rows.columns]
    if missing:
        raise InputError(f"claims: column {missing[0]!r} is missing; pass the result of evaluate()")
    write_csv(rows, folder / "claims.csv")
    seeds = rows.loc[rows["n_seeds"] > 0, "n_seeds"]
    pretrained = f"; pre-training runs per arm: {repeats}" if repeats else ""
    lines = [
        f"# Claims, profile {profile}",
        "",
        f"Population: {population}. Seeds per trained network: "
        + ("-".join(str(n) for n in sorted({seeds.min(), seeds.max()})) if len(seeds) else "none")
        + f"{pretrained}. A verdict speaks for this population and these settings only.",
        "",
        "| claim | verdict | |",
        "| --- | --- | --- |",
        *(f"| {c.key} | **{overall(rows, c.key)}** | {c.statement} |" for c in CLAIMS),
    ]
    for claim in CLAIMS:
        part = rows[rows["claim"] == claim.key]
        lines += ["", f"## {claim.key}: {overall(rows, claim.key)}", "", claim.statement, ""]
        lines += [
            f"- Source: {claim.source}",
            f"- Metric: {claim.metric}; contrast: {claim.contrast}",
            f"- Test: {claim.test}; smallest effect worth having: {claim.relevance:.3g}",
            "",
            sentence(rows, claim.key),
        ]
        for decides, title in ((True, ""), (False, "Details (they decide nothing):")):
            some = part[(part["decides"] == decides) & (part["decides"] | part["effect"].notna())]
            if len(some):
                lines += ["", *([title, ""] if title else []), claim_table(some)]
    lines += ["", "## How to read this", "", *reading(seeds, repeats)]
    path = folder / "claims.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return [folder / "claims.csv", path]


# Words and table of the claims page.


MIN_SEEDS = 3
"""Seeds below which no contrast between trained networks is decided."""


def reading(seeds: pd.Series, repeats: int) -> list[str]:
    """How to read the page, in lines of a list.

    Args:
        seeds: of each contrast between trained networks.
        repeats: pre-training runs of each arm; 0: not known.
    """
    covered = "fine-tuning runs; each arm was pre-trained once, so not another pre-training"
    if repeats > 1:
        whole = len(seeds) > 0 and repeats >= seeds.max()
        covered = "training runs, pre-training included"
        covered += "" if whole else f" ({repeats} pre-training runs of each arm, taken in turns)"
    return [
        "- Effects are signed so that positive speaks for the claim; brackets are 95 % intervals; "
        "p is Holm-adjusted over all deciding contrasts of the profile "
        "(details: over all details).",
        "- mde: smallest true effect found with 80 % power at 5 %, before that adjustment; of C3's "
        "steps effect, interval and mde are logarithms of ratios in the tables.",
        f"- Means over findings leave out those that fewer than {FEWEST} patients have.",
        f"- Contrasts between trained networks need {MIN_SEEDS} seeds; their intervals cover other "
        f"patients and other {covered}.",
        "- Undecided means that the data fit both an effect and none; it is not evidence for none.",
    ]


def claim_table(rows: pd.DataFrame) -> str:
    """Contrasts of one claim as Markdown, from rows of `claims.evaluate`."""

    def number(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:+.3f}"

    shown = pd.DataFrame(
        {
            "task": rows["task"],
            "contrast": rows["contrast"],
            "effect [95 %]": [
                number(e) if pd.isna(lo) else f"{number(e)} [{number(lo)}, {number(hi)}]"
                for e, lo, hi in zip(rows["effect"], rows["lo"], rows["hi"], strict=True)
            ],
            "p (Holm)": [p_value(float(p)) for p in rows["p_holm"]],
            "mde": [format_value(float(m)) for m in rows["mde"]],
            "cases": rows["n_cases"].astype(str),
            "patients": rows["n_patients"].astype(str),
            "seeds": rows["n_seeds"].astype(str),
            "verdict": rows["verdict"],
            "note": rows["note"],
        }
    )
    if rows["network"].nunique() > 1 or rows["n_train"].nunique() > 1:
        shown.insert(1, "network, n train", rows["network"] + ", " + rows["n_train"].astype(str))
    return markdown(shown)
