"""Parameters of a notebook: what its ``parameters`` cell declares, and what a profile sets.

The cell is parsed with `ast` and never executed: papermill itself only warns on a mistyped
parameter, and its own inspection misses a line with a second ``=``, even in a comment.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError, nearest
from dollkit.common.machine import Json

ONLY = "only lines like 'name: int = 3  # unit, meaning' may stand here"
SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Kind:
    """A plain JSON type: a scalar, a list or a dict with text keys, perhaps also null."""

    name: str
    element: Kind | None = None
    optional: bool = False

    def __str__(self) -> str:
        inner = {"list": f"[{self.element}]", "dict": f"[str, {self.element}]"}.get(self.name, "")
        return f"{self.name}{inner}{' | None' if self.optional else ''}"


@dataclass(frozen=True)
class Parameter:
    """One line of a ``parameters`` cell."""

    name: str
    kind: Kind
    default: Json
    comment: str
    line: int


def notebooks() -> Path:
    """Folder of the notebooks and of their ``params/``; ``DOLLKIT_NOTEBOOKS`` moves it."""
    return Path(os.environ.get("DOLLKIT_NOTEBOOKS") or paths.NOTEBOOKS).resolve()


def code_cells(notebook: Path) -> list[tuple[str, frozenset[str]]]:
    """Source and tags of each code cell, in order; an unreadable notebook is an `InputError`."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [
            ("".join(c["source"]), frozenset(c.get("metadata", {}).get("tags", ())))
            for c in cells
            if c["cell_type"] == "code"
        ]
    except FileNotFoundError:
        raise InputError(f"{notebook}: no such notebook; restore it from git") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{notebook}: not a readable notebook ({error}); restore it") from None


def declared(notebook: Path) -> dict[str, Parameter]:
    """Parameters that a notebook declares, in order."""
    tagged = [source for source, tags in code_cells(notebook) if "parameters" in tags]
    if len(tagged) != 1:
        raise InputError(
            f"{notebook}: has {len(tagged)} code cells tagged 'parameters'; it needs exactly one"
        )
    try:
        body = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise InputError(f"{notebook}: parameters cell, line {error.lineno}: {error.msg}") from None
    notes = _comments(tagged[0])
    found: dict[str, Parameter] = {}
    for node in body:
        where = f"{notebook}: parameters cell, line {node.lineno}"
        parameter = _parse(node, where, notes.get(node.end_lineno or node.lineno, ""))
        if parameter is None:
            continue
        if parameter.name in found:
            raise InputError(f"{where}: parameter '{parameter.name}' is declared twice; drop one")
        found[parameter.name] = parameter
    return found


def _parse(node: ast.stmt, where: str, comment: str) -> Parameter | None:
    annotation: ast.expr | None = None
    value: ast.expr | None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return None  # a bare string used as a heading
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
    elif isinstance(node, ast.AnnAssign):
        target, value, annotation = node.target, node.value, node.annotation
    else:
        raise InputError(
            f"{where}: only lines like 'name: int = 3  # unit, meaning' may stand here"
        )
    if not isinstance(target, ast.Name) or value is None:
        raise InputError(
            f"{where}: only lines like 'name: int = 3  # unit, meaning' may stand here"
        )
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise InputError(
            f"{where}: '{target.id}' must be a plain JSON value (text, number, True, False, "
            f"None, list or dict), not an expression"
        ) from None
    kind = _infer(default) if annotation is None else _annotated(annotation)
    if kind is None:
        raise InputError(
            f"{where}: the type of '{target.id}' is unclear; annotate it with str, int, float, "
            f"bool, list[...] or dict[str, ...], and '| None' where it may be empty"
        )
    problem = mismatch(default, kind)
    if problem:
        raise InputError(f"{where}: default of '{target.id}' {problem}")
    return Parameter(target.id, kind, coerce(default, kind), comment, node.lineno)


def _annotated(node: ast.expr) -> Kind | None:
    """Kind named by an annotation, or None if it is not one of ours."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [node.left, node.right]
        rest = [s for s in sides if not (isinstance(s, ast.Constant) and s.value is None)]
        inner = _annotated(rest[0]) if len(rest) == 1 else None
        return inner and Kind(inner.name, inner.element, optional=True)
    if isinstance(node, ast.Name) and node.id in SCALARS:
        return Kind(node.id)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        item = node.slice
        if node.value.id == "list":
            element = _annotated(item)
            return element and Kind("list", element)
        if node.value.id == "dict" and isinstance(item, ast.Tuple) and len(item.elts) == 2:
            element = _annotated(item.elts[1])
            return element and Kind("dict", element)
    return None


def _infer(value: object) -> Kind | None:
    """Kind of a default without annotation: all elements of a list must agree."""
    for name, cls in SCALARS.items():
        if type(value) is cls:
            return Kind(name)
    if isinstance(value, list | dict) and value:
        kinds = {_infer(v) for v in (value.values() if isinstance(value, dict) else value)}
        if kinds == {Kind("int"), Kind("float")}:
            kinds = {Kind("float")}
        if len(kinds) == 1 and (element := kinds.pop()) is not None:
            return Kind("dict" if isinstance(value, dict) else "list", element)
    return None


def mismatch(value: object, kind: Kind) -> str:
    """What is wrong with `value` as a `kind`, in words that follow its name; "" if nothing."""
    if value is None and kind.optional:
        return ""
    if kind.element is not None:
        wanted = list if kind.name == "list" else dict
        if not isinstance(value, wanted):
            return f"is {_shown(value)}: it must be {kind}"
        items = enumerate(value) if isinstance(value, list) else value.items()
        for key, item in items:
            if kind.name == "dict" and not isinstance(key, str):
                return f"has the key {key!r}: keys must be text"
            if problem := mismatch(item, kind.element):
                return f"[{key!r}] {problem}"
        return ""
    # bool is a subclass of int in Python, but True is no number of epochs.
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}: it must be finite"
    if type(value) is SCALARS[kind.name] or (kind.name == "float" and type(value) is int):
        return ""
    hint = ""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        hint = f" (YAML reads {value} as text: write {value.lower().replace('e', '.0e', 1)})"
    return f"is {_shown(value)}: it must be {kind}{hint}"


def _shown(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def coerce(value: Any, kind: Kind) -> Json:
    """A checked value with integers made floats where a float is declared."""
    if value is None:
        return None
    if kind.element is not None:
        if isinstance(value, dict):
            return {k: coerce(v, kind.element) for k, v in value.items()}
        return [coerce(v, kind.element) for v in value]
    return float(value) if kind.name == "float" else value


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def profile_file(profile: str) -> Path:
    """Path of a profile's YAML file; an unknown profile is an `InputError` naming those there."""
    folder = notebooks() / "params"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if profile not in known:
        raise InputError(f"unknown profile {profile!r}: use one of {', '.join(known) or '(none)'}")
    return folder / f"{profile}.yaml"


def read_profile(profile: str) -> dict[str, Any]:
    """Top level of a profile's YAML file: section name -> content."""
    return read(profile_file(profile), "sections such as 'common:' and 'matrix:'")


def resolve(
    notebook: Path,
    layers: Iterable[tuple[str, Mapping[str, Any], bool]],
) -> dict[str, Json]:
    """Values of all parameters of a notebook.

    Args:
        notebook: the notebook whose parameters cell gives names, types and defaults.
        layers: (where, values, strict) from weakest to strongest. `where` names the place in
            error messages. A name that the notebook does not declare is an error in a strict
            layer and passed over in another one (``common``).

    Returns:
        Name -> value, in the order of the cell.
    """
    known = declared(notebook)
    values: dict[str, Json] = {name: p.default for name, p in known.items()}
    for where, given, strict in layers:
        for name, value in given.items():
            if name not in known:
                if strict:
                    raise InputError(
                        f"{where}: unknown parameter '{name}' for {notebook.name}; "
                        f"{nearest(name, known)}"
                    )
                continue
            if problem := mismatch(value, known[name].kind):
                raise InputError(f"{where}: parameter '{name}' {problem}")
            values[name] = coerce(value, known[name].kind)
    return values


# YAML that people write: profiles and settings.


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        named = [k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(k, deep=True) for k in named]
        for twice in (k for k in keys if keys.count(k) > 1):
            line = node.start_mark.line + 1
            raise InputError(f"key {twice!r} stands twice in the block from line {line}; drop one")
        return super().construct_mapping(node, deep)


def read(path: Path, wanted: str, empty: bool = False) -> dict[str, Any]:
    """Top level of a YAML file, by name.

    Args:
        path: the file, UTF-8.
        wanted: what its lines look like, for the message about a file that holds something else.
        empty: a file without a value is one that sets nothing.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    # ValueError: bytes that are no UTF-8, and what looks like a date but is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    if content is None and empty:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold {wanted}")
    return content
