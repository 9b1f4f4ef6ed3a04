"""A scheduler's SIGTERM, a closed terminal: what ends, what is said, what the next run finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dollkit.common import paths
from dollkit.workflow import stopping
from tests.toys import BODY, END, write_notebook

PATIENCE = 120.0
SLOW = 'from pathlib import Path\nimport time\nPath("{mark}").touch()\n{wait}\n'


def start() -> subprocess.Popen[str]:
    """`make reproduce` without make, in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dollkit.workflow.reproduce",
            "--profile",
            "toy",
            "--jobs",
            "1",
            "--until",
            "data",
        ],
        env=os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Under nohup it would be ignored, and stay so.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    for _ in range(int(PATIENCE / 0.1)):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_takes_all_of_it_along(toy: Path, signum: signal.Signals) -> None:
    mark, book = toy / "mark", toy / "notebooks/01_data.ipynb"
    body, end = BODY.format(stage="data", imports=""), END.format(result=1)
    write_notebook(book, body, SLOW.format(mark=mark, wait="time.sleep(600)"), end)
    running = start()
    until(mark.exists)
    below = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signum)
    said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signum
    assert "data: stopped from outside" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said

    assert psutil.wait_procs(below, timeout=PATIENCE)[1] == []
    assert not (toy / "runs/toy/data/manifest.json").exists()

    write_notebook(book, body, SLOW.format(mark=mark, wait=""), end)
    again = start()
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert (toy / "runs/toy/data/manifest.json").is_file()


@pytest.mark.parametrize(
    "word", ["dollkit.workflow.reproduce", "snakemake", "dollkit.workflow.run", "ipykernel"]
)
def test_whoever_is_killed_none_is_left_behind(toy: Path, word: str) -> None:
    mark, book = toy / "mark", toy / "notebooks/01_data.ipynb"
    body, end = BODY.format(stage="data", imports=""), END.format(result=1)
    write_notebook(book, body, SLOW.format(mark=mark, wait="time.sleep(600)"), end)
    running = start()
    until(mark.exists)
    top = psutil.Process(running.pid)
    everyone = [top, *top.children(recursive=True)]
    (victim, *_) = [p for p in everyone if word in " ".join(p.cmdline())]
    victim.kill()
    running.communicate(timeout=PATIENCE)
    assert running.returncode != 0
    assert psutil.wait_procs(everyone, timeout=PATIENCE)[1] == []
    assert not (toy / "runs/toy/data/manifest.json").exists()


def test_a_signal_that_is_ignored_stays_so() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        replaced = stopping.handle(lambda signum, frame: None)
        assert list(replaced) == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        stopping.restore(replaced)
        assert signal.getsignal(signal.SIGTERM) is replaced[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_without_a_signal_the_status_is_the_process_own() -> None:
    before = [signal.getsignal(s) for s in stopping.SIGNALS]
    assert stopping.run([sys.executable, "-c", "raise SystemExit(5)"], os.environ, "none") == 5
    assert [signal.getsignal(s) for s in stopping.SIGNALS] == before
