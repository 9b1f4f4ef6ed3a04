"""Tables 1-3 as files: one call for the notebook that makes them and for whoever checks them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dollkit.report import tables
from dollkit.report.render import write_table


def write_numbered(
    number: int,
    table: pd.DataFrame,
    folder: Path,
    *,
    profile: str,
    notes: Sequence[str] = (),
    reference: pd.DataFrame | None = None,
) -> list[Path]:
    """Write Table 1, 2 or 3 as CSV, Markdown and LaTeX.

    Args:
        number: 1, 2 or 3.
        table: result of `tables.table1`, `table2` or `table3`.
        folder: ``figures/<profile>``.
        profile: name for the caption.
        notes: lines under Tables 1 and 2 (`settings.at_the_edge`).
        reference: published numbers, for Table 1.

    Returns:
        The files written.
    """
    return write_table(
        table,
        folder / f"table{number}",
        tables.caption(number, table, profile),
        hide=tables.hidden(table),
        names=tables.NAMES,
        digits=tables.DIGITS,
        notes=notes if number < 3 else (),
        reference=reference if number == 1 else None,
    )
