"""Scripted trial: 200 label shards in a row by one process; does it grow, does it leave anything?

    python -m tests.endurance.shards --folder /tmp/shards

Phantom films, one untrained classifier, few steps: what is looked at is the process, not the
labels. It is the command of users, watched from outside after each shard.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats

from dollkit.classifiers import model
from dollkit.common import compute, paths
from dollkit.data.sets.phantom import PhantomPlan, build_phantom
from dollkit.labels.make import SHARD
from dollkit.labels.store import open as open_labels
from dollkit.training import weights
from tests.endurance.trial import line, parser, tell

SIZE, STEPS = 64, 2
SPARE = 1.35
"""Films made per film labelled: some have no positive finding."""

SETTLED, BLOCK = 20, 10
"""Shards until buffers have their size, and shards whose mean is one point of the slope: what
neighbours share would make its interval too narrow."""


def watch(running: psutil.Popen, shards: Path) -> list[dict[str, float]]:
    """State of a process after each shard: memory (MB), files, threads, children.

    ``written_mb`` is what the process itself holds; ``private_mb`` counts the pages of the film
    store too, which is mapped, and whose pages come in shard by shard and go when others need room.
    """
    out: list[dict[str, float]] = []
    while running.poll() is None:
        done = len(list(shards.glob("[0-9]*[0-9].npz")))
        if done > (out[-1]["shards"] if out else 0):
            try:
                maps = running.memory_maps()
                written = sum(m.private_dirty for m in maps)
                out.append({
                    "shards": done,
                    "written_mb": written / 2**20,
                    "private_mb": (written + sum(m.private_clean for m in maps)) / 2**20,
                    "files": running.num_fds(),
                    "threads": running.num_threads(),
                    "children": len(running.children(recursive=True)),
                })  # fmt: skip
            except psutil.Error:
                break
        time.sleep(0.02)
    return out


def slope(seen: list[dict[str, float]], what: str) -> dict[str, float]:
    """Growth per shard with its 95 % interval, from means of `BLOCK` shards after `SETTLED`."""
    rows = [row for row in seen if row["shards"] > SETTLED]
    blocks = [rows[i : i + BLOCK] for i in range(0, len(rows) - BLOCK + 1, BLOCK)]
    x = [float(np.mean([r["shards"] for r in block])) for block in blocks]
    y = [float(np.mean([r[what] for r in block])) for block in blocks]
    fit = stats.linregress(x, y)
    half = fit.stderr * stats.t.ppf(0.975, len(x) - 2) if np.ptp(y) else 0.0
    return {"per_shard": round(fit.slope, 5), "low": round(fit.slope - half, 5),
            "high": round(fit.slope + half, 5), "first": round(y[0], 2), "last": round(y[-1], 2),
            "blocks": len(blocks)}  # fmt: skip


def main() -> int:
    """Run the trial; 0 if all shards were made, memory does not grow and nothing is left open."""
    known = parser(__doc__)
    known.add_argument("--shards", type=int, default=200)
    given = known.parse_args()
    folder, films = given.folder.resolve(), given.shards * SHARD
    plan = PhantomPlan(n_films=int(films * SPARE))
    store = build_phantom(folder / "films", "films", SIZE, plan)
    member = folder / "classifier"
    member.mkdir(exist_ok=True)
    net = model.create("tu-resnet10t", 5, "silu", "avg", 0, compute.device())
    weights.save(net, member, net.config)
    out = folder / "labels"
    with (folder / "log.txt").open("wb") as log:
        running = psutil.Popen(
            [sys.executable, "-m", "dollkit.labels", "make", "--films", str(store), "--classifiers",
             str(member), "--out", str(out), "--limit", str(films), "--steps", str(STEPS),
             "--explain", "unsettled=keep"],
            cwd=paths.ROOT, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
        )  # fmt: skip
        seen = watch(running, out / "parts" / "1-of-1" / "shards")
        status = running.wait()
    if status:
        raise SystemExit((folder / "log.txt").read_text()[-2000:])
    left = [p.pid for p in psutil.process_iter() if str(out) in line(p)]
    held = ("written_mb", "files", "threads", "children")
    grown = {what: slope(seen, what) for what in (*held, "private_mb")}
    labels = open_labels(out)
    result: dict[str, Any] = {
        "shards": given.shards, "films": len(labels.rows), "labels": len(labels),
        "seen": len(seen), "settled_after": SETTLED, "growth": grown, "processes_left": left,
    }  # fmt: skip
    tell(result, given.out)
    flat = all(grown[what]["low"] <= 0 for what in held)
    return int(not flat or bool(left) or len(labels.rows) != films)


if __name__ == "__main__":
    sys.exit(main())
