"""What a stage ran on: commit, library versions, threads, device. Facts for its manifest."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

from dollkit.common import paths

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


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    installed = {}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[library] = importlib.metadata.version(library)
    return installed


FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions of x86 on which the rate of float32 and of bfloat16 depends."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Json]:
    """CPU model and which of `FLAGS` it has; null where the system does not say (not Linux)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return {"model": platform.processor() or None, "flags": None}
    fields = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = fields.get("flags", "").split()
    return {"model": fields.get("model name"), "flags": [f for f in FLAGS if f in flags]}


def threads() -> int | None:
    """CPU threads of torch; None if the process never imported it."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def device() -> str:
    """Device of the stage; one without `compute` cannot have used another than the CPU."""
    # Not imported: every stage's code would count it as its own.
    compute = sys.modules.get("dollkit.common.compute")
    if compute is None or os.environ.get("DOLLKIT_DEVICE") == "cpu" or not compute.cuda_devices():
        return "cpu"
    return f"cuda ({compute.device_name()})"


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
