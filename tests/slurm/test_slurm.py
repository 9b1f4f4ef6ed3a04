"""The real Snakefile on a real SLURM: parts as jobs, a lost job, a killed controller.

``make test-slurm``; asks for root and Debian's munge, slurmctld, slurmd and slurm-client.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dollkit.common import paths
from dollkit.workflow import reproduce, stages
from tests.test_reproduce import data_stage, until
from tests.toys import BODY, END, NETWORK, PARAMETERS, write_notebook

CLUSTER = Path(__file__).with_name("cluster.sh")
PATIENCE = 600.0
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
missing = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd asks for root"),
]
SHARED = """\
if stage.part:
    (stage.path / f"{stage.part.number}-of-{stage.part.count}").touch()
    stage.part.end()
parts = sorted(f.name for f in stage.path.glob("*-of-*"))
"""
WAIT = """\
import os, time
from pathlib import Path
tries = Path({folder!r}) / f"try-{{os.getpid()}}"
tries.touch()
while len(list(tries.parent.glob("try-*"))) < 2:
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three nodes on loopback."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "up", folder, "3"], check=True, capture_output=True, text=True)
    try:
        yield folder
    finally:
        subprocess.run([CLUSTER, "down", folder], check=True)


@pytest.fixture
def place(slurm: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy pipeline whose labels and fine-tuning are shared by three jobs."""
    profile = toy / "notebooks/params/toy.yaml"
    profile.write_text(profile.read_text().replace("[a, b]", "[a]"))
    tuned = PARAMETERS + NETWORK + 'task: str = "lungs"  # which\n'
    shared = (("03_labels", "labels", PARAMETERS), ("05_finetuning", "finetune", tuned))
    for book, name, own in shared:
        begin, end = BODY.format(stage=name, imports=""), END.format(result="parts")
        write_notebook(toy / f"notebooks/{book}.ipynb", begin, SHARED, end, parameters=own)
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    return toy


def start(place: Path) -> subprocess.Popen[str]:
    """`make reproduce EXECUTOR=slurm` without make."""
    return subprocess.Popen(
        [sys.executable, "-m", "dollkit", "reproduce", "--profile", "toy", "--jobs", "4"]
        + ["--executor", "slurm", "--threads", "1", "--parts", "3"]
        + ["--default-resources", "mem_mb=attempt * 2000", "runtime=attempt * 30"]
        + ["--slurm-init-seconds-before-status-checks", "2"]  # no accounting here:
        + ["--slurm-status-command", "squeue", "--slurm-no-account"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def jobs(place: Path, state: str) -> list[str]:
    """Jobs of the run in a state."""
    known = reproduce.slurm_jobs(place / "runs/toy")
    command = ["squeue", "--noheader", "--states", state, "--format", "%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [j for j in done.stdout.split() if j in known]


def finished(running: subprocess.Popen[str], place: Path) -> str:
    """What a run said; all of its stages are there."""
    said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, said
    names = [stage.name for stage in stages.plan("toy")]
    assert all((place / "runs/toy" / n / "manifest.json").is_file() for n in names)
    return said


def waiting(place: Path) -> subprocess.Popen[str]:
    """A run whose first try of the data stage waits; a second one goes on."""
    data_stage(place, WAIT.format(folder=str(place)))
    running = start(place)
    until(lambda: list(place.glob("try-*")))
    return running


def test_parts_are_jobs_of_their_own_and_a_second_run_does_nothing(place: Path) -> None:
    finished(start(place), place)
    result = (place / "runs/toy/labels/result.txt").read_text()
    assert result == "['1-of-3', '2-of-3', '3-of-3']"
    assert not list((place / "runs/toy/parts").glob("*")), "marks of parts are temporary"
    said = finished(start(place), place)
    assert "nothing to do: all 9 stages" in said, said
    # Where a stage runs is no reason to run it again.
    local = [sys.executable, "-m", "dollkit", "reproduce", "--profile", "toy", "--jobs", "1"]
    done = subprocess.run(local, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nothing to do"), done.stdout


def test_a_killed_controller_leaves_nothing_that_stands_in_the_way(place: Path) -> None:
    running = waiting(place)
    (job,) = jobs(place, "RUNNING")
    top = psutil.Process(running.pid)
    for process in [top, *top.children(recursive=True)]:
        process.kill()
    running.communicate(timeout=PATIENCE)
    assert jobs(place, "RUNNING") == [job], "the cluster does not know that nobody waits"
    said = finished(start(place), place)
    assert "1 jobs of an earlier call are ended" in said
    assert len(list(place.glob("try-*"))) == 2


def test_sigterm_cancels_the_jobs(place: Path) -> None:
    running = waiting(place)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signal.SIGTERM, said
    until(lambda: not reproduce.slurm_jobs(place / "runs/toy"))
    finished(start(place), place)
