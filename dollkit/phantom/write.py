"""Write the phantom to disk as a CheXpert tree, with its masks beside the films."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dollkit.errors import InputError
from dollkit.findings import FINDINGS, NOT_MENTIONED, PATHOLOGIES
from dollkit.phantom.labels import observe_labels
from dollkit.phantom.population import sample_population
from dollkit.phantom.protocol import Protocol
from dollkit.phantom.render import ORGANS, check_size, render

COLUMNS: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
"""Header of CheXpert's train.csv and valid.csv, in order."""

_CHUNK = 16


def prepare_folder(path: Path) -> None:
    """Create an output folder; `InputError` if it holds anything or cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = next(path.iterdir(), None) is not None
    except OSError as error:
        reason = error.strerror or "cannot be made"
        raise InputError(f"output folder {path}: {reason}: name a folder to create") from None
    if occupied:
        raise InputError(f"output folder {path} is not empty: name a new or an empty folder")
    if not os.access(path, os.W_OK):
        raise InputError(f"output folder {path} is not writable: choose another or change its mode")


def label_frame(rows: pd.DataFrame, states: npt.NDArray[np.int8], paths: list[str]) -> pd.DataFrame:
    """CheXpert's table of strings for films with observed `states` (n, 14).

    "No Finding" is 1.0 or blank, as in CheXpert: a 0 is written blank.
    """
    text = {1: "1.0", 0: "0.0", -1: "-1.0", NOT_MENTIONED: ""}
    out = pd.DataFrame(
        {
            "Path": paths,
            "Sex": rows["sex"].map({"M": "Male", "F": "Female"}).fillna("Unknown").to_numpy(),
            "Age": rows["age"].to_numpy(),
            "Frontal/Lateral": "Frontal",
            "AP/PA": rows["view"].to_numpy(),
        }
    )
    for k, finding in enumerate(FINDINGS):
        out[finding] = [text[int(v)] for v in states[:, k]]
    out["No Finding"] = out["No Finding"].where(out["No Finding"] == "1.0", "")
    return out[list(COLUMNS)]


def _save(path: Path, array: npt.NDArray[np.uint8], quality: int | None = None) -> None:
    image = Image.fromarray(array)
    if quality is None:
        image.save(path, optimize=False)
    else:
        image.save(path, quality=quality)


def mask_name(view: str, name: str) -> str:
    """File name of a mask beside a film, ``view1_frontal_mask_left_lung.png`` for example."""
    return f"{view}_mask_{name.replace(' ', '_')}.png"


def _masks(
    findings: npt.NDArray[np.uint8], organs: npt.NDArray[np.uint8], infection: npt.NDArray[np.uint8]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    for k, finding in enumerate(PATHOLOGIES):
        if findings[k].any():
            yield finding, findings[k]
    for k, organ in enumerate(ORGANS):
        yield organ, organs[k]
    if infection.any():
        yield "infection", infection


def write_tree(
    out: Path,
    n: int,
    size: int,
    seed: int,
    protocol: Protocol | None = None,
    valid_fraction: float = 0.1,
    cohort: str = "ward",
    progress: bool = True,
) -> None:
    """Write a population as ``out/train.csv``, ``out/valid.csv`` and the films they name.

    Films are JPEG of quality 95 at ``out/train/patientNNNNN/studyN/view1_frontal.jpg``; masks (PNG,
    0 and 255) lie beside: positive findings, all organs, and infection where there is one. The
    Path column starts with the name of `out`, as CheXpert's does. Whole patients go to one
    of the two tables; those of ``valid.csv`` carry clean labels, since
    CheXpert's were read by radiologists.

    Args:
        out: folder to create; must be empty if it is there.
        n: number of films; size: side in pixels; seed: non-negative integer.
        protocol: knobs; None for the default.
        valid_fraction: share of patients in ``valid.csv``, in [0, 1).
        cohort: see `sample_population`.
        progress: show a progress bar.
    """
    check_size(size)
    if not 0 <= valid_fraction < 1:
        raise InputError(f"parameter 'valid_fraction' is {valid_fraction}: use 0 to below 1")
    protocol = protocol or Protocol()
    rows = sample_population(n, seed, cohort, protocol)
    out = Path(out).resolve()
    prepare_folder(out)
    true = rows[list(FINDINGS)].to_numpy(np.int8)
    patients = rows["patient_id"].unique()
    held = set(patients[len(patients) - round(valid_fraction * len(patients)) :])
    valid = rows["patient_id"].isin(held).to_numpy()
    states = np.where(valid[:, None], true, observe_labels(true, seed, protocol)).astype(np.int8)

    paths: list[str] = []
    with tqdm(total=n, unit="film", disable=not progress) as bar:
        for start in range(0, n, _CHUNK):
            part = rows.iloc[start : start + _CHUNK]
            films = render(part, size, seed, protocol)
            for i, row in enumerate(part.to_dict("records")):
                split = "valid" if valid[start + i] else "train"
                study = str(row["study_id"]).rsplit("_", 1)[1]
                folder = Path(split, str(row["patient_id"]), study)
                (out / folder).mkdir(parents=True, exist_ok=True)
                _save(out / folder / "view1_frontal.jpg", films.images[i], 95)
                for name, mask in _masks(films.findings[i], films.organs[i], films.infection[i]):
                    _save(out / folder / mask_name("view1_frontal", name), mask * np.uint8(255))
                paths.append((Path(out.name) / folder / "view1_frontal.jpg").as_posix())
            bar.update(len(part))
    frame = label_frame(rows, states, paths)
    frame[~valid].to_csv(out / "train.csv", index=False)
    frame[valid].to_csv(out / "valid.csv", index=False)
