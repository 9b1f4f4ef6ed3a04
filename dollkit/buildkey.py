"""What a store was made by and from, so that one that still stands is not built again.

A store does not hold this itself: the same films give the same store, whenever and wherever they
were copied. It lies beside it, in ``key.json``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dollkit import paths

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

    Unlike `dollkit.sources.source_files` this leaves out the ``__init__.py`` of the packages that
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
