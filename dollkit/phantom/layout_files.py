"""One phantom film as the files of JSRT, Montgomery, Shenzhen or COVID-QU-Ex.

Each ``save_<data set>`` writes the files of a film below `out` and returns their paths. Enlarging
is by whole-number repetition, so a film or mask shrunk back is the phantom's own, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dollkit.phantom.render import ORGANS

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
