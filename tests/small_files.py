"""Small pictures and text files for trees of data sets, and how a reader refuses one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dollkit.common.errors import InputError


def save(path: Path, values: npt.ArrayLike, mode: str | None = None) -> Path:
    """Write a grey picture of 8 bits; `mode` converts it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    (picture.convert(mode) if mode else picture).save(path)
    return path


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first `old`, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def error_of(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The one line with which `function` refuses its input."""
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def layout(shared_dir: Path, name: str) -> Path:
    """Folder of genuine files of a data set; the test skips without it."""
    folder = shared_dir / "layouts" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder
