"""The command line, ``python -m dollkit COMMAND``: 0 done, 1 failed, 2 bad input in one line."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.common.machine import Part
from dollkit.workflow import run
from dollkit.workflow.run import KEPT, StageError, shortage

ROOMS = {
    "data": ("dollkit.data.__main__", "data sets on disk: list, find, check, build"),
    "labels": ("dollkit.labels.__main__", "a label set: make, show, export, score"),
    "your-radiographs": ("dollkit.interactive.your_radiographs.settings", "masks of your films"),
    "export-network": ("dollkit.training.weights", "a network for other programs"),
    "verify": ("dollkit.report.verify", "do stored tables follow from their rows?"),
    "compare": ("dollkit.report.compare", "two profiles, film by film"),
}
"""Commands that parse what follows them by themselves: module, help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. What stops it is one line, in a stage's log too."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace()
    try:
        if words and words[0] in ROOMS:
            return int(importlib.import_module(ROOMS[words[0]][0]).main(words[1:]))
        _, more = _parser().parse_known_args(words, options)
        if more and options.command is not _reproduce:  # whose further arguments are Snakemake's
            _parser().error(f"unrecognized arguments: {' '.join(more)}")
        options.more = more
        return int(options.command(options))
    except InputError as error:
        said, status = str(error), 2
    except ModuleNotFoundError as error:
        said, status = f"{error}: install the extra, pip install '.[notebooks]'", 2
        if (error.name or "dollkit").startswith("dollkit"):
            raise
    except (StageError, ChildProcessError) as error:
        said, status = shortage(str(error)) or str(error), 1
    except (OSError, MemoryError) as error:
        said, status = shortage(f"{type(error).__name__}: {error}"), 1
        if not said:
            raise
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and not (isinstance(error.code, int) and error.code > 128):
            raise
        said, status = f"stopped from outside; {KEPT}", 1
    if stage := getattr(options, "instance", ""):
        said = f"{stage}: {said}"
    print(said, file=sys.stderr, flush=True)
    if log := getattr(options, "log", None):
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
            stream.write(f"{said}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dollkit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def stage_command(name: str, call: Callable[..., int], text: str) -> argparse.ArgumentParser:
        add = commands.add_parser(name, help=text)
        add.set_defaults(command=call)
        add.add_argument("--profile", default="smoke", help="file of notebooks/params")
        add.add_argument("--data", type=lambda d: Path(d) if d else None, help="data sets' folder")
        return add

    add = stage_command("reproduce", _reproduce, "run a profile from data to claims")
    add.add_argument("--jobs", default="1", help="stages at once (%(default)s)")
    add.add_argument("--device", default="auto", help="auto, cpu or cuda")
    add.add_argument("--executor", default="local", help="local or slurm")
    add.add_argument("--threads", type=int, default=0, help="CPUs of each stage on a cluster")
    add.add_argument("--parts", type=int, default=16, help="jobs of a cluster that share a stage")

    stage_command("plan", _plan, "what a profile would do and need")
    add = stage_command("run", _run, "run one stage of a profile")
    add.add_argument("instance", help="such as data or finetune/pspnet-lungs")
    add.add_argument("--log", type=Path, help="write what is shown to this file too")
    add.add_argument("--part", metavar="K/N", help="do this share of its work and leave it")
    add.add_argument("--with-parent", action="store_true", help="end when the caller is gone")
    add.add_argument("--threads", type=int, help="CPU threads of the stage")

    for name, (_, text) in ROOMS.items():
        commands.add_parser(name, help=text)
    return parser


def _reproduce(options: argparse.Namespace) -> int:
    from dollkit.workflow.reproduce import reproduce

    return reproduce(
        options.profile, options.data, options.jobs, options.device, *options.more,
        executor=options.executor, threads=options.threads, parts=options.parts,
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> int:
    from dollkit.workflow import plan

    logging.disable(logging.INFO)  # readers tell what they read; the plan tells it in order
    try:
        for line in plan.lines(options.profile, options.data):
            print(line, flush=True)
    except InputError as error:
        raise InputError(f"cannot run: {error}") from None
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    if options.with_parent:
        run.end_with_parent()
    part = Part.parse(options.part) if options.part else None
    with run.handling(run.terminate):
        run.run(options.instance, options.profile, options.data, options.log, part)
    return 0
