"""Parameters of a notebook: what its ``parameters`` cell declares, and what a profile sets.

The cell is parsed with `ast` and never executed: papermill itself only warns on a mistyped
parameter, and its own inspection misses a line with a second ``=``, even in a comment.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from dollkit.common import paths
from dollkit.common.errors import InputError, nearest
from dollkit.common.machine import Json

SCALARS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
# Integers are taken for floats; nothing else is converted.
STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def notebooks() -> Path:
    """Folder of the notebooks and of their ``params/``; ``DOLLKIT_NOTEBOOKS`` moves it."""
    return paths.of_repository("DOLLKIT_NOTEBOOKS", paths.NOTEBOOKS)


def code_cells(notebook: Path) -> list[tuple[str, frozenset[str]]]:
    """Source and tags of each code cell, in order."""
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


def declared(notebook: Path) -> type[pydantic.BaseModel]:
    """Model of the parameters that a notebook declares, in order; types are plain JSON types."""
    tagged = [source for source, tags in code_cells(notebook) if "parameters" in tags]
    cell = f"{notebook}: parameters cell"
    if len(tagged) != 1:
        raise InputError(f"{notebook}: has {len(tagged)} code cells tagged 'parameters', not one")
    try:
        body = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise InputError(f"{cell}, line {error.lineno}: {error.msg}") from None
    fields: dict[str, Any] = {}
    for line in body:
        name, field = _parse(line, f"{cell}, line {line.lineno}")
        if name in fields:
            raise InputError(f"{cell}: parameter '{name}' is declared twice; drop one")
        fields[name] = field
    model: type[pydantic.BaseModel] = pydantic.create_model(
        "Parameters", __config__=STRICT, **fields
    )
    check(model, {name: default for name, (_, default) in fields.items()}, cell)
    return model


def _parse(line: ast.stmt, place: str) -> tuple[str, tuple[Any, Json]]:
    match line:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr()):
            pass
        case _:
            raise InputError(f"{place}: only lines like 'name: int = 3  # unit, meaning' may stand")
    try:
        return name, (_type(annotation), ast.literal_eval(line.value))  # type: ignore[arg-type]
    except KeyError:
        raise InputError(
            f"{place}: the type of '{name}' must be str, int, float, bool, list[...] or "
            "dict[str, ...], with '| None' where it may be empty"
        ) from None
    except ValueError:
        raise InputError(f"{place}: '{name}' must be a plain JSON value, no formula") from None


def _type(node: ast.expr) -> Any:
    """Type that an annotation names; `KeyError` if it is not a plain JSON type."""
    match node:
        case ast.Name(id=name):
            return SCALARS[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _type(left) | None
        case ast.Subscript(value=ast.Name(id="list"), slice=element):
            return list[_type(element)]  # type: ignore[misc]
        case ast.Subscript(
            value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), element])
        ):
            return dict[str, _type(element)]  # type: ignore[misc]
    raise KeyError


def narrowed(
    model: type[pydantic.BaseModel], ranges: Mapping[str, Any]
) -> type[pydantic.BaseModel]:
    """The model with narrower types of some parameters."""
    fields: dict[str, Any] = {n: (t, model.model_fields[n].default) for n, t in ranges.items()}
    return pydantic.create_model("Parameters", __base__=model, **fields)


def check(
    model: type[pydantic.BaseModel], values: Mapping[str, Any], place: str
) -> dict[str, Json]:
    """The values, integers made floats where the model has one; `place` begins a message."""
    try:
        return model.model_validate(dict(values)).model_dump(exclude_unset=True)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
    place = f"{place}: " if place else ""
    name, *rest = fault["loc"]
    if fault["type"] == "extra_forbidden":
        known = nearest(str(name), model.model_fields)
        raise InputError(f"{place}unknown parameter '{name}'; {known}")
    value, item = fault["input"], "".join(f"[{key!r}]" for key in rest if key != "[key]")
    said = fault["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
    if fault["type"].endswith("_type"):
        said = f"({type(value).__name__}) {said}"
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        said += f" (YAML reads {value} as text: write {value.lower().replace('e', '.0e', 1)})"
    raise InputError(f"{place}parameter '{name}'{item} is {repr(value)[:80]}: {said}")


def check_cell(notebook: str, values: Mapping[str, Any], ranges: Mapping[str, Any]) -> None:
    """Refuse parameters of a notebook that is no stage; other names among `values` are passed."""
    model = narrowed(declared(notebooks() / notebook), ranges)
    check(model, {name: values[name] for name in model.model_fields}, "")


def profile_file(profile: str) -> Path:
    """Path of a profile's YAML file; an unknown profile is an `InputError` naming those there."""
    files = {p.stem: p for p in sorted((notebooks() / "params").glob("*.yaml"))}
    if profile not in files:
        raise InputError(f"unknown profile {profile!r}: use one of {', '.join(files) or '(none)'}")
    return files[profile]


def read_profile(profile: str) -> dict[str, Any]:
    """A profile's YAML file: the mapping of each section, and ``needs_data`` as it stands there."""
    path = profile_file(profile)
    content = read(path, "sections such as 'common:' and 'matrix:'")
    for section, values in content.items():
        if values is None:
            content[section] = {}
        elif section != "needs_data" and not isinstance(values, dict):
            raise InputError(
                f"{path}: section '{section}' must be a mapping of names to values, not {values!r}"
            )
    return content


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


def read(path: Path, form: str) -> dict[str, Any]:
    """Top level of a YAML file, by name; `form` says in a message what its lines look like."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    # ValueError: bytes that are no UTF-8, and what looks like a date but is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(content or {}, dict):
        raise InputError(f"{path}: must hold {form}")
    return content or {}
