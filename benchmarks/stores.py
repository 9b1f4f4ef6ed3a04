"""Packed stores against decoding: how fast they are read and built, how large, in what memory.

``python -m benchmarks.stores`` is the process whose peak memory `_memory` watches.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import interleaved, median, ratio
from dollkit.common.errors import InputError
from dollkit.data import phantom
from dollkit.data.film_table import FilmTable, blank_films
from dollkit.data.images import fit, load_image
from dollkit.data.masks import MaskFile
from dollkit.data.store import Store, open_store
from dollkit.data.store_builder import build_store

SIDE = 224
BATCH = 64
CHEXPERT_FRONTAL = 191_027
MASKS = phantom.ORGANS[:3]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    distinct: int = 256  # JPEG files of 390 x 320, as in CheXpert-small
    large: int = 48  # PNG files of 1024 x 1024
    built: int = 2048  # films of one build from the JPEG files
    built_large: int = 192  # and from the PNG files
    stored: int = 4096  # films of the store that is read
    batches: int = 200  # random batches per round
    rounds: int = 5  # of everything that is measured in turns
    readers: int = 8  # processes that read at once
    seconds: float = 1.0  # for how long they do, each round
    memory: tuple[int, int] = (1000, 50_000)  # films of the stores whose memory is watched


QUICK = Sizes(built=1024, built_large=96, stored=1024, rounds=3, memory=(1000, 5000))


def run(workers: int, sizes: Sizes, scratch: Path) -> dict[str, object]:
    """Measure stores at 224 px with some decoding threads, in an empty folder.

    JSON-able; keys start with ``store_``, ratios are medians over rounds.
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


def write_films(folder: Path, count: int, kind: str, width: int, height: int) -> list[Path]:
    """Phantom films with three masks as files of `kind` (``jpg`` of quality 95 as in
    CheXpert-small, or ``png``), each with noise of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = phantom.Protocol()
    few = min(count, 32)
    drawn = phantom.render(phantom.sample_population(few, 0, "ward", protocol), 256, 0, protocol)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        base = Image.fromarray(drawn.images[i % few]).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(base).astype(np.int16) + rng.integers(-3, 4, (height, width), np.int16)
        path = folder / f"film{i}.{kind}"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
        for name, organ in zip(MASKS, drawn.organs[i % few, :3], strict=True):
            mask = Image.fromarray(organ * np.uint8(255))
            mask.resize((width, height), Image.Resampling.NEAREST).save(_mask_of(path, name))
        paths.append(path)
    return paths


def _mask_of(film: Path, name: str) -> Path:
    return film.with_name(f"{film.stem}_{name.replace(' ', '_')}.png")


def table_of(paths: Sequence[Path], n: int, masks: bool = False) -> FilmTable:
    """A table of `n` films of `n` patients that takes some files of one folder in turns."""
    films = blank_films(n)
    names = [f"patient{i:05d}" for i in range(n)]
    films["patient_id"] = names
    films["study_id"] = films["image_id"] = [f"{name}_study1_view1_frontal" for name in names]
    films["split"], films["source"], films["age"] = "train", "bench", 60.0
    films["path"] = [str(paths[i % len(paths)]) for i in range(n)]
    films["where"] = [f"train.csv, row {i + 2}" for i in range(n)]
    drawn = pd.DataFrame()
    if masks:
        each = {name: [MaskFile(_mask_of(p, name)) for p in paths] for name in MASKS}
        drawn = pd.DataFrame(
            {name: [files[i % len(paths)] for i in range(n)] for name, files in each.items()},
            dtype=object,
        )
    return FilmTable("bench", films, paths[0].parent, masks=drawn)


def build(paths: Sequence[Path], n: int, out: Path, workers: int, masks: bool = False) -> Path:
    """Build a store of `n` films without a progress bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        return build_store(table_of(paths, n, masks), out, SIDE, workers=workers)


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

    with get_context("spawn").Pool(workers) as pool:
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
    with get_context("spawn").Pool(sizes.readers) as pool:
        # Once unmeasured: processes start, files are read for the first time.
        several: dict[str, list[float]] = {"store": [], "decoder": []}
        for number in range(sizes.rounds + 1):
            for name, films in (("store", folder), ("decoder", paths)):
                start = time.time() + 0.3  # all begin at once
                jobs = [(films, seed, start, sizes.seconds) for seed in range(sizes.readers)]
                rate = sum(pool.starmap(_read_for, jobs, chunksize=1))
                if number:
                    several[name].append(rate)
    shutil.rmtree(folder)
    return {
        "store_read_films_per_s": median(rates["store"]),
        "store_read_decoder_films_per_s": median(rates["decoder"]),
        "store_read_ratio": round(ratio(rates, "store", "decoder"), 2),
        f"store_read_ratio_{sizes.readers}_readers": round(ratio(several, "store", "decoder"), 2),
        f"store_read_films_per_s_{sizes.readers}_readers": median(several["store"]),
        "store_read_classes": len(store.mask_classes),
    }


def _read_for(films: Path | list[Path], seed: int, start: float, seconds: float) -> float:
    """Films per second of one process that reads from a time on, for a while."""
    rng, done = np.random.default_rng(seed), 0
    store = open_store(films) if isinstance(films, Path) else None
    time.sleep(max(0.0, start - time.time()))
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not done:
        if store is None:
            assert isinstance(films, list)
            done += decode_batches(films, rng, 1)
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
            command = [sys.executable, "-m", "benchmarks.stores", what, *common]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
            record = json.loads(done.stdout)
            if what == "keep":
                again[str(n)] = record["seconds"]
            else:
                peaks[what][str(n)] = record["mb"]
        shutil.rmtree(folder)
    return {
        "store_memory_mb": {k: max(p[k] for p in peaks.values()) for k in map(str, counts)},
        "store_memory_build_mb": peaks["build"],
        "store_memory_read_mb": peaks["read"],
        # Seconds until a store that still stands is found to need nothing.
        "store_keep_s": again,
    }


def main(what: str, films: str, out: str, n: str, workers: str) -> None:
    """Build a store of `n` films (or find it standing), or read all of one in random batches."""
    began = time.perf_counter()
    if what == "read":
        store = open_store(out)
        read_batches(store, np.random.default_rng(0), 2 * len(store) // BATCH)
    else:
        build(sorted(Path(films).glob("*.jpg")), int(n), Path(out), int(workers))
    seconds = round(time.perf_counter() - began, 2)
    print(json.dumps({"mb": peak_mb(), "seconds": seconds}))


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB; mapped files count."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux that starts with what the parent had.
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if peak:
            return round(int(peak[1]) / 1024, 1)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
