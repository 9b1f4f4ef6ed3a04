"""One run at a time in a folder: on one machine, on several, and after one that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import run_lock

HOLD = """
import sys, time
from pathlib import Path
from dollkit import runlock
with runlock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder."""
    running = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    return running


def elsewhere(folder: Path, age: float) -> Path:
    """A run on another machine, whose last sign came `age` seconds ago."""
    path = folder / run_lock.FILE
    note = {"host": "node7", "where": "node7 boot", "pid": os.getpid(), "command": []}
    path.write_text(json.dumps(note))
    stamp = time.time() - age
    os.utime(path, (stamp, stamp))
    return path


def test_nothing_stays_behind(tmp_path: Path) -> None:
    with run_lock.hold(tmp_path):
        assert [f.name for f in tmp_path.iterdir()] == [run_lock.FILE]
    assert list(tmp_path.iterdir()) == []


def test_a_note_of_this_very_process_number_is_a_dead_ones(tmp_path: Path) -> None:
    """As after a restart of a container, where the same command gets the same number."""
    (tmp_path / run_lock.FILE).write_text(json.dumps(run_lock._self()))
    with run_lock.hold(tmp_path):
        again = run_lock.hold(tmp_path)
        with pytest.raises(InputError, match="another run works in"):
            again.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_lock.hold(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_one_is_told_who_works_there(tmp_path: Path) -> None:
    running = holder(tmp_path)
    try:
        with (
            pytest.raises(InputError, match=rf"another run works in .*process {running.pid} on"),
            run_lock.hold(tmp_path),
        ):
            raise AssertionError("two at once")
        assert (tmp_path / run_lock.FILE).is_file()
    finally:
        running.kill()
        running.communicate()


def test_after_a_kill_it_is_free_at_once(tmp_path: Path) -> None:
    running = holder(tmp_path)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    with run_lock.hold(tmp_path):
        assert run_lock._read(tmp_path / run_lock.FILE) == run_lock._self()


def test_another_process_under_the_number_of_a_dead_one(tmp_path: Path) -> None:
    note = run_lock._self() | {"command": ["something", "else"]}
    (tmp_path / run_lock.FILE).write_text(json.dumps(note))
    with run_lock.hold(tmp_path):
        pass


def test_a_run_on_another_machine_counts_while_it_gives_signs(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, run_lock.SILENCE - 10)
    kept = path.read_text()
    with (
        pytest.raises(InputError, match=r"on node7, last sign of it 50 s ago\).*try again in 60 s"),
        run_lock.hold(tmp_path),
    ):
        raise AssertionError("two at once")
    assert path.read_text() == kept
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", [None, "", '{"host": "nod', "[]"])
def test_silence_or_a_torn_note_gives_it_up(tmp_path: Path, text: str | None) -> None:
    path = elsewhere(tmp_path, 0)
    if text is not None:
        path.write_text(text)
    stamp = time.time() - run_lock.SILENCE - 1
    os.utime(path, (stamp, stamp))
    with run_lock.hold(tmp_path):
        assert run_lock._read(path) == run_lock._self()


def test_it_gives_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    with run_lock.hold(tmp_path):
        path = tmp_path / run_lock.FILE
        os.utime(path, (0, 0))
        for _ in range(100):
            time.sleep(0.05)
            if path.stat().st_mtime > 0:
                break
        assert path.stat().st_mtime > time.time() - 60


def test_who_was_taken_over_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    asked = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        with run_lock.hold(tmp_path):
            path = elsewhere(tmp_path, 0)
            assert asked.wait(10)
        assert path.is_file()  # it is the other one's now
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_of_many_that_come_after_a_dead_one_one_gets_it(tmp_path: Path) -> None:
    elsewhere(tmp_path, run_lock.SILENCE + 1)
    env = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    many = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        for _ in range(6)
    ]
    said = [process.stdout.readline() for process in many if process.stdout is not None]
    for process in many:
        process.kill()
        process.communicate()
    assert sorted(said) == [""] * 5 + ["held\n"]


def test_who_was_slower_leaves_the_faster_one_alone(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, run_lock.SILENCE + 1)
    dead = run_lock._dead(path, tmp_path)
    path.unlink()
    with run_lock.hold(tmp_path):
        run_lock._remove_stale(path, dead)
        assert run_lock._read(path) == run_lock._self()


def test_where_files_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with (
        run_lock.hold(tmp_path),
        pytest.raises(InputError, match="another run"),
        run_lock.hold(tmp_path),
    ):
        raise AssertionError("two at once")
    assert list(tmp_path.iterdir()) == []
