"""What a store was made by and from, so that one that still stands is not built again.

A store does not hold this itself: the same films give the same store, whenever and wherever they
were copied. It lies beside it, in ``key.json``.
"""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError

KEY = "key.json"


@dataclass(frozen=True)
class Key:
    """What makes a store.

    Attributes:
        rule: JSON-able settings, code and versions that decide what becomes of a film.
        steps: fingerprint of the input of each step of the building, in order.
    """

    rule: Mapping[str, Any]
    steps: Sequence[str]

    @property
    def rule_hash(self) -> str:
        """Fingerprint of the rule."""
        return digest(self.rule)

    def to_json(self) -> dict[str, Any]:
        """Content of ``key.json``."""
        return {"rule": dict(self.rule), "input": digest(list(self.steps))}


def changed(folder: Path, key: Key) -> list[str] | None:
    """What differs between a key and the one that a folder's store was made by.

    Returns:
        names of what differs (code by file), empty if nothing; None if the folder has no key.
    """
    try:
        old = json.loads((folder / KEY).read_text(encoding="utf-8"))
        rule: dict[str, Any] = dict(old["rule"])
        given = old["input"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Through JSON, where tuples are lists.
    new = json.loads(json.dumps(key.to_json()))
    names = ["films"] if given != new["input"] else []
    for part in sorted(rule.keys() | new["rule"].keys()):
        before, after = rule.get(part), new["rule"].get(part)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = sorted(before.keys() | after.keys())
            names += [f"{part} {k}" for k in inner if before.get(k) != after.get(k)]
        elif before != after:
            names.append(part)
    return names


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of modules of ours and of all of ours that they import, by path in the repository.

    Unlike `dollkit.workflow.stages.source_files` this leaves out the ``__init__.py`` of the
    packages that
    the modules lie in: that of the readers imports every reader, and none decides another's films.

    Args:
        modules: dotted names; those of other packages are passed over.
    """
    found: dict[Path, str] = {}
    todo = [path for name in modules if (path := _file_of(name))]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path], others = _read(path)
            todo += others
    return {f.relative_to(paths.ROOT).as_posix(): found[f] for f in sorted(found)}


@functools.cache  # what was there when first asked for is what runs
def _read(path: Path) -> tuple[str, tuple[Path, ...]]:
    """SHA-256 of a module, and the modules of ours that it imports."""
    source = path.read_bytes()
    names = _imported(ast.parse(source))
    others = tuple(other for name in names if (other := _file_of(name)))
    return hashlib.sha256(source).hexdigest(), others


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str) -> Path | None:
    """File of a dotted name: a module of ours, or something inside one."""
    parts = name.split(".")
    if parts[0] != paths.PACKAGE.name:
        return None
    for depth in (len(parts), len(parts) - 1):
        stem = paths.ROOT.joinpath(*parts[:depth])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of packages, "" for one that is not there."""
    out = {}
    for package in packages:
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = ""
    return out


# What a killed process had finished: one line per step, so that the next one goes on there.


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
