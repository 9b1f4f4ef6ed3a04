"""Trouble of the machine is told as what it is, and a clock that was set back starts nothing."""

from __future__ import annotations

import errno
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from dollkit.common.errors import LONGEST, InputError, brief, brief_stderr
from dollkit.workflow import reproduce, trouble

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM, errno.EIO)


def told(error: BaseException) -> str:
    return trouble.words(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("number", NUMBERS)
def test_errors_of_the_system(number: int) -> None:
    line = told(OSError(number, os.strerror(number), "runs/a.npy"))
    assert line.startswith("runs/a.npy: ")
    assert line.endswith(trouble.KEPT)
    assert told(OSError(number, os.strerror(number))) == line.removeprefix("runs/a.npy: ")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("MemoryError: ", "out of memory"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate "
         "memory: you tried to allocate 99 bytes.", "out of memory"),
        ("ChildProcessError: ImportError: /lib/_C.so: failed to map segment from shared object",
         "out of memory"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory"),
        ("SafetensorError: Error while serializing: IoError(Os { code: 28, kind: StorageFull, "
         "message: \"No space left on device\" })", "no room left"),
        ("PytorchStreamWriter: No space left on device", "no room left"),
        ("SafetensorError: I/O error: No space left on device (os error 28)", "no room left"),
    ],
)  # fmt: skip
def test_words_of_libraries(text: str, part: str) -> None:
    assert part in trouble.words(text)


def test_numpy_without_memory() -> None:
    with pytest.raises(MemoryError) as error:
        np.zeros(1 << 55)
    assert "out of memory" in told(error.value)


def test_a_worker_that_is_killed() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(BrokenProcessPool) as error,
    ):
        pool.submit(os._exit, 1).result()
    assert told(error.value).startswith("a worker process was killed")


@pytest.mark.parametrize(
    "error",
    [ValueError("row 3"), FileNotFoundError(2, "No such file or directory", "a"), KeyError("28")],
)
def test_other_errors_are_left_alone(error: BaseException) -> None:
    assert told(error) == ""


CUDA = (
    "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia"
    ".com for more information.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Device-side assertions were explicitly omitted for this error check; the error probably arose "
    "while initializing the DSA handlers.\n"
)
ATEN = (
    "Could not run 'aten::_nested_view' with arguments from the 'CUDA' backend."
    + " This could be because the operator doesn't exist." * 20
    + "\n\nCPU: registered at /pytorch/RegisterCPU.cpp:31 [kernel]\nMeta: registered at null:1\n"
)
ONE_LINE = [
    (RuntimeError(CUDA), "RuntimeError: CUDA error: device-side assert triggered"),
    (RuntimeError("\n \n\x1b[31mred\x1b[0m: bad\nmore"), "RuntimeError: red: bad"),
    (InputError("films.csv, row 3: no such film: mend the row"),
     "films.csv, row 3: no such film: mend the row"),
    (ValueError(), "ValueError"),
    (KeyError("lungs"), "KeyError: 'lungs'"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "line"), ONE_LINE)
def test_an_exception_is_its_type_and_first_line(error: Exception, line: str) -> None:
    assert brief(error) == line


def test_a_first_line_without_end_is_cut() -> None:
    line = brief(NotImplementedError(ATEN))
    assert line.startswith("NotImplementedError: Could not run 'aten::_nested_view' with arguments")
    assert len(line) == len("NotImplementedError: ") + LONGEST + len(" …")


@pytest.mark.parametrize(("error", "line"), [*ONE_LINE, (NotImplementedError(ATEN), "")])
def test_of_a_traceback_on_stderr_the_same_line(error: Exception, line: str) -> None:
    try:
        try:
            raise KeyError("the first of two")
        finally:
            raise error
    except Exception:
        text = f"UserWarning: old\n  import a\n{traceback.format_exc()}"
    assert text.count("Traceback (most recent call last):") == 2
    assert brief_stderr(text) == (line or brief(error))


def test_of_other_words_on_stderr_the_last_line() -> None:
    assert brief_stderr("warning: slow\nsqueue: error: no answer\n\n") == "squeue: error: no answer"
    assert brief_stderr("films.csv: no such file\n") == "films.csv: no such file"
    assert brief_stderr(" \n") == ""


def test_no_run_is_started_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble.check_room(tmp_path)
    full = trouble.shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7)  # type: ignore[attr-defined]
    monkeypatch.setattr(trouble.shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match=f"{tmp_path}: 10 MB left, no room left on the disk"):
        trouble.check_room(tmp_path)


def test_the_limit_on_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for limits, raised in (((64, 4096), [(256, 4096)]), ((1024, 4096), []), ((64, 99), None)):
        seen: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda which, limits=limits: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda which, to, seen=seen: seen.append(to))
        if raised is None:
            with pytest.raises(InputError, match="only 99 open files are allowed here"):
                trouble.check_files()
        else:
            trouble.check_files()
            assert seen == raised


def test_manifests_of_the_future_get_the_time_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOLLKIT_RUNS", str(tmp_path))
    day = 86_400 * 10**9
    start = time.time_ns()
    given = {"data": start + day, "labels": start + day + 5, "tables": start - day}
    for name, stamp in given.items():
        manifest = tmp_path / "toy" / name / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        os.utime(manifest, ns=(stamp, stamp))
    reproduce.settle_clock([*given, "not made yet"], "toy")
    after = reproduce.stamps(list(given), "toy")
    assert start <= after["data"] < after["labels"] < time.time_ns() + 10**6
    assert after["tables"] == given["tables"]
