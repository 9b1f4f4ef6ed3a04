"""A stage counts as done only if every cell ran and the manifest tells so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nbformat
import nbformat.v4 as nb
import papermill
import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.common.machine import Part
from dollkit.workflow import cli, run, stage
from dollkit.workflow.run import StageError
from tests.small_files import error_of
from tests.toys import write_notebook

BEGIN = 'from dollkit.workflow.stage import begin\nstage = begin("data", globals())\n'


def dollkit_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m dollkit run` in its own process."""
    command = [sys.executable, "-m", "dollkit", "run", "--profile", "toy", *arguments]
    own = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=own, capture_output=True, text=True)


def test_a_stage_runs_in_this_interpreter_whatever_kernels_there_are(toy: Path) -> None:
    other = toy / "jupyter/kernels/python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "{connection_file}"], "display_name": "x"}
    (other / "kernel.json").write_text(json.dumps(spec))
    book, log = toy / "notebooks/01_data.ipynb", toy / "logs/data.log"
    body = 'import sys, tqdm\nprint("epoch 1")\nprint("\\r 10 %\\r 20 %")\n'
    place = '(stage.path / "python").write_text(sys.executable)\n'
    write_notebook(book, BEGIN + body + place, "stage.finish()", "# nothing", "")
    jupyter = {"JUPYTER_PATH": str(toy / "jupyter"), "JUPYTER_DATA_DIR": str(toy / "jupyter")}
    done = dollkit_run("data", "--log", str(log), **jupyter)
    assert done.returncode == 0, done.stderr
    folder = toy / "runs/toy/data"
    assert (folder / "python").read_text() == sys.executable
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"profile": "toy", "size": 4}, "the profile's, not the cell's"
    assert (toy / "runs/toy/notebooks/data.ipynb").is_file()
    assert log.read_text() == done.stdout
    assert "[data] epoch 1\n" in done.stdout
    assert "[data]  20 %\n" in done.stdout
    assert "10 %" not in done.stdout


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("stage.finish()\nimport sys\nsys.exit(0)", "stopped the notebook early"),
        pytest.param("import os\nos._exit(1)", "kernel died", marks=pytest.mark.slow),
        pytest.param("from pathlib import Path\nPath('/dev/full').write_text('x' * 9)",
                     "data: no room left on the disk", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_papermill_lets_pass_fails_in_one_line(toy: Path, cell: str, message: str) -> None:
    write_notebook(toy / "notebooks/01_data.ipynb", BEGIN, cell)
    done = dollkit_run("data", "--log", str(toy / "data.log"))
    assert done.returncode == 1, done.stdout + done.stderr
    # libzmq may report that a kernel was taken down in mid-poll; that line is not ours.
    (line,) = [line for line in done.stderr.splitlines() if "signaler.cpp" not in line]
    assert line.startswith("data: ")
    assert message in line
    assert (toy / "data.log").read_text().endswith(f"{line}\n")
    assert not (toy / "runs/toy/data/manifest.json").exists()


@pytest.mark.parametrize(
    ("kind", "text", "status", "message"),
    [
        ("ZeroDivisionError", "division by zero", 1, "data: ZeroDivisionError: division by zero ("),
        ("InputError", "row 3\nis bad", 2, "data: row 3 is bad\n"),
    ],
)  # fmt: skip
def test_what_a_cell_raises_is_one_line(
    toy: Path, kind: str, text: str, status: int, message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    error = papermill.PapermillExecutionError(1, 3, "source", kind, text, [])
    monkeypatch.setattr(papermill, "execute_notebook", Mock(side_effect=error))
    monkeypatch.setattr(run, "_prepare_kernel", Mock())
    manifest = toy / "runs/toy/data/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    assert cli.main(["run", "data", "--profile", "toy"]) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not manifest.exists(), "a failed stage leaves no valid artefact"


def test_every_cell_must_have_run(tmp_path: Path) -> None:
    book = nb.new_notebook(cells=[nb.new_markdown_cell("x"), nb.new_code_cell("1")])
    with pytest.raises(StageError, match=r"cell 2 of .* was never executed"):
        run._check_cells(book, tmp_path)


def test_a_copy_brings_the_pictures_of_its_prose(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "a.png").write_bytes(b"seen")
    text = '![a](../a.png) <img src="../a.png"> ![b](../b.png) [c](../a.md)'
    copy = tmp_path / "copy.ipynb"
    nbformat.write(nb.new_notebook(cells=[nb.new_markdown_cell(text)]), copy)
    run._embed_pictures(copy, tmp_path / "notebooks")
    shown = "data:image/png;base64,c2Vlbg=="
    text = f'![a]({shown}) <img src="{shown}"> ![b](../b.png) [c](../a.md)'
    assert nbformat.read(copy, 4).cells[0].source == text


def test_the_manifest_must_be_there_and_tell_the_parameters(toy: Path) -> None:
    (instance, *_) = run.stages.plan("toy")
    manifest = toy / "runs/toy/data/manifest.json"
    with pytest.raises(StageError, match=r"does it call stage\.finish\(\)\?"):
        run._check_manifest(manifest, instance, toy)
    stage.begin("data", dict(instance.parameters)).finish()
    run._check_manifest(manifest, instance, toy)
    stage.begin("data", {**instance.parameters, "size": 5}).finish()
    with pytest.raises(StageError, match="changed a parameter"):
        run._check_manifest(manifest, instance, toy)


def test_what_cannot_run_stops_before_a_kernel_starts(toy: Path) -> None:
    with pytest.raises(InputError, match=r"no 'classifiers/c'; did you mean 'classifiers/"):
        run.run("classifiers/c", "toy", None)
    assert "data is done in one piece" in error_of(run.run, "data", "toy", None, part=Part(1, 2))
    assert not (toy / "runs/toy/notebooks").exists()


def test_parts_take_each_piece_once() -> None:
    for text in ("0/2", "3/2", "1", "a/b"):
        assert re.search(r"'part' is .*K/N", error_of(Part.parse, text))
    taken = [[i for i in range(7) if Part.parse(f"{k}/3").takes(i)] for k in (1, 2, 3)]
    assert sorted(i for own in taken for i in own) == list(range(7))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
