"""Which Python files of ours a piece of code imports, and what they contain."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dollkit.common.errors import InputError

Import = tuple[tuple[Path, str], ...]
"""Files of ours behind one dotted name, outermost package first, each with its package's name."""


def follow(
    imports: Iterable[Import],
    roots: tuple[Path, ...],
    whole: bool = True,
    when: Callable[[Path], int] = lambda path: path.stat().st_mtime_ns,
) -> dict[Path, str]:
    """SHA-256 of every file of ours that can be reached from some imports.

    Args:
        roots: folders below which modules are ours.
        whole: count the packages that a module lies in too.
        when: version of a file; one that is known is not read again.
    """
    found: dict[Path, str] = {}
    todo = list(imports)
    while todo:
        files = todo.pop()
        for file, package in files if whole else files[-1:]:
            if file not in found:
                found[file], others = _read(file, when(file), package, roots)
                todo += others
    return found


@functools.cache
def _read(
    path: Path, when: int, package: str, roots: tuple[Path, ...]
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
    names = dict.fromkeys(_imported(tree, package))
    return tuple(files for name in names if (files := files_of_import(name, roots)))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names; ``from a import b`` gives ``a.b``, which covers ``a``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


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
