"""The phantom as trees of CheXpert, JSRT with SCR, Montgomery, Shenzhen and COVID-QU-Ex on disk.

Readers of these data sets can be held against it, file for file in the released formats: every
mask is known. "Left" is the patient's left, on the right of the picture. Films and masks are
enlarged by whole-number repetition, so that one shrunk back is the phantom's own, bit by bit. No
patient is in two of the trees.

``python -m tests.phantom_layouts --out DIR --n 40`` writes them all, ready to be given as DATA.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from dollkit.common.findings import FINDINGS, NOT_MENTIONED, PATHOLOGIES
from dollkit.data.phantom.population import observe_labels, sample_population
from dollkit.data.phantom.render import ORGANS, Films, render
from dollkit.data.sets.chexpert import mask_path
from dollkit.data.sets.jsrt import NAMES

U8 = npt.NDArray[np.uint8]

JSRT_SIDE, SCR_SIDE, COVID_SIDE = 2048, 1024, 256
"""Sides in pixels of a JSRT film, an SCR mask and a COVID-QU-Ex film."""
COVID_CLASSES = {"COVID-19": "covid", "Non-COVID": "non_covid", "Normal": "normal"}
"""Class folder -> how its file names start."""
SEXES = {"M": "male", "F": "female"}
FULL = np.uint8(255)
Row = Mapping[str, Any]


def write_all(out: Path, n: int, size: int, seed: int) -> None:
    """Every tree with `n` films each; `size` is 64, 128 or 256."""
    write_tree(out / "CheXpert-v1.0-small", n, size, seed)
    for layout, below in zip(LAYOUTS, ("JSRT", "", "", "COVID-QU-Ex"), strict=True):
        write_layout(out / below, layout, n, size, seed)


def write_layout(out: Path, layout: str, n: int, size: int, seed: int) -> None:
    """Films and masks in the released layout of a data set, of those in `LAYOUTS`."""
    rows = truth(layout, n, seed)
    records = rows.to_dict("records")
    for i, row in enumerate(records):
        LAYOUTS[layout](out, row, render(rows.iloc[i : i + 1], size, seed))
    if layout == "jsrt":  # a lone carriage return between lines
        for name, start in (("CLNDAT_EN.txt", "JPCLN"), ("CNNDAT_EN.TXT", "JPCNN")):
            lines = [clinical_line(row) for row in records if row["name"].startswith(start)]
            _put(out / name, "\r".join(lines))


def truth(layout: str, n: int, seed: int) -> pd.DataFrame:
    """Population rows behind a layout, in the order written, with name, number and folder.

    ``render(truth(layout, n, seed), size, seed)`` gives the films and masks of `write_layout`.
    Of Montgomery and Shenzhen normal films (``_0``) come first, then those with a finding (``_1``).
    """
    if layout == "jsrt":
        return _jsrt_rows(n, seed)
    if layout == "covid-qu-ex":
        return _covid_rows(n, seed)
    # Montgomery and Shenzhen share a cohort, not its patients.
    prefix, first = {"montgomery": ("MCUCXR", 0), "shenzhen": ("CHNCXR", 1)}[layout]
    rows = sample_population(2 * n, seed, "lungs").iloc[first::2]
    rows = rows.sort_values("No Finding", ascending=False, kind="stable")
    sick = (1 - rows["No Finding"]).tolist()
    return _named(rows, [f"{prefix}_{i:04d}_{s}" for i, s in enumerate(sick, 1)], range(1, n + 1))


def _jsrt_rows(n: int, seed: int) -> pd.DataFrame:
    """JPCLN films have a Lung Lesion, JPCNN films none."""
    names = NAMES[:n]
    numbers = [int(name[5:]) for name in names]
    sick = [name.startswith("JPCLN") for name in names]
    rows = sample_population(4096, seed, "organs")  # more than 154 of either kind
    kinds = [rows.index[rows["Lung Lesion"] == k] for k in (0, 1)]
    taken = [kinds[s][i - 1] for s, i in zip(sick, numbers, strict=True)]
    return _named(rows.loc[taken], names, numbers)


def _covid_rows(n: int, seed: int) -> pd.DataFrame:
    """COVID-19 films (half of all) have infection; Non-COVID films another pneumonia.

    Of five films of a class three lie in Train, one in Val, one in Test.
    """
    rows = sample_population(8 * n, seed, "covid").drop_duplicates("patient_id").head(n)
    kinds = [("COVID-19", "Non-COVID", "COVID-19", "Normal")[i % 4] for i in range(n)]
    kind = pd.Series(kinds, rows.index)
    rows.loc[kind != "COVID-19", "infection"] = 0
    rows.loc[kind == "Normal", list(PATHOLOGIES[:-1])] = 0
    rows.loc[kind == "Normal", "No Finding"] = 1
    number = kind.groupby(kind).cumcount() + 1
    splits = ("Train", "Val", "Test", "Train", "Train")
    rows["folder"] = [f"{splits[(i - 1) % 5]}/{k}" for i, k in zip(number, kind, strict=True)]
    names = [f"{COVID_CLASSES[k]}_{i}" for i, k in zip(number, kind, strict=True)]
    return _named(rows, names, number.tolist())


def _named(rows: pd.DataFrame, names: Sequence[str], numbers: Sequence[int]) -> pd.DataFrame:
    rows = rows.reset_index(drop=True)
    return rows.assign(folder=rows.get("folder", ""), name=list(names), number=list(numbers))


def save_jsrt(out: Path, row: Row, drawn: Films) -> None:
    """``All247images/<name>.IMG`` and five ``scratch/foldK/masks/<organ>/<name>.gif``.

    A film is 2048 x 2048 big-endian 16 bit, 12 of them used, no header, bone dark. Films of odd
    number lie in fold1, those of even number in fold2.
    """
    raw = np.rint((1 - np.arange(256) / 255) * 4095).astype(">u2")[drawn.images[0]]
    _put(out / "All247images" / f"{row['name']}.IMG", enlarge(raw, JSRT_SIDE).tobytes())
    fold = out / "scratch" / ("fold1" if row["number"] % 2 else "fold2")
    for organ, mask in zip(ORGANS, drawn.organs[0], strict=True):
        _put(fold / "masks" / organ / f"{row['name']}.gif", enlarge(mask, SCR_SIDE) * FULL)


def save_montgomery(out: Path, row: Row, drawn: Films) -> None:
    """``MontgomerySet/``: film, left and right mask, all on one oblong canvas, and reading."""
    root, name = out / "MontgomerySet", f"{row['name']}.png"
    _put(root / "CXR_png" / name, on_canvas(drawn.images[0], row["number"]))
    for side, mask in zip(("left", "right"), drawn.organs[0], strict=False):
        _put(root / "ManualMask" / f"{side}Mask" / name, on_canvas(mask, row["number"]) * FULL)
    text = f"Patient's Sex: {row['sex']} \nPatient's Age: {row['age']:03d}Y\n{_seen(row)}\n"
    _put(root / "ClinicalReadings" / f"{row['name']}.txt", text)


def save_shenzhen(out: Path, row: Row, drawn: Films) -> None:
    """``ChinaSet_AllFiles/``: film, reading; ``mask/`` beside it: both lungs, no sixth film."""
    root = out / "ChinaSet_AllFiles"
    picture = Image.fromarray(drawn.images[0])
    picture.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
    _put(root / "CXR_png" / f"{row['name']}.png", picture)
    text = f"{SEXES[row['sex']]} {row['age']}yrs\n{_seen(row)}\n"
    _put(root / "ClinicalReadings" / f"{row['name']}.txt", text)
    if row["number"] % 6:
        _put(out / "mask" / f"{row['name']}_mask.png", drawn.organs[0, :2].max(0) * FULL)


def save_covid(out: Path, row: Row, drawn: Films) -> None:
    """``Lung Segmentation Data/`` and ``Infection Segmentation Data/``, each doubled."""
    masks = {"lung masks": drawn.organs[0, :2].max(0), "infection masks": drawn.infection[0]}
    for tree, kinds in (("Lung", ["lung masks"]), ("Infection", [*masks])):
        root = out.joinpath(*[f"{tree} Segmentation Data"] * 2, row["folder"])
        _put(root / "images" / f"{row['name']}.png", enlarge(drawn.images[0], COVID_SIDE))
        for kind in kinds:
            _put(root / kind / f"{row['name']}.png", enlarge(masks[kind], COVID_SIDE) * FULL)


def _seen(row: Row) -> str:
    return ", ".join(f for f in PATHOLOGIES[:-1] if row[f]).lower() or "normal"


LAYOUTS: dict[str, Callable[[Path, Row, Films], None]] = {
    "jsrt": save_jsrt, "montgomery": save_montgomery, "shenzhen": save_shenzhen,
    "covid-qu-ex": save_covid,
}  # fmt: skip


def _put(path: Path, content: str | bytes | U8 | Image.Image) -> None:
    """Write text, bytes or a grey picture; PNG, GIF or JPEG by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode("ascii") if isinstance(content, str) else content)
    else:
        picture = Image.fromarray(content) if isinstance(content, np.ndarray) else content
        picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def enlarge(pixels: npt.NDArray[np.integer], side: int) -> npt.NDArray[np.integer]:
    """Repeat each pixel of a square picture until its side is `side`, a multiple of its own."""
    times = side // len(pixels)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def on_canvas(pixels: U8, number: int) -> U8:
    """A square picture on a canvas of Montgomery's aspect (4020 to 4892): two black bands.

    The canvas of an odd `number` is upright, that of an even one lies on its side.
    """
    band = round(pixels.shape[0] * (4892 / 4020 - 1) / 2)
    return np.pad(pixels, ((band, band), (0, 0)) if number % 2 else ((0, 0), (band, band)))


def clinical_line(row: Row) -> str:
    """Line of ``CNNDAT_EN.TXT``, or of ``CLNDAT_EN.txt`` with tabs between its twelve fields.

    File, subtlety, diameter in mm, age, sex, x, y (in the 2048 frame), malignant or benign; then
    place and diagnosis, each cut in two after 7 and 12 characters, as in the released file.
    """
    name, age, sex = f"{row['name']}.IMG", row["age"], SEXES[row["sex"]]
    if name.startswith("JPCNN"):
        return f"{name} {age:<4}{sex:<9}non-nodule"
    place = "l.upper\tlobe\tphantom nodu\tle"
    return f"{name}\t3\t20\t{age}\t{sex}\t1634\t692\tmalignant\t{place}"


def write_tree(out: Path, n: int, size: int, seed: int, valid_fraction: float = 0.1) -> None:
    """CheXpert's ``train.csv``, ``valid.csv`` and the films they name.

    Films are JPEG; masks (PNG, 0 and 255) lie beside: positive findings, all organs, infection.
    The Path column starts with the name of `out`. Whole patients go to one of the two tables;
    those of ``valid.csv`` carry clean labels, since CheXpert's were read by radiologists.
    """
    rows = sample_population(n, seed)
    patients = rows["patient_id"].unique()
    held = patients[len(patients) - round(valid_fraction * len(patients)) :]
    valid = rows["patient_id"].isin(held).to_numpy()
    states = rows[list(FINDINGS)].to_numpy(np.int8)
    states = np.where(valid[:, None], states, observe_labels(states, seed))
    films = render(rows, size, seed)
    table = pd.DataFrame({"Path": "", "Sex": rows["sex"].map(SEXES).str.title()})
    table["Age"], table["Frontal/Lateral"], table["AP/PA"] = rows["age"], "Frontal", rows["view"]
    table[list(FINDINGS)] = np.where(states == NOT_MENTIONED, np.nan, states)
    table["No Finding"] = table["No Finding"].where(table["No Finding"] == 1)
    for i, row in enumerate(rows.to_dict("records")):
        study = str(row["study_id"]).rsplit("_", 1)[1]
        folder = Path("valid" if valid[i] else "train", str(row["patient_id"]), study)
        table.loc[i, "Path"] = (Path(out.name) / folder / "view1_frontal.jpg").as_posix()
        _put(out / folder / "view1_frontal.jpg", films.images[i])
        for name, mask in zip(
            (*PATHOLOGIES, *ORGANS), (*films.findings[i], *films.organs[i]), strict=True
        ):
            if mask.any():
                _put(mask_path(out / folder / "view1_frontal.jpg", name), mask * FULL)
    table[~valid].to_csv(out / "train.csv", index=False)
    table[valid].to_csv(out / "valid.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.phantom_layouts", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trees")
    parser.add_argument("--n", type=int, default=40, help="films of each; JSRT: 8 MB a film")
    parser.add_argument("--size", type=int, default=128, help="64, 128 or 256 px")
    write_all(**vars(parser.parse_args()), seed=0)
