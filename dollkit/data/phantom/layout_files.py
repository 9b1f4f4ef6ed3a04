"""One phantom film as the files of JSRT, Montgomery, Shenzhen or COVID-QU-Ex.

Each ``save_<data set>`` writes the files of a film below `out` and returns their paths. Enlarging
is by whole-number repetition, so a film or mask shrunk back is the phantom's own, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy import ndimage

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.render import ORGANS, check_size

U8 = npt.NDArray[np.uint8]

JSRT_SIDE, SCR_SIDE, COVID_SIDE = 2048, 1024, 256
"""Sides in pixels of a JSRT film, an SCR mask and a COVID-QU-Ex film."""

JSRT_PITCH = 0.175
"""Millimetres per pixel of a JSRT film."""

MONTGOMERY_SIDES = (4020, 4892)
"""Short and long side in pixels of a Montgomery film; either may be the width."""

AGE_UNKNOWN: tuple[str, ...] = ("JPCLN106", "JPCLN117")
"""Films whose age is "?" in the released ``CLNDAT_EN.txt``."""

_RAW = np.rint((1 - np.arange(256) / 255) * 4095).astype(">u2")


@dataclass(frozen=True)
class Film:
    """One rendered film.

    Attributes:
        name: in the data set, without suffix; number: within its series, from 1.
        folder: below the data set's trees, where it has several.
        sex: "M" or "F"; age: in years; findings: the pathologies that it has.
        image: uint8 (size, size), bone bright.
        organs: organ -> uint8 {0, 1} (size, size); left is the patient's left.
        lesion, infection: uint8 {0, 1} (size, size).
    """

    name: str
    number: int
    folder: str
    sex: str
    age: int
    findings: tuple[str, ...]
    image: U8
    organs: Mapping[str, U8]
    lesion: U8
    infection: U8

    @property
    def lungs(self) -> U8:
        """Both lung fields as one mask, uint8 {0, 1} (size, size)."""
        return self.organs["left lung"] | self.organs["right lung"]


def save_jsrt(out: Path, film: Film) -> list[Path]:
    """``All247images/<name>.IMG`` and five ``scratch/foldK/masks/<organ>/<name>.gif`` (1024 px).

    Films of odd number lie in fold1, those of even number in fold2.
    """
    masks = out / "scratch" / ("fold1" if film.number % 2 else "fold2") / "masks"
    files = [_at(out / "All247images", f"{film.name}.IMG")]
    save_raw(files[0], film.image)
    for organ in ORGANS:
        files.append(_at(masks / organ, f"{film.name}.gif"))
        save_mask(files[-1], enlarge(film.organs[organ], SCR_SIDE))
    return files


def save_montgomery(out: Path, film: Film) -> list[Path]:
    """``MontgomerySet/``: film, left and right mask, all on one oblong canvas, and reading."""
    root, name = out / "MontgomerySet", f"{film.name}.png"
    files = [_at(root / "CXR_png", name)]
    save_grey(files[0], on_canvas(film.image, film.number))
    for side in ("left", "right"):
        files.append(_at(root / "ManualMask" / f"{side}Mask", name))
        save_mask(files[-1], on_canvas(film.organs[f"{side} lung"], film.number))
    files.append(_at(root / "ClinicalReadings", f"{film.name}.txt"))
    files[-1].write_bytes(montgomery_reading(film).encode("ascii"))
    return files


def save_shenzhen(out: Path, film: Film) -> list[Path]:
    """``ChinaSet_AllFiles/``: film, reading; ``mask/`` beside it: both lungs, no sixth film."""
    root = out / "ChinaSet_AllFiles"
    files = [_at(root / "CXR_png", f"{film.name}.png")]
    save_palette(files[0], film.image)
    files.append(_at(root / "ClinicalReadings", f"{film.name}.txt"))
    files[-1].write_bytes(shenzhen_reading(film).encode("ascii"))
    if film.number % 6:
        files.append(_at(out / "mask", f"{film.name}_mask.png"))
        save_mask(files[-1], film.lungs)
    return files


def save_covid(out: Path, film: Film, doubled: bool = True) -> list[Path]:
    """``Lung Segmentation Data/`` and ``Infection Segmentation Data/``: 256 px film and masks.

    Args:
        doubled: whether each of the two holds a folder of its own name, as in the archive.
    """
    files = []
    masks = {"lung masks": film.lungs, "infection masks": film.infection}
    for tree, kinds in (("Lung", ("lung masks",)), ("Infection", tuple(masks))):
        root = out.joinpath(*[f"{tree} Segmentation Data"] * (1 + doubled), film.folder)
        files.append(_at(root / "images", f"{film.name}.png"))
        save_grey(files[-1], enlarge(film.image, COVID_SIDE))
        for kind in kinds:
            files.append(_at(root / kind, f"{film.name}.png"))
            save_mask(files[-1], enlarge(masks[kind], COVID_SIDE))
    return files


def _at(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def enlarge(pixels: U8, side: int) -> U8:
    """Repeat each pixel of a square picture until its side is `side`, a multiple of its own."""
    times = side // pixels.shape[0]
    return np.asarray(pixels.repeat(times, axis=0).repeat(times, axis=1))


def on_canvas(pixels: U8, number: int) -> U8:
    """A square picture on a canvas of Montgomery's aspect: black bands on two opposite ends.

    The canvas of an odd `number` is upright, that of an even one lies on its side.
    """
    size = pixels.shape[0]
    short, long = MONTGOMERY_SIDES
    band = round(size * (long / short - 1) / 2)
    bands = ((band, band), (0, 0)) if number % 2 else ((0, 0), (band, band))
    return np.pad(pixels, bands)


def save_raw(path: Path, image: U8) -> None:
    """A JSRT film: 2048 x 2048 big-endian 16 bit, 12 of them used, no header, bone dark.

    The value is ``round((1 - grey / 255) * 4095)``.
    """
    size = image.shape[0]
    times = JSRT_SIDE // size
    values = _RAW[image].repeat(times, axis=0).repeat(times, axis=1)
    path.write_bytes(values.tobytes())


def save_grey(path: Path, pixels: U8) -> None:
    """An 8-bit grey picture; PNG or GIF by the suffix."""
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, mask: U8) -> None:
    """A mask of 0 and 1 as a picture of 0 and 255; PNG or GIF by the suffix."""
    save_grey(path, mask * np.uint8(255))


def save_palette(path: Path, image: U8) -> None:
    """A film as Shenzhen's are: PNG with a palette, here of the 256 greys."""
    picture = Image.fromarray(image)
    picture.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
    picture.save(path)


def montgomery_reading(film: Film) -> str:
    """Text of a Montgomery reading: sex, age, what the radiologist saw."""
    return f"Patient's Sex: {film.sex} \nPatient's Age: {film.age:03d}Y\n{_seen(film)}\n"


def shenzhen_reading(film: Film) -> str:
    """Text of a Shenzhen reading: sex and age, what the radiologist saw."""
    return f"{_sex(film)} {film.age}yrs\n{_seen(film)}\n"


def nodule_line(film: Film) -> str:
    """Line of ``CLNDAT_EN.txt``: twelve fields with tabs between them.

    File, subtlety, diameter in mm, age (or ?), sex, x, y (in the 2048 frame), malignant or benign;
    then place and diagnosis, each cut in two after 7 and 12 characters, as in the released file.
    The nodule is the largest one of the film. Diameter, x, y and place are measured on its
    mask; subtlety and malignancy just follow the diameter: the phantom knows neither.
    """
    size = film.image.shape[0]
    parts, _ = ndimage.label(film.lesion)
    nodule = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    row, column = (float(i.mean()) for i in np.nonzero(nodule))
    scale = JSRT_SIDE / size
    diameter = round(2 * float(np.sqrt(nodule.sum() / np.pi)) * scale * JSRT_PITCH)
    left, right = film.organs["left lung"], film.organs["right lung"]
    in_left = (nodule & (left > 0)).sum() >= (nodule & (right > 0)).sum()
    rows = np.flatnonzero((left if in_left else right).any(axis=1))
    half = "upper" if row < rows.mean() else "lower"
    place, diagnosis = f"{'l' if in_left else 'r'}.{half}lobe", "phantom nodule"
    fields = (
        f"{film.name}.IMG",
        min(5, 1 + diameter // 10),
        diameter,
        "?" if film.name in AGE_UNKNOWN else film.age,
        _sex(film),
        round((column + 0.5) * scale - 0.5),
        round((row + 0.5) * scale - 0.5),
        "malignant" if diameter > 30 else "benign",
        place[:7],
        place[7:],
        diagnosis[:12],
        diagnosis[12:],
    )
    return "\t".join(map(str, fields))


def no_nodule_line(film: Film) -> str:
    """Line of ``CNNDAT_EN.TXT``: columns filled up with blanks, no tabs."""
    return f"{film.name}.IMG {film.age:<4}{_sex(film):<9}non-nodule"


def save_lines(path: Path, lines: list[str]) -> None:
    """Lines with a lone carriage return between them, and none after the last."""
    path.write_bytes("\r".join(lines).encode("ascii"))


def _sex(film: Film) -> str:
    return {"M": "male", "F": "female"}[film.sex]


def _seen(film: Film) -> str:
    return ", ".join(film.findings).lower() or "normal"


# Who is filmed for each layout, under which name, and which parameters a layout takes.


LAYOUTS: tuple[str, ...] = ("jsrt", "montgomery", "shenzhen", "covid-qu-ex")
"""Layouts of `write_layout`."""

JSRT_NAMES: tuple[str, ...] = (
    *(f"JPCLN{i:03d}" for i in range(1, 155)),
    *(f"JPCNN{i:03d}" for i in range(1, 94)),
)
"""Films of JSRT: 154 with a nodule, then 93 without."""

COVID_CLASSES: dict[str, str] = {
    "COVID-19": "covid",
    "Non-COVID": "non_covid",
    "Normal": "normal",
}
"""Class folder -> how its file names start."""

_CLASS_CYCLE = ("COVID-19", "Non-COVID", "COVID-19", "Normal")
_SPLIT_CYCLE = ("Train", "Val", "Test", "Train", "Train")
_DEVICES = "Support Devices"


def _jsrt_rows(seed: int, names: Sequence[str]) -> pd.DataFrame:
    numbers = [int(name[5:]) for name in names]
    sick = [name.startswith("JPCLN") for name in names]
    count = 64
    while True:  # a larger population begins with the smaller one
        rows = sample_population(count, seed, "organs")
        having = rows.index[rows["Lung Lesion"] == 1]
        free = rows.index[rows["Lung Lesion"] == 0]
        if len(having) >= max(numbers) and len(free) >= max(numbers):
            break
        count *= 2
    taken = [(having if s else free)[i - 1] for s, i in zip(sick, numbers, strict=True)]
    return _named(rows.loc[taken], names, numbers)


def _tuberculosis_rows(n: int, seed: int, prefix: str, every_other: int) -> pd.DataFrame:
    # The two layouts share a cohort, not its patients.
    rows = sample_population(2 * n, seed, "lungs").iloc[every_other::2]
    rows = rows.sort_values("No Finding", ascending=False, kind="stable")
    sick = (1 - rows["No Finding"]).tolist()
    return _named(rows, [f"{prefix}_{i:04d}_{s}" for i, s in enumerate(sick, 1)], range(1, n + 1))


def _covid_rows(n: int, seed: int) -> pd.DataFrame:
    count = 2 * n
    while True:
        rows = sample_population(count, seed, "covid").drop_duplicates("patient_id").head(n)
        if len(rows) == n:
            break
        count *= 2
    kind = pd.Series([_CLASS_CYCLE[i % 4] for i in range(n)], index=rows.index)
    rows.loc[kind != "COVID-19", "infection"] = 0
    rows.loc[kind == "Normal", [f for f in PATHOLOGIES if f != _DEVICES]] = 0
    rows.loc[kind == "Normal", "No Finding"] = 1
    number = kind.groupby(kind).cumcount() + 1
    rows["folder"] = [f"{_SPLIT_CYCLE[(i - 1) % 5]}/{k}" for i, k in zip(number, kind, strict=True)]
    names = [f"{COVID_CLASSES[k]}_{i}" for i, k in zip(number, kind, strict=True)]
    return _named(rows, names, number.tolist())


def _named(rows: pd.DataFrame, names: Sequence[str], numbers: Sequence[int]) -> pd.DataFrame:
    given = rows.reset_index(drop=True)
    if "folder" not in given:
        given["folder"] = ""
    return given.assign(name=list(names), number=list(numbers))


_SIZES: dict[str, tuple[int, ...]] = {
    "jsrt": (64, 128, 256, 512, 1024),
    "covid-qu-ex": (64, 128, 256),
}


def check_layout(
    layout: str,
    n: int | None,
    size: int,
    seed: int,
    names: Sequence[str] | None = None,
    doubled: bool | None = None,
) -> int:
    """Number of films that `write_layout` would write; `InputError` if it would refuse."""
    n = _count(layout, n, seed, names)
    if doubled is not None and layout != "covid-qu-ex":
        raise InputError(f"parameter 'doubled' is of layout covid-qu-ex: omit it for {layout}")
    check_size(size)
    sizes = _SIZES.get(layout, (size,))
    if size not in sizes:
        raise InputError(
            f"parameter 'size' is {size}: for layout {layout} use one of "
            f"{', '.join(map(str, sizes))}"
        )
    return n


def _count(layout: str, n: int | None, seed: int, names: Sequence[str] | None) -> int:
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if seed < 0:
        raise InputError(f"parameter 'seed' is {seed}: use 0 or more")
    if names is not None:
        if layout != "jsrt":
            raise InputError(f"parameter 'names' is of layout jsrt: omit it for {layout}")
        for name in names:
            if name not in JSRT_NAMES:
                raise InputError(
                    f"parameter 'names': {name!r} is no film of JSRT: use JPCLN001 to JPCLN154 or "
                    "JPCNN001 to JPCNN093"
                )
            if list(names).count(name) > 1:
                raise InputError(f"parameter 'names': {name!r} stands twice: name each film once")
        if n not in (None, len(names)):
            raise InputError(f"parameter 'n' is {n}, 'names' has {len(names)} films: omit 'n'")
        n = len(names)
    most = len(JSRT_NAMES) if layout == "jsrt" else 9999
    if n is None or not 1 <= n <= most:
        raise InputError(f"parameter 'n' is {n}: for layout {layout} use 1 to {most} films")
    return n


def truth(
    layout: str, n: int | None, seed: int, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Population rows behind a layout, in the order written.

    ``render(truth(layout, n, seed), size, seed)`` gives the films and masks that `write_layout`
    puts into the files.

    Returns:
        the columns of `sample_population`, and name (of the film in the layout), number (in its
        series, from 1), folder ("Train/COVID-19" for example; "" but for COVID-QU-Ex).
    """
    n = _count(layout, n, seed, names)
    if layout == "jsrt":
        return _jsrt_rows(seed, JSRT_NAMES[:n] if names is None else names)
    if layout == "montgomery":
        return _tuberculosis_rows(n, seed, "MCUCXR", 0)
    if layout == "shenzhen":
        return _tuberculosis_rows(n, seed, "CHNCXR", 1)
    return _covid_rows(n, seed)
