"""Where a profile's results come from, in one file: the manifests of its run, gathered."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dollkit.errors import InputError
from dollkit.readers.datasets import PHANTOM, named

ENVIRONMENT = ("code", "versions", "python", "platform", "cpus", "threads", "device")
KEPT = (
    "parameters", "inputs", "seeds", "precision", "started", "seconds", "peak_mb", "code_files",
)  # fmt: skip
WEIGHTS = (".safetensors", ".pt", ".ckpt")


def collect(run: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Gather all manifests below a run.

    Args:
        run: ``runs/<profile>``.
        only: instances of the run, `stage.RunningStage.planned`; None: every folder there is.

    Returns:
        profile; commit (None where stages differ: each names its own then); environment (what all
        stages agree on); stages: instance -> parameters, inputs, seeds, precision, started,
        seconds, peak_mb (most memory held, MiB), and what differs from the environment; data
        and weights: file -> sha256; seconds (sum).
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.rglob("manifest.json")):
        name = path.parent.relative_to(run).as_posix()
        if only is not None and name not in only:
            continue
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}); run its stage again") from error
        if not isinstance(manifest, dict) or "parameters" not in manifest:
            raise InputError(f"{path}: no 'parameters' in it; run its stage again")
        found[name] = manifest
    if not found:
        raise InputError(f"{run}: no manifest.json below it; run the profile first")
    # Each stage hashes its own modules; what is common to all is the commit.
    for manifest in found.values():
        code = dict(manifest.get("code") or {})
        manifest["code_files"] = code.pop("files", {})
        manifest["code"] = code
    first = next(iter(found.values()))
    shared = {
        key: first.get(key)
        for key in ENVIRONMENT
        if all(m.get(key) == first.get(key) for m in found.values())
    }
    stages: dict[str, Any] = {}
    data: dict[str, str] = {}
    weights: dict[str, str] = {}
    for name, manifest in found.items():
        stages[name] = {k: manifest[k] for k in KEPT if k in manifest}
        given = manifest["parameters"]
        if given.get("data_dir"):  # where the data lay is nobody's business
            stages[name]["parameters"] = given | {"data_dir": Path(given["data_dir"]).name}
        own = {k: manifest[k] for k in ENVIRONMENT if k in manifest and k not in shared}
        if own:
            stages[name]["environment"] = own
        for file, described in sorted((manifest.get("outputs") or {}).items()):
            digest = described["sha256"] if isinstance(described, dict) else str(described)
            if file.endswith(WEIGHTS):
                weights[f"{name}/{file}"] = digest
            elif file.endswith("store.json"):
                data[f"{name}/{file}"] = digest
    return {
        "profile": first.get("profile", run.name),
        "commit": (shared.get("code") or {}).get("commit"),
        "environment": shared,
        "data": data,
        "weights": weights,
        "seconds": round(sum(float(m.get("seconds") or 0) for m in found.values()), 3),
        "stages": stages,
    }


def population(run: Path) -> str:
    """Whom a run's numbers are about, one phrase: what its stores were made from."""
    stores_of: dict[str, list[str]] = {}
    for path in sorted((run / "data").glob("*/store.json")):
        source = json.loads(path.read_text(encoding="utf-8"))["made_from"]["source"]
        # A set that gives several stores may tell which behind a dash: open-lungs.
        data_set = source.partition("-")[0]
        title = "synthetic chest phantom" if data_set == PHANTOM else named(data_set).title
        stores_of.setdefault(title, []).append(path.parent.name)
    if not stores_of:
        raise InputError(f"{run / 'data'}: no store below it; run the data stage first")
    if len(stores_of) == 1:
        return next(iter(stores_of))
    return "; ".join(f"{title} ({', '.join(names)})" for title, names in stores_of.items())


def write_provenance(run: Path, folder: Path, only: Collection[str] | None = None) -> Path:
    """Write ``provenance.json`` of a run into ``figures/<profile>``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(collect(run, only), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path = folder / "provenance.json"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
