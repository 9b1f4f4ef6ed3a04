"""Scripted trial: labels by one worker and by two, and a model of where more cease to help.

    python -m tests.endurance.scaling --run runs/laptop --folder /tmp/scaling

In every round, on one thread each: one worker; two that share one set of films as parts 1/2 and
2/2; two that know nothing of each other. The two parts against the two strangers is what sharing
costs; the two strangers against the one is what memory and cores of the machine allow. Joining is
measured on sets of shards that grow. The model is made of the single worker, the join and two
assumptions (storage, scheduler), and held against the time of the two parts.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_mb
from dollkit import labels
from dollkit.common import paths
from dollkit.labels.make import SHARD
from dollkit.labels.shards import write_shard
from dollkit.labels.store import merge
from dollkit.workflow.cluster import MOST_PARTS
from tests.endurance.trial import parser, tell

JOINED = (125, 500, 2000)
"""Shards of the joins that are measured."""

FILMS = (10_000, 100_000, 1_000_000, 10_000_000)
WORKERS = tuple(2**k for k in range(13))
ENOUGH = 0.5
"""Share of a worker's time that must do good for one more to be worth it."""


@dataclass(frozen=True)
class Model:
    """Seconds to label a set; what is not measured is said to be assumed.

    Attributes:
        start_s: until a process makes its first shard; shard_s: of one shard.
        join_s: of one shard in the join, which one process does.
        film_bytes, label_bytes: read and written per film.
        storage_mb_s: of a shared storage, for all workers together (assumed).
        submit_s: between two jobs that a scheduler is given (assumed).
    """

    start_s: float
    shard_s: float
    join_s: float
    film_bytes: float
    label_bytes: float
    storage_mb_s: float
    submit_s: float

    def parts(self, films: int, workers: int) -> dict[str, float]:
        """What the wall time is made of; the slower of computing and storage counts."""
        shards = math.ceil(films / SHARD)
        compute = math.ceil(shards / workers) * self.shard_s
        storage = films * (self.film_bytes + self.label_bytes) / (self.storage_mb_s * 2**20)
        return {
            "start": 2 * self.start_s,  # of the workers, and of the process that joins
            "scheduler": workers * self.submit_s if workers > 1 else 0.0,
            "compute": compute if compute >= storage else 0.0,
            "storage": storage if storage > compute else 0.0,
            "join": shards * self.join_s,
        }

    def seconds(self, films: int, workers: int) -> float:
        """Wall time."""
        return sum(self.parts(films, workers).values())

    def most_workers(self, films: int) -> dict[str, Any]:
        """Most workers of which each still does at least `ENOUGH`, and what stops the next."""
        one = self.seconds(films, 1)
        useful = [w for w in WORKERS if one / self.seconds(films, w) / w >= ENOUGH]
        beyond = self.parts(films, 2 * useful[-1])
        limit = max((k for k in beyond if k != "compute"), key=beyond.__getitem__)
        return {
            "films": films, "hours_of_one": one / 3600, "workers": useful[-1],
            "hours": self.seconds(films, useful[-1]) / 3600, "then": limit,
            "hours_with_most_parts": self.seconds(films, MOST_PARTS) / 3600,
        }  # fmt: skip


def work(run: Path, out: Path, films: int, part: str = "") -> subprocess.Popen[bytes]:
    """One process that labels."""
    return subprocess.Popen(
        [sys.executable, "-m", "dollkit.labels", "make", "--films", str(run / "data/films"),
         "--classifiers", str(run / "classifiers"), "--out", str(out), "--limit", str(films),
         *(["--part", part] if part else [])],
        stdout=subprocess.DEVNULL, cwd=paths.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.ROOT)},
    )  # fmt: skip


def wall(*running: subprocess.Popen[bytes]) -> float:
    """Seconds from now until all have ended."""
    began = time.monotonic()
    if sum(abs(process.wait()) for process in running):  # wait for all of them
        raise SystemExit("a worker failed: see above")
    return time.monotonic() - began


def shard_times(out: Path, began: float) -> tuple[float, float]:
    """Seconds until the first shard was under way, and of one shard, from their files."""
    ends = sorted(f.stat().st_mtime for f in out.rglob("[0-9]*[0-9].npz"))
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    return ends[0] - began - each, each


def join(folder: Path, shards: int, like: labels.LabelStore) -> dict[str, float]:
    """Seconds and memory of a join, in a process of its own."""
    place = folder / f"join{shards}"
    place.mkdir(parents=True, exist_ok=True)
    rows = np.flatnonzero(np.isin(like.pairs["row"], like.rows[:SHARD]))
    pairs = like.pairs.iloc[rows].drop(columns=["area", "ignored"])
    planes = np.stack([like.label(int(i)) for i in rows])
    top = int(pairs["row"].max()) + 1
    for number in range(shards):
        own = pairs.assign(row=pairs["row"] + number * top)
        own["image_id"] = [f"{name}-{number}" for name in pairs["image_id"]]
        write_shard(place / f"{number:05d}.npz", own, planes)
    command = [sys.executable, "-m", "tests.endurance.scaling", "--join", str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=paths.ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return {"shards": shards, "films": shards * SHARD, **found}


def joined(place: Path) -> int:
    """Join what `join` has written; prints seconds and memory."""
    began, before = time.monotonic(), peak_mb()
    merge(sorted(place.glob("*.npz")), place / "store", {})
    print(
        json.dumps({"seconds": time.monotonic() - began, "peak_mb": peak_mb(), "idle_mb": before})
    )
    return 0


def rounds(run: Path, folder: Path, films: int, count: int) -> dict[str, list[float]]:
    """Measured seconds; the order changes from round to round. Rounds that were made are kept."""
    names = ("one", "parts", "strangers", "joined", "start", "shard")
    found: dict[str, list[float]] = {name: [] for name in names}
    kept = folder / "rounds.json"
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
    for number in range(len(found["shard"]), count):
        order = ["one", "parts", "strangers"]
        for what in order[number % 3 :] + order[: number % 3]:
            out = folder / f"{what}{number}"
            began = time.time()
            if what == "one":
                found[what].append(wall(work(run, out, films)))
                continue
            if what == "parts":
                two = [work(run, out, 2 * films, f"{k}/2") for k in (1, 2)]
            else:
                two = [work(run, out / str(k), films) for k in (1, 2)]
            found[what].append(wall(*two))
            if what == "parts":
                found["joined"].append(wall(work(run, out, 2 * films)))
            print(what, number, round(found[what][-1], 1), flush=True)
        # A part of one keeps its shards, which a whole run does not.
        began = time.time()
        wall(work(run, folder / f"kept{number}", films, "1/1"))
        start, shard = shard_times(folder / f"kept{number}", began)
        found["start"].append(start)
        found["shard"].append(shard)
        kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> int:
    """Run the trial; 0 if sharing costs less than a tenth."""
    known = parser(__doc__)
    known.add_argument("--run", type=Path, help="run whose films and classifiers are taken")
    known.add_argument("--films", type=int, default=256, help="per worker (%(default)s)")
    known.add_argument("--rounds", type=int, default=3)
    known.add_argument("--storage", type=float, default=200.0, help="MiB/s, assumed")
    known.add_argument("--submit", type=float, default=0.5, help="seconds a job, assumed")
    known.add_argument("--faster", type=float, default=100.0, help="of a GPU, assumed")
    given = known.parse_args()
    run, folder = given.run.resolve(), given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = rounds(run, folder, given.films, given.rounds)
    ratio = [s / p for s, p in zip(found["strangers"], found["parts"], strict=True)]
    allowed = [2 * o / s for o, s in zip(found["one"], found["strangers"], strict=True)]
    like = labels.open(folder / "one0")
    joins = [join(folder, n, like) for n in JOINED]
    per = (joins[-1]["seconds"] - joins[0]["seconds"]) / (JOINED[-1] - JOINED[0])
    size = int(like.meta["size"])
    model = Model(
        statistics.median(found["start"]), statistics.median(found["shard"]), per, size**2,
        (folder / "one0/planes.npy").stat().st_size / len(like.rows), given.storage, given.submit,
    )  # fmt: skip
    guess = model.seconds(2 * given.films, 2) - 2 * model.submit_s  # nobody was asked for a job
    took = [p + j for p, j in zip(found["parts"], found["joined"], strict=True)]
    # A store of 224 px on GPUs, from the same measurements and an assumed factor.
    up = (224 / size) ** 2
    large = Model(
        model.start_s, model.shard_s * up / given.faster, per, 224**2, model.label_bytes * up,
        given.storage, given.submit,
    )  # fmt: skip
    grown = (joins[-1]["peak_mb"] - joins[0]["peak_mb"]) / (joins[-1]["films"] - joins[0]["films"])
    tell({
        "films_per_worker": given.films, "size": size, "rounds": given.rounds,
        "seconds": {k: [round(v, 2) for v in values] for k, values in found.items()},
        "efficiency_of_sharing": [round(r, 3) for r in ratio],
        "speedup_of_two_strangers": [round(a, 3) for a in allowed],
        "model": asdict(model), "joins": joins, "join_bytes_per_film": grown * 2**20,
        "predicted_s": guess, "measured_s": statistics.median(took),
        "here": [model.most_workers(n) for n in FILMS],
        "gpu_224": [large.most_workers(n) for n in FILMS], "gpu_assumed": given.faster,
    }, given.out)  # fmt: skip
    return int(statistics.median(ratio) < 0.9)


if __name__ == "__main__":
    sys.exit(joined(Path(sys.argv[2])) if sys.argv[1:2] == ["--join"] else main())
