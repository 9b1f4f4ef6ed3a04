"""What a stage ran on: commit, library versions, threads, device. Facts for its manifest."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import resource
import subprocess
import sys

from dollkit import paths
from dollkit.params import Json

LIBRARIES = (
    "captum",
    "matplotlib",
    "numpy",
    "pandas",
    "pillow",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
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
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def threads() -> int | None:
    """CPU threads of torch; None if the process never imported it."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def device() -> str:
    """Device of the stage; one without `compute` cannot have used another than the CPU."""
    # Not imported: every stage's code would count it as its own.
    compute = sys.modules.get("dollkit.compute")
    if compute is None or os.environ.get("DOLLKIT_DEVICE") == "cpu" or not compute.cuda_devices():
        return "cpu"
    return f"cuda ({compute.device_name()})"
