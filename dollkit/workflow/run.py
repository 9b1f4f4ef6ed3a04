"""Run one stage in a kernel (``python -m dollkit run``), and the processes around it: one run at a
time in a folder, signals that reach all, and what they lack.

Every cell's state and the manifest are checked, since papermill takes ``sys.exit(0)`` in a cell
for success. Snakemake on SIGTERM waits for what runs, which may take longer than a scheduler's
notice. So the signal goes to its whole process group: each stage shuts its kernel down.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from dollkit.common import paths
from dollkit.common.errors import ANSI, InputError, nearest, one_line
from dollkit.common.machine import VARIABLE, Part, PartDone
from dollkit.workflow import parameters, stage, stages

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
    """Run one stage instance, or a `part` of it; `log` gets what is shown on the terminal too."""
    planned = {i.name: i for i in stages.plan(profile, data)}
    if name not in planned:
        raise InputError(f"profile {profile} has no {name!r}; {nearest(name, planned)}")
    instance = planned[name]
    if part is not None and not instance.stage.shared:
        raise InputError(f"--part: {name} is done in one piece")
    for artefact in instance.inputs:
        stage.check_artefact(artefact, profile, needed_by=name)
    folder = paths.runs() / profile
    label = f"parts/{instance.slug}-{part.number}-of-{part.count}" if part else instance.slug
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
        cure = "killed, perhaps out of memory: take fewer JOBS"
        raise StageError(f"the kernel died ({cure}); {KEPT} (see {executed})") from None
    if part is not None:
        raise StageError(f"{executed} went on after its part")
    _check_cells(notebook, executed)
    _embed_pictures(executed, instance.notebook.parent)


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
    # The debugger is never used here, and its warning would be the first line of every log. Idle
    # threads sleep: spinning ones cost other processes several times their share.
    more = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for key, value in (MALLOC | more).items():
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


def _embed_pictures(executed: Path, folder: Path) -> None:
    """Put pictures that prose shows into the copy, from where their paths lead nowhere."""

    def inline(found: re.Match[str]) -> str:
        picture = folder / found[0]
        if not picture.is_file():
            return found[0]
        return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"

    text = executed.read_text(encoding="utf-8")
    text = re.sub(r'(?<=\]\()\.\./[^()"]+\.png|(?<=src=\\")\.\./[^"]+\.png', inline, text)
    executed.write_text(text, encoding="utf-8")


def _check_manifest(manifest: Path, instance: stages.Instance, executed: Path) -> None:
    written = stage.read_manifest(manifest.parent)
    if written is None:
        raise StageError(f"{executed} ended without {manifest}: does it call stage.finish()?")
    if written["parameters"] != dict(instance.parameters):
        raise StageError(f"{executed} changed a parameter after its parameters cell")


# The processes of a run.

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PR_SET_PDEATHSIG = 1
GRACE = 25.0
"""Seconds for an orderly end: less than the 30 that schedulers give."""
OURS = ("-m snakemake", "-m dollkit run", "ipykernel")
"""Command lines of what works in the folder of a run."""
KEPT = "all that is done is kept, the same command goes on"
SHORTAGES = (
    (r"Errno (28|122)\b|os error 28|No space left", "no room left on the disk: free some"),
    (r"Errno (5|30|116)\b", "the disk cannot be read or written: mend it, or set DOLLKIT_RUNS"),
    (r"Errno (23|24)\b|Too many open files", "too many open files: try 'ulimit -n 4096'"),
    (r"Errno 12\b|MemoryError|allocate|CUDA out of memory|failed to map segment",
     "out of memory: take fewer JOBS, or a smaller 'batch' or 'budget_mb' in the profile"),
    (r"^BrokenProcessPool", "a worker was killed, most often for want of memory: take fewer JOBS"),
)  # fmt: skip


def shortage(error: str) -> str:
    """What the machine lacks, and the cure, from ``type: message``; "" if it says nothing of it."""
    for pattern, words in SHORTAGES:
        if re.search(pattern, error):
            file = re.search(r": '([^']+)'$", error)
            return f"{file[1] + ': ' if file else ''}{words}; {KEPT}"
    return ""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one run that works in `folder`, until the block ends or this process dies."""
    try:
        lock = FileLock(folder / ".running.lock").acquire(timeout=0)
    except Timeout:
        raise InputError(f"another run works in {folder}: wait for it or stop it") from None
    with lock:
        at_work = [
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cwd"] == str(folder)
            and any(word in " ".join(process.info["cmdline"] or ()) for word in OURS)
        ]
        # What a killed run has left ends by itself within seconds.
        if alive := psutil.wait_procs(at_work, timeout=GRACE)[1]:
            raise InputError(f"process {alive[0].pid} still works in {folder}: stop it")
        yield


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """`handler` for signals that end, but for those that are ignored (``nohup``)."""
    earlier = {s: h for s in SIGNALS if (h := signal.getsignal(s)) is not signal.SIG_IGN}
    for signum in earlier:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Handler that unwinds, once, so that a kernel is shut down."""
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def run_group(
    command: Sequence[str], environment: Mapping[str, str], end: int = signal.SIGTERM
) -> int:
    """Run a command in a process group of its own; once asked to end, end all of the group.

    Returns its exit status, or 128 + the number of the signal.
    """
    with (
        handling(terminate),
        subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=_die_with_parent
        ) as running,
    ):
        try:
            return running.wait()
        except SystemExit as asked:
            with handling(lambda signum, frame: None):  # once is enough
                _end_group(running, end)
            return int(asked.code or 1)


def _end_group(running: subprocess.Popen[bytes], end: int) -> None:
    limit = time.monotonic() + GRACE
    os.killpg(running.pid, end)
    while _living(running.pid) and time.monotonic() < limit:
        running.poll()
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def _living(group: int) -> bool:
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """From now on, end this process by SIGTERM once its parent is gone: Snakemake was killed."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()
