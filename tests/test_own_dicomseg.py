"""DICOM segmentations read back: pixels, references, codes, and what is copied."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dollkit.common.errors import InputError
from dollkit.interactive.your_radiographs import dicom_seg
from dollkit.interactive.your_radiographs.dicom_seg import concept
from dollkit.interactive.your_radiographs.example import write_example

CLASSES = ["left lung", "heart", "pleural effusion"]
NETWORK = "0" * 64


@pytest.fixture
def film(tmp_path: Path) -> Path:
    write_example(tmp_path / "example", n=12, masked=8, dicom=2)
    return sorted((tmp_path / "example" / "films").rglob("*.dcm"))[0]


def changed(film: Path, **values: object) -> Path:
    about = dcmread(film)
    for name, value in values.items():
        if value is None:
            delattr(about, name)
        else:
            setattr(about, name, value)
    about.save_as(film)
    return film


def masks_for(film: Path) -> list[np.ndarray]:
    """Odd, overlapping, and one empty."""
    about = dcmread(film, stop_before_pixels=True)
    shape = about.Rows, about.Columns
    one, two = np.zeros((2, *shape), np.uint8)
    one[1:7, 3:11], two[5:9, 2:5] = 1, 1
    return [one, two, np.zeros(shape, np.uint8)]


def write(film: Path, out: Path) -> Path:
    concepts = dicom_seg.check(film.parent, [film.name], CLASSES)
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(dicom_seg.encode(film, masks_for(film), CLASSES, concepts, NETWORK))
    return out


@pytest.mark.parametrize("spacing", ["PixelSpacing", "none", "SliceThickness"])
def test_pixels_come_back(film: Path, tmp_path: Path, spacing: str) -> None:
    if spacing == "none":
        changed(film, PixelSpacing=None)
    elif spacing == "SliceThickness":
        changed(film, SliceThickness="1")
    path = write(film, tmp_path / "seg" / "a.dcm")
    source, want = dcmread(film), np.stack(masks_for(film))
    read = hd.seg.segread(path)
    got = read.get_pixels_by_source_instance(
        [source.SOPInstanceUID], assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(got[0].transpose(2, 0, 1), want)
    raw = dcmread(path)
    np.testing.assert_array_equal(raw.pixel_array, want)
    assert (raw.Rows, raw.Columns, raw.SegmentationType) == (*want.shape[1:], "BINARY")


def test_refers_to_its_film(film: Path, tmp_path: Path) -> None:
    changed(film, FrameOfReferenceUID="1.2.3.4.5", PatientOrientation=["L", "F"])
    source, seg = dcmread(film), dcmread(write(film, tmp_path / "a.dcm"))
    (series,) = seg.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == source.SOPClassUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.PatientID == source.PatientID
    assert seg.PatientName == source.PatientName
    assert seg.FrameOfReferenceUID == "1.2.3.4.5"
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID


def test_codes(film: Path, tmp_path: Path) -> None:
    seg = dcmread(write(film, tmp_path / "a.dcm"))
    found = []
    for segment in seg.SegmentSequence:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        side = kind.get("SegmentedPropertyTypeModifierCodeSequence")
        found.append(
            (segment.SegmentLabel, kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning,
             side[0].CodeValue if side else None, segment.SegmentAlgorithmType)
        )  # fmt: skip
    assert found == [
        ("left lung", "SCT", "39607008", "Lung", "7771000", "AUTOMATIC"),
        ("heart", "SCT", "80891009", "Heart", None, "AUTOMATIC"),
        ("pleural effusion", "SCT", "60046008", "Pleural effusion", None, "AUTOMATIC"),
    ]


def test_the_same_film_gives_the_same_uids(film: Path, tmp_path: Path) -> None:
    one, two = (dcmread(write(film, tmp_path / f"{i}.dcm")) for i in (1, 2))
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert one.SeriesInstanceUID == two.SeriesInstanceUID


def test_a_film_without_blanks_of_the_standard(film: Path, tmp_path: Path) -> None:
    """De-identified films often lack what should stand there blank."""
    changed(film, PatientName=None, PatientID=None, StudyDate=None, StudyID=None)
    seg = dcmread(write(film, tmp_path / "a.dcm"))
    assert not seg.PatientName
    assert not seg.PatientID


def test_a_film_that_nothing_can_refer_to(film: Path) -> None:
    changed(film, StudyInstanceUID=None)
    with pytest.raises(InputError, match="without StudyInstanceUID"):
        dicom_seg.check(film.parent, [film.name], CLASSES)


def test_a_damaged_film_is_left_to_who_draws(film: Path) -> None:
    """It stops no other: its header tells nothing, but neither does it show a film."""
    (film.parent / "cut.dcm").write_bytes(film.read_bytes()[:400])
    assert len(dicom_seg.check(film.parent, ["cut.dcm", film.name], CLASSES)) == len(CLASSES)


def test_names_reach_no_message(film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    changed(film, PatientName="Secretname", PatientID="secret-id")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        write(film, tmp_path / "a.dcm")
        source = dcmread(film)
        source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
        source.Rows = 3
        source.save_as(tmp_path / "odd.dcm")
        with pytest.raises(InputError) as error:
            dicom_seg.encode(
                tmp_path / "odd.dcm", masks_for(film), CLASSES,
                dicom_seg.check(film.parent, [film.name], CLASSES), NETWORK,
            )  # fmt: skip
    said = caplog.text + str(error.value) + "".join(str(w.message) for w in told)
    said += "".join(capsys.readouterr())
    assert "ecret" not in said


def test_no_dicom(tmp_path: Path) -> None:
    write_example(tmp_path, n=12, masked=8, dicom=0)
    (tmp_path / "films" / "tiny").write_bytes(b"x")
    with pytest.raises(InputError, match=r"and 1 more.*ask for PNG"):
        dicom_seg.check(
            tmp_path / "films", ["patient00001/film0000.png", "tiny"], ["heart"]
        )  # fmt: skip


def test_classes_without_a_code() -> None:
    with pytest.raises(InputError, match="'wibble' has no code"):
        concept("wibble")
    given = {"Wibble": ["99LOCAL", "W1", "Wibble"]}
    assert concept("wibble", given).kind.value == "W1"
    with pytest.raises(InputError, match="scheme, value and meaning"):
        concept("wibble", {"wibble": ["99LOCAL", "W1"]})
    arch = {"Aortic_Arch": ["SCT", "57034009", "Aortic arch"]}
    assert concept("aortic arch", arch).kind.value == "57034009"
    assert concept("Right_Clavicle").modifier is not None
    assert concept("lungs").modifier is None


def test_what_is_copied(film: Path, tmp_path: Path) -> None:
    """Patient and study as the standard has them; nothing of who took the film, or where."""
    about: Dataset = dcmread(film)
    about.InstitutionName, about.OperatorsName = "Secret hospital", "Secret^Operator"
    about.save_as(film)
    assert "Secret" not in str(dcmread(write(film, tmp_path / "a.dcm")))


@pytest.mark.parametrize("charset", ["", "ISO_IR 100", "ISO_IR 192"])
def test_classes_are_written_in_any_letters(film: Path, charset: str) -> None:
    """Whatever letters the film itself can hold, and its patient's name stays."""
    patient = "Müller^Jörg" if charset else "Mueller^Joerg"
    changed(film, SpecificCharacterSet=charset, PatientName=patient)
    labels, shape = ["Herz ä", "心"], (dcmread(film).Rows, dcmread(film).Columns)
    one = np.ones(shape, np.uint8)
    made = dicom_seg.encode(film, [one, one], labels, [concept("heart")] * 2, NETWORK)
    read = dcmread(io.BytesIO(made))
    assert [s.SegmentLabel for s in read.SegmentSequence] == labels
    assert str(read.PatientName) == patient
    assert read.SpecificCharacterSet == "ISO_IR 192"
