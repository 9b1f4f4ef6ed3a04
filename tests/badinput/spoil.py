"""Ways to damage a file so that it cannot be what it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Spoil = Callable[[Path], None]


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def head(path: Path) -> None:
    """Its first bytes alone: the mark of its kind, and nothing behind it."""
    path.write_bytes(path.read_bytes()[:12])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(2000))


def page(path: Path) -> None:
    """What a server sends in place of a file that it does not have."""
    path.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20)


def pointer(path: Path) -> None:
    """What git leaves where large files were not fetched."""
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
    )


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """Reading it would wait for ever."""
    path.unlink()
    os.mkfifo(path)


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def zeros(path: Path) -> None:
    """As long as it was, and nothing in it: a disk that ran full."""
    path.write_bytes(bytes(len(path.read_bytes())))


ALL: dict[str, Spoil] = {
    "gone": gone, "empty": empty, "half": half, "head": head, "noise": noise, "page": page,
    "pointer": pointer, "folder": folder, "pipe": pipe, "circle": circle, "zeros": zeros,
}  # fmt: skip


def copy_of(pristine: Path, target: Path) -> Path:
    shutil.copytree(pristine, target)
    return target
