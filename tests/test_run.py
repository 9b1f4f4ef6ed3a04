"""A stage counts as done only if every cell ran and the manifest tells so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dollkit.common import paths
from tests.toys import PARAMETERS, write_notebook

BEGIN = 'from dollkit.workflow.stage import begin\nstage = begin("data", globals())\n'


def run(instance: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m dollkit.workflow.run` in its own process."""
    command = [
        sys.executable,
        "-m",
        "dollkit.workflow.run",
        instance,
        "--profile",
        "toy",
        *arguments,
    ]
    own = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=own, capture_output=True, text=True)


def test_a_stage_runs_in_this_interpreter_whatever_kernels_there_are(toy: Path) -> None:
    other = toy / "jupyter/kernels/python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "{connection_file}"], "display_name": "x"}
    (other / "kernel.json").write_text(json.dumps(spec))
    book = toy / "notebooks/01_data.ipynb"
    body = 'import sys, tqdm\nprint("epoch 1")\nprint("\\r 10 %\\r 20 %")\n'
    where = '(stage.path / "python").write_text(sys.executable)\n'
    write_notebook(book, BEGIN + body + where, "stage.finish()", "# nothing", "")
    done = run(
        "data",
        "--log",
        str(toy / "logs/data.log"),
        JUPYTER_PATH=str(toy / "jupyter"),
        JUPYTER_DATA_DIR=str(toy / "jupyter"),
    )
    assert done.returncode == 0, done.stderr
    folder = toy / "runs/toy/data"
    assert (folder / "python").read_text() == sys.executable
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"profile": "toy", "size": 4}, "the profile's, not the cell's"
    assert (toy / "runs/toy/notebooks/data.ipynb").is_file()
    log = (toy / "logs/data.log").read_text()
    assert log == done.stdout
    assert "[data] epoch 1\n" in log
    assert "[data]  20 %\n" in log
    assert "10 %" not in log


@pytest.mark.parametrize(
    ("cells", "status", "message"),
    [
        ((BEGIN, "import sys\nsys.exit(0)", "stage.finish()"), 1, "stopped the notebook early"),
        ((BEGIN, "stage.finish()", "import sys\nsys.exit(0)"), 1, "stopped the notebook early"),
        ((BEGIN,), 1, "does it call stage.finish()?"),
        ((BEGIN, "stage.finish()", "1 / 0"), 1, "data: ZeroDivisionError: division by zero (cell "),
        (
            (
                BEGIN,
                'from dollkit.common.errors import InputError\nraise InputError("row 3\\nis bad")',
            ),
            2,
            "data: row 3 is bad\n",
        ),
        ((BEGIN + "stage.params['size'] = 5", "stage.finish()"), 1, "changed a parameter"),
        ((BEGIN, "import os\nos._exit(1)"), 1, "kernel died (killed, perhaps out of memory"),
        (
            (BEGIN, "from pathlib import Path\nPath('/dev/full').write_text('x' * 9)"),
            1,
            "data: no room left on the disk: free some ('make plan' says what a run takes); all",
        ),
        ((BEGIN, "raise OSError(24, 'Too many open files', 'a.npy')"), 1, "data: a.npy: too many"),
        (
            (
                BEGIN,
                "raise RuntimeError('CUDA error: assert triggered\\nDevice-side ...')",
            ),
            1,
            "data: RuntimeError: CUDA error: assert triggered (cell ",
        ),
        ((BEGIN, "bytearray(1 << 62)"), 1, "data: out of memory: take fewer JOBS"),
    ],
)
def test_what_papermill_lets_pass_fails_in_one_line(
    toy: Path, cells: tuple[str, ...], status: int, message: str
) -> None:
    write_notebook(toy / "notebooks/01_data.ipynb", *cells)
    done = run("data", "--log", str(toy / "data.log"))
    assert done.returncode == status, done.stdout + done.stderr
    assert message in done.stderr
    # libzmq may report that a kernel was taken down in mid-poll; that line is not ours.
    ours = [line for line in done.stderr.splitlines() if "signaler.cpp" not in line]
    assert len(ours) == 1
    assert (toy / "data.log").read_text().endswith(f"{ours[0]}\n")
    assert not (toy / "runs/toy/data/manifest.json").exists()


def test_a_kernel_that_dies_while_it_starts_is_one_line(toy: Path) -> None:
    hook = toy / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\nif any('ipykernel' in a for a in sys.orig_argv):\n    os._exit(1)\n"
    )
    write_notebook(toy / "notebooks/01_data.ipynb", BEGIN, "stage.finish()")
    done = run("data", PYTHONPATH=f"{hook}{os.pathsep}{paths.ROOT}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "data: the kernel died (killed, perhaps" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ("classifiers/c", "profile toy has no 'classifiers/c'; did you mean 'classifiers/"),
        ("labels", "stage labels needs data"),
    ],
)
def test_bad_requests_stop_before_a_kernel_starts(toy: Path, instance: str, message: str) -> None:
    done = run(instance)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (toy / "runs/toy/notebooks").exists()


def test_an_ill_typed_parameter_stops_before_a_kernel_starts(toy: Path) -> None:
    book = toy / "notebooks/01_data.ipynb"
    write_notebook(book, BEGIN, parameters=PARAMETERS.replace("size: int", "size: bool"))
    done = run("data")
    assert done.returncode == 2
    assert "parameters cell, line 2: default of 'size' is 3 (int): it must be bool" in done.stderr
    assert not (toy / "runs/toy/notebooks").exists()
