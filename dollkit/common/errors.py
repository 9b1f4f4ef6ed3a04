"""The one exception that a user of dollkit is meant to read, and words for its messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """Something outside the program is wrong, and the user can mend it.

    The message is one line: it names the file, row or parameter, says what is wrong with it,
    and what to do. Command-line entries print it without a traceback and exit with status 2.
    Any function may raise it for what it is given: docstrings name other exceptions only.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and movements of a terminal
LONGEST = 300
"""Characters of a foreign message that are shown: PyTorch's first lines may have thousands."""


def brief(error: BaseException) -> str:
    """An exception in one line: ``Type: first line of its message``, the type alone without one.

    Later lines are advice and details (CUDA's end with how PyTorch was compiled). An `InputError`
    is one line already, and stays as it is.
    """
    return one_line(type(error).__name__, str(error))


def one_line(kind: str, message: str) -> str:
    """As `brief`, for an exception of another process: the name of its type, and its message."""
    lines = [line.strip() for line in ANSI.sub("", message).splitlines() if line.strip()]
    kind = kind.rpartition(".")[2]
    if not lines:
        return kind
    if kind == InputError.__name__:
        return " ".join(lines)
    return f"{kind}: {lines[0]}" if len(lines[0]) <= LONGEST else f"{kind}: {lines[0][:LONGEST]} …"


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the end of a message, "" if nothing is alike."""
    alike = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """As `near`, and the list of known names."""
    known = list(known)
    hint = near(name, known).removeprefix("; ")
    return f"{hint} known: {', '.join(known) or '(none)'}".lstrip()
