"""JupyterLab of this environment on folders of its own, for a browser without a screen."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dollkit.common import paths

SECONDS = 120  # until the server answers, on a machine in use
SETTINGS = {
    # All cells are in the page, not those alone that are seen.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CONFIG = {
    "ServerApp": {"allow_root": True, "terminals_enabled": False},
    "LabApp": {
        "expose_app_in_browser": True,
        "extension_manager": "readonly",  # the other one asks PyPI
        "news_url": None,
        "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    },
}


@dataclass(frozen=True)
class Lab:
    """A running server. `url` ends in a slash; `folder` is what its file browser shows, as at the
    root of the repository, `runs` what its kernels take for ``DOLLKIT_RUNS``."""

    url: str
    token: str
    folder: Path
    runs: Path
    log: Path


def free_port() -> int:
    """A port that was free a moment ago; the server takes another if it no longer is."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def write_json(path: Path, content: object) -> None:
    """`content` at `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def environment(home: Path, runs: Path) -> dict[str, str]:
    """Variables that keep the server and its kernels off the user's own folders.

    The package is the one these tests belong to, whatever is installed.
    """
    write_json(home / "config" / "jupyter_server_config.json", CONFIG)
    for name, values in SETTINGS.items():
        write_json(home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings", values)
    before = os.environ.get("PYTHONPATH")
    return os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join([str(paths.ROOT), *([before] if before else [])]),
        "DOLLKIT_RUNS": str(runs),
        "DOLLKIT_FIGURES": str(home / "figures"),
        "DOLLKIT_DEVICE": "cpu",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


@contextmanager
def started(command: list[str], env: dict[str, str], folder: Path) -> Iterator[Lab]:
    """The server that `command` starts, once it is listed among the running ones, until the end.

    Raises AssertionError with the end of its log if it stops by itself or takes too long.
    """
    home = Path(env["JUPYTER_CONFIG_DIR"]).parent
    log = home / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=paths.ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        end = time.monotonic() + SECONDS
        while not (found := list((home / "runtime").glob("jpserver-*.json"))):
            state = process.poll()
            if state is not None or time.monotonic() > end:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise AssertionError(f"JupyterLab is not there (exit {state}):\n{text[-4000:]}")
            time.sleep(0.1)
        info = json.loads(found[0].read_text(encoding="utf-8"))
        yield Lab(info["url"], info["token"], folder, Path(env["DOLLKIT_RUNS"]), log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The process and those it has started: `make` has the server below it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


@contextmanager
def serve(home: Path, folder: Path, runs: Path) -> Iterator[Lab]:
    """JupyterLab over `folder`; everything that it writes of its own is below `home`."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", str(folder)]
    command += [f"--ServerApp.port={free_port()}", "--ServerApp.ip=127.0.0.1"]
    with started(command, environment(home, runs), folder) as lab:
        yield lab
