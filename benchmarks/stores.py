"""Packed stores against decoding: how fast they are read and built, how large, in what memory."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.films import table_of, write_films
from benchmarks.rounds import interleaved, median, processes, ratio
from dollkit.common.errors import InputError
from dollkit.data.images import fit, load_image
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store

SIDE = 224
BATCH = 64
CHEXPERT_FRONTAL = 191_027


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        distinct: JPEG files of 390 x 320, as in CheXpert-small; large: PNG files of 1024 x 1024.
        built, built_large: films of one build from each.
        stored: films of the store that is read; batches: random batches per round.
        rounds: of everything that is measured in turns.
        readers: processes that read at once; seconds: for how long, each round.
        memory: films of the stores whose building and reading is watched.
    """

    distinct: int = 256
    large: int = 48
    built: int = 2048
    built_large: int = 192
    stored: int = 4096
    batches: int = 200
    rounds: int = 5
    readers: int = 8
    seconds: float = 1.0
    memory: tuple[int, int] = (1000, 50_000)


QUICK = Sizes(built=1024, built_large=96, stored=1024, rounds=3, memory=(1000, 5000))


def run(workers: int, sizes: Sizes, scratch: Path) -> dict[str, object]:
    """Measure stores at 224 px.

    Args:
        workers: decoding threads.
        sizes: how much.
        scratch: empty folder with room for the largest store.

    Returns:
        JSON-able record; keys start with ``store_``, ratios are medians over rounds.
    """
    need, free = 1.1 * max(sizes.memory) * SIDE**2, shutil.disk_usage(scratch).free
    if free < need:
        raise InputError(
            f"{scratch}: {free / 1e9:.1f} GB free, {need / 1e9:.1f} needed: name another folder "
            "by --scratch, or use --quick"
        )
    jpegs = write_films(scratch / "jpeg", sizes.distinct, "jpg", 390, 320)
    pngs = write_films(scratch / "png", sizes.large, "png", 1024, 1024)
    record: dict[str, object] = {}
    record |= _building("", jpegs, sizes.built, workers, sizes.rounds, scratch)
    record |= _building("_png_1024", pngs, sizes.built_large, workers, sizes.rounds, scratch)
    record |= _reading(jpegs, sizes, workers, scratch)
    record |= _memory(jpegs, sizes.memory, workers, scratch)
    return record


def build(paths: Sequence[Path], n: int, out: Path, workers: int, masks: bool = False) -> Path:
    """Build a store of `n` films without a progress bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        return build_store(table_of(list(paths), n, masks), out, SIDE, workers=workers)


def decode(paths: Sequence[Path]) -> int:
    """Decode and resize as a build does, one after the other."""
    for path in paths:
        fit(load_image(path), SIDE)
    return len(paths)


def _building(
    name: str, paths: list[Path], n: int, workers: int, rounds: int, scratch: Path
) -> dict[str, object]:
    out = scratch / "built"

    def building() -> int:
        shutil.rmtree(out, ignore_errors=True)
        build(paths, n, out, workers)
        return n

    with processes(workers) as pool:
        tasks: dict[str, Callable[[], int]] = {
            "build": building,
            "decoder": lambda: decode(paths),
            "decoders": lambda: sum(pool.map(decode, [paths] * workers, chunksize=1)),
        }
        rates = interleaved(tasks, rounds)
    bytes_ = sum(f.stat().st_size for f in out.iterdir()) / n
    record: dict[str, object] = {
        f"store_build{name}_films_per_s": median(rates["build"]),
        f"store_build{name}_decoder_films_per_s": median(rates["decoder"]),
        # Of what as many decoders as workers would do if they did not share a machine, ...
        f"store_build_ratio{name}": round(ratio(rates, "build", "decoder") / workers, 3),
        # ... and of what they do on this one.
        f"store_build_ratio{name}_of_processes": round(ratio(rates, "build", "decoders"), 3),
    }
    if not name:
        record |= {
            "store_bytes_per_film": round(bytes_, 1),
            "store_bytes_over_npy": round(bytes_ / SIDE**2, 4),
            "store_gb_chexpert_frontal": round(bytes_ * CHEXPERT_FRONTAL / 1e9, 2),
        }
    return record


def read_batches(store: Store, rng: np.random.Generator, batches: int) -> int:
    """Read random batches of films with all their masks."""
    for _ in range(batches):
        rows = rng.integers(0, len(store), BATCH)
        images, masks = store.images[rows], store.masks(rows)
        assert len(images) == len(masks) == BATCH
    return batches * BATCH


def decode_batches(paths: Sequence[Path], rng: np.random.Generator, batches: int) -> int:
    """What a loader without a store does for the films alone: Pillow, grey, resized."""
    for _ in range(batches):
        for i in rng.integers(0, len(paths), BATCH):
            with Image.open(paths[i]) as image:
                small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                assert np.asarray(small).shape == (SIDE, SIDE)
    return batches * BATCH


def _reading(paths: list[Path], sizes: Sizes, workers: int, scratch: Path) -> dict[str, object]:
    folder = build(paths, sizes.stored, scratch / "stored", workers, masks=True)
    store, rng = open_store(folder), np.random.default_rng(0)
    tasks: dict[str, Callable[[], int]] = {
        "store": lambda: read_batches(store, rng, sizes.batches),
        "decoder": lambda: decode_batches(paths, rng, max(1, sizes.batches // 20)),
    }
    rates = interleaved(tasks, sizes.rounds)
    with processes(sizes.readers) as pool:
        # Once unmeasured: processes start, files are read for the first time.
        several: dict[str, list[float]] = {"store": [], "decoder": []}
        for number in range(sizes.rounds + 1):
            for name, given in (("store", folder), ("decoder", paths)):
                start = time.time() + 0.3  # all begin at once
                jobs = [(given, seed, start, sizes.seconds) for seed in range(sizes.readers)]
                found = pool.starmap(_read_for, jobs, chunksize=1)
                if number:
                    several[name].append(sum(found))
    shutil.rmtree(folder)
    return {
        "store_read_films_per_s": median(rates["store"]),
        "store_read_decoder_films_per_s": median(rates["decoder"]),
        "store_read_ratio": round(ratio(rates, "store", "decoder"), 2),
        f"store_read_ratio_{sizes.readers}_readers": round(ratio(several, "store", "decoder"), 2),
        f"store_read_films_per_s_{sizes.readers}_readers": median(several["store"]),
        "store_read_classes": len(store.mask_classes),
    }


def _read_for(given: Path | list[Path], seed: int, start: float, seconds: float) -> float:
    """Films per second of one process that reads from a time on, for a while."""
    rng, done = np.random.default_rng(seed), 0
    store = open_store(given) if isinstance(given, Path) else None
    time.sleep(max(0.0, start - time.time()))
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not done:
        if store is None:
            assert isinstance(given, list)
            done += decode_batches(given, rng, 1)
        else:
            done += read_batches(store, rng, 1)
    return done / spent


def _memory(
    paths: list[Path], counts: Sequence[int], workers: int, scratch: Path
) -> dict[str, object]:
    """Peak memory of fresh processes that build, find again and read stores of some sizes."""
    peaks: dict[str, dict[str, float]] = {"build": {}, "read": {}}
    again: dict[str, float] = {}
    for n in counts:
        folder = scratch / "watched"
        common = [str(paths[0].parent), str(folder), str(n), str(workers)]
        for what in ("build", "keep", "read"):
            command = [sys.executable, "-m", "benchmarks.memory", what, *common]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
            found = json.loads(done.stdout)
            if what == "keep":
                again[str(n)] = found["seconds"]
            else:
                peaks[what][str(n)] = found["mb"]
        shutil.rmtree(folder)
    return {
        "store_memory_mb": {k: max(p[k] for p in peaks.values()) for k in map(str, counts)},
        "store_memory_build_mb": peaks["build"],
        "store_memory_read_mb": peaks["read"],
        # Seconds until a store that still stands is found to need nothing.
        "store_keep_s": again,
    }
