"""One bad input, and what came of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dollkit.common.errors import InputError

SECONDS = 60
"""That one input may take: a guard against hanging, not a claim of speed."""

CLEAR, UNCLEAR, TRACEBACK, SILENT, HANG = OUTCOMES = (
    "one clear line", "unclear message", "traceback", "passed silently", "hang",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        group: what kind of input it is.
        name: of the case, unique in its group.
        run: reads the input by the function that a run reads it by; gets an empty folder.
        names: the message must name one of these: file, row or parameter.
    """

    group: str
    name: str
    run: Callable[[Path], object]
    names: tuple[str, ...]


class _Late(BaseException):
    """No Exception: nothing on the way may take it for damage."""


def judge(case: Case, folder: Path) -> tuple[str, str]:
    """Outcome, one of `OUTCOMES`, and the message."""

    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        case.run(folder)
    except InputError as error:
        text = str(error)
        plain = "\n" not in text and 20 < len(text) < 700 and any(n in text for n in case.names)
        return (CLEAR if plain else UNCLEAR), text
    except _Late:
        return HANG, f"more than {SECONDS} s"
    except Exception as error:
        return TRACEBACK, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return SILENT, ""
