"""The one exception that a user of dollkit is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something outside the program is wrong, and the user can mend it.

    The message is one line: it names the file, row or parameter, says what is wrong with it,
    and what to do. Command-line entries print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
