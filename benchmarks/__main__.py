"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import attribution, loops, phantom, stores
from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.machine import cores
from dollkit.explanations import cost

PARTS = ("phantom", "store", "ig", "loop")
TRAINED = ("ig", "loop")
"""Parts that need a run with trained classifiers."""


FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions of x86 on which the rate of float32 and of bfloat16 depends."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """CPU model and which of `FLAGS` it has; null where the system does not say (not Linux)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return {"model": platform.processor() or None, "flags": None}
    fields = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = fields.get("flags", "").split()
    return {"model": fields.get("model name"), "flags": [f for f in FLAGS if f in flags]}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the record, print it: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks")
    parser.add_argument("--only", choices=PARTS, help="one part; the rest of the record stays")
    parser.add_argument("--quick", action="store_true", help="smaller stores, fewer films")
    parser.add_argument(
        "--films", type=int, default=128, help="phantom: films per round (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=cores(), help="processes (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for 3 GB of stores, removed after")
    parser.add_argument("--run", help="ig, loop: run whose classifiers and films are taken")
    parser.add_argument("--relu-twin", action="store_true", help="ig: train a member with ReLU too")
    parser.add_argument("--out", type=Path, default=paths.figures() / "bench.json")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger(cost.__name__).setLevel(logging.INFO)  # a line to stderr for each classifier
    try:
        if args.films < phantom.CHUNK or args.workers < 1:
            raise InputError(f"--films must be at least {phantom.CHUNK}, --workers at least 1")
        parts = (args.only,) if args.only else PARTS
        record = _old(args.out) if args.only else {}
        if "phantom" in parts:
            record |= phantom.run(args.workers, args.films)
            record["films"] = args.films
        if "store" in parts:
            sizes = stores.QUICK if args.quick else stores.Sizes()
            if args.scratch is not None:
                args.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                record |= stores.run(args.workers, sizes, Path(scratch))
        record |= _trained(parts, args)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    record["workers"] = args.workers
    record["machine"] = {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": processor(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    record["python"] = platform.python_version()
    record["numpy"] = np.__version__
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    return 0


def _trained(parts: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Parts that need a run; without one they are left out, unless they were asked for by name."""
    if not set(parts) & set(TRAINED):
        return {}
    try:
        run = attribution.find_run(args.run)
    except InputError as error:
        if args.only or args.run:
            raise
        print(f"{', '.join(TRAINED)} left out: {error}", file=sys.stderr)
        return {"left_out": list(TRAINED)}
    record: dict[str, Any] = {}
    if "ig" in parts:
        record |= attribution.run(
            run, attribution.QUICK if args.quick else attribution.Sizes(), args.relu_twin
        )
    if "loop" in parts:
        record |= loops.run(run)
    return record


def _old(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
