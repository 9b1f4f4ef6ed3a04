"""A table with its caption, and its three files: CSV with the numbers, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dollkit.report.rows import write_csv

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "–": "--", "−": "$-$", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip
_TEX_PATTERN = re.compile("|".join(re.escape(k) for k in _TEX))

HEADS = {
    "n_train": "n train", "miou": "mIoU", "n_cases": "films", "n_patients": "patients",
    "n_seeds": "seeds", "dice": "Dice", "lr": "learning rate", "memory_mb": "step, MB",
    "checkpoint_mb": "checkpoint, MB", "step_seconds": "step, s",
    "trainable_share": "trained share",
    "steps_own": "steps (own)", "seconds_own": "seconds (own)", "steps_random": "steps (random)",
    "n_classifiers": "classifiers", "iou_matched": "IoU (matched area)",
}  # fmt: skip
"""Printed names of columns."""

DIGITS = {
    "steps_own": 0, "seconds_own": 1, "steps_random": 0, "memory_mb": 0, "checkpoint_mb": 2,
}  # fmt: skip
"""Decimals of columns where they are not 3."""

PUBLISHED = (
    "Published reference numbers: other data, splits and metric definitions; they stand "
    "beside our numbers and are not comparable one to one."
)


@dataclass
class Table:
    """Rows in the order to print, and what is said about them.

    `hide` names columns of the CSV that are not printed, `names` the printed names of others that
    are not in `HEADS`; `notes` are lines under the table. `reference` has published numbers: a
    block of their own below and a ``<stem>_reference.csv``, never joined to ours.
    """

    frame: pd.DataFrame
    caption: str
    hide: Collection[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    reference: pd.DataFrame | None = None

    def save(self, stem: Path) -> list[Path]:
        """Write ``.csv`` (all columns), ``.md`` and ``.tex`` (needs only booktabs)."""
        shown = display(self.frame, self.hide, {**HEADS, **self.names})
        md = [f"**{escape_md(self.caption)}**", "", markdown(shown), ""]
        md += [f"- {note}" for note in self.notes]
        tex = [r"\begin{table}", r"\centering\small", rf"\caption{{{escape_tex(self.caption)}}}"]
        tex += [latex(shown)]
        for note in self.notes:
            tex += ["", rf"\par\footnotesize {escape_tex(note)}"]
        csv, page, source, published = (
            stem.with_name(stem.name + end) for end in (".csv", ".md", ".tex", "_reference.csv")
        )
        write_csv(self.frame, csv)
        published.unlink(missing_ok=True)
        if self.reference is not None and len(self.reference):
            block = display(self.reference)
            md += ["", f"**{PUBLISHED}**", "", markdown(block), ""]
            tex += ["", rf"\par\medskip {escape_tex(PUBLISHED)}", "", latex(block)]
            write_csv(self.reference, published)
        page.write_text("\n".join(md).rstrip() + "\n", encoding="utf-8", newline="\n")
        source.write_text("\n".join([*tex, "\\end{table}\n"]), encoding="utf-8", newline="\n")
        return [csv, page, source, *([published] if published.is_file() else [])]


def escape_tex(text: str) -> str:
    """Text as LaTeX prints it literally; every special character is escaped exactly once."""
    return _TEX_PATTERN.sub(lambda m: _TEX[m.group()], text)


def escape_md(text: str) -> str:
    """Text that keeps to its cell of a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def format_value(value: object, digits: int = 3) -> str:
    """A cell as printed: floats to ``digits`` decimals, whole numbers whole, missing as "–"."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.{digits}f}" if abs(number) < 100 else f"{number:.0f}"
    return str(value)


def p_value(p: float) -> str:
    """A p-value as printed: two digits, "<0.0001" below that, missing as "–"."""
    if np.isnan(p):
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def signed(effect: float, lo: float, hi: float) -> str:
    """An effect and its interval, each with its sign; missing as "–"."""
    if np.isnan(effect):
        return "–"
    return f"{effect:+.3f}" if np.isnan(lo) else f"{effect:+.3f} [{lo:+.3f}, {hi:+.3f}]"


def span(values: pd.Series) -> str:
    """A whole number, the range of several, or "none"; blanks do not count."""
    if not values.notna().any():
        return "none"
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"


def constant(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns that never vary, which a caption can say instead."""
    return [c for c in columns if c in frame and frame[c].nunique() == 1]


def display(
    frame: pd.DataFrame, hide: Collection[str] = (), names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The printed form of a table: all cells str, ``x, x_lo, x_hi`` merged to "x [lo, hi]"."""
    ranged = [c for c in frame if {f"{c}_lo", f"{c}_hi"} <= set(frame)]
    skipped = {*hide, *(f"{c}_{end}" for c in ranged for end in ("lo", "hi"))}
    out: dict[str, list[str]] = {}
    for column in (str(c) for c in frame if c not in skipped):
        cells = [format_value(v, DIGITS.get(column, 3)) for v in frame[column].tolist()]
        if column in ("p", "p_holm"):
            cells = [p_value(float(v)) for v in frame[column]]
        if column in ranged:
            bounds = zip(frame[f"{column}_lo"], frame[f"{column}_hi"], strict=True)
            cells = [
                c if c == "–" or pd.isna(lo) else f"{c} [{format_value(lo)}, {format_value(hi)}]"
                for c, (lo, hi) in zip(cells, bounds, strict=True)
            ]
        out[(names or {}).get(column, column.replace("_", " "))] = cells
    return pd.DataFrame(out, dtype="object")


def markdown(shown: pd.DataFrame) -> str:
    """A pipe table of a frame of str cells."""
    rows = [[str(c) for c in shown.columns], ["---"] * shown.shape[1]]
    rows += [[escape_md(str(v)) for v in row] for row in shown.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def latex(shown: pd.DataFrame) -> str:
    """A booktabs ``tabular`` of a frame of str cells; a rule where the first column changes."""
    rows = [[escape_tex(str(v)) for v in row] for row in shown.to_numpy().tolist()]
    head = " & ".join(escape_tex(str(c)) for c in shown.columns)
    lines = [rf"\begin{{tabular}}{{{'l' * shown.shape[1]}}}", r"\toprule", head + r" \\"]
    for before, row in zip([None, *rows], rows, strict=False):
        if before is None or (row[0] != before[0] and len(row) > 1):
            lines.append(r"\midrule")
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
