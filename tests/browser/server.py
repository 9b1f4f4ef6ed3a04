"""JupyterLab of this environment on folders of its own, for a browser without a screen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dollkit.common import paths

SECONDS = 120  # until the server answers, on a machine in use
FILES: dict[str, dict[str, object]] = {
    # All cells are in the page, not those alone that are seen.
    "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none"
    },
    "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false", "checkForUpdates": False,
    },
    "config/jupyter_server_config.json": {
        "ServerApp": {"allow_root": True, "terminals_enabled": False},
        "LabApp": {
            "expose_app_in_browser": True,
            "extension_manager": "readonly",  # the other one asks PyPI
            "news_url": None,
            "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Lab:
    """A running server. `url` ends in a slash; `folder` is what its file browser shows, `runs` what
    its kernels take for ``DOLLKIT_RUNS``."""

    url: str
    token: str
    folder: Path
    runs: Path


@contextmanager
def serve(home: Path, folder: Path, runs: Path) -> Iterator[Lab]:
    """JupyterLab over `folder`; everything that it and its kernels write of their own is below
    `home`. The package is the one these tests belong to, whatever is installed.

    Raises AssertionError with the end of its log if it stops by itself or takes too long.
    """
    for name, content in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(json.dumps(content), encoding="utf-8")
    own = {
        f"{name}_DIR": str(home / name.split("_")[-1].lower())
        for name in ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS",
                     "JUPYTERLAB_WORKSPACES")
    }  # fmt: skip
    env = os.environ | own | {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.getenv("PYTHONPATH")])),
        "DOLLKIT_RUNS": str(runs),
        "DOLLKIT_FIGURES": str(home / "figures"),
        "DOLLKIT_DEVICE": "cpu",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", str(folder)]
    log = home / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + SECONDS
        while not (found := list((home / "runtime").glob("jpserver-*.json"))):
            if process.poll() is not None or time.monotonic() > end:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise AssertionError(f"JupyterLab is not there:\n{text[-4000:]}")
            time.sleep(0.1)
        info = json.loads(found[0].read_text(encoding="utf-8"))
        yield Lab(info["url"], info["token"], folder, runs)
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, sign)
                process.wait(20)
