"""CheXlocalize: CheXpert's validation and test films with what radiologists drew on them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows
from dollkit.data.dataset import DataSet, first_with
from dollkit.data.film_table import FilmTable
from dollkit.data.sets.chexlocalize_masks import KINDS, load_truth, truth_masks, truth_name
from dollkit.data.sets.chexpert import apart, read_rows

MARKS = ("CheXpert/val_labels.csv", "CheXlocalize")
ROOTS = ("cheXlocalize", "chexlocalize")
SPLIT_OF: dict[str, str] = {"val": "valid", "test": "test"}
SIDE = ("*.csv", "*.md", "*.txt", "*.pdf", "gt_*.json", "hb_*.json", "gradcam_*.json", "*_map.pkl")

DOCUMENTED: dict[str, int] = {
    "val rows": 234,
    "val patients": 200,
    "val films with truth": 187,
    "val truth without a film": 0,
    "test rows": 668,
    "test patients": 500,
    "test truth without a film": 0,
}


def read_chexlocalize(
    root: Path | str, *, skip_bad: bool = False, truth: str = "segmentations"
) -> FilmTable:
    """CheXlocalize: ten findings outlined on the films of CheXpert's validation and test sets.

    Counts: val 234 films of 200 patients, test 668 films of 500; truth for 187 of the val films.
    Only frontal films are read; lateral ones, and the truth drawn on them, are counted.

    Labels: of all 14 findings, by consensus of radiologists, without uncertain and blank.

    Masks: drawn by two board-certified radiologists on the full-size films, for the findings that
    a film is positive for: Atelectasis, Cardiomegaly, Consolidation, Edema, Enlarged
    Cardiomediastinum, Lung Lesion, Lung Opacity ("Airspace Opacity" in the files), Pleural
    Effusion, Pneumothorax, Support Devices. A film that the truth file holds has a mask of each of
    the ten, empty (all zeros) where the finding is not there. A film that it does not hold has no
    masks: unknown, though its labels may say that none of the ten is there.

    Splits: val is the valid split, test the test split; nothing to train on.

    Folder variants: the root holds ``CheXpert/`` (``val/``, ``val_labels.csv``, ``test/``,
    ``test_labels.csv``) and ``CheXlocalize/`` (``gt_segmentations_val.json`` and the like). The
    CSV files have CheXpert's header, or of it only ``Path`` and the findings: whether a film is
    frontal is then told by its file name. ``Path`` may start with ``CheXpert-v1.0/valid/``,
    ``val/`` or anything else: its last three parts count.

    Traps: the masks are on the grid of the full-size films: smaller films of the same aspect
    (1 %) may stand in for them. The released segmentations were filled from the annotations with
    their outline, as Pillow draws polygons; the annotations are rasterised here by COCO's rule, so
    the two differ by up to a pixel along each contour. Contours of one finding may overlap, and
    their union counts. The benchmark radiologists' files (``hb_*``) and heat maps are not read.

    Licence: Stanford University Dataset Research Use Agreement; registration, non-commercial
    research, no redistribution.

    Cite: Saporta, Gui, Agrawal et al., "Benchmarking saliency methods for chest X-ray
    interpretation", Nature Machine Intelligence 4, 867-878, 2022.

    Args:
        root: folder that holds both folders.
        skip_bad: note wrong rows and wrong keys of the truth files in ``bad`` and go on.
        truth: ``segmentations`` (run lengths) or ``annotations`` (contours).

    Returns:
        films in the order of the two CSV files, val first; ten mask classes.
    """
    if truth not in KINDS:
        raise InputError(f"parameter 'truth' is {truth!r}: use one of {', '.join(KINDS)}")
    root = Path(root)
    bad = BadRows()
    notes = bad if skip_bad else None
    parts = {
        part: read_rows(
            root / "CheXpert" / f"{part}_labels.csv",
            root / "CheXpert" / part,
            bad=notes,
            plain=True,
        )
        for part in SPLIT_OF
    }
    parts["val"] = apart(parts["val"], parts["test"], notes)
    facts: dict[str, int] = {}
    films, masks = [], []
    for part, rows in parts.items():
        rows.films["split"] = SPLIT_OF[part]
        file = root / "CheXlocalize" / truth_name(truth, part)
        drawn = load_truth(file, notes)
        listed = set(rows.films["image_id"])
        facts |= {
            f"{part} rows": len(rows.films),
            f"{part} patients": rows.films["patient_id"].nunique(),
            f"{part} films with truth": len(listed & set(drawn)),
            f"{part} truth without a film": len(set(drawn) - listed),
        }
        films.append(rows.films[rows.frontal])
        masks.append(truth_masks(films[-1], drawn, file, listed, notes))
    table = pd.concat(films, ignore_index=True)
    if table.empty:
        raise InputError(f"{root}: val_labels.csv and test_labels.csv list no frontal film")
    return FilmTable(
        "chexlocalize",
        table,
        root,
        masks=pd.concat(masks, ignore_index=True),
        depths=(8,),
        others=tuple(path for rows in parts.values() for path in rows.laterals()),
        side=SIDE,
        facts=facts,
        bad=bad,
    )


def find_root(folder: Path) -> Path | None:
    """`folder`, or the released folder below it, that holds ``CheXpert`` and ``CheXlocalize``."""
    return first_with(folder, MARKS, ROOTS)


def _read(
    root: Path, *, skip_bad: bool = False, truth: str = "segmentations"
) -> dict[str, FilmTable]:
    return {"films": read_chexlocalize(root, skip_bad=skip_bad, truth=truth)}


DATASET = DataSet(
    name="chexlocalize",
    title="CheXlocalize",
    stores=("films",),
    find=find_root,
    read=_read,
    documented=DOCUMENTED,
    options={"truth": KINDS},
    tree="CheXpert/val_labels.csv and CheXlocalize/",
    licence="Stanford research use agreement: registration, non-commercial, no redistribution",
    cite="Saporta, Gui, Agrawal et al., Nature Machine Intelligence 4, 2022",
)
