"""Write the phantom in the released layout of JSRT, Montgomery, Shenzhen and COVID-QU-Ex.

Readers of these data sets can be held against it: every mask is known. "Left" is the patient's
left, on the right of the picture. No patient is in two of the layouts or in the CheXpert tree
of the same seed (the cohort "ward"). Films and masks are enlarged by whole-number repetition only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from dollkit.errors import InputError
from dollkit.findings import PATHOLOGIES
from dollkit.phantom import layout_files as form
from dollkit.phantom.layout_files import Film
from dollkit.phantom.layout_rows import LAYOUTS, check_layout, truth
from dollkit.phantom.protocol import Protocol
from dollkit.phantom.render import ORGANS, render
from dollkit.phantom.write import prepare_folder, write_tree

__all__ = ["LAYOUTS", "truth", "write_all", "write_layout"]


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
        "jsrt": form.save_jsrt,
        "montgomery": form.save_montgomery,
        "shenzhen": form.save_shenzhen,
        "covid-qu-ex": lambda out, film: form.save_covid(out, film, doubled is not False),
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
                line = form.nodule_line(film) if nodule else form.no_nodule_line(film)
                lines[nodule].append(line)
        if layout == "jsrt":
            form.save_lines(out / "CLNDAT_EN.txt", lines[True])
            form.save_lines(out / "CNNDAT_EN.TXT", lines[False])
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
