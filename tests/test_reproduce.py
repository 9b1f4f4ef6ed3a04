"""What is run again and what is not, and what survives a signal: a toy under the real Snakefile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import cli, reproduce
from dollkit.workflow import run as processes
from tests.small_files import error_of
from tests.toys import BODY, END, write_notebook

NOTE = "runs/toy/data/manifest.json"
"""Of the data stage, once it has ended well."""

SMALL = "matrix: {architectures: [a], networks: [pspnet], arms: [], tasks: [], encoder: a}\n"
PATIENCE = 120.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """Python in a process of its own, both streams as one text."""
    return subprocess.Popen(
        [sys.executable, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"},
        # Under nohup it would be ignored, and stay so.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip


REPRODUCE = ("-m", "dollkit", "reproduce", "--profile", "toy")


def run(*arguments: str, status: int = 0) -> str:
    running = start(*arguments)
    said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == status, said
    return said


def ran(output: str) -> list[str]:
    """Stages that the closing summary says have run."""
    return [line.split()[0] for line in output.splitlines() if line.endswith("s  ran")]


@pytest.mark.slow
def test_only_what_depends_on_a_change_runs_again(toy: Path) -> None:
    """The promise of `make reproduce`, in one sequence to keep it short."""
    params = toy / "notebooks/params/toy.yaml"
    params.write_text(SMALL)
    everything = ["data", "classifiers/a", "labels", "tables", "figures", "claims", "cost"]

    first = run(*REPRODUCE, "--jobs", "2")
    assert ran(first) == everything
    assert first.endswith("not compared: git has no committed results of profile toy\n")

    params.touch()
    for file in [*toy.glob("toykit/*.py"), *toy.glob("notebooks/*.ipynb")]:
        file.touch()
    second = run(*REPRODUCE)
    assert ran(second) == []
    assert "nothing to do: all 7 stages of profile toy are up to date" in second

    # Changed: a parameter of figures, and a module that they use through another; gone: a file.
    params.write_text(f"{SMALL}figures: {{dpi: 60}}\n")
    (toy / "toykit/base.py").write_text("UNIT = 2\n")
    (toy / "runs/toy/cost/result.txt").unlink()
    third = run(*REPRODUCE)
    assert ran(third) == ["figures", "claims", "cost"]
    assert "Reason: Updated input files: ../../toykit/base.py" in third
    assert "cost/result.txt is gone, so the stage runs again" in third
    assert (toy / "runs/toy/figures/result.txt").read_text() == "120"


@pytest.mark.slow
def test_a_failed_stage_is_named_last_and_leaves_no_manifest(toy: Path) -> None:
    (toy / "notebooks/params/toy.yaml").write_text(SMALL)
    write_notebook(
        toy / "notebooks/01_data.ipynb",
        'from dollkit.common.errors import *\nraise InputError("films.csv row 3: no file x.png")',
    )
    said = run(*REPRODUCE, status=1)
    assert "data: films.csv row 3: no file x.png (log: " in said.splitlines()[-1]
    assert not (toy / NOTE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nope"], "unknown profile 'nope': use one of toy"),
        (["--jobs", "0"], "JOBS=0: "),
        (["--jobs", "two"], "JOBS=two: "),
        (["--device", "gpu"], "DEVICE=gpu: use one of auto, cpu, cuda"),
        (["--data", "."], "profile toy makes its own films: leave DATA out"),
    ],
)
def test_bad_knobs_are_one_line(
    toy: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "--profile", "toy", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert not (toy / "runs").exists()


def test_a_runs_folder_that_cannot_be_written(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "blocked").write_text("")
    monkeypatch.setenv("DOLLKIT_RUNS", str(toy / "blocked"))
    assert "cannot be written to" in error_of(reproduce.reproduce, "toy", None, "1", "cpu")


def test_an_artefact_whose_table_is_gone_is_made_again(toy: Path) -> None:
    table = toy / "figures/toy/table1.csv"
    for file in (toy / "runs/toy/data/kept", table):
        file.parent.mkdir(parents=True)
        file.write_text("")
    (toy / NOTE).write_text('{"outputs": {"kept": {}}, "report": {"toy/table1.csv": {}}}')
    assert reproduce.drop_damaged(["data"], "toy") == []
    table.unlink()
    (line,) = reproduce.drop_damaged(["data"], "toy")
    assert "table1.csv is gone" in line
    assert not (toy / NOTE).exists()


HOLD = """
import sys, time
from pathlib import Path
from dollkit.workflow.run import hold
from tests.small_files import error_of
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with start("-c", HOLD, str(tmp_path)) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run works in"), processes.hold(tmp_path):
            raise AssertionError("two at once")
        first.kill()
    with processes.hold(tmp_path), pytest.raises(InputError, match="another run works in"):
        processes.hold(tmp_path).__enter__()


def test_what_a_killed_run_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", wait, "ipykernel"], cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as left:  # fmt: skip
        assert left.stdout is not None
        left.stdout.readline()
        monkeypatch.setattr(processes, "GRACE", 0.1)
        with pytest.raises(InputError, match=f"process {left.pid} "), processes.hold(tmp_path):
            raise AssertionError("two at once")
        left.communicate()


SLOW = 'from pathlib import Path\nimport time\nPath("{mark}").touch()\ntime.sleep(600)\n'


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    for _ in range(int(PATIENCE / 0.1)):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def data_stage(toy: Path, *cells: str) -> None:
    """Put cells between those that begin and end the data stage."""
    body, end = BODY.format(stage="data", imports=""), END.format(result=1)
    write_notebook(toy / "notebooks/01_data.ipynb", body, *cells, end)


def waiting(toy: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run that waits in its data stage, and all of its processes."""
    data_stage(toy, SLOW.format(mark=toy / "mark"))
    running = start(*REPRODUCE, "--until", "data")
    until((toy / "mark").exists)
    top = psutil.Process(running.pid)
    return running, [top, *top.children(recursive=True)]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_told_to_end_takes_all_of_it_along(toy: Path, signum: int) -> None:
    running, everyone = waiting(toy)
    running.send_signal(signum)
    said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signum
    assert "data: stopped from outside" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(everyone, timeout=PATIENCE)[1] == []
    assert not (toy / NOTE).exists()

    data_stage(toy)
    run(*REPRODUCE, "--until", "data")
    assert (toy / NOTE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["dollkit reproduce", "-m snakemake", "dollkit run", "ipykernel"])
def test_whoever_is_killed_none_is_left_behind(toy: Path, word: str) -> None:
    running, everyone = waiting(toy)
    (victim, *_) = [p for p in everyone if word in " ".join(p.cmdline())]
    victim.kill()
    running.communicate(timeout=PATIENCE)
    assert running.returncode != 0
    assert psutil.wait_procs(everyone, timeout=PATIENCE)[1] == []
    assert not (toy / NOTE).exists()


def told(error: BaseException) -> str:
    return processes.shortage(f"{type(error).__name__}: {error}")


def test_shortages_are_told_with_their_cure() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.ENOMEM):
        line = told(OSError(number, os.strerror(number), "runs/a.npy"))
        assert line.startswith("runs/a.npy: ")
        assert line.endswith(processes.KEPT)
    with pytest.raises(MemoryError) as error:
        np.zeros(1 << 55)
    assert "out of memory" in told(error.value)
    assert "out of memory" in told(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    for error in (ValueError("row 3"), FileNotFoundError(2, "No such file", "a"), KeyError("28")):
        assert told(error) == ""


def test_jobs_are_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = reproduce.job_prefix(tmp_path), reproduce.job_prefix(tmp_path / "other")
    said = f"7 {ours}_a1b2\n8 {others}_a1b2\n9 interactive shell\n"
    answer = subprocess.CompletedProcess([], 0, said, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert reproduce.slurm_jobs(tmp_path) == ["7"]


@pytest.mark.slow
def test_shares_of_another_making_do_not_count(toy: Path) -> None:
    """Their marks stay where a controller dies before the stage that joins them."""
    book = toy / "notebooks/03_labels.ipynb"
    write_notebook(book, BODY.format(stage="labels", imports=""), "stage.part.end()")
    marks = [f"parts/labels-{k}-of-2" for k in (1, 2)]

    def snakemake(*more: str) -> str:
        code = (
            "from dollkit.workflow.reproduce import snakemake as s; "
            f"raise SystemExit(s('toy', None, 1, 'cpu', *{[*marks, *more]!r}, parts=2))"
        )
        return run("-c", code)

    (toy / "runs/toy").mkdir(parents=True)
    snakemake("--notemp")
    assert all((toy / "runs/toy" / mark).is_file() for mark in marks)
    assert "labels_1_of_2" not in snakemake("--dry-run", "--notemp")
    profile = toy / "notebooks/params/toy.yaml"
    profile.write_text(profile.read_text() + "labels:\n  size: 5\n")
    assert "labels_1_of_2" in snakemake("--dry-run", "--notemp")
