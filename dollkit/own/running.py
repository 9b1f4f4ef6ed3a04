"""Notebook 11 without a browser: settings from a file, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dollkit import params, pipeline, runlock, stage, stopping, yamlfile
from dollkit import run as runner
from dollkit.errors import InputError
from dollkit.own import settings as own_settings
from dollkit.own.steps import work_folder

NOTEBOOK = "11_your_radiographs.ipynb"
STAGE = pipeline.Stage("own", "own", NOTEBOOK)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of notebook 11 by name; relative folders count from the file's own place."""
    given = yamlfile.read(path, "lines like 'films: /data/films'", empty=True)
    values = params.resolve(params.notebooks() / NOTEBOOK, [(str(path), given, True)])
    for name in ("films", "findings", "masks", "classifiers"):
        if text := values[name]:
            values[name] = str((path.parent / Path(str(text)).expanduser()).resolve())
    try:
        own_settings.check(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values


def run(settings: Mapping[str, Any]) -> Path:
    """Execute notebook 11; what it prints is shown, and a second call goes on or keeps all.

    Returns:
        The executed notebook, ``runs/<run>/executed.ipynb``.

    Raises:
        run.StageError: the notebook failed.
    """
    work = work_folder(str(settings["run"]))
    executed = work / "executed.ipynb"
    stage.make_writable(work)
    notebook = params.notebooks() / NOTEBOOK
    instance = pipeline.Instance("own", STAGE, notebook, dict(settings), (), ())
    earlier = stopping.handle(runner.terminate)
    try:
        with runlock.hold(work):
            runner.execute(instance, executed, work / "log.txt")
    finally:
        stopping.restore(earlier)
    return executed
