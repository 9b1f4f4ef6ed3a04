"""DICOM segmentations read back: pixels, references, codes, and what is copied."""

from __future__ import annotations

import io
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import dicom_seg
from dollkit.interactive.your_radiographs.dicom_seg import find_concept
from dollkit.interactive.your_radiographs.example import write_example
from tests.small_files import error_of

CLASSES = ["left lung", "heart", "pleural effusion"]
NETWORK = "0" * 64


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    write_example(folder, n=12, masked=8, dicom=2)
    return folder / "films"


@pytest.fixture
def film(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sorted(example.rglob("*.dcm"))[0], tmp_path / "film.dcm"))


def changed(film: Path, **values: object) -> None:
    about = dcmread(film)
    for name, value in values.items():
        if value is None:
            delattr(about, name)
        else:
            setattr(about, name, value)
    about.save_as(film)


def masks_for(film: Path) -> list[np.ndarray]:
    """Odd, overlapping, and one empty."""
    about = dcmread(film, stop_before_pixels=True, force=True)
    shape = about.Rows, about.Columns
    one, two = np.zeros((2, *shape), np.uint8)
    one[1:7, 3:11], two[5:9, 2:5] = 1, 1
    return [one, two, np.zeros(shape, np.uint8)]


def segmentation(film: Path, labels: Sequence[str] = CLASSES) -> io.BytesIO:
    concepts = [find_concept(name) for name in CLASSES]
    return io.BytesIO(dicom_seg.encode(film, masks_for(film), labels, concepts, NETWORK))


@pytest.mark.parametrize("change", [{}, {"PixelSpacing": None}])
def test_pixels_come_back(film: Path, change: dict[str, object]) -> None:
    changed(film, **change)
    source, want = dcmread(film).SOPInstanceUID, np.stack(masks_for(film))
    read = hd.seg.segread(segmentation(film))
    got = read.get_pixels_by_source_instance([source], assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(got[0].transpose(2, 0, 1), want)
    raw = dcmread(segmentation(film))
    np.testing.assert_array_equal(raw.pixel_array, want)
    assert (raw.Rows, raw.Columns, raw.SegmentationType) == (*want.shape[1:], "BINARY")


def test_refers_to_its_film(film: Path) -> None:
    changed(film, FrameOfReferenceUID="1.2.3.4.5", PatientOrientation=["L", "F"])
    source, seg, again = dcmread(film), *(dcmread(segmentation(film)) for _ in range(2))
    (series,) = seg.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == source.SOPClassUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID != seg.SeriesInstanceUID
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert seg[name] == source[name]
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert again[name] == seg[name]


def test_codes(film: Path) -> None:
    codes = [("39607008", "Lung"), ("80891009", "Heart"), ("60046008", "Pleural effusion")]
    segments = dcmread(segmentation(film)).SegmentSequence
    for segment, name, code in zip(segments, CLASSES, codes, strict=True):
        assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == (name, "AUTOMATIC")
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        found = (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning)
        assert found == ("SCT", *code)
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [side.CodeValue for side in sides] == (["7771000"] if name == "left lung" else [])


def test_a_film_without_blanks_of_the_standard(film: Path) -> None:
    """De-identified films often lack what should stand there blank, and some the preamble."""
    changed(film, PatientName=None, PatientID=None, StudyDate=None, StudyID=None)
    about = dcmread(film)
    del about.file_meta
    about.save_as(film, implicit_vr=False, little_endian=True)
    seg = dcmread(segmentation(film))
    assert not seg.PatientName
    assert not seg.PatientID


def test_names_reach_no_message(
    film: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the segmentation gets patient and study alone, nothing of who took the film."""
    changed(film, PatientName="Secretname", OperatorsName="Secret^Operator")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert "Secret^" not in str(dcmread(segmentation(film)))
        masks = [mask[:3] for mask in masks_for(film)]
        with pytest.raises(InputError) as error:
            dicom_seg.encode(film, masks, CLASSES, [find_concept("heart")] * 3, NETWORK)
    said = caplog.text + str(error.value) + "".join(str(w.message) for w in told)
    said += "".join(capsys.readouterr())
    assert "ecret" not in said


def test_classes_without_a_code() -> None:
    assert "'wibble' has no code" in error_of(find_concept, "wibble")
    given = {"Wibble": ["99LOCAL", "W1", "Wibble"]}
    assert find_concept("wibble", given).kind.value == "W1"
    with pytest.raises(InputError, match="scheme, value and meaning"):
        find_concept("wibble", {"wibble": ["99LOCAL", "W1"]})
    arch = {"Aortic_Arch": ["SCT", "57034009", "Aortic arch"]}
    assert find_concept("aortic arch", arch).kind.value == "57034009"
    assert find_concept("Right_Clavicle").modifier is not None
    assert find_concept("lungs").modifier is None


@pytest.mark.parametrize(
    ("charset", "patient"),
    [
        ("", "Mueller^Joerg"),
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_classes_are_written_in_any_letters(film: Path, charset: object, patient: str) -> None:
    """Whatever letters the film itself can hold, and its patient's name stays."""
    changed(film, SpecificCharacterSet=charset, PatientName=patient)
    labels = ["Lunge", "Herz ä", "心"]
    read = dcmread(segmentation(film, labels))
    assert [s.SegmentLabel for s in read.SegmentSequence] == labels
    assert str(read.PatientName) == patient
    assert read.SpecificCharacterSet == "ISO_IR 192"
