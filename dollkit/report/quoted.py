"""Numbers that a text quotes from committed results, and whether they still stand there.

``python -m dollkit.report.quoted docs/card.md`` puts the numbers of today into a Markdown table
whose rows read

    | meaning | number | [labels.csv](../figures/laptop/labels.csv) `iou, lo, hi` where `n > 9` |

A CSV file is asked for the rows of a query (`pandas.DataFrame.query`): one row gives its number,
with two further columns as an interval; several give the range from the lowest to the highest. Of
a JSON file one key is named, and no query.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError

ROW = re.compile(
    r"^(\|[^|]*\|) ([^|]*) \| \[[^\]]*\]\(([^)]+)\) `([^`|]+)`(?: where `([^`|]+)`)? \|$"
)


def renewed(text: str, folder: Path) -> str:
    """A text with the numbers of today.

    Args:
        text: Markdown.
        folder: where it lies; links to files start there.
    """
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        found = ROW.match(line)
        if found:
            value = _value(folder / found[3], found[4], found[5], f"line {number}")
            line = f"{found[1]} {value} |{line[found.end(2) + 2 :]}"
        lines.append(line)
    return "\n".join(lines)


def _value(path: Path, columns: str, query: str | None, where: str) -> str:
    if not path.is_file():
        raise InputError(f"{where}: {path} does not exist; name another file")
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if columns not in content:
            raise InputError(f"{where}: {path} has no key {columns!r}; name another")
        return _told(content[columns])
    table = pd.read_csv(path)
    names = [name.strip() for name in columns.split(",")]
    try:
        rows = (table.query(query) if query else table)[names].dropna()
    except (KeyError, NameError, SyntaxError, ValueError, TypeError) as error:
        raise InputError(f"{where}: {path} cannot be asked so ({error}); mend the row") from error
    if rows.empty:
        raise InputError(f"{where}: {path} has no row where {query}; mend the query")
    if len(rows) > 1:
        return f"{_told(rows[names[0]].min())} to {_told(rows[names[0]].max())}"
    first, *interval = (_told(rows[name].iloc[0]) for name in names)
    return f"{first} [{', '.join(interval)}]" if interval else first


def _told(value: float) -> str:
    """Three decimals, or none for whole numbers and large ones."""
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: writes texts anew; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m dollkit.report.quoted", description="Renew the numbers that a text quotes."
    )
    parser.add_argument("text", type=Path, nargs="+", help="Markdown file")
    for path in parser.parse_args(arguments).text:
        try:
            before = path.read_text(encoding="utf-8")
            after = renewed(before, path.parent)
        except (OSError, InputError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        moved = sum(a != b for a, b in zip(before.split("\n"), after.split("\n"), strict=True))
        path.write_text(after, encoding="utf-8", newline="\n")
        print(f"{path}: {moved} numbers renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
