"""DICOM films into grey: known answers for each step, and refusals that name nobody."""

from __future__ import annotations

import copy
import io
import struct
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from dollkit.common.errors import InputError
from dollkit.data import dicom, gdcm_process
from dollkit.data.images import load_image, probe

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
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
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


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_full_range_of_the_bits_stored(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, top, top // 2, top // 5]])
    assert grey(film(values, bits), tmp_path) == [[0, 255, 127, 51]]
    assert grey(film(values - (top + 1) // 2, bits, signed=True), tmp_path) == [[0, 255, 127, 51]]


def test_rescale(tmp_path: Path) -> None:
    data = film([[0, 100, 200]], 8, RescaleSlope="2", RescaleIntercept="-100")
    # -100, 100, 300 in a range of -100 to 410.
    assert grey(data, tmp_path) == [[0, 100, 200]]
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 100, 400, "LINEAR_EXACT"
    assert grey(data, tmp_path) == [[0, 128, 255]]
    # A falling slope makes bright what was dark, with a window and without.
    data = film([[0, 51, 255]], 8, RescaleSlope="-1", RescaleIntercept="255")
    assert grey(data, tmp_path) == [[255, 204, 0]]
    data.WindowCenter, data.WindowWidth = 128, 256
    assert grey(data, tmp_path) == [[255, 204, 0]]


def lut(first: int, bits: int, entries: list[int], signed: bool = False) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if signed else "US"
    item.LUTData = entries
    item["LUTData"].VR = "US"
    return item


def test_luts(tmp_path: Path) -> None:
    # Below its first value the first entry, above its last the last. pydicom knows 8 and 16 bits,
    # and counts entries in the bits that they have.
    data = film([[0, 10, 11, 12, 13, 255]], 8)
    data.ModalityLUTSequence = [lut(10, 12, [0, 819, 1638, 4095])]
    assert grey(data, tmp_path) == [[0, 0, 51, 102, 255, 255]]
    data = film([[-3, -2, -1, 0]], signed=True)
    data.ModalityLUTSequence = [lut(-2, 16, [0, 13107, 65535], signed=True)]
    assert grey(data, tmp_path) == [[0, 0, 51, 255]]
    data = film([[0, 255, 256, 511, 4095]])
    data.VOILUTSequence = [lut(0, 8, [i // 2 for i in range(512)])]
    assert grey(data, tmp_path) == [[0, 127, 128, 255, 255]]
    # Packed, two entries in a word.
    data.VOILUTSequence[0].add_new("LUTData", "OW", bytes(i // 2 for i in range(512)))
    assert grey(data, tmp_path) == [[0, 127, 128, 255, 255]]
    # The scale is that of the entries, whatever the bits declared.
    data = film([[0, 2048, 4095]], VOILUTSequence=[lut(0, 16, list(range(4096)))])
    assert grey(data, tmp_path) == [[0, 128, 255]]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_first_voi_lut_comes_before_the_window(tmp_path: Path, syntax: str) -> None:
    data = film([[0, 1, 2, 3, 200]], 8, WindowCenter=1, WindowWidth=1)
    first, order = lut(1, 10, [0, 341, 1023]), ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data.VOILUTSequence = [first, lut(0, 8, [9, 9])]
    data.file_meta.TransferSyntaxUID = syntax
    assert grey(data, tmp_path) == [[0, 0, 85, 255, 255]]
    first.add_new("LUTData", "OW", struct.pack(f"{order}3H", 0, 341, 1023))
    assert grey(data, tmp_path) == [[0, 0, 85, 255, 255]]


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_narrow_window_is_that_of_the_standard(tmp_path: Path, kind: str) -> None:
    values, centre, width = np.arange(-2048, 2048).reshape(64, 64), 0.5, 2
    data = film(values, 12, True, WindowCenter=centre, WindowWidth=width, VOILUTFunction=kind)
    share = (values - centre) / width
    if kind == "LINEAR":
        share = (values - (centre - 0.5)) / (width - 1)
    sigmoid = 1 / (1 + np.exp(np.clip(-4 * share, -99, 99)))
    wanted = 255 * (sigmoid if kind == "SIGMOID" else np.clip(share + 0.5, 0, 1))
    assert np.abs(np.array(grey(data, tmp_path)) - wanted).max() <= 0.5 + 1e-9


def test_padding_is_black_and_stretches_nothing(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    wanted = grey(film([[100, 2000, 4000]], **window), tmp_path)[0]
    padded = film([[100, 2000, 4000, 4095]], PixelPaddingValue=4095, **window)
    assert grey(padded, tmp_path) == [[*wanted, 0]]
    padded.PhotometricInterpretation = "MONOCHROME1"
    assert grey(padded, tmp_path) == [[*(255 - v for v in wanted), 0]]
    ends = {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2000}
    padded = film([[-2000, -1999, -1990, -1989, 0]], signed=True, **ends)
    assert grey(padded, tmp_path) == [[0, 0, 0, 4, 128]]


def test_bits_above_those_stored_are_left_out(tmp_path: Path) -> None:
    # An overlay in the upper bits, as files of the nineties have.
    assert grey(film([[0x1000, 0xF000 | 819, 4095]]), tmp_path) == [[0, 51, 255]]
    assert grey(film([[0x0800, 0x07FF]], signed=True), tmp_path) == [[0, 255]]


def test_a_voi_lut_after_a_negative_intercept_starts_below_zero(tmp_path: Path) -> None:
    # Read with the sign of the stored values, its first value is 64512 in place of -1024.
    item = lut(64512, 12, list(range(4096)))
    data = film([[0, 819, 4095]], RescaleSlope="1", RescaleIntercept="-1024", VOILUTSequence=[item])
    assert grey(data, tmp_path) == [[0, 51, 255]]


def test_a_lut_with_its_bytes_changed_round_is_a_curve_again(tmp_path: Path) -> None:
    data = film([[0, 819, 4095]], VOILUTSequence=[lut(0, 16, list(range(0, 65536, 16)))])
    wanted = grey(data, tmp_path)
    data.VOILUTSequence[0].add_new("LUTData", "OW", struct.pack(">4096H", *range(0, 65536, 16)))
    assert grey(data, tmp_path) == wanted == [[0, 51, 255]]


@pytest.mark.parametrize(("bits", "signed"), [(12, False), (12, True), (10, False)])
def test_fewer_bits_than_declared(tmp_path: Path, bits: int, signed: bool) -> None:
    top = 2**bits - 1
    values = np.array([[0, top, top // 5]]) - signed * 2 ** (bits - 1)
    assert grey(film(values, 16, signed), tmp_path) == [[0, 255, 51]]
    rescaled = film(values, 16, signed, "MONOCHROME1", RescaleSlope="2", RescaleIntercept="7")
    assert grey(rescaled, tmp_path) == [[255, 0, 204]]
    # Padding is no value of the film.
    padded = film([[*values[0], 32767]], 16, signed, PixelPaddingValue=32767)
    assert grey(padded, tmp_path) == [[0, 255, 51, 0]]


def bundled(name: str) -> np.ndarray:
    data = dcmread(BUNDLED / name)
    data.Modality = "DX"
    return dicom.load_dicom(Path(name), io.BytesIO(bytes_of(data)), (16,))


@pytest.mark.parametrize(
    ("name", "ends"),
    # 16 bits with sign, of which the first takes up 12 without.
    [
        ("CT_small", (0, 4095)),
        ("693_J2KI", (-8192, 8191)),
        ("J2K_pixelrep_mismatch", (-4096, 4095)),
    ],
)
def test_chain_agrees_with_pydicom_on_its_own_files(name: str, ends: tuple[int, int]) -> None:
    data, got = dcmread(BUNDLED / f"{name}.dcm"), bundled(f"{name}.dcm")
    wanted = apply_voi_lut(apply_modality_lut(pixel_array(data), data), data).astype(float)
    low, high = apply_modality_lut(np.array(ends), data)
    assert np.abs(got - (wanted - low) / (high - low) * 255).max() <= 0.5 + 1e-9


MODALITIES = {
    "rescale": {"RescaleSlope": "2", "RescaleIntercept": "-1024"},
    "modality LUT": {"ModalityLUTSequence": [lut(-2048, 16, [16 * i for i in range(4096)], True)]},
}


@pytest.mark.parametrize("meaning", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("modality", list(MODALITIES))
@pytest.mark.parametrize("voi", ["", "LINEAR", "LINEAR_EXACT", "SIGMOID", "VOI LUT"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_chain_agrees_with_pydicom_in_every_syntax(
    tmp_path: Path, meaning: str, modality: str, voi: str, signed: bool
) -> None:
    values = ramp(4095).astype(int) - 2048 * signed
    data = film(values, 12, signed, meaning, **MODALITIES[modality])
    if modality == "modality LUT" and not signed:
        data.ModalityLUTSequence = [lut(0, 16, [16 * i for i in range(4096)])]
    low, high = (0, 65535) if modality == "modality LUT" else 2 * values[[0, -1], [0, -1]] - 1024
    centre = (low + high) // 2
    if voi == "VOI LUT":  # its first value is below zero after a rescale with negative intercept
        first = centre - 2000
        entries = [i**2 // 4096 for i in range(4096)]
        data.VOILUTSequence = [lut(first, 12, entries, signed=first < 0)]
        low, high = 0, 4095
    elif voi:
        data.WindowCenter, data.WindowWidth, data.VOILUTFunction = centre, 3000, voi
    shown = apply_voi_lut(apply_modality_lut(values.astype("i2" if signed else "u2"), data), data)
    wanted = (shown.astype(float) - low) / (high - low) * 255
    wanted = 255 - wanted if meaning == "MONOCHROME1" else wanted
    plain = grey(data, tmp_path)
    assert np.abs(np.array(plain) - wanted).max() <= 0.5 + 1e-6
    assert grey(compressed(copy.deepcopy(data), uid.RLELossless, values), tmp_path) == plain
    for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless):
        assert grey(through_gdcm(data, syntax, tmp_path), tmp_path) == plain


def test_colour_is_luma(tmp_path: Path) -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    assert grey(film(image, 8, meaning="RGB"), tmp_path) == [[76, 150, 29, 90]]
    data = film(np.zeros((1, 4, 3)), 8, meaning="YBR_FULL_422")
    put(data, bytes([10, 20, 128, 128, 30, 40, 0, 255]))
    assert grey(data, tmp_path) == [[10, 20, 30, 40]]


# Transfer syntaxes


def ramp(top: int) -> np.ndarray:
    return np.rint(np.linspace(0, top, 40 * 30)).astype(np.uint16).reshape(40, 30)


def compressed(data: Dataset, syntax: str, image: np.ndarray) -> Dataset:
    """The film with its pixels through RLE, or through Pillow."""
    if syntax == uid.RLELossless:
        data.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return data
    jpeg, buffer = syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit), io.BytesIO()
    how = {"quality": 95} if jpeg else {"no_jp2": True}
    Image.fromarray(image).save(buffer, "JPEG" if jpeg else "JPEG2000", **how)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([buffer.getvalue()])
    data["PixelData"].VR = "OB"
    return data


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_8_bit_jpeg(tmp_path: Path, syntax: str) -> None:
    image = ramp(255).astype(np.uint8)
    rgb = np.repeat(image[..., None], 3, axis=2)
    for source, meaning in ((image, "MONOCHROME2"), (rgb, "YBR_FULL_422")):
        data = compressed(film(source, 8, meaning=meaning), syntax, source)
        assert np.abs(np.array(grey(data, tmp_path)) - image.astype(int)).max() <= 3
    for bits in (4, 12):
        data = compressed(film(ramp(2**bits - 1), bits), syntax, image)
        assert f"8-bit JPEG with BitsStored {bits} is not read: " in refusal(data, tmp_path)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000(tmp_path: Path, bits: int) -> None:
    image = ramp(2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
    data = film(image, bits)
    wanted = grey(data, tmp_path)
    assert grey(compressed(data, uid.JPEG2000Lossless, image), tmp_path) == wanted
    if bits == 12:  # an overlay above the bits stored
        assert grey(compressed(data, uid.JPEG2000Lossless, image | 0xF000), tmp_path) == wanted


def through_gdcm(data: Dataset, syntax: str, folder: Path) -> Dataset:
    import gdcm

    source, target = save(data, folder / "plain.dcm"), folder / "packed.dcm"
    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return dcmread(target)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, True)])
def test_lossless_jpeg(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    data = film(ramp(2**bits - 1).astype(int) - signed * 2 ** (bits - 1), bits, signed)
    wanted = grey(data, tmp_path)
    assert grey(through_gdcm(data, syntax, tmp_path), tmp_path) == wanted


def test_unread_syntaxes_are_named(tmp_path: Path) -> None:
    data = film([[0, 1]])
    data.PixelData = encapsulate([b"\0\0"])
    data.file_meta.TransferSyntaxUID = mpeg = "1.2.840.10008.1.2.4.100"
    wanted = f"DICOM transfer syntax MPEG2 Main Profile / Main Level ({mpeg}) is not read: convert"
    assert refusal(data, tmp_path).startswith(wanted)
    path = tmp_path / "film.dcm"
    path.write_bytes(
        bytes_of(film([[0, 1]])).replace(b"1.2.840.10008.1.2.1", b"Xanthopoulos^Z 7890")
    )
    assert error_of(path).startswith("DICOM transfer syntax of no valid identifier is not read: ")
    data = through_gdcm(film(ramp(4095)), uid.JPEGExtended12Bit, tmp_path)
    assert "16-bit JPEG with BitsStored 12 is not read" in refusal(data, tmp_path)


# Files that are not quite files


def test_preambles_and_endings(tmp_path: Path) -> None:
    whole, path = bytes_of(film([[0, 819, 4095]])), tmp_path / "film.dcm"
    # Without preamble, or with a TIFF's first bytes in it.
    for data in (whole[132:], b"II*\0" + whole[4:]):
        path.write_bytes(data)
        assert load_image(path).tolist() == [[0, 51, 255]]
    other = tmp_path / "film.png"
    other.write_bytes(whole)
    assert error_of(other).startswith("DICOM content under the ending .png (PNG): ")
    assert load_image(other, any_ending=True).tolist() == [[0, 51, 255]]
    with pytest.raises(InputError, match="16-bit where 8 are expected"):
        probe(path, depths=(8,))


# Refusals


SYNTAX = "DICOM pixels in Explicit VR Little Endian (1.2.840.10008.1.2.1): "
WINDOW = "DICOM window of centre 5.0, width "
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"Modality": "CT"}, "DICOM of modality CT: not a radiograph; leave it out"),
    ({"NumberOfFrames": 2}, "DICOM of 2 frames: "),
    ({"HighBit": None}, "DICOM without HighBit: write it into the file, or leave it out"),
    ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "DICOM 32-bit image: "),
    ({"HighBit": 15}, "DICOM 12 of 16 bits, not the lowest ones: "),
    ({"meaning": CODE}, "DICOM photometric interpretation other "),
    ({"SamplesPerPixel": 3, "meaning": "RGB"}, "DICOM colour of other than 8 bits"),
    ({"RescaleSlope": "0"}, "DICOM RescaleSlope 0: "),
    ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": CODE}, f"{WINDOW}9.0, or"),
    ({"VOILUTSequence": [lut(0, 8, [256])]}, "DICOM look-up table does not fit "),
    ({"VOILUTSequence": [Dataset()]}, "DICOM look-up table does not fit "),
    ({"Rows": 1}, f"{SYNTAX}8 bytes where the image has 4: "),
    ({"Rows": 60000, "Columns": 60000}, "60000x60000 pixels, more than 89478485: "),
    ({"PixelData": None}, "DICOM file without pixel data: "),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_refusals(tmp_path: Path, more: dict[str, object], message: str) -> None:
    data = film([[0, 1], [2, 3]], **more)
    if data.PixelData is None:
        del data.PixelData
    assert refusal(data, tmp_path).startswith(message)


@pytest.mark.parametrize("name", ["NumberOfFrames", "RescaleSlope", "WindowWidth"])
def test_a_text_is_no_number(tmp_path: Path, name: str) -> None:
    data = film([[0, 1]], **{name: 1234, **({"WindowCenter": 5} if "Window" in name else {})})
    path = tmp_path / "film.dcm"
    path.write_bytes(bytes_of(data).replace(b"1234", b"1,5x"))
    assert error_of(path).startswith(f"DICOM {name}")
    assert "is no number: mend it or leave it out" in error_of(path)


# Damage


@pytest.mark.parametrize(
    "syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.RLELossless]
)
def test_frame_cut_off_inside_a_whole_file(tmp_path: Path, syntax: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    data = film(image, 8)
    gdcm = syntax == uid.JPEGLosslessSV1
    data = through_gdcm(data, syntax, tmp_path) if gdcm else compressed(data, syntax, image)
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    for keep in (0.95, 0.2):
        data.PixelData = encapsulate([code[: int(keep * len(code))]])
        message = refusal(data, tmp_path)
        assert message.startswith(f"DICOM pixels in {syntax.name} ({syntax}): c")
        assert "cut off: put an intact copy there" in message


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless])
def test_frame_of_another_size_than_its_header(tmp_path: Path, syntax: str) -> None:
    image = ramp(255).astype(np.uint8)
    # As many pixels, the other way round: pydicom gives them the shape of the header.
    data = compressed(film(image.reshape(30, 40), 8), syntax, image)
    assert pixel_array(data).shape == (30, 40)
    assert "of another size than Rows x Columns" in refusal(data, tmp_path)


def test_damage_ends_the_decoder_and_nothing_else(tmp_path: Path) -> None:
    data = through_gdcm(film(ramp(4095)), uid.JPEGLosslessSV1, tmp_path)
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    wanted = grey(data, tmp_path)
    # Over a lost Huffman table GDCM ends its process; a cut frame it fills up and goes on.
    for damaged in (code.replace(b"\xff\xc4", b"\0\xc4"), code[: len(code) // 2] + b"\xff\xd9"):
        data.PixelData = encapsulate([damaged])
        message = refusal(data, tmp_path)
        assert message.startswith("DICOM pixels in JPEG Lossless, Non-Hierarchical, First-Order ")
        data.PixelData = encapsulate([code])
        assert grey(data, tmp_path) == wanted


def test_one_decoder_reads_many_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = through_gdcm(film(ramp(4095)), uid.JPEGLosslessSV1, tmp_path)
    grey(data, tmp_path)
    before = list(gdcm_process._idle)
    grey(data, tmp_path)
    assert gdcm_process._idle == before != []
    # One that somebody has ended is no damage; one that takes too long is given up.
    before[-1].kill()
    before[-1].wait()
    grey(data, tmp_path)
    gdcm_process._end(gdcm_process._idle.pop())
    monkeypatch.setattr(gdcm_process, "SECONDS", 0.001)
    assert "corrupt or cut off" in refusal(data, tmp_path)


def test_nothing_is_logged_or_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = film(ramp(4095), StudyDate="20200101")
    spoilt = bytes_of(data).replace(b"20200101", b"Xanthopo")  # a date that is none
    path = tmp_path / "film.dcm"
    path.write_bytes(spoilt)
    with caplog.at_level("DEBUG"):
        assert load_image(path).shape == (40, 30)
        path.write_bytes(spoilt[:-700])
        error_of(path)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
