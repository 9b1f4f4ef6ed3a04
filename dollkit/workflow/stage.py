"""What every stage notebook does first and last: check its inputs, write its manifest.

``manifest.json`` is written last (temporary name, then rename): a folder without one is not there.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dollkit
from dollkit.common import build_key, errors, machine, paths
from dollkit.common.errors import InputError
from dollkit.common.machine import Json, Part, sha256, this_part
from dollkit.workflow import parameters, stages

MANIFEST = "manifest.json"
WRITTEN = ".written.json"
"""Tables and figures that a stage wrote the last time that it finished; survives its manifest."""
OURS = (MANIFEST, WRITTEN)
NOT_HASHED = "checkpoints"
"""Subfolder of an artefact that holds what a killed run resumes from, and no result."""


@dataclass
class RunningStage:
    """A stage between `begin` and `finish`."""

    instance: str
    path: Path
    params: dict[str, Json]
    notebook: Path
    profile: str
    matrix: stages.Matrix
    input_hashes: dict[str, str]
    code: dict[str, str]
    part: Part | None = field(default_factory=this_part)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    def input(self, name: str) -> Path:
        """Folder of one input artefact, such as ``data`` or ``classifiers/resnet18``."""
        if name not in self.input_hashes:
            known = errors.nearest(name, self.input_hashes)
            raise InputError(f"stage {self.instance} does not read {name!r}; {known}")
        return paths.runs() / self.profile / name

    def inputs(self, family: str) -> dict[str, Path]:
        """Folders of all input artefacts of a family by name, without what this stage varies over
        too: fine-tuning a PSPNet reads ``doll``, not ``pspnet-doll``.
        """
        known = [f.split(":")[0] for f in stages.family_of(self.instance).inputs]
        if family not in known:
            said = errors.nearest(family, known)
            raise InputError(f"stage {self.instance} reads no {family!r}; {said}")
        chosen = self.matrix.chosen
        shared = chosen.get(self.instance, {})
        out: dict[str, Path] = {}
        for name in (n for n in self.input_hashes if n.split("/")[0] == family):
            items = [v for p, v in chosen.get(name, {}).items() if p not in shared]
            out["-".join(items) or name.split("/", 1)[-1]] = self.input(name)
        return out

    def key(self, *without: str) -> str:
        """Fingerprint that a checkpoint must match: parameters, inputs, modules, notebook's code,
        `without` parameters and families of inputs that do not touch what is resumed.
        """
        settings = {k: v for k, v in self.params.items() if k not in without}
        settings["precision"] = self.precision
        inputs = {k: v for k, v in self.input_hashes.items() if k.split("/")[0] not in without}
        # Cells hold settings too; those of the parameters cell count by their values.
        cells = [s for s, tags in parameters.code_cells(self.notebook) if "parameters" not in tags]
        return build_key.digest([settings, inputs, self.code, cells])[:16]

    @property
    def precision(self) -> str:
        """Format of the heavy arithmetic: the parameter, with ``auto`` resolved."""
        if "precision" not in self.params:
            return "float32"
        from dollkit.common import compute  # imports torch, which stages of tables do without

        return compute.resolve_precision(str(self.params["precision"]))

    @property
    def planned(self) -> frozenset[str]:
        """Instances of the profile: a folder of one that has left the matrix is no result."""
        return frozenset(self.matrix.chosen)

    def finish(
        self, *, seeds: Sequence[int] = (), notes: Mapping[str, Any] | None = None,
        outputs: Iterable[Path] = (),
    ) -> Path:  # fmt: skip
        """Hash what the stage wrote and write its manifest; returns its path.

        `outputs` are files outside the artefact folder (tables and figures); what the stage wrote
        there the time before and not now is deleted. `notes` is anything worth keeping, as JSON.
        """
        files = sorted(Path(f).resolve() for f in outputs)
        report = {_within(f, paths.figures()): _describe(f) for f in files}
        written = self.path / WRITTEN
        earlier = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else []
        for name in set(earlier) - set(report):
            if not name.startswith(("/", "..")):
                (paths.figures() / name).unlink(missing_ok=True)
        _write(written, json.dumps(list(report)))
        files = sorted(f for f in self.path.rglob("*") if f.is_file() and f.name not in OURS)
        files = [f for f in files if NOT_HASHED not in f.parts[:-1]]
        manifest = {
            "instance": self.instance, "profile": self.profile, "notebook": self.notebook.name,
            "parameters": self.params, "inputs": self.input_hashes,
            "outputs": {f.relative_to(self.path).as_posix(): _describe(f) for f in files},
            "report": report,
            "code": {"dollkit": dollkit.__version__, **machine.commit(), "files": self.code},
            "versions": machine.versions(), "python": platform.python_version(),
            "platform": platform.platform(), "cpus": os.cpu_count(),
            "threads": machine.threads(), "device": machine.device(), "precision": self.precision,
            "seeds": list(seeds), "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.clock, 3), "peak_mb": machine.peak_mb(),
            "notes": dict(notes or {}),
        }  # fmt: skip
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return _write(self.path / MANIFEST, text)


def begin(stage: str, namespace: Mapping[str, Any]) -> RunningStage:
    """Start a stage by its family or section; an older manifest of it is deleted.

    `namespace` is the notebook's ``globals()``, which hold the parameters; those that the profile's
    matrix varies say which instance it is.
    """
    family = stages.family_of(stage)
    notebook = parameters.notebooks() / family.notebook
    model = parameters.declared(notebook)
    if unset := [name for name in model.model_fields if name not in namespace]:
        raise InputError(f"{notebook}: run its parameters cell first: '{unset[0]}' is not set")
    values = {name: namespace[name] for name in model.model_fields}
    values = parameters.check(model, values, str(notebook))
    profile = values.get("profile")
    if not isinstance(profile, str):
        raise InputError(f"{notebook}: must declare the parameter 'profile: str'")
    if missing := [parameter for parameter in family.over if not values[parameter]]:
        raise InputError(f"{notebook}: say which of {missing[0]}s by '{missing[0]}'")
    name = stages.name_of(family, {p: str(values[p]) for p in family.over})
    matrix = stages.matrix(profile)
    hashes = {i: check_artefact(i, profile, needed_by=name) for i in matrix.inputs_of(name)}
    path = paths.runs() / profile / name
    make_writable(path)
    (path / MANIFEST).unlink(missing_ok=True)
    # Now, not at the end: the modules may be edited while the stage runs.
    code = {_within(f, paths.ROOT): sha256(f) for f in stages.files_of(family)}
    return RunningStage(name, path, values, notebook, profile, matrix, hashes, code)


def check_artefact(instance: str, profile: str, needed_by: str) -> str:
    """SHA-256 of an artefact's manifest, once every file that it lists is there in full size."""
    folder = paths.runs() / profile / instance
    notebook = stages.family_of(instance).notebook
    cure = f"run `make reproduce PROFILE={profile}` or {notebook} first"
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"stage {needed_by} needs {instance} ({folder} has no manifest): {cure}")
    for name, described in manifest["outputs"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != described["bytes"]:
            state = "is gone" if size is None else f"has {size} bytes, not {described['bytes']}"
            raise InputError(
                f"stage {needed_by} needs {instance}, but {file} {state}: "
                f"delete {folder / MANIFEST}, then {cure}"
            )
    return sha256(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Manifest of an artefact folder; None where there is none (or none that can be read)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "outputs" in manifest else None


def make_writable(folder: Path) -> None:
    """Make a folder and prove that files can be written into it, or raise `InputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); make it writable, or choose "
            f"another place by DOLLKIT_RUNS or DOLLKIT_FIGURES"
        ) from None


def _write(file: Path, text: str) -> Path:
    partial = file.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(file)


def _describe(file: Path) -> dict[str, Json]:
    """Size and hash of a file, as manifests hold them."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _within(file: Path, folder: Path) -> str:
    """Path relative to a folder, so that a manifest does not tell where it was made."""
    return os.path.relpath(file, folder).replace(os.sep, "/")
