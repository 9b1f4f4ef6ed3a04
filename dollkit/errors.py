"""The one exception that a user of dollkit is meant to read, and words for its messages."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable


class InputError(ValueError):
    """Something outside the program is wrong, and the user can mend it.

    The message is one line: it names the file, row or parameter, says what is wrong with it,
    and what to do. Command-line entries print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def brief(error: BaseException) -> str:
    """The first line of an error's message, for the middle of one of ours; its type without one."""
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[0], 160) if lines else type(error).__name__


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the end of a message, "" if nothing is alike."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""
