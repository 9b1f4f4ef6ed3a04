"""What a killed process had finished: one line per step, so that the next one goes on there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dollkit.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows: nothing guards against a second process there
    LOCKS = False
else:
    LOCKS = True


class Journal:
    """JSON lines: the first holds the key, each further one a finished step.

    While it is open, no other process can open it.

    Args:
        path: the file. One of another key is emptied.
        key: what made the steps.
        steps: fingerprint of the input of each step, in order. Lines count up to the first whose
            fingerprint has changed; the others are cut off.

    Attributes:
        found: the finished steps that were there on opening.
        count: number of finished steps by now.
    """

    def __init__(self, path: Path, key: str, steps: Sequence[str]) -> None:
        self.path, self._steps = path, tuple(steps)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self._head = _line({"key": key})
            self.found, self._ends = self._read()
            self.keep(len(self.found))
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        if not LOCKS:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"{self.path.parent}: another process is building this store: wait for it, "
                    "or choose another folder"
                ) from None
            # A file system without locks: go on without.

    def _read(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Steps that count, and where in the file the head and each of them ends."""
        head, *rest = self.path.read_bytes().splitlines(keepends=True) or [b""]
        if head != self._head:
            return [], [0]
        found: list[dict[str, Any]] = []
        ends = [len(head)]
        for step, text in zip(self._steps, rest, strict=False):
            line = _parsed(text)
            if line.pop("step", None) != step:
                break
            found.append(line)
            ends.append(ends[-1] + len(text))
        return found, ends

    def keep(self, n: int) -> None:
        """Forget all steps but the first `n` of those found."""
        del self.found[n:], self._ends[n + 1 :]
        os.ftruncate(self._file, self._ends[-1])
        if self._ends == [0]:
            self._write(self._head)
        self.count = n

    def add(self, line: dict[str, Any]) -> None:
        """Note the next step as finished."""
        self._write(_line({"step": self._steps[self.count], **line}))
        self.count += 1

    def _write(self, left: bytes) -> None:
        while left:
            left = left[os.write(self._file, left) :]

    def close(self, drop: bool = False) -> None:
        """Let go of the file, and remove it if `drop`."""
        if drop:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content) + "\n").encode()


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text) if text.endswith(b"\n") else {}  # else cut off while written
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}
