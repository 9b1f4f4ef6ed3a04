"""Which of our own Python files a notebook depends on, and what they contain (SHA-256)."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import parameters


def source_files(notebook: Path) -> tuple[Path, ...]:
    """Our own Python files that a notebook imports, directly or through other modules.

    Imports are found with `ast`, wherever they stand; a module is our own if it lies beside the
    notebooks' folder or in the repository. Packages count with their ``__init__.py``.
    """
    roots = tuple(dict.fromkeys((parameters.notebooks().parent, paths.ROOT)))
    found: dict[Path, None] = {}
    for source, _ in parameters.code_cells(notebook):
        plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
        try:
            tree = ast.parse(plain)
        except SyntaxError as error:
            raise InputError(f"{notebook}: a code cell does not parse: {error}") from None
        _follow(_ours(tree, "", roots), roots, found)
    return tuple(sorted(found))


def _follow(
    modules: Iterable[tuple[Path, str]], roots: tuple[Path, ...], found: dict[Path, None]
) -> None:
    for path, owner in modules:
        if path not in found:
            found[path] = None
            _follow(_imports(path, path.stat().st_mtime_ns, owner, roots), roots, found)


@functools.cache
def _imports(
    path: Path, changed: int, package: str, roots: tuple[Path, ...]
) -> tuple[tuple[Path, str], ...]:
    """Our files that a module imports; a plan asks for the same modules once for every stage.

    Args:
        changed: when the file last was, so that an edited one is read again.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}") from None
    return _ours(tree, package, roots)


def _ours(tree: ast.AST, package: str, roots: tuple[Path, ...]) -> tuple[tuple[Path, str], ...]:
    """Our files behind the imports of a tree, each once."""
    names = dict.fromkeys(_imported(tree, package))
    return tuple(dict.fromkeys(file for name in names for file in _resolve(name, roots)))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names a tree may import; ``from a import b`` gives ``a.b``, which covers ``a``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _resolve(module: str, roots: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Files behind a dotted name, each with the package that its relative imports start from."""
    parts = module.split(".")
    for root in roots:
        folder = root
        for depth, part in enumerate(parts, start=1):
            if (folder / part / "__init__.py").is_file():
                yield folder / part / "__init__.py", ".".join(parts[:depth])
            elif (folder / f"{part}.py").is_file():
                yield folder / f"{part}.py", ".".join(parts[: depth - 1])
                break
            else:  # an attribute, or not ours
                break
            folder = folder / part


def tree_state(folder: Path) -> str:
    """Fingerprint of a folder of data: name, size and time of change of every file below it.

    Reads no file, so that CheXpert's 223,648 take seconds. Hidden files do not count.
    """
    state = hashlib.sha256()
    for top, below, names in os.walk(folder):
        below[:] = sorted(d for d in below if not d.startswith("."))
        inner = os.path.relpath(top, folder)
        for name in sorted(n for n in names if not n.startswith(".")):
            try:
                found = os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118
            except OSError:  # a dangling link: the readers name it
                continue
            state.update(f"{inner}/{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]
