"""Run one stage in a kernel; Snakemake calls this (``python -m dollkit run``) for each job.

Parameters and inputs are checked before a kernel starts. papermill executes the notebook; then
every cell's state and the manifest are checked, since papermill takes ``sys.exit(0)`` in a cell
for success.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import ANSI, InputError, nearest, one_line
from dollkit.common.machine import VARIABLE, Part, PartDone
from dollkit.workflow import parameters, stage, stages
from dollkit.workflow.processes import KEPT, shortage

# Memory that torch gives back is kept for its next tensor. By default glibc returns each large one
# to the system, which has to clear all of its pages again: 15 % of a step on two cores.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


class StageError(RuntimeError):
    """A notebook failed, stopped early or wrote a wrong manifest: no fault of the input."""


class _Lines(logging.Formatter):
    """papermill's records as lines, each with the stage's name before it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def format(self, record: logging.LogRecord) -> str:
        """All lines of a record; "" if there is nothing worth a line in it."""
        text = ANSI.sub("", record.getMessage())
        if start := re.match(r"Executing Cell (\d+)-*$", text):
            text = f"cell {start[1]}"
        elif re.match(r"Ending Cell \d+-*$|(Input|Output) Notebook: |Executing notebook ", text):
            return ""
        shown = (line.rsplit("\r", 1)[-1].rstrip() for line in text.strip("\r\n").split("\n"))
        return "".join(f"[{self.name}] {line}\n" for line in shown if line)


def run(
    name: str, profile: str, data: Path | None, log: Path | None = None, part: Part | None = None
) -> None:
    """Run one stage instance.

    `log` gets what is shown on the terminal too; `part` is the share of the work to do and leave.
    """
    planned = {i.name: i for i in stages.plan(profile, data)}
    if name not in planned:
        raise InputError(f"profile {profile} has no {name!r}; {nearest(name, planned)}")
    instance = planned[name]
    if part is not None and not instance.stage.shared:
        raise InputError(f"--part: {name} is done in one piece")
    for artefact in instance.inputs:
        stage.check_artefact(artefact, profile, needed_by=name)
    folder = paths.runs() / profile
    label = (
        instance.slug if part is None else f"parts/{instance.slug}-{part.number}-of-{part.count}"
    )
    executed = folder / "notebooks" / f"{label}.ipynb"
    stage.make_writable(executed.parent)
    stage.make_writable(folder / name)
    manifest = folder / name / stage.MANIFEST
    manifest.unlink(missing_ok=True)
    try:
        execute(instance, executed, log, part)
        if part is None:
            _check_manifest(manifest, instance, executed)
    except BaseException:
        manifest.unlink(missing_ok=True)  # a failed stage leaves no valid artefact
        raise


def execute(
    instance: stages.Instance, executed: Path, log: Path | None, part: Part | None = None
) -> None:
    """Execute a notebook in a kernel of this interpreter, and check that it went to its end."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    class Manager(AsyncKernelManager):
        """Ends an idle kernel without the usual Ctrl-C, whose traceback may reach the terminal."""

        async def _async_interrupt_kernel(self) -> None:
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    # In /tmp itself: the path of a socket may have no more than about 100 characters.
    place = "/tmp" if Path("/tmp").is_dir() else None
    try:
        with tempfile.TemporaryDirectory(prefix="dollkit-", dir=place) as private:
            _prepare_kernel(Path(private))
            _log_to(instance.name, log)
            os.environ[VARIABLE] = "" if part is None else str(part)
            # Sockets in our own folder: no ports to clash, and nothing readable by others. Without
            # `ip` their names are relative, and two kernels in one folder take each other's.
            sockets = {"transport": "ipc", "ip": f"{private}/socket"}
            notebook = papermill.execute_notebook(
                instance.notebook, executed, dict(instance.parameters), kernel_name="python3",
                log_output=True, progress_bar=False, kernel_manager_class=Manager,
                config=Config({"KernelManager": sockets}),
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        if part is not None and error.ename == PartDone.__name__:
            return
        said = shortage(f"{error.ename}: {error.evalue}") or (
            f"{one_line(error.ename, error.evalue)} (cell {error.exec_count} of {executed})"
        )
        raise StageError(said) from None
    except RuntimeError as error:  # one that dies while it starts is no DeadKernelError
        if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):
            raise
        raise StageError(
            f"the kernel died (killed, perhaps out of memory: take fewer JOBS); {KEPT} "
            f"(see {executed})"
        ) from None
    if part is not None:
        raise StageError(f"{executed} went on after its part")
    _check_cells(notebook, executed)


def _prepare_kernel(folder: Path) -> None:
    """Make ``python3`` mean this interpreter, whatever kernels the user has installed."""
    from ipykernel.kernelspec import write_kernel_spec

    # Its own log tells only of shutdown races; what a cell raises arrives as that cell's output.
    write_kernel_spec(folder / "kernels" / "python3", extra_arguments=["--log-level=50"])
    ours = {
        # The first entry of JUPYTER_PATH wins over user, environment and system kernels.
        "JUPYTER_PATH": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),  # no startup files of the user
        "PYTHONPATH": os.pathsep.join([str(parameters.notebooks().parent), str(paths.ROOT)]),
    }
    for key, value in ours.items():
        older = os.environ.get(key) if key.endswith("PATH") else None
        os.environ[key] = os.pathsep.join(filter(None, (value, older)))
    # The debugger is never used here, and its warning would be the first line of every log.
    for key, value in (MALLOC | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}).items():
        os.environ.setdefault(key, value)


def _log_to(name: str, log: Path | None) -> None:
    """Show papermill's log, and write it to a file too."""
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handlers: list[logging.StreamHandler[Any]] = [logging.StreamHandler(sys.stdout)]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log, "w", encoding="utf-8"))
    for handler in handlers:
        handler.terminator = ""
        handler.setFormatter(_Lines(name))
    logger.handlers = [*handlers]


def _check_cells(notebook: Any, executed: Path) -> None:
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            raise StageError(f"cell {number} of {executed} stopped the notebook early")
        if cell.execution_count is None:
            raise StageError(f"cell {number} of {executed} was never executed")


def _check_manifest(manifest: Path, instance: stages.Instance, executed: Path) -> None:
    written = stage.read_manifest(manifest.parent)
    if written is None:
        raise StageError(f"{executed} ended without {manifest}: does it call stage.finish()?")
    if written["parameters"] != dict(instance.parameters):
        raise StageError(f"{executed} changed a parameter after its parameters cell")
