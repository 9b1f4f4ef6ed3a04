"""Device, precision and random state: chosen in one place, never as a side effect elsewhere."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState

from dollkit.errors import InputError

MEAN, STD = 0.5, 0.25
"""Fixed normalisation of films in [0, 1]; black is ``(0 - MEAN) / STD = -2``, not zero."""

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which evaluates alone."""


def launched() -> PartialState | None:
    """accelerate's state of this process if it was launched as one of several, else None.

    The launcher (``accelerate launch``, ``torchrun``, ``notebook_launcher``) says so in
    ``WORLD_SIZE``. The first call joins the others: gloo on the CPU, NCCL on CUDA.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdigit() or int(count) < 2:
        return None
    return PartialState(cpu=_kind() == "cpu", timeout=PATIENCE)


def device() -> torch.device:
    """Device named by ``DOLLKIT_DEVICE`` (auto, cpu, cuda); auto takes CUDA where there is one.

    Each of several processes has its own, see `launched`.

    Raises:
        InputError: an unknown name, or CUDA asked for where there is none.
    """
    kind, state = _kind(), launched()
    return torch.device(kind) if state is None else torch.device(state.device)


def _kind() -> str:
    name = os.environ.get("DOLLKIT_DEVICE") or "auto"
    if name not in {"auto", "cpu", "cuda"}:
        raise InputError(f"DOLLKIT_DEVICE is {name!r}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("DEVICE=cuda but torch sees no CUDA device: use DEVICE=cpu or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def check_precision(precision: str) -> str:
    """Return `precision` if it is known, else raise `InputError`."""
    if precision not in PRECISIONS:
        raise InputError(
            f"parameter 'precision' is {precision!r}: use one of {', '.join(PRECISIONS)}"
        )
    return precision


def autocast(where: torch.device, precision: str) -> torch.autocast:
    """Autocast context for a forward pass; does nothing in float32."""
    dtype = PRECISIONS[check_precision(precision)]
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block under torch's global generator seeded from `key`, then restore it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*key))
        yield


def derive(*key: int) -> int:
    """A 63-bit seed from a tuple of non-negative integers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int) -> torch.Generator:
    """CPU generator seeded from a tuple of integers: same key, same stream, on every machine."""
    return torch.Generator().manual_seed(derive(*key))


def to_input(films: npt.NDArray[np.uint8] | torch.Tensor, where: torch.device) -> torch.Tensor:
    """Normalised network input from stored films.

    Args:
        films: (n, S, S) uint8 grey values, 0 black, 255 white.
        where: target device.

    Returns:
        (n, 1, S, S) float32, channels last in memory.
    """
    x = torch.as_tensor(films).to(where, non_blocking=True).unsqueeze(1).float()
    return normalise(x / 255.0).contiguous(memory_format=torch.channels_last)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Pixel values in [0, 1] to network input."""
    return (pixels - MEAN) / STD


# All that is asked of CUDA is asked here. On another device these do nothing, or say zero.

_NO_MEMORY = (
    "out of memory", "not enough memory", "to allocate", "allocate memory", "alloc_failed",
    "bad_alloc", "cudnn_status_not_supported",
)  # fmt: skip
"""What a `RuntimeError` says, in small letters, when an allocator, cuBLAS or cuDNN has no room."""


def cuda_devices() -> int:
    """Number of CUDA devices that torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_name() -> str:
    """Name of the current CUDA device, such as ``NVIDIA A100-SXM4-40GB``."""
    return torch.cuda.get_device_name()


def use_in_thread(where: torch.device) -> None:
    """Make `where` the current device of the calling thread: a new one starts on the first."""
    if where.type == "cuda":
        torch.cuda.set_device(where)


def synchronize(where: torch.device) -> None:
    """Wait until `where` has done what it was given: a clock read before counts launches alone."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def allocated_bytes(where: torch.device) -> int:
    """Sum of the tensors on a CUDA device now."""
    return torch.cuda.memory_allocated(where) if where.type == "cuda" else 0


def peak_bytes(where: torch.device) -> int:
    """Largest sum of the tensors on a CUDA device since `reset_peak`."""
    return torch.cuda.max_memory_allocated(where) if where.type == "cuda" else 0


def reset_peak(where: torch.device) -> None:
    """Start `peak_bytes` at what is allocated now."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def release_memory(where: torch.device) -> None:
    """Give back what unreachable tensors hold, and what CUDA's allocator keeps for later."""
    gc.collect()
    if where.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _NO_MEMORY)
