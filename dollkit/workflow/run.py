"""Run one stage: ``python -m dollkit.workflow.run INSTANCE --profile P``; Snakemake calls this per
job.

Parameters and inputs are checked before a kernel starts. papermill executes the notebook; then
every cell's state and the manifest are checked, since papermill takes ``sys.exit(0)`` in a cell
for success.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dollkit.common import errors, paths, shares
from dollkit.common.errors import ANSI, InputError, one_line
from dollkit.common.shares import Part
from dollkit.workflow import parameters, stage, stages, stopping, trouble

BAR_SECONDS = 10.0
"""A progress bar redraws itself many times a second; a log takes one line in this time."""

MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Of glibc, for the kernels; other allocators do not look at them."""


class StageError(RuntimeError):
    """A notebook failed for a reason that is not the user's input."""


class _Lines(logging.Formatter):
    """papermill's records as lines, each with the stage's name before it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.bar = -BAR_SECONDS

    def format(self, record: logging.LogRecord) -> str:
        """All lines of a record; "" if there is nothing worth a line in it."""
        text = ANSI.sub("", record.getMessage())
        if start := re.match(r"Executing Cell (\d+)-*$", text):
            text = f"cell {start[1]}"
        elif re.match(r"Ending Cell \d+-*$|(Input|Output) Notebook: |Executing notebook ", text):
            return ""
        if "\r" in text and "\n" not in text:
            if time.monotonic() - self.bar < BAR_SECONDS:
                return ""
            self.bar = time.monotonic()
        shown = (line.rsplit("\r", 1)[-1].rstrip() for line in text.strip("\r\n").split("\n"))
        return "".join(f"[{self.name}] {line}\n" for line in shown if line)


class _Quietly(logging.StreamHandler[Any]):
    terminator = ""


def run(
    name: str, profile: str, data: Path | None, log: Path | None = None, part: Part | None = None
) -> Path | None:
    """Run one stage instance.

    Args:
        name: instance, such as ``finetune/pspnet-lungs``.
        profile: parameter file in ``notebooks/params/``.
        data: folder of data sets, for profiles that need one.
        log: file that gets what is shown on the terminal too.
        part: share of the stage's work to do and leave, see `parts`.

    Returns:
        Path of the manifest; None after a part.

    Raises:
        StageError: the notebook failed, stopped early, or wrote no (or a wrong) manifest.
    """
    planned = {i.name: i for i in stages.plan(profile, data)}
    if name not in planned:
        raise InputError(f"profile {profile} has no {name!r}; {errors.nearest(name, planned)}")
    instance = planned[name]
    if part is not None and not instance.stage.shared:
        shared = [s.family for s in stages.STAGES.values() if s.shared]
        raise InputError(f"--part: {name} is done in one piece; {', '.join(shared)} have parts")
    for wanted in instance.inputs:
        stage.check_artefact(wanted, profile, needed_by=name)
    folder = paths.runs() / profile
    label = instance.slug if part is None else f"parts/{instance.slug}-{part.name}"
    executed = folder / "notebooks" / f"{label}.ipynb"
    stage.make_writable(executed.parent)
    stage.make_writable(folder / name)
    manifest = folder / name / stage.MANIFEST
    manifest.unlink(missing_ok=True)
    try:
        execute(instance, executed, log, part)
        if part is not None:
            return None
        _check_manifest(manifest, instance, executed)
    except BaseException:
        manifest.unlink(missing_ok=True)  # a failed stage leaves no valid artefact
        raise
    return manifest


def execute(
    instance: stages.Instance, executed: Path, log: Path | None, part: Part | None = None
) -> None:
    """Execute a notebook in a kernel of this interpreter, and check that it went to its end.

    Args:
        instance: its notebook and parameters count.
        executed: file that gets the executed notebook.
        log, part: as for `run`.

    Raises:
        StageError: it failed or stopped early.
    """
    # In /tmp itself: the path of a socket may have no more than about 100 characters.
    place = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dollkit-", dir=place) as private:
        _own_kernel(Path(private))
        notebook = _execute(instance, executed, Path(private), log, part)
    if part is None:
        _check_cells(notebook, executed)
    elif notebook is not None:
        raise StageError(f"{executed} went on after its part")


def _own_kernel(folder: Path) -> None:
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
    # Memory that torch gives back is kept for its next tensor. By default glibc returns each large
    # one to the system, which has to clear all of its pages again: 15 % of a step on two cores.
    for key, value in MALLOC.items():
        os.environ.setdefault(key, value)
    # The debugger is never used here, and its warning would be the first line of every log.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def _execute(
    instance: stages.Instance,
    executed: Path,
    private: Path,
    log: Path | None,
    part: Part | None,
) -> Any:
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    class Manager(AsyncKernelManager):
        """Ends an idle kernel without the usual Ctrl-C, whose traceback may reach the terminal."""

        async def _async_interrupt_kernel(self) -> None:
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handlers: list[logging.Handler] = [_Quietly(sys.stdout)]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_Quietly(log.open("w", encoding="utf-8")))
    for handler in handlers:
        handler.setFormatter(_Lines(instance.name))
    logger.handlers = handlers
    os.environ[shares.VARIABLE] = "" if part is None else str(part)
    try:
        return papermill.execute_notebook(
            instance.notebook,
            executed,
            parameters=dict(instance.parameters),
            kernel_name="python3",
            log_output=True,
            progress_bar=False,
            # Sockets in our own folder: no ports to clash, and nothing readable by others. Without
            # `ip` their names are relative, and two kernels in one folder take each other's.
            kernel_manager_class=Manager,
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(private / "socket")}}),
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        if part is not None and error.ename == "Done":
            return None
        if machine := trouble.words(f"{error.ename}: {error.evalue}"):
            raise StageError(machine) from None
        said = one_line(error.ename, error.evalue)
        raise StageError(f"{said} (cell {error.exec_count} of {executed})") from None
    except RuntimeError as error:  # one that dies while it starts is no DeadKernelError
        if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):
            raise
        raise StageError(
            f"the kernel died (killed, perhaps out of memory: take fewer JOBS); {trouble.KEPT} "
            f"(see {executed})"
        ) from None


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


def terminate(signum: int, frame: FrameType | None) -> None:
    """Handler of a signal that ends: unwinds, so that the kernel is shut down."""
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 2 bad input, 1 the notebook failed."""
    parser = argparse.ArgumentParser(prog="python -m dollkit.workflow.run", description=run.__doc__)
    parser.description = "Run one stage of a profile."
    parser.add_argument("instance", help="such as data or finetune/pspnet-lungs")
    parser.add_argument("--profile", default="smoke", help="file in notebooks/params (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--log", type=Path, help="write what is shown to this file too")
    parser.add_argument("--part", metavar="K/N", help="do this share of its work and leave it")
    parser.add_argument("--with-parent", action="store_true", help="end when the caller is gone")
    parser.add_argument("--threads", type=int, help="CPU threads of the stage")
    given = parser.parse_args(arguments)
    if given.threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    # Idle threads sleep: spinning ones cost the other stages several times their share.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stopping.handle(terminate)
    if given.with_parent:
        stopping.end_with_parent()
    try:
        part = Part.parse(given.part) if given.part else None
        run(given.instance, given.profile, given.data, given.log, part)
    except (InputError, StageError, SystemExit, KeyboardInterrupt, OSError, MemoryError) as error:
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        # What papermill or we ourselves could not write, as well as the notebook.
        machine = trouble.words(f"{type(error).__name__}: {error}")
        if isinstance(error, OSError | MemoryError) and not machine:
            raise
        line = f"{given.instance}: {'stopped from outside' if stopped else machine or error}"
        print(line, file=sys.stderr, flush=True)
        if given.log is not None and given.log.parent.is_dir():
            with contextlib.suppress(OSError), given.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
