"""What a stage runs on, for its manifest, and the share of its work that one process does."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dollkit.common import paths
from dollkit.common.errors import InputError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LIBRARIES = (
    *("captum", "matplotlib", "numpy", "pandas", "pillow", "scikit-image", "scikit-learn"),
    *("scipy", "segmentation-models-pytorch", "timm", "torch", "torchvision"),
)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_mb() -> int:
    """Most memory that this process has held (resident), MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024**2 if sys.platform == "darwin" else 1024)  # bytes there, KiB here


@functools.cache
def commit() -> dict[str, Json]:
    """Git commit of the repository (null without git) and whether files differ from it."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--", "dollkit", "notebooks")
    return {
        "commit": git("rev-parse", "HEAD"),
        "modified": None if status is None else bool(status),
    }


def versions(packages: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of packages, those that results depend on; "" for one that is not there."""
    installed = dict.fromkeys(packages, "")
    for package in installed:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def threads() -> int | None:
    """CPU threads of torch; None if the process never imported it."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def device() -> str:
    """Device of the stage; one without `compute` cannot have used another than the CPU."""
    # Not imported: every stage's code would count it as its own.
    compute = sys.modules.get("dollkit.common.compute")
    if compute is None or os.environ.get("DOLLKIT_DEVICE") == "cpu" or not compute.cuda_name():
        return "cpu"
    return f"cuda ({compute.cuda_name()})"


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


VARIABLE = "DOLLKIT_PART"


class PartDone(Exception):
    """The share of this process is on disk: no fault, but the end of its notebook."""


@dataclass(frozen=True)
class Part:
    """One process's share of a stage's work: part `number` (from 1) of `count`.

    It does what can be done alone (shards of labels, training runs of the grid), leaves it on
    disk, and ends by `PartDone`; the stage itself then finds it all there.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """``1/4`` is the first of four; anything else is an `InputError`."""
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise InputError(f"parameter 'part' is {text!r}: use K/N with K from 1 to N, such as 1/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def takes(self, index: int) -> bool:
        """Whether it does piece `index` (from 0): every `count`-th one, so that all are alike."""
        return index % self.count == self.number - 1

    def end(self) -> None:
        """Leave: raises `PartDone`."""
        raise PartDone(f"part {self} is done")


def this_part() -> Part | None:
    """Share of this process; None: all of it."""
    text = os.environ.get(VARIABLE)
    return Part.parse(text) if text else None
