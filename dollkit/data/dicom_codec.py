"""One JPEG lossless or JPEG-LS frame of a DICOM file into pixels, in a process of its own.

GDCM is the one decoder of these under a free licence that has wheels. Over a damaged frame it may
end its process (C++ exceptions that nothing catches), and it tells of lesser damage on stderr
only. Run as a script by `dollkit.data.dicom`, it takes no film down but the damaged one.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

SECONDS = 120
"""Time after which a frame is given up; the largest film takes a few seconds."""


class FrameError(Exception):
    """The frame cannot be decoded; the message says why."""


def decode_frame(
    code: bytes, syntax: str, rows: int, columns: int, samples: int, bits: int
) -> bytes:
    """Pixels of one frame, row by row, samples of a pixel together.

    Args:
        code: the frame as it lies in the file.
        syntax: UID of its transfer syntax.
        rows, columns, samples: of the image.
        bits: precision that the frame states; pixels take one byte up to 8, else two.

    Returns:
        rows * columns * samples values, native byte order.

    Raises:
        FrameError: GDCM is not installed, the frame is damaged, or decoding took too long.
    """
    command = [sys.executable, "-P", "-W", "ignore", str(Path(__file__).resolve())]
    numbers = [str(n) for n in (rows, columns, samples, bits)]
    try:
        done = subprocess.run(
            [*command, syntax, *numbers], input=code, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise FrameError(f"no picture after {SECONDS} s") from None
    if done.returncode == _NO_GDCM:
        raise FrameError("it takes python-gdcm, which is not installed")
    size = rows * columns * samples * (1 if bits <= 8 else 2)
    if done.returncode or done.stderr.strip() or len(done.stdout) != size:
        raise FrameError("damaged")
    return done.stdout


_NO_GDCM = 3


def _main() -> None:
    try:
        gdcm = importlib.import_module("gdcm")  # has no types
    except ImportError:
        sys.exit(_NO_GDCM)
    syntax, *numbers = sys.argv[1:]
    rows, columns, samples, bits = map(int, numbers)
    gdcm.Trace.WarningOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    # Named only so that GDCM leaves the values as they are.
    meaning = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2" if samples == 1 else "RGB")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(meaning))
    if samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    allocated = 8 if bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(samples, allocated, bits, bits - 1, 0))
    # The binding hands bytes out as text.
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    _main()
