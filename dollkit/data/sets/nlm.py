"""The tuberculosis films of Montgomery County and Shenzhen with their lung masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows
from dollkit.data.dataset import DataSet
from dollkit.data.film_table import FilmTable
from dollkit.data.folders import child
from dollkit.data.sets.nlm_files import (
    PREFIXES,
    Part,
    films_table,
    locate_mixed,
    locate_montgomery,
    locate_shenzhen,
    neighbours,
    read_joined,
    read_montgomery,
    shenzhen_masks,
)

SIDE = (
    "ClinicalReadings/*",
    "Annotations*/*",
    "*.txt",
    "*.md",
    "*.pdf",
    "*.csv",
    "*.xlsx",
    "test/*",
)
"""Readings, descriptions, and copies of films that the mixed copy has in ``test/``."""


def read_montgomery_set(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """Montgomery: chest films of the county's tuberculosis screening, Maryland, USA.

    Counts: 138 posterior-anterior films, 80 normal (``_0``) and 58 with signs of tuberculosis
    (``_1``), PNG of 4020 x 4892 or 4892 x 4020, 0.0875 mm per pixel; masks of both lungs of all.

    Masks: drawn under a radiologist's supervision, one file per lung, joined here. The lung
    behind the heart is left out; where disease hides the border, an inferred one is drawn. On the
    film's grid, inside 255, outside 0. A film with the mask of one lung only has no mask here
    (unknown, not half of it); such films are counted.

    Findings: No Finding 1 for normal films. CheXpert has no finding for tuberculosis, so all else
    is unknown.

    Splits: the set has none. By the sha256 of the film's id: below 0.7 train, below 0.8 valid,
    else test, the same everywhere. These shares are ours (`dollkit.data.sets.nlm_files.TRAIN`);
    a published split of 96/14/28 films comes near.

    Folder variants: `root` holds ``CXR_png/`` and ``ManualMask/leftMask/`` and ``rightMask/``.
    ``ClinicalReadings/`` is optional: sex and age from ``Patient's Sex: F``,
    ``Patient's Age: 027Y``; whatever is unclear is unknown, and never an error. Endings and
    folder names in any case.

    Traps: no patient ids: one film per patient is assumed, patient_id is the film's id.

    Licence: the set's README asks not to share it outside the research group.

    Cite: Jaeger et al., Quantitative Imaging in Medicine and Surgery 4, 2014; Candemir et al.,
    IEEE TMI 33, 2014; Jaeger et al., IEEE TMI 33, 2014.

    Args:
        root: see above.
        skip_bad: leave wrong films out and note them in ``bad``.

    Returns:
        ``lungs``, one class "lungs"; films by id.
    """
    bad = BadRows()
    images = locate_montgomery(root)
    if images is None:
        raise InputError(f"{root}: no Montgomery films: expected {MONTGOMERY.tree}")
    return _lungs("montgomery", images, [read_montgomery(images, bad if skip_bad else None)], bad)


def read_shenzhen_set(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """Shenzhen: chest films of the No. 3 People's Hospital in Shenzhen, China.

    Counts: 662 films, 326 normal (``_0``) and 336 with signs of tuberculosis (``_1``), PNG of
    about 3000 x 3000, some with a palette; 566 have a mask.

    Masks: not part of the set but by a third party (Stirenko et al.), one file for both lungs,
    the film's name with ``_mask``. On the film's grid; inside 255 or, where a copy was saved so,
    1; outside 0. The other films have no mask (unknown).

    Findings: as in `read_montgomery_set`.

    Splits: as in `read_montgomery_set`; a published one has 396/56/114 of the masked films.

    Folder variants: `root` holds ``CXR_png/``; the masks lie in ``mask/`` or ``masks/``, inside it
    or beside it. Either may be doubled, as archives unpack: ``mask/mask/``,
    ``ChinaSet_AllFiles/ChinaSet_AllFiles/``. ``ClinicalReadings/`` is optional: sex and age from
    lines such as ``male 35yrs``, also months, weeks and days.

    Traps: other people, other rules: Montgomery and Shenzhen masks are not of one hand. Films of
    children are AP, and which those are is not told (no view here). Files such as ``Thumbs.db``
    lie among the films.

    Licence: films as Montgomery's; masks CC BY-NC-SA 4.0 as stated by those who pass them on.

    Cite: Jaeger et al., Quantitative Imaging in Medicine and Surgery 4, 2014; masks: Stirenko
    et al., arXiv 1803.01199.

    Args, Returns, Raises: as `read_montgomery_set`.
    """
    bad = BadRows()
    told = bad if skip_bad else None
    own = locate_shenzhen(root)
    if own is None:
        raise InputError(f"{root}: no Shenzhen films: expected {SHENZHEN.tree}")
    part = read_joined("shenzhen", own, shenzhen_masks(own), told)
    return _lungs("shenzhen", own, [part], bad)


def read_nlm(root: Path, *, skip_bad: bool = False) -> dict[str, FilmTable]:
    """Montgomery and Shenzhen as one set for lungs.

    Counts: 800 films, 704 with a mask.

    Masks, Findings: as in `read_montgomery_set` and `read_shenzhen_set`.

    Splits: as there, film by film, so a film is in the same part whichever of the three is read.

    Folder variants: both sets below `root`, or the mixed copy: ``Lung Segmentation/CXR_png/`` with
    the films of both and ``Lung Segmentation/masks/`` with ``CHNCXR_..._mask.png`` and, both
    lungs joined already, ``MCUCXR_....png``. It has no readings.

    Traps: films["source"] tells the two sets apart: their masks follow different rules.

    Licence, Cite: as in `read_montgomery_set` and `read_shenzhen_set`.

    Args, Returns, Raises: as `read_montgomery_set`; Montgomery's films come first.
    """
    bad = BadRows()
    told = bad if skip_bad else None
    mixed = locate_mixed(root)
    if mixed is not None:
        masks = child(mixed, "masks")
        joined = [read_joined(name, mixed, masks, told) for name in PREFIXES]
        return _lungs("nlm", mixed, joined, bad)
    one, other = locate_montgomery(root), locate_shenzhen(root)
    if one is None or other is None:
        lacks = "Montgomery" if one is None else "Shenzhen"
        raise InputError(f"{root}: no {lacks} films: expected {DATASET.tree}")
    masks = shenzhen_masks(other)
    parts = [read_montgomery(one, told), read_joined("shenzhen", other, masks, told)]
    side = neighbours(root, (one, other) if masks is None else (one, other, masks))
    return _lungs("nlm", root, parts, bad, side)


def _lungs(
    name: str, root: Path, parts: Sequence[Part], bad: BadRows, side: tuple[str, ...] = ()
) -> dict[str, FilmTable]:
    tables = [films_table(part) for part in parts if part.films]
    if not tables:
        raise InputError(f"{root}: no film is left: every one is there twice")
    films = pd.concat(tables, ignore_index=True)
    masks = [part.masks.get(film) for part in parts for film in part.films]
    if not any(masks):
        raise InputError(
            f"{root}: {len(films)} films, but no whole lung mask of any: expected mask/ with "
            "CHNCXR_0001_0_mask.png, or ManualMask/ with both lungs; data/README.md shows the tree"
        )
    files = [file for mask in masks if mask is not None for file in mask.files]
    facts: dict[str, int] = {}
    for part in parts:
        facts |= _facts(part)
    table = FilmTable(
        name,
        films,
        root,
        masks=pd.DataFrame({"lungs": masks}, dtype=object),
        others=tuple(file for part in parts for file in part.others),
        side=(*SIDE, *side),
        facts=facts,
        bad=bad,
        beside=tuple(file for file in files if root not in file.parents),
    )
    return {"lungs": table}


def _facts(part: Part) -> dict[str, int]:
    title = part.source.title()
    normal = sum(name.endswith("_0") for name in part.films)
    facts = {
        f"{title} films": len(part.films),
        f"{title} normal": normal,
        f"{title} tuberculosis": len(part.films) - normal,
        f"{title} lung masks": len(part.masks),
    }
    if part.source == "montgomery":
        facts[ONE_LUNG] = part.halves
    return facts


def find_nlm(folder: Path) -> Path | None:
    """The mixed copy's folder, or the one above both sets."""
    both = locate_montgomery(folder) and locate_shenzhen(folder)
    return locate_mixed(folder) or (folder if both else None)


ONE_LUNG = "Montgomery films with the mask of one lung"
_MONTGOMERY_COUNTS = {
    "Montgomery films": 138,
    "Montgomery normal": 80,
    "Montgomery tuberculosis": 58,
    "Montgomery lung masks": 138,
    ONE_LUNG: 0,
}
_SHENZHEN_COUNTS = {
    "Shenzhen films": 662,
    "Shenzhen normal": 326,
    "Shenzhen tuberculosis": 336,
    "Shenzhen lung masks": 566,
}


def _data_set(
    name: str,
    title: str,
    find: Callable[[Path], Path | None],
    read: Callable[..., dict[str, FilmTable]],
    documented: dict[str, int],
    tree: str,
    size: str,
) -> DataSet:
    return DataSet(
        name,
        title,
        stores=("lungs",),
        find=find,
        read=read,
        documented=documented,
        tree=tree,
        licence="not to be shared outside the research group; Shenzhen masks CC BY-NC-SA 4.0",
        cite="Jaeger et al., Quant Imaging Med Surg 2014; Shenzhen masks: arXiv 1803.01199",
        size=size,
    )


_MONTGOMERY_TREE = "MontgomerySet/CXR_png/ and MontgomerySet/ManualMask/{leftMask,rightMask}/"
_SHENZHEN_TREE = "ChinaSet_AllFiles/CXR_png/ with CHNCXR_0001_0.png, and mask/ beside it"

MONTGOMERY = _data_set(
    "montgomery",
    "Montgomery County chest films",
    locate_montgomery,
    read_montgomery_set,
    _MONTGOMERY_COUNTS,
    _MONTGOMERY_TREE,
    "138 films of 4020x4892",
)
SHENZHEN = _data_set(
    "shenzhen",
    "Shenzhen chest films",
    locate_shenzhen,
    read_shenzhen_set,
    _SHENZHEN_COUNTS,
    _SHENZHEN_TREE,
    "662 films of about 3000x3000",
)
DATASET = _data_set(
    "nlm",
    "Montgomery and Shenzhen chest films",
    find_nlm,
    read_nlm,
    {**_MONTGOMERY_COUNTS, **_SHENZHEN_COUNTS},
    f"{_MONTGOMERY_TREE}, and {_SHENZHEN_TREE}; or Lung Segmentation/CXR_png/ and masks/",
    "800 films",
)
