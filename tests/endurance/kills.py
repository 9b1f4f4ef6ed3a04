"""Scripted trial: ``kill -9`` at random moments over the smoke run, then what is left.

    python -m tests.endurance.kills --kills 50 --seed 0 --folder /tmp/kills

Runs the smoke profile once in peace. Then starts it again and again, each time killing one of its
processes (the caller, Snakemake, a stage, a kernel, a rendering worker) or all of them at once
after a random time, which grows while no stage gets done, so that kills meet all stages; once it
has come to its end, the next one begins in a new folder. Every folder is finished in the end, and
its tables compared with those of the run in peace.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

import psutil

from tests.endurance.trial import KINDS, Run, kinds, line, parser, tell


class Killer:
    """Kills and what came of them."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.during: Counter[str] = Counter()
        self.orphans: list[str] = []
        self.seconds: list[float] = []

    def kill(self, running: psutil.Popen) -> None:
        """Kill one process of a run, or all, and see that none stays."""
        tree = [running, *running.children(recursive=True)]
        names, known = {p.pid: line(p) for p in tree}, kinds(tree)
        for name in names.values():
            if KINDS["stage"] in name:
                self.during[name.split(KINDS["stage"])[1].split()[0]] += 1
        kind = self.draw.choice([*known, "all"])
        for process in tree if kind == "all" else [self.draw.choice(known[kind])]:
            _kill(process)
        self.killed[kind] += 1
        began = time.monotonic()
        _, left = psutil.wait_procs(tree, timeout=300)
        self.seconds.append(time.monotonic() - began)
        for process in left:
            self.orphans.append(names[process.pid])
            _kill(process)

    def disturb(self, run: Run, kills: int, longest: float) -> None:
        """One folder: kill until the run has come to its end, or `kills` are done.

        Args:
            longest: seconds until a kill, at most, in the beginning.
        """
        most = longest
        for _ in range(kills):
            before, running = run.manifests(), run.start()
            try:
                if running.wait(timeout=self.draw.uniform(1.0, most)) == 0:
                    return
                raise SystemExit(f"failed by itself: {run.said()}")
            except psutil.TimeoutExpired:
                self.kill(running)
            stand = run.compare(before)
            most = longest if stand > len(before) else 1.4 * most
            print(f"{sum(self.killed.values()):3d} kills, {stand} stages stand", flush=True)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def main() -> int:
    """Run the trial; 0 if nothing was lost."""
    known = parser(__doc__)
    known.add_argument("--kills", type=int, default=50)
    known.add_argument("--seed", type=int, default=0)
    known.add_argument(
        "--longest", type=float, default=20.0, help="seconds until a kill, see above"
    )
    given = known.parse_args()
    folder, killer = given.folder.resolve(), Killer(given.seed)
    peace = Run(folder / "peace")
    if not peace.finish():
        raise SystemExit(peace.said())
    wanted = peace.tables()
    runs: list[Run] = []
    while (left := given.kills - sum(killer.killed.values())) > 0:
        runs.append(Run(folder / f"run{len(runs)}"))
        killer.disturb(runs[-1], left, given.longest)
    failed = [run.place.name for run in runs if not run.finish()]
    lost = {
        "tables_that_differ": [
            f"{run.place.name}/{n}" for run in runs for n, text in wanted.items()
            if run.tables().get(n) != text
        ],
        "runs_that_failed": failed,
        "stages_run_twice": [name for run in runs for name in run.remade],
        "orphans": killer.orphans,
        "half_written": [name for run in runs for name in run.half_written()],
    }  # fmt: skip
    tell({
        "kills": sum(killer.killed.values()), "seed": given.seed, "runs": len(runs),
        "killed": dict(killer.killed), "stages_at_work": dict(sorted(killer.during.items())),
        "tables_compared": len(wanted) * len(runs), **lost,
        "slowest_end_s": round(max(killer.seconds), 1),
    }, given.out)  # fmt: skip
    return int(any(lost.values()))


if __name__ == "__main__":
    sys.exit(main())
