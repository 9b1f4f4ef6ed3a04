"""Content keys: what code, settings and files a store, a label shard or a map was made by.

A store does not hold its key: the same films give the same store, wherever they were copied. It
lies beside it, in ``key.json``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError

KEY = "key.json"


@dataclass(frozen=True)
class Key:
    """What makes a store.

    `rule`: JSON-able settings, code and versions that decide what becomes of a film; `steps`: the
    fingerprint of the input of each step of the building, in order.
    """

    rule: Mapping[str, Any]
    steps: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Content of ``key.json``."""
        return {"rule": dict(self.rule), "input": digest(list(self.steps))}

    def made(self, folder: Path) -> bool | None:
        """Whether a folder's store was made by this very key; None if it has no readable key."""
        try:
            old = json.loads((folder / KEY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return bool(old == json.loads(json.dumps(self.to_json())))  # where tuples are lists


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of modules of ours and of all of ours that they import, by path in the repository.

    The ``__init__.py`` of the packages that the modules lie in are left out: that of the readers
    imports every reader, and none decides another's films.
    """
    roots = (paths.ROOT,)
    start = [files_of_import(name, roots) for name in modules if name.startswith("dollkit.")]
    hashes = follow(start, roots, running=True)
    return {file.relative_to(paths.ROOT).as_posix(): hashes[file] for file in sorted(hashes)}


_first_seen = functools.cache(lambda path: path.stat().st_mtime_ns)

Import = tuple[tuple[Path, str], ...]
"""Files of ours behind one dotted name, outermost package first, each with its package's name."""


def follow(
    imports: Iterable[Import], roots: tuple[Path, ...], running: bool = False
) -> dict[Path, str]:
    """SHA-256 of every file of ours that can be reached from some imports.

    Modules below `roots` are ours, and the packages that they lie in, but of `running` code. There
    a file counts as it was when first asked for, since that is what runs.
    """
    hashes: dict[Path, str] = {}
    todo = list(imports)
    while todo:
        files = todo.pop()
        for file, package in files[-1:] if running else files:
            if file not in hashes:
                changed = _first_seen(file) if running else file.stat().st_mtime_ns
                hashes[file], others = _read(file, changed, package, roots)
                todo += others
    return hashes


@functools.cache
def _read(
    path: Path, changed: int, package: str, roots: tuple[Path, ...]
) -> tuple[str, tuple[Import, ...]]:
    """SHA-256 of a module and its imports of ours; a plan asks for the same ones once a stage."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}") from None
    return hashlib.sha256(source).hexdigest(), imports_of(tree, package, roots)


def imports_of(tree: ast.AST, package: str, roots: tuple[Path, ...]) -> tuple[Import, ...]:
    """Imports of ours in a syntax tree, wherever they stand."""
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        stem: list[str] = []
        if isinstance(node, ast.ImportFrom):  # from a import b: a.b, which covers a
            parents = package.split(".")
            stem = parents[: len(parents) - node.level + 1] if node.level else []
            stem += [node.module] if node.module else []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= dict.fromkeys(".".join([*stem, alias.name]) for alias in node.names)
    return tuple(files for name in names if (files := files_of_import(name, roots)))


def files_of_import(name: str, roots: tuple[Path, ...]) -> Import:
    """Files behind a dotted name of ours, the packages that it lies in first; () if not ours."""
    files = []
    parts = name.split(".")
    for root in roots:
        for depth in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:depth])
            if (stem / "__init__.py").is_file():
                files.append((stem / "__init__.py", ".".join(parts[:depth])))
                continue
            if stem.with_suffix(".py").is_file():
                files.append((stem.with_suffix(".py"), ".".join(parts[: depth - 1])))
            break  # what follows is inside the module
    return tuple(files)
