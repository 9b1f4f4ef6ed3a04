"""Content keys: what code, settings and files a store, a label shard or a map was made by.

A store does not hold its key: the same films give the same store, wherever they were copied. It
lies beside it, in ``key.json``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.source_code import files_of_import, follow

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

    def to_json(self) -> dict[str, Any]:
        """Content of ``key.json``."""
        return {"rule": dict(self.rule), "input": digest(list(self.steps))}


def changed(folder: Path, key: Key) -> list[str] | None:
    """Names of what differs between a key and that of a folder's store; None if it has no key."""
    try:
        old = json.loads((folder / KEY).read_text(encoding="utf-8"))
        rule, steps = dict(old["rule"]), old["input"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    new = json.loads(json.dumps(key.to_json()))  # where tuples are lists
    names = ["films"] if steps != new["input"] else []
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


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of packages, "" for one that is not there."""
    installed = dict.fromkeys(packages, "")
    for package in installed:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of modules of ours and of all of ours that they import, by path in the repository.

    The ``__init__.py`` of the packages that the modules lie in are left out: that of the readers
    imports every reader, and none decides another's films. A file counts as it was when first
    asked for, since that is what runs.
    """
    roots = (paths.ROOT,)
    start = [files_of_import(name, roots) for name in modules if name.startswith("dollkit.")]
    found = follow(start, roots, whole=False, when=_first_seen)
    return {file.relative_to(paths.ROOT).as_posix(): found[file] for file in sorted(found)}


_first_seen = functools.cache(lambda path: path.stat().st_mtime_ns)
