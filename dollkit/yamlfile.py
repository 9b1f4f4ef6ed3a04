"""YAML that people write: profiles and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dollkit.errors import InputError


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
