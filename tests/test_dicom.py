"""DICOM films into grey: known answers for each step, and refusals that name nobody."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing, pixel_array
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dollkit.common.errors import InputError
from dollkit.data import decode, dicom, dicom_codec
from dollkit.data.decode import load_image, probe

NAME = "Xanthopoulos^Z"
CODE = "XANTHOPOULOS"  # where capitals are asked for
DX = "1.2.840.10008.5.1.4.1.1.1.1"
BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def film(
    values: object,
    bits: int = 12,
    signed: bool = False,
    meaning: str = "MONOCHROME2",
    **more: object,
) -> Dataset:
    """A film of these stored values: (H, W), or (H, W, 3) of 8 bits."""
    array = np.asarray(values)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = DX
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.PatientName, data.PatientID, data.Modality = NAME, NAME, "DX"
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 1 if array.ndim == 2 else 3
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = meaning
    data.BitsAllocated = 8 if bits <= 8 else 16
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    kind = f"<{'i' if signed else 'u'}{data.BitsAllocated // 8}"
    put(data, array.astype(kind).tobytes())
    for name, value in more.items():
        setattr(data, name, value)
    return data


def put(data: Dataset, pixels: bytes) -> None:
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"


def save(data: Dataset, path: Path) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def bytes_of(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(data: Dataset, folder: Path) -> list[list[int]]:
    path = save(data, folder / "film.dcm")
    image = load_image(path)
    assert image.dtype == np.uint8
    assert image.shape == probe(path) == (data.Rows, data.Columns)
    return image.tolist()


def error_of(path: Path, **options: object) -> str:
    """The one line that refuses a file; it names nobody."""
    with pytest.raises(InputError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "XANTHOPO" not in message.upper()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message.removeprefix(f"{path}: ")


def refusal(data: Dataset, folder: Path) -> str:
    return error_of(save(data, folder / "film.dcm"))


# Stored values to grey


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_full_range_of_the_bits_stored(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = [[0, top, top // 2, top // 5]]
    assert grey(film(values, bits), tmp_path) == [[0, 255, 127, 51]]
    low = -(2 ** (bits - 1))
    values = [[low, low + top, low + top // 2, low + top // 5]]
    assert grey(film(values, bits, signed=True), tmp_path) == [[0, 255, 127, 51]]


def test_range_does_not_follow_the_content(tmp_path: Path) -> None:
    assert grey(film([[0, 819]], 12), tmp_path) == [[0, 51]]
    assert grey(film([[0, 819]], 16), tmp_path) == [[0, 3]]


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    data = film([[0, 4095, 819]], 12, meaning="MONOCHROME1")
    assert grey(data, tmp_path) == [[255, 0, 204]]
    # After the window, not before.
    data = film([[1000, 2000, 1200]], 12, meaning="MONOCHROME1")
    data.WindowCenter, data.WindowWidth = 1500.5, 1001
    assert grey(data, tmp_path) == [[255, 0, 204]]


def test_rescale(tmp_path: Path) -> None:
    data = film([[0, 100, 200]], 8, RescaleSlope="2", RescaleIntercept="-100")
    # -100, 100, 300 in a range of -100 to 410.
    assert grey(data, tmp_path) == [[0, 100, 200]]
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 100, 400, "LINEAR_EXACT"
    assert grey(data, tmp_path) == [[0, 128, 255]]
    # A falling slope makes bright what was dark.
    data = film([[0, 51, 255]], 8, RescaleSlope="-1", RescaleIntercept="255")
    assert grey(data, tmp_path) == [[255, 204, 0]]
    data = film([[0, 51, 255]], 8, RescaleSlope="-1", RescaleIntercept="255")
    data.WindowCenter, data.WindowWidth = 128, 256
    assert grey(data, tmp_path) == [[255, 204, 0]]
    # One of the two alone.
    data = film([[0, 100]], 8, RescaleIntercept="10", WindowCenter=110, WindowWidth=1)
    assert grey(data, tmp_path) == [[0, 255]]


def lut(first: int, bits: int, entries: list[int], signed: bool = False) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if signed else "US"
    item.LUTData = entries
    item["LUTData"].VR = "US"
    return item


def test_modality_lut(tmp_path: Path) -> None:
    data = film([[0, 10, 11, 12, 13, 255]], 8)
    data.ModalityLUTSequence = [lut(10, 8, [0, 51, 102, 255])]
    data.ModalityLUTSequence[0].ModalityLUTType = "US"
    # Below its first value the first entry, above its last the last.
    assert grey(data, tmp_path) == [[0, 0, 51, 102, 255, 255]]
    data = film([[-3, -2, -1, 0]], 12, signed=True)
    data.ModalityLUTSequence = [lut(-2, 16, [0, 13107, 65535], signed=True)]
    assert grey(data, tmp_path) == [[0, 0, 51, 255]]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("words", [False, True])
def test_voi_lut(tmp_path: Path, words: bool, syntax: str) -> None:
    data = film([[0, 1, 2, 3, 200]], 8, WindowCenter=1, WindowWidth=1)
    first, second = lut(1, 10, [0, 341, 1023]), lut(0, 8, [9, 9])
    if words:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        first.add_new("LUTData", "OW", struct.pack(f"{order}3H", 0, 341, 1023))
    data.VOILUTSequence = [first, second]
    data.file_meta.TransferSyntaxUID = syntax
    # The table comes before the window, the first table before the second.
    assert grey(data, tmp_path) == [[0, 0, 85, 255, 255]]


def test_voi_lut_of_many_entries(tmp_path: Path) -> None:
    data = film([[0, 255, 256, 511, 4095]], 12)
    data.VOILUTSequence = [lut(0, 8, [i // 2 for i in range(512)])]
    assert grey(data, tmp_path) == [[0, 127, 128, 255, 255]]
    # Packed, two entries in a word.
    data.VOILUTSequence[0].add_new("LUTData", "OW", bytes(i // 2 for i in range(512)))
    assert grey(data, tmp_path) == [[0, 127, 128, 255, 255]]


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1000, 300), (0.5, 2), (3000, 9000)])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_those_of_the_standard(
    tmp_path: Path, kind: str, centre: float, width: float, signed: bool
) -> None:
    low = -2048 if signed else 0
    values = (np.arange(4096) + low).reshape(64, 64)
    data = film(values, 12, signed, WindowCenter=centre, WindowWidth=width, VOILUTFunction=kind)
    with np.errstate(over="ignore"):
        told = apply_windowing(values, data)
    wanted = (told - low) / 4095 * 255
    assert np.abs(np.array(grey(data, tmp_path)) - wanted).max() <= 0.5 + 1e-9


def test_narrowest_window(tmp_path: Path) -> None:
    data = film([[99, 100, 101]], 8, WindowCenter=100, WindowWidth=1)
    assert grey(data, tmp_path) == [[0, 255, 255]]


def test_first_of_several_windows(tmp_path: Path) -> None:
    data = film([[0, 51, 102, 255]], 8, WindowCenter=[51.5, 9], WindowWidth=[103, 9])
    assert grey(data, tmp_path) == [[0, 128, 255, 255]]
    # Blank ones are none.
    data.WindowCenter = data.WindowWidth = None
    assert grey(data, tmp_path) == [[0, 51, 102, 255]]


def test_padding_is_black_and_stretches_nothing(tmp_path: Path) -> None:
    plain = film([[100, 2000, 4000]], 12, WindowCenter=2048, WindowWidth=4096)
    wanted = grey(plain, tmp_path)[0]
    padded = film([[100, 2000, 4000, 4095]], 12, WindowCenter=2048, WindowWidth=4096)
    padded.PixelPaddingValue = 4095
    padded["PixelPaddingValue"].VR = "US"
    assert grey(padded, tmp_path) == [[*wanted, 0]]
    padded.PhotometricInterpretation = "MONOCHROME1"
    assert grey(padded, tmp_path) == [[*(255 - v for v in wanted), 0]]
    padded = film([[-2000, -1999, -1990, -1989, 0]], 12, signed=True)
    before = grey(padded, tmp_path)[0]
    padded.PixelPaddingValue, padded.PixelPaddingRangeLimit = -1990, -2000
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        padded[name].VR = "SS"
    assert before[3:] == [4, 128]
    assert grey(padded, tmp_path) == [[0, 0, 0, *before[3:]]]


def test_bits_above_those_stored_are_left_out(tmp_path: Path) -> None:
    # An overlay in the upper bits, as files of the nineties have.
    data = film([[0x1000, 0xF000 | 819, 4095]], 12)
    assert grey(data, tmp_path) == [[0, 51, 255]]
    data = film([[0x0800, 0x07FF]], 12, signed=True)
    assert grey(data, tmp_path) == [[0, 255]]


def test_chain_agrees_with_pydicom_on_its_own_files() -> None:
    seen = 0
    for name in ("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"):
        data = dcmread(BUNDLED / name)
        wanted = apply_voi_lut(apply_modality_lut(pixel_array(data), data), data).astype(float)
        bits, signed = data.BitsStored, data.PixelRepresentation
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]) if signed else [0, 2**bits - 1]
        low, high = apply_modality_lut(np.array(ends), data)
        data.SOPClassUID, data.Modality = DX, "DX"
        got = dicom.load_dicom(Path("film"), bytes_of(data), (16,))
        assert np.abs(got - (wanted - low) / (high - low) * 255).max() <= 0.5 + 1e-9
        seen += got.size
    assert seen > 500_000


# Colour


RED_GREEN_BLUE = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_is_luma(tmp_path: Path, planar: int) -> None:
    data = film(RED_GREEN_BLUE, 8, meaning="RGB")
    if planar:
        data.PlanarConfiguration = 1
        put(data, RED_GREEN_BLUE.transpose(2, 0, 1).tobytes())
    assert grey(data, tmp_path) == [[76, 150, 29, 90]]


def test_ybr_is_luma(tmp_path: Path) -> None:
    image = np.array([[[10, 1, 200], [250, 99, 3]]], np.uint8)
    assert grey(film(image, 8, meaning="YBR_FULL"), tmp_path) == [[10, 250]]
    data = film(np.zeros((1, 4, 3)), 8, meaning="YBR_FULL_422")
    put(data, bytes([10, 20, 128, 128, 30, 40, 0, 255]))
    assert grey(data, tmp_path) == [[10, 20, 30, 40]]


# Transfer syntaxes


def ramp(top: int) -> np.ndarray:
    return np.rint(np.linspace(0, top, 40 * 30)).astype(np.uint16).reshape(40, 30)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_uncompressed_syntaxes(tmp_path: Path, syntax: str, bits: int) -> None:
    data = film(ramp(2**bits - 1), bits)
    wanted = grey(data, tmp_path)
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and bits > 8:
        put(data, ramp(2**bits - 1).astype(">u2").tobytes())
    assert grey(data, tmp_path) == wanted


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False)])
def test_rle(tmp_path: Path, bits: int, signed: bool) -> None:
    data = film(ramp(2**bits - 1).astype(int) - signed * 2 ** (bits - 1), bits, signed)
    wanted = grey(data, tmp_path)
    data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    assert grey(data, tmp_path) == wanted


def through_pillow(data: Dataset, form: str, syntax: str, image: np.ndarray, **how: object) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **how)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([buffer.getvalue()])
    data["PixelData"].VR = "OB"


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_8_bit_jpeg(tmp_path: Path, syntax: str) -> None:
    image = ramp(255).astype(np.uint8)
    data = film(image, 8)
    through_pillow(data, "JPEG", syntax, image, quality=95)
    assert np.abs(np.array(grey(data, tmp_path)) - image.astype(int)).max() <= 3
    data = film(np.repeat(image[..., None], 3, axis=2), 8, meaning="YBR_FULL_422")
    through_pillow(data, "JPEG", syntax, np.repeat(image[..., None], 3, axis=2), quality=95)
    assert np.abs(np.array(grey(data, tmp_path)) - image.astype(int)).max() <= 3


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000(tmp_path: Path, syntax: str, bits: int) -> None:
    image = ramp(2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
    data = film(image, bits)
    wanted = grey(data, tmp_path)
    through_pillow(data, "JPEG2000", syntax, image, no_jp2=True)
    assert grey(data, tmp_path) == wanted
    # Fewer bits stored than the frame has room for.
    if bits == 16:
        data = film(ramp(4095), 12)
        wanted = grey(data, tmp_path)
        through_pillow(data, "JPEG2000", syntax, ramp(4095), no_jp2=True)
        assert grey(data, tmp_path) == wanted


GDCM_NAMES = {
    JPEGLossless: "JPEGLosslessProcess14",
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEGLSLossless: "JPEGLSLossless",
    JPEGLSNearLossless: "JPEGLSNearLossless",
    JPEGExtended12Bit: "JPEGExtendedProcess2_4",
}


def through_gdcm(data: Dataset, syntax: str, folder: Path) -> Dataset:
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed")
    source, target = save(data, folder / "plain.dcm"), folder / "packed.dcm"
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, GDCM_NAMES[syntax])))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    packed = dcmread(target)
    assert packed.file_meta.TransferSyntaxUID == syntax
    return packed


LOSSLESS = [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless]


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (12, True)])
def test_lossless_jpeg(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    data = film(ramp(2**bits - 1).astype(int) - signed * 2 ** (bits - 1), bits, signed)
    wanted = grey(data, tmp_path)
    assert grey(through_gdcm(data, syntax, tmp_path), tmp_path) == wanted


def test_lossless_colour(tmp_path: Path) -> None:
    image = np.repeat(ramp(255).astype(np.uint8)[..., None], 3, axis=2)
    image[..., 1] = image[..., 0].T.reshape(40, 30)
    data = film(image, 8, meaning="RGB")
    wanted = grey(data, tmp_path)
    assert wanted == np.asarray(Image.fromarray(image).convert("L")).tolist()
    for syntax in (JPEGLosslessSV1, JPEGLSLossless):
        assert grey(through_gdcm(data, syntax, tmp_path), tmp_path) == wanted


def test_bundled_syntaxes_of_one_image() -> None:
    def of(name: str) -> np.ndarray:
        data = dcmread(BUNDLED / name)
        data.SOPClassUID, data.Modality = DX, "DX"
        return dicom.load_dicom(Path(name), bytes_of(data), (16,))

    wanted = of("MR_small.dcm")
    assert wanted.shape == (64, 64)
    assert len(np.unique(wanted)) > 50
    for form in ("RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless"):
        if form == "jpeg_ls_lossless":
            pytest.importorskip("gdcm", reason="python-gdcm is not installed")
        np.testing.assert_array_equal(of(f"MR_small_{form}.dcm"), wanted)


def test_unread_syntaxes_are_named(tmp_path: Path) -> None:
    data = film([[0, 1]], 12)
    data.PixelData = encapsulate([b"\0\0"])
    path = tmp_path / "film.dcm"
    for uid, name in (
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression (Lossless Only)"),
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
    ):
        data.file_meta.TransferSyntaxUID = uid
        wanted = f"DICOM transfer syntax {name} ({uid}) is not read: convert it to Explicit VR Li"
        assert refusal(data, tmp_path).startswith(wanted)
    plain = bytes_of(film([[0, 1]], 12))
    for uid, told in (
        (b"1.2.3.4.5.6.7.8.910", "1.2.3.4.5.6.7.8.910"),
        (b"Xanthopoulos^Z 7890", "of no valid identifier"),
    ):
        path.write_bytes(plain.replace(b"1.2.840.10008.1.2.1", uid))
        assert error_of(path).startswith(f"DICOM transfer syntax {told} is not read: ")


def test_12_bit_jpeg_is_named(tmp_path: Path) -> None:
    data = through_gdcm(film(ramp(4095), 12), JPEGExtended12Bit, tmp_path)
    message = refusal(data, tmp_path)
    assert "JPEG Extended (Process 2 and 4) (1.2.840.10008.1.2.4.51)" in message
    assert "bits of it are not read" in message


# Files that are not quite files


@pytest.mark.parametrize("form", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, "big"])
@pytest.mark.parametrize("ending", [".dcm", ".dicom", ".DCM", "", ".0001"])
def test_no_preamble(tmp_path: Path, form: str, ending: str) -> None:
    data = film([[0, 819, 4095]], 12)
    if form == "big":
        put(data, np.array([[0, 819, 4095]], ">u2").tobytes())
    path = tmp_path / f"film{ending}"
    del data.file_meta
    data.save_as(path, implicit_vr=form == ImplicitVRLittleEndian, little_endian=form != "big")
    assert path.read_bytes()[128:132] != b"DICM"
    assert load_image(path).tolist() == [[0, 51, 255]]
    assert probe(path) == (1, 3)


def test_file_meta_without_preamble(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(bytes_of(film([[0, 819, 4095]], 12))[132:])
    assert load_image(path).tolist() == [[0, 51, 255]]


def test_ending_and_content_must_agree(tmp_path: Path) -> None:
    whole = bytes_of(film([[0, 819, 4095]], 12))
    for name in ("film.png", "film.IMG", "film.tif"):
        (tmp_path / name).write_bytes(whole)
        assert error_of(tmp_path / name).startswith("DICOM content under the ending ")
        assert load_image(tmp_path / name, any_ending=True).tolist() == [[0, 51, 255]]
    # A preamble may be a TIFF's first bytes.
    (tmp_path / "film.dcm").write_bytes(b"II*\0" + whole[4:])
    assert load_image(tmp_path / "film.dcm").tolist() == [[0, 51, 255]]
    (tmp_path / "film.dcm").write_bytes(b"nothing of the kind" * 20)
    assert error_of(tmp_path / "film.dcm").startswith("not a PNG, JPEG, GIF, TIFF or DICOM")


def test_compressed_pixels_without_transfer_syntax(tmp_path: Path) -> None:
    data = film(ramp(255), 8)
    data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    whole = bytes_of(data)
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    (tmp_path / "film.dcm").write_bytes(whole[start:])
    message = error_of(tmp_path / "film.dcm")
    assert message.startswith("DICOM file that does not say how its pixels are compressed: ")


def test_depths(tmp_path: Path) -> None:
    path = save(film([[0, 1]], 12), tmp_path / "film.dcm")
    for reading in (load_image, probe):
        with pytest.raises(InputError, match="16-bit where 8 are expected"):
            reading(path, depths=(8,))
    path = save(film([[0, 1]], 8), path)
    assert load_image(path, depths=(8,)).tolist() == [[0, 1]]


# Refusals


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "PT", "NM", "SEG", "RTDOSE", "SR"])
def test_other_modalities(tmp_path: Path, modality: str) -> None:
    wanted = f"DICOM of modality {modality}: not a radiograph; leave it out"
    assert refusal(film([[0, 1]], Modality=modality), tmp_path) == wanted
    with pytest.raises(InputError, match=wanted):
        probe(tmp_path / "film.dcm")


@pytest.mark.parametrize(
    ("uid", "what"),
    [("2", "CT"), ("2.1", "CT"), ("4", "MR"), ("6.1", "US"), ("3.1", "US"), ("77.1.4", "photog")],
)
def test_other_storage_classes(tmp_path: Path, uid: str, what: str) -> None:
    data = film([[0, 1]])
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{uid}"
    del data.Modality
    assert refusal(data, tmp_path).startswith(f"DICOM of modality {what}")


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "PX", "XA", "OT", "", None])
def test_modalities_of_films(tmp_path: Path, modality: str | None) -> None:
    data = film([[0, 4095]], Modality=modality)
    for uid in ("1", "1.1", "1.1.1", "7", "12.1"):
        data.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{uid}"
        assert grey(data, tmp_path) == [[0, 255]]


def test_refusals(tmp_path: Path) -> None:
    def told(**more: object) -> str:
        return refusal(film([[0, 1], [2, 3]], **more), tmp_path)

    assert told(NumberOfFrames=2).startswith("DICOM of 2 frames: ")
    assert told(SharedFunctionalGroupsSequence=[Dataset()]).startswith("DICOM of the multi-frame")
    assert told(Rows=0) == "DICOM file without an image: leave it out"
    assert told(BitsAllocated=32, BitsStored=32, HighBit=31).startswith("DICOM 32-bit image: ")
    assert told(BitsAllocated=1, BitsStored=1, HighBit=0).startswith("DICOM 1-bit image: ")
    assert told(HighBit=15).startswith("DICOM 12 of 16 bits, not the lowest ones: ")
    assert told(BitsStored=17, HighBit=16).startswith("DICOM 17 of 16 bits, not the lowest ones: ")
    assert told(meaning="PALETTE COLOR").startswith("DICOM photometric interpretation other ")
    assert told(meaning=CODE).startswith("DICOM photometric interpretation other ")
    assert told(RescaleSlope="0", RescaleIntercept="1").startswith("DICOM RescaleSlope 0: ")
    window = "DICOM window of centre 5.0, width 0.0: "
    assert told(WindowCenter=5, WindowWidth=0).startswith(window)
    assert told(WindowCenter=5).startswith("DICOM window of centre 5.0, width None: ")
    odd = {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": CODE}
    assert told(**odd).startswith("DICOM VOILUTFunction unknown: ")
    short = lut(0, 16, [1, 2])
    short.LUTDescriptor = [3, 0, 16]
    assert told(VOILUTSequence=[short]).startswith("DICOM look-up table does not fit ")
    assert told(VOILUTSequence=[lut(0, 8, [256])]).startswith("DICOM look-up table does not fit ")
    assert told(Rows=1).endswith("8 bytes where the image has 4: fetch it again or use skip_bad")
    assert told(Columns=3).endswith(
        "8 bytes where the image has 12: fetch it again or use skip_bad"
    )


def test_colour_that_is_refused(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3))
    assert refusal(film(image, 16, meaning="RGB"), tmp_path).startswith("DICOM colour of other")
    assert refusal(film(image, 8, meaning="HSV"), tmp_path).startswith("DICOM colour other than")
    data = film(image, 8, meaning="RGB", SamplesPerPixel=4)
    assert refusal(data, tmp_path).startswith("DICOM colour other than")


def test_without_pixels(tmp_path: Path) -> None:
    data = film([[0, 1]])
    del data.PixelData
    assert refusal(data, tmp_path).startswith("DICOM file without pixel data: ")
    data.FloatPixelData = b"\0" * 8
    assert refusal(data, tmp_path).startswith("DICOM floating-point image: ")


def test_elements_of_the_wrong_kind(tmp_path: Path) -> None:
    for name in ("Rows", "BitsStored", "SamplesPerPixel", "HighBit", "PixelRepresentation"):
        data = film([[0, 1]])
        del data[name]
        data.add_new(name, "LO", NAME)
        assert refusal(data, tmp_path)
        del data[name]
        assert refusal(data, tmp_path)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = film([[0, 1]], Rows=60000, Columns=60000)
    wanted = "60000x60000 pixels, more than 89478485: not a radiograph; leave it out"
    assert refusal(data, tmp_path) == wanted
    with pytest.raises(InputError, match=wanted):
        probe(tmp_path / "film.dcm")
    # A deflated file may be a thousand times larger than it looks.
    data = film(np.zeros((500, 500)), 8)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(data, tmp_path / "film.dcm")
    assert path.stat().st_size < 3000
    assert load_image(path).shape == (500, 500)
    monkeypatch.setattr(dicom, "MAX_BYTES", 100_000)
    assert error_of(path).startswith("deflated DICOM file cut off, or more than 100000 bytes: ")


# Damage


def test_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless):
        data = film(ramp(4095), 12)
        if syntax == RLELossless:
            data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        data.file_meta.TransferSyntaxUID = syntax
        whole = bytes_of(data)
        for keep in range(16, len(whole) - 12, max(1, len(whole) // 60)):
            path.write_bytes(whole[:keep])
            error_of(path)


@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLosslessSV1, RLELossless]
)
def test_frame_cut_off_inside_a_whole_file(tmp_path: Path, syntax: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    data = film(image, 8)
    if syntax == RLELossless:
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == JPEGLosslessSV1:
        data = through_gdcm(data, syntax, tmp_path)
    else:
        form = "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000"
        how = {} if form == "JPEG" else {"no_jp2": True}
        through_pillow(data, form, syntax, image, **how)
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    for keep in (0.95, 0.5, 0.2):
        data.PixelData = encapsulate([code[: int(keep * len(code))]])
        message = refusal(data, tmp_path)
        assert message.startswith(f"DICOM pixels in {syntax.name} ({syntax}): c")
        assert "cut off: fetch it again" in message


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless])
def test_frame_of_another_size_than_its_header(tmp_path: Path, syntax: str) -> None:
    image = ramp(255).astype(np.uint8)
    # As many pixels, the other way round.
    data = film(image.reshape(30, 40), 8)
    form = "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000"
    through_pillow(data, form, syntax, image, **({} if form == "JPEG" else {"no_jp2": True}))
    assert "of another size than Rows x Columns" in refusal(data, tmp_path)


def test_damage_that_ends_the_decoder(tmp_path: Path) -> None:
    data = through_gdcm(film(ramp(4095), 12), JPEGLosslessSV1, tmp_path)
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    # In this process GDCM would end the test run over a lost Huffman table.
    data.PixelData = encapsulate([code.replace(b"\xff\xc4", b"\0\xc4")])
    message = refusal(data, tmp_path)
    assert message.startswith("DICOM pixels in JPEG Lossless, Non-Hierarchical, First-Order ")
    assert message.endswith(": damaged: fetch it again or use skip_bad")


def test_damage_that_the_decoder_only_reports(tmp_path: Path) -> None:
    data = through_gdcm(film(ramp(4095), 12), JPEGLosslessSV1, tmp_path)
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    middle = len(code) // 2
    # The decoder fills up the rest and goes on.
    data.PixelData = encapsulate([code[:middle] + b"\xff\xd9"])
    assert refusal(data, tmp_path).endswith(": damaged: fetch it again or use skip_bad")


def test_decoder_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = through_gdcm(film(ramp(4095), 12), JPEGLosslessSV1, tmp_path)
    monkeypatch.setattr(dicom_codec, "SECONDS", 0.001)
    assert "no picture after 0.001 s" in refusal(data, tmp_path)


def test_decoder_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = film(ramp(4095), 12)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    start = b"\xff\xd8\xff\xc3\0\x0b\x0c" + struct.pack(">HHB", 40, 30, 1) + b"\1\x11\0"
    data.PixelData = encapsulate([start + b"\xff\xd9"])
    data["PixelData"].VR = "OB"
    (tmp_path / "gdcm.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = refusal(data, tmp_path)
    assert "JPEG Lossless, Non-Hierarchical, First-Order Prediction" in message
    assert "it takes python-gdcm, which is not installed" in message


def test_pixels_beyond_their_bits(tmp_path: Path) -> None:
    data = film(ramp(4095), 12)
    through_pillow(data, "JPEG2000", JPEG2000Lossless, ramp(4096), no_jp2=True)
    assert refusal(data, tmp_path).startswith("DICOM pixels beyond their 12 bits: ")
    image = ramp(255).astype(np.uint8)
    for bits in (4, 12):
        data = film(ramp(2**bits - 1), bits)
        through_pillow(data, "JPEG", JPEGBaseline8Bit, image)
        assert f"8 bits where BitsStored says {bits}: " in refusal(data, tmp_path)


def test_nothing_is_logged_or_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = film(ramp(4095), 12)
    whole = bytes_of(data)
    # A date that is none, and a name in it.
    data.StudyDate = "20200101"
    spoilt = bytes_of(data).replace(b"20200101", b"Xanthopo")
    assert spoilt != whole
    path = tmp_path / "film.dcm"
    path.write_bytes(spoilt)
    with caplog.at_level("DEBUG"):
        assert load_image(path).shape == (40, 30)
        path.write_bytes(spoilt[:-700])
        error_of(path)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_importing_readers_does_not_import_pydicom() -> None:
    code = "import sys, dollkit.data.images; print('pydicom' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


# pydicom's own files


def bundled() -> list[Path]:
    return sorted(path for path in BUNDLED.rglob("*") if path.is_file())


def as_film(path: Path, target: Path) -> Path | None:
    """A bundled image once more as a film, so that its pixels are reached."""
    with decode.quiet():
        data = dcmread(path, force=True)
    if "PixelData" not in data or "BitsStored" not in data:
        return None
    uid = str(data.SOPClassUID).encode()
    whole = path.read_bytes().replace(uid, (b"1.2.3." + b"1" * len(uid))[: len(uid)])
    # Modality becomes an element that nobody reads.
    target.write_bytes(whole.replace(b"\x08\0\x60\0", b"\x08\0\x61\0"))
    return target


def test_every_bundled_file_is_read_or_refused(tmp_path: Path) -> None:
    files = bundled()
    again = [as_film(p, tmp_path / p.name) for p in files if p.suffix == ".dcm"]
    read, refusals = 0, []
    for file in (*files, *filter(None, again)):
        try:
            image = load_image(file)
        except InputError as error:
            refusals.append((file, str(error)))
            continue
        assert image.ndim == 2
        assert image.dtype == np.uint8
        assert image.shape == probe(file)
        read += 1
    for file, message in refusals:
        assert message.startswith(f"{file}: ")
        assert "\n" not in message
    assert read >= 60
    assert len(refusals) >= 30
