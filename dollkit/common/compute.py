"""Device, precision and random state: chosen in one place, never as a side effect elsewhere."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from dollkit.common.errors import InputError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

MEAN, STD = 0.5, 0.25
"""Fixed normalisation of films in [0, 1]; black is ``(0 - MEAN) / STD = -2``, not zero."""

PRECISIONS = ("auto", "bfloat16", "float32")
"""What parameter `precision` may be; see `resolve_precision`."""


def device() -> torch.device:
    """Device named by ``DOLLKIT_DEVICE`` (auto, cpu, cuda); auto takes CUDA where there is one."""
    name = os.environ.get("DOLLKIT_DEVICE") or "auto"
    if name not in {"auto", "cpu", "cuda"}:
        raise InputError(f"DOLLKIT_DEVICE is {name!r}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("DEVICE=cuda but torch sees no CUDA device: use DEVICE=cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself.

    A CPU without such instructions takes bfloat16 too, 8 to 13 times slower than float32
    (ResNet-10-T and ESE-VoVNet in training, two AVX2 cores). oneDNN's answer heeds
    ``ONEDNN_MAX_CPU_ISA``, but counts AVX-512 that only converts; so on x86 the flags of the
    instructions (AVX512-BF16, AMX) are asked too.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str) -> str:
    """``auto`` as what this machine computes fastest; the other `PRECISIONS` as they are."""
    if precision not in PRECISIONS:
        raise InputError(
            f"parameter 'precision' is {precision!r}: use one of {', '.join(PRECISIONS)}"
        )
    if precision != "auto":
        return precision
    cuda = os.environ.get("DOLLKIT_DEVICE") != "cpu" and torch.cuda.is_available()
    return "bfloat16" if computes_bfloat16(torch.device("cuda" if cuda else "cpu")) else "float32"


def depthwise(layer: torch.nn.Module) -> bool:
    """Whether a layer convolves each channel by itself, which oneDNN does slowly in bfloat16.

    EfficientNet-Lite0 at 96 px trains at 20 films/s with them, at 51 with these layers in float32
    and at 50 with all of them (one core with AMX).
    """
    return isinstance(layer, torch.nn.Conv2d) and layer.groups == layer.in_channels > 1


class _DepthwiseInFloat32(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and len(args) == 7 and args[6] == args[0].shape[1] > 1:
            with torch.autocast("cpu", enabled=False):
                return func(args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Context of a forward pass in `precision`; in bfloat16 on a CPU without `depthwise` layers."""
    enabled = resolve_precision(precision) == "bfloat16"
    cpu = enabled and device.type == "cpu"
    with (
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled),
        _DepthwiseInFloat32() if cpu else contextlib.nullcontext(),
    ):
        yield


def side_by_side(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device
) -> list[Result]:
    """Results of independent pieces of work; on a CPU as many at once as torch has threads.

    Each piece then computes in one thread: two small networks side by side use two cores better
    than one network that shares its convolutions out, and the number of cores moves no result.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(pieces) == 1:
        return [work(piece) for piece in pieces]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(threads)


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


def to_input(films: npt.NDArray[np.uint8] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Normalised network input (n, 1, S, S) float32, channels last, from films (n, S, S) uint8."""
    x = torch.as_tensor(films).to(device, non_blocking=True).unsqueeze(1).float()
    return normalise(x / 255.0).contiguous(memory_format=torch.channels_last)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Pixel values in [0, 1] to network input."""
    return (pixels - MEAN) / STD


_NO_MEMORY = (
    "out of memory", "not enough memory", "to allocate", "allocate memory", "alloc_failed",
    "bad_alloc", "cudnn_status_not_supported",
)  # fmt: skip
"""What a `RuntimeError` says, in small letters, when an allocator, cuBLAS or cuDNN has no room."""


def cuda_name() -> str:
    """Name of the current CUDA device, such as ``NVIDIA A100-SXM4-40GB``; "" without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was given: a clock read before counts launches alone."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give back what unreachable tensors hold, and what CUDA's allocator keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _NO_MEMORY)
