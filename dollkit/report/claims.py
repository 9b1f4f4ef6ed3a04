"""C1-C5 of the paper as data, from per-case rows to a verdict on each, their page and Figure S5.

The rules, fixed before any data:

- Two questions with a verdict each. *As stated*: what the paper claims, against the baselines that
  it names. *Is it the diagnosis?*: against controls that have all of DoLL but the film's own
  diagnosis (shuffled labels), the finding's place (the anatomy prior) or Integrated Gradients
  (Grad-CAM labels).
- A contrast is *confirmed* if its 95 % interval lies above zero, its effect reaches the claim's
  threshold of relevance and its Holm-adjusted p is below 0.05; *contradicted* if the interval lies
  below zero with adjusted p below 0.05; else *undecided*.
- Every task and baseline has a verdict. The verdict on a question rests on the means over tasks:
  confirmed if the contrast with every baseline is and no single task contradicts it; contradicted
  if the contrast with any baseline is; else undecided.
- Holm families: the means over tasks of one claim and question; its single tasks; all details
  (single findings, other networks and training sizes, areas under curves), which decide nothing.
- A training run is a draw, too: contrasts between trained networks need `MIN_SEEDS` fine-tuning
  seeds and as many pre-trainings of each arm. Their intervals and tests cover runs as well as
  patients (`statistics.crossed`), but no other classifiers and labels. Seeds that start from one
  pre-training are one draw (`rows.with_draws`).
- Findings that may be shortcuts (`shortcuts.flagged`) do not decide C1.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dollkit.common.statistics import FEWEST, holm
from dollkit.report import style
from dollkit.report.contrasts import (
    CLAIM,
    DETAIL,
    DIAGNOSIS,
    NO_GAIN,
    OVERALL,
    TASK,
    label_rows,
    segmentation_rows,
)
from dollkit.report.render import format_value, markdown, p_value, signed, span
from dollkit.report.rows import TASKS, Rows, read_table, write_csv
from dollkit.training import shortcuts

ALPHA = 0.05
CONFIRMED, CONTRADICTED, UNDECIDED = "confirmed", "contradicted", "undecided"
MIN_SEEDS = 3  # fine-tunings, and pre-trainings, below which no trained networks are judged
QUESTIONS = {CLAIM: "as stated", DIAGNOSIS: "is it the diagnosis?"}


class Claim(NamedTuple):
    """One claim of the paper and how it is put to the test here.

    `relevance` is the smallest effect worth having, in units of `metric`; chosen by this project.
    """

    key: str
    statement: str
    source: str
    metric: str
    contrast: str
    test: str
    relevance: float


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
        "doll minus each other arm, all weights tuned",
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
KEYS = [claim.key for claim in CLAIMS]

COUNTS = ("n_cases", "n_patients", "n_seeds", "n_pretrained")
COLUMNS = [
    "claim", "question", "scope", "contrast", "task", "effect", "lo", "hi", "p", "p_holm",
    "n_cases", "n_patients", "n_seeds", "n_pretrained", "mde", "relevance", "verdict", "network",
    "n_train", "note",
]  # fmt: skip


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Contrasts with p_holm, a verdict each, and a note where the design forbids one: `COLUMNS`."""
    out = rows.copy()
    out["relevance"] = out["claim"].map({c.key: c.relevance for c in CLAIMS})
    out["p_holm"] = np.nan
    trained = out["claim"].isin(["C2", "C3", "C4"]) & out["effect"].notna()
    few = {
        "seeds": trained & (out["n_seeds"] < MIN_SEEDS),
        "pre-trainings": trained & ~(out["n_pretrained"] >= MIN_SEEDS),
    }
    idle = (out["claim"] == "C4") & out["note"].str.contains(NO_GAIN, regex=False)
    judged = out[~few["seeds"] & ~few["pre-trainings"] & ~idle]
    details = judged["scope"] == DETAIL
    for _, family in judged.assign(claim=judged["claim"].mask(details, "")).groupby(
        ["scope", "claim", judged["question"].mask(details, "")]
    ):
        out.loc[family.index, "p_holm"] = holm(family["p"])
    sure = out["p_holm"] < ALPHA
    up = sure & (out["lo"] > 0) & (out["effect"] >= out["relevance"])
    down = sure & (out["hi"] < 0)
    out["verdict"] = np.select([up, down], [CONFIRMED, CONTRADICTED], UNDECIDED)
    for what, too_few in few.items():
        said = f"fewer than {MIN_SEEDS} {what}"
        notes = out.loc[too_few, "note"]
        out.loc[too_few, "note"] = ["; ".join(filter(None, [note, said])) for note in notes]
    return out[COLUMNS]


def evaluate(rows: Rows) -> pd.DataFrame:
    """All contrasts of C1-C5 of one profile with effect, interval, Holm-adjusted p and verdict.

    `COLUMNS`; a positive effect speaks for the claim. ``mde`` is the smallest effect that this
    design finds with 80 % power at alpha 0.05 before correction. C3's n_cases counts pairs of runs.
    """
    doubted = shortcuts.flagged(rows.difficulty, rows.classifiers)
    contrasts = label_rows(rows.label_cases, doubted) + segmentation_rows(rows)
    scopes = [OVERALL, TASK, DETAIL]
    contrasts.sort(
        key=lambda row: (
            KEYS.index(str(row["claim"])), [*QUESTIONS].index(str(row["question"])),
            scopes.index(str(row["scope"])),
        )
    )  # fmt: skip
    return judge(pd.DataFrame(contrasts).astype({"n_train": "Int64", "n_pretrained": "Int64"}))


def read_claims(folder: Path) -> pd.DataFrame:
    """``claims.csv`` of a profile's folder, whose tasks are findings, too."""
    return read_table(folder / "claims.csv", [c for c in COLUMNS if c != "task"])


def overall(rows: pd.DataFrame, claim: str, question: str = CLAIM) -> str:
    """Verdict on one of the `QUESTIONS` about a claim; the rule stands at the module's head."""
    rows = rows[(rows["claim"] == claim) & (rows["question"] == question)]
    verdicts, tasks = (rows.loc[rows["scope"] == scope, "verdict"] for scope in (OVERALL, TASK))
    if (verdicts == CONTRADICTED).any():
        return CONTRADICTED
    sure = len(verdicts) and (verdicts == CONFIRMED).all() and not (tasks == CONTRADICTED).any()
    return CONFIRMED if sure else UNDECIDED


def asked(rows: pd.DataFrame) -> list[tuple[Claim, str]]:
    """Claims and the questions about them that a profile has contrasts for."""
    there = set(zip(rows["claim"], rows["question"], strict=True))
    return [(c, q) for c in CLAIMS for q in QUESTIONS if q == CLAIM or (c.key, q) in there]


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Contrasts of one question in rows, tasks and their mean in columns, as text."""
    rows = rows[rows["scope"] != DETAIL]
    text = [
        f"{_effect(row)} {MARKS[row['verdict']]}".strip()
        if pd.notna(row["effect"])
        else row["note"]
        for row in rows.to_dict("records")
    ]
    tasks = sorted(rows["task"].unique(), key=lambda task: ([*TASKS, task].index(task), task))
    cells = rows.assign(text=text).pivot(index="contrast", columns="task", values="text")
    return cells.loc[rows["contrast"].unique(), tasks].fillna("–").reset_index()


def sentence(rows: pd.DataFrame, claim: str, question: str = CLAIM) -> str:
    """What the rows mean, in one generated sentence with numbers."""
    rows = rows[(rows["claim"] == claim) & (rows["question"] == question)]
    part = rows[rows["scope"] == OVERALL]
    tested = part[part["effect"].notna()].sort_values("effect", kind="stable")
    gaps, missed = part[part["effect"].isna()], ""
    if len(gaps):
        reasons = gaps["note"].str.removeprefix("not run: ")
        missed = f" Not tested: {', '.join(sorted(set(gaps['contrast'] + ' (' + reasons + ')')))}."
    if tested.empty:
        return "Nothing in this profile tests it." + missed
    extremes = tested.iloc[sorted({0, len(tested) - 1})].to_dict("records")
    ends = [f"{_effect(row)} ({row['contrast']})" for row in extremes]
    many = {v: int((part["verdict"] == v).sum()) for v in (CONFIRMED, CONTRADICTED, UNDECIDED)}
    text = (
        f"Of {len(part)} contrasts {many[CONFIRMED]} are confirmed, "
        f"{many[CONTRADICTED]} contradicted, {many[UNDECIDED]} undecided; effects run "
        f"{'from ' * (len(ends) > 1)}{' to '.join(ends)}.{missed}"
    )
    mde = tested.loc[tested["verdict"] == UNDECIDED, "mde"].dropna()
    if len(mde):
        best = f"{np.exp(mde.min()):.2f} times" if claim == "C3" else f"{mde.min():.3f}"
        text += f" The undecided ones could have shown effects of {best} at best."
    return text


def write_claims(rows: pd.DataFrame, folder: Path, *, profile: str, population: str) -> list[Path]:
    """Write the result of `evaluate`, about a `population`, as ``claims.csv`` and ``claims.md``."""
    seeds = rows.loc[rows["n_seeds"] > 0, "n_seeds"]
    decisive = rows.loc[(rows["scope"] != DETAIL) & rows["effect"].notna(), "n_pretrained"].dropna()
    repeats = int(decisive.min()) if len(decisive) else 0
    counted = f"; pre-training runs per arm: {repeats}" if repeats else ""
    lines = [
        f"# Claims, profile {profile}",
        "",
        f"Population: {population}. Seeds per trained network: {span(seeds)}{counted}. A verdict "
        "speaks for this population and these settings only.",
        "",
        "| claim | question | verdict | |",
        "| --- | --- | --- | --- |",
        *(
            f"| {c.key} | {QUESTIONS[q]} | **{overall(rows, c.key, q)}** "
            f"| {c.statement if q == CLAIM else ''} |"
            for c, q in asked(rows)
        ),
    ]
    for claim, question in asked(rows):
        part = rows[(rows["claim"] == claim.key) & (rows["question"] == question)]
        verdict = overall(rows, claim.key, question)
        lines += ["", f"## {claim.key}, {QUESTIONS[question]}: {verdict}", ""]
        if question == CLAIM:
            lines += [
                *(claim.statement, "", f"- Source: {claim.source}"),
                f"- Metric: {claim.metric}; contrast: {claim.contrast}",
                f"- Test: {claim.test}; smallest effect worth having: {claim.relevance:.3g}",
                "",
            ]
        lines.append(sentence(rows, claim.key, question))
        details = part[(part["scope"] == DETAIL) & part["effect"].notna()]
        if (part["scope"] == TASK).any():
            lines += ["", markdown(matrix(part))]
        if (part["scope"] != DETAIL).any():
            lines += ["", _claim_table(part[part["scope"] != DETAIL])]
        if len(details):
            lines += ["", "Details (they decide nothing):", "", _claim_table(details)]
    covered = "fine-tuning runs; each arm was pre-trained once, so not another pre-training"
    if repeats > 1:
        covered = "training runs, pre-training included, but not other classifiers and labels"
        if not repeats >= seeds.max():
            covered += f" ({repeats} pre-training runs of each arm, taken in turns)"
    lines += [
        *("", "## How to read this", ""),
        "- Effects are signed so that positive speaks for the claim; brackets are 95 % intervals; "
        "p is Holm-adjusted over the means over tasks of a claim and question, over its single "
        "tasks, and over all details. ↑ confirmed, ↓ contradicted.",
        "- The verdict rests on the means over tasks: confirmed if every one is and no single task "
        "is contradicted, contradicted if any is.",
        "- mde: smallest true effect found with 80 % power at 5 %, before that adjustment; of C3's "
        "steps effect, interval and mde are logarithms of ratios in the tables.",
        f"- Means over findings leave out those that fewer than {FEWEST} patients have.",
        f"- Contrasts between trained networks need {MIN_SEEDS} seeds of fine-tuning and of "
        "pre-training; their intervals cover other "
        f"patients and other {covered}.",
        "- Undecided means that the data fit both an effect and none; it is not evidence for none.",
    ]
    csv, page = folder / "claims.csv", folder / "claims.md"
    write_csv(rows, csv)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return [csv, page]


def _claim_table(rows: pd.DataFrame) -> str:
    shown: dict[str, object] = {"task": rows["task"]}
    if rows["network"].nunique() > 1 or rows["n_train"].nunique() > 1:
        shown["network, n train"] = rows["network"] + ", " + rows["n_train"].astype(str)
    effects = rows[["effect", "lo", "hi"]].astype(float).to_numpy()
    shown |= {
        "contrast": rows["contrast"],
        "effect [95 %]": [signed(*values) for values in effects],
        "p (Holm)": [p_value(float(p)) for p in rows["p_holm"]],
        "mde": [format_value(float(m)) for m in rows["mde"]],
        **{n.removeprefix("n_"): [format_value(v, 0) for v in rows[n]] for n in COUNTS},
        "verdict": rows["verdict"],
        "note": rows["note"],
    }
    return markdown(pd.DataFrame(shown))


def _effect(row: dict[Hashable, Any]) -> str:
    values = [float(row[k]) for k in ("effect", "lo", "hi")]
    if row["claim"] == "C3":  # effects are logarithms of ratios
        return "{:.2f} times [{:.2f}, {:.2f}]".format(*np.exp(values))
    return signed(*values)


# Figure S5: every contrast that decides a claim, with its interval, on one page.


SHOWN = [
    "claim", "question", "scope", "task", "network", "n_train", "contrast", "effect", "lo", "hi",
    "relevance", "verdict", "n_patients", "n_seeds",
]  # fmt: skip
MARKS = {CONFIRMED: "↑", UNDECIDED: "", CONTRADICTED: "↓"}
LOOKS = {
    CONFIRMED: (style.BLUE, "D", style.BLUE),
    UNDECIDED: (style.GREY, "o", "white"),
    CONTRADICTED: (style.VERMILLION, "X", style.VERMILLION),
}
"""Colour, marker and its filling, so that a greyscale print tells them apart."""

SIDES = ("C1", "C2", "C2?"), ("C3", "C4", "C5")  # panels of the left and of the right half
TITLES = {
    "C1": "C1  IoU", "C2": "C2 as stated  mIoU", "C2?": "C2, is it the diagnosis?  mIoU",
    "C3": "C3  steps, as a ratio", "C4": "C4  mIoU", "C5": "C5  IoU",
}  # fmt: skip
SHORT = (
    ("steps to 95 %: ", ""),
    ("adapter keeps over half of the gain", "adapter - half of the gain"),
    (r" \(.*\)$", ""),
)
"""What the names of contrasts say beyond their panel's title."""

WIDEST = 2.0  # how far a panel reaches beyond its effects, in median widths of its intervals


def figure_s5(rows: pd.DataFrame, *, profile: str) -> style.Drawn:
    """Effects and 95 % intervals of every task and of their mean, one panel per question."""
    data = rows[(rows["scope"] != DETAIL) & rows["effect"].notna()][SHOWN]
    data = data.sort_values(["claim", "question", "contrast"], kind="stable", ignore_index=True)
    panel = data["claim"] + np.where(data["question"] == DIAGNOSIS, "?", "")
    parts = {str(key): part for key, part in data.groupby(panel)}
    halves = [half for keys in SIDES if (half := [k for k in keys if k in parts])]
    with style.context():
        heights = [[len(parts[k]) + 3 for k in half] for half in halves]
        fig = style.canvas(style.PAGE, 0.165 * max(map(sum, heights), default=3) + 0.4)
        sides = fig.add_gridspec(1, max(len(halves), 1))
        for side, half in enumerate(halves):
            panels = sides[side].subgridspec(len(half), 1, height_ratios=heights[side])
            for row, key in enumerate(half):
                _panel(fig.add_subplot(panels[row]), key, parts[key])
        handles = [
            Line2D([], [], color=c, marker=m, markerfacecolor=face, linewidth=1.2, label=name)
            for name, (c, m, face) in LOOKS.items()
        ]
        style.key(fig, handles, 3)
    caption = (
        f"Figure S5 (profile {profile}). Every contrast that decides a claim: effect and 95 % "
        "interval of the mean over tasks (bold) and of each task; right of the line at zero speaks "
        "for the claim, the dotted line is the "
        "smallest effect worth having. C1 and C5: IoU of labels with the truth at matched area; "
        "C2 and C4: mIoU; an interval much wider than the others runs out of its panel; "
        "C3: how many times the steps of DoLL the other start needs. A verdict "
        "also asks for Holm's p < 0.05."
    )
    if (trained := data["n_seeds"] > 0).any():
        caption += f" {span(data.loc[trained, 'n_seeds'])} seeds per trained network."
    if (seen := data["n_patients"] > 0).any():
        patients = span(data.loc[seen, "n_patients"])
        caption += f" {patients} patients per contrast, but in C3, which compares runs."
    return style.Drawn(fig, data, caption)


def _panel(ax: Axes, claim: str, part: pd.DataFrame) -> None:
    place = np.arange(len(part))[::-1]
    mixed = part["network"].nunique() > 1
    overalls = set(part.loc[part["scope"] == OVERALL, "contrast"])
    names = []
    spans = part[["effect", "lo", "hi"]].to_numpy(np.float64)
    for verdict, (colour, marker, face) in LOOKS.items():
        rows = (part["verdict"] == verdict).to_numpy()
        look = {"color": colour, "markerfacecolor": face, "markersize": 4.5, "elinewidth": 1.2}
        style.intervals(ax, part[rows], "effect", place[rows], marker, **look)
    for row in part.to_dict("records"):
        name = row["contrast"]
        for pattern, other in SHORT:
            name = re.sub(pattern, other, name)
        if row["scope"] == TASK:
            task = str(row["task"])
            name = task if row["contrast"] in overalls else f"{name}, {task}"
        names.append(f"{row['network']}, " * mixed + name)
    relevance = float(part["relevance"].iloc[0])
    ax.axvline(0, color=style.BLACK, linewidth=0.7)
    ax.axvline(relevance, color=style.GREY, linewidth=0.8, linestyle=":")
    widths = spans[:, 2] - spans[:, 1]
    if np.isfinite(widths).any():
        # One seed too few gives an interval of any width, beside which nothing else would show.
        usual = float(np.nanquantile(widths, 0.5, method="lower"))
        room = max(WIDEST * usual, float(np.ptp(spans[:, 0])), 2 * relevance)
        if np.nanmax(widths) > 3 * room:
            ax.set_xlim(spans[:, 0].min() - room, spans[:, 0].max() + room)
    ax.set_yticks(place, names, fontsize=6)
    for label, scope in zip(ax.get_yticklabels(), part["scope"], strict=True):
        label.set_fontweight("bold" if scope == OVERALL else "normal")
    ax.set_ylim(-0.7, len(part) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.set_title(TITLES[claim], loc="left", fontweight="bold", pad=2)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    if claim == "C3":  # effects are logarithms of ratios
        ax.xaxis.set_major_formatter(lambda value, _: f"{np.exp(value):.2g}x")
