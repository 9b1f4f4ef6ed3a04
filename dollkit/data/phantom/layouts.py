"""Write the phantom in the released layout of JSRT, Montgomery, Shenzhen and COVID-QU-Ex.

Readers of these data sets can be held against it: every mask is known. "Left" is the patient's
left, on the right of the picture. No patient is in two of the layouts or in the CheXpert tree
of the same seed (the cohort "ward"). Films and masks are enlarged by whole-number repetition only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, PATHOLOGIES
from dollkit.data.phantom import layout_files
from dollkit.data.phantom.label_noise import observe_labels
from dollkit.data.phantom.layout_files import LAYOUTS, Film, check_layout, truth
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.protocol import Protocol
from dollkit.data.phantom.render import ORGANS, check_size, render


def write_layout(
    out: Path,
    layout: str,
    n: int | None,
    size: int,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    doubled: bool | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write films and masks in the released layout of a data set.

    - ``jsrt``: 2048 px raw films, 1024 px masks of SCR's five organs, the two clinical tables with
      the films written (each film is 8.4 MB). JPCLN films have a Lung Lesion, JPCNN films none,
      whatever else they have. All five organs are the phantom's own: lung fields
      without heart and mediastinum, clavicles from the sternum to the chest wall.
    - ``montgomery``: films of `size` px with black bands to Montgomery's aspect, upright and lying
      in turn. Normal films (No Finding, ``_0``) come first, then those with any finding (``_1``).
    - ``shenzhen``: square films of `size` px with a palette, numbered and marked likewise; every
      sixth has no mask.
    - ``covid-qu-ex``: 256 px. COVID-19 films (half of all) have infection; Non-COVID films
      (a quarter) another pneumonia, Normal films no finding, both with an all-zero infection mask.
      Of five films of a class three lie in Train, one in Val, one in Test. The two trees
      hold the same films, one per patient.

    Args:
        out: folder to create, parent of what the layout's first level is; must be empty if it is
            there.
        layout: one of `LAYOUTS`.
        n: number of films; None if `names` is given.
        size: side that the phantom is rendered at, in pixels: 64, 128, 256, 512 or 1024 (jsrt); 64,
            128 or 256 (covid-qu-ex); else a multiple of 8 from 64 to 1024.
        seed: non-negative integer.
        names: films of JSRT such as "JPCNN001"; None for the first `n` of the 247. A film
            is the same whichever others are written.
        doubled: COVID-QU-Ex only: folders doubled as in the archive; None for yes.
        progress: show a progress bar.

    Returns:
        one row per film: image_id (its name in the layout), files (tuple of paths from `out`, the
        film first, with "/").
    """
    check_layout(layout, n, size, seed, names, doubled)
    prepare_folder(out)
    return _write(out, layout, truth(layout, n, seed, names), size, seed, doubled, progress)


def write_all(
    out: Path,
    n: int,
    size: int,
    seed: int,
    *,
    protocol: Protocol | None = None,
    valid_fraction: float = 0.1,
    cohort: str = "ward",
    doubled: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Write the CheXpert tree and every layout, `n` films each, as folders of one parent.

    ``CheXpert-v1.0-small/``, ``JSRT/``, ``MontgomerySet/``, ``ChinaSet_AllFiles/`` with ``mask/``,
    ``COVID-QU-Ex/``.

    Args:
        out, n, size, seed, doubled, progress: as for `write_layout`; `size` must suit all.
        protocol, valid_fraction, cohort: of the CheXpert tree; see `write_tree`.

    Returns:
        the tables of `write_layout` one below the other, with a column layout; paths from `out`.
    """
    for layout in LAYOUTS:
        check_layout(layout, n, size, seed)
    if out.exists():
        prepare_folder(out)
    tree = out / "CheXpert-v1.0-small"
    write_tree(tree, n, size, seed, protocol, valid_fraction, cohort, progress)
    tables = []
    for layout in LAYOUTS:
        below = {"jsrt": "JSRT", "covid-qu-ex": "COVID-QU-Ex"}.get(layout, "")
        table = _write(out / below, layout, truth(layout, n, seed), size, seed, doubled, progress)
        if below:
            table["files"] = [tuple(f"{below}/{f}" for f in files) for files in table["files"]]
        tables.append(table.assign(layout=layout))
    return pd.concat(tables, ignore_index=True)


def _write(
    out: Path,
    layout: str,
    rows: pd.DataFrame,
    size: int,
    seed: int,
    doubled: bool | None,
    progress: bool,
) -> pd.DataFrame:
    save: dict[str, Callable[[Path, Film], list[Path]]] = {
        "jsrt": layout_files.save_jsrt,
        "montgomery": layout_files.save_montgomery,
        "shenzhen": layout_files.save_shenzhen,
        "covid-qu-ex": lambda out, film: layout_files.save_covid(out, film, doubled is not False),
    }
    lines: dict[bool, list[str]] = {True: [], False: []}
    written: list[tuple[str, tuple[str, ...]]] = []
    films = tqdm(_films(rows, size, seed), layout, len(rows), unit="film", disable=not progress)
    try:
        for film in films:
            files = save[layout](out, film)
            written.append((film.name, tuple(f.relative_to(out).as_posix() for f in files)))
            if layout == "jsrt":
                nodule = film.name.startswith("JPCLN")
                line = (
                    layout_files.nodule_line(film) if nodule else layout_files.no_nodule_line(film)
                )
                lines[nodule].append(line)
        if layout == "jsrt":
            layout_files.save_lines(out / "CLNDAT_EN.txt", lines[True])
            layout_files.save_lines(out / "CNNDAT_EN.TXT", lines[False])
    except OSError as error:
        where, reason = error.filename or out, error.strerror or error
        raise InputError(
            f"{where}: cannot be written ({reason}): make room or choose another output folder"
        ) from None
    return pd.DataFrame(written, columns=["image_id", "files"])


def _films(rows: pd.DataFrame, size: int, seed: int) -> Iterator[Film]:
    for i, row in enumerate(rows.to_dict("records")):
        drawn = render(rows.iloc[i : i + 1], size, seed)
        yield Film(
            name=row["name"],
            number=row["number"],
            folder=row["folder"],
            sex=row["sex"],
            age=row["age"],
            findings=tuple(f for f in PATHOLOGIES if row[f] and f != "Support Devices"),
            image=drawn.images[0],
            organs=dict(zip(ORGANS, drawn.organs[0], strict=True)),
            lesion=drawn.findings[0, PATHOLOGIES.index("Lung Lesion")],
            infection=drawn.infection[0],
        )


# Write the phantom to disk as a CheXpert tree, with its masks beside the films.


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
