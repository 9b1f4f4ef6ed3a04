"""One data frame, three files: CSV with the numbers, Markdown and LaTeX to be read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
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


P_VALUES = ("p", "p_holm")
"""Columns printed by `p_value`."""


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
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.{digits}f}" if abs(number) < 100 else f"{number:.0f}"
    return str(value)


def p_value(p: float) -> str:
    """A p-value as printed: two digits, "<0.0001" below that, missing as "–"."""
    if np.isnan(p):
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def span(values: pd.Series) -> str:
    """A whole number, or the range of several."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"


def display(
    frame: pd.DataFrame,
    hide: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The printed form of a table: all cells str, ``x, x_lo, x_hi`` merged to "x [lo, hi]".

    Floats have 3 decimals, or those that ``digits`` gives for their column; `P_VALUES` theirs.
    """
    out: dict[str, list[str]] = {}
    for column in frame.columns:
        stem = column.removesuffix("_lo").removesuffix("_hi")
        bound = stem != column and f"{stem}_lo" in frame and f"{stem}_hi" in frame
        if column in hide or (bound and stem in frame):
            continue
        places = (digits or {}).get(column, 3)
        if column in P_VALUES:
            cells = [p_value(float(v)) for v in frame[column]]
        else:
            cells = [format_value(v, places) for v in frame[column].tolist()]
        if f"{column}_lo" in frame and f"{column}_hi" in frame:
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
    head = " & ".join(escape_tex(str(c)) for c in shown.columns)
    lines = [rf"\begin{{tabular}}{{{'l' * shown.shape[1]}}}", r"\toprule", head + r" \\"]
    before: object = None
    for position, row in enumerate(shown.to_numpy().tolist()):
        if position == 0 or (row[0] != before and shown.shape[1] > 1):
            lines.append(r"\midrule")
        before = row[0]
        lines.append(" & ".join(escape_tex(str(v)) for v in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def write_table(
    frame: pd.DataFrame,
    path_stem: Path,
    caption: str,
    *,
    hide: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    reference: pd.DataFrame | None = None,
) -> list[Path]:
    """Write a table as ``.csv`` (all columns), ``.md`` and ``.tex`` (needs only booktabs).

    Args:
        frame: rows in the order to print.
        path_stem: path without suffix, e.g. ``figures/laptop/table1``.
        caption: one paragraph.
        hide: columns of the CSV that are not printed.
        names: printed names of columns.
        digits: decimals of columns, where not 3.
        notes: lines under the table.
        reference: published numbers, printed as a block of their own below and written to
            ``<stem>_reference.csv``; never joined to ours.

    Returns:
        The files written.
    """
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    shown = display(frame, hide, names, digits)
    md = [f"**{escape_md(caption)}**", "", markdown(shown), ""]
    tex = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape_tex(caption)}}}",
        latex(shown),
    ]
    for note in notes:
        md += [f"- {note}"]
        tex += ["", rf"\par\footnotesize {escape_tex(note)}"]
    paths = [path_stem.with_name(path_stem.name + s) for s in (".csv", ".md", ".tex")]
    write_csv(frame, paths[0])
    stale = path_stem.with_name(path_stem.name + "_reference.csv")
    if reference is not None and len(reference):
        title = (
            "Published reference numbers: other data, splits and metric definitions; they stand "
            "beside our numbers and are not comparable one to one."
        )
        block = display(reference)
        md += ["", f"**{title}**", "", markdown(block), ""]
        tex += ["", rf"\par\medskip {escape_tex(title)}", "", latex(block)]
        write_csv(reference, stale)
        paths.append(stale)
    else:
        stale.unlink(missing_ok=True)
    paths[1].write_text("\n".join(md).rstrip() + "\n", encoding="utf-8", newline="\n")
    tex.append(r"\end{table}")
    paths[2].write_text("\n".join(tex) + "\n", encoding="utf-8", newline="\n")
    return paths
