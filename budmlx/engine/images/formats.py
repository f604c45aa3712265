"""Image formats: the files that may be opened, and their limits.

A picture's own header says how large it is, so a small file that unpacks to gigabytes is
refused before memory is taken for it. Only formats that clients send are opened.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from budmlx.errors import InvalidRequestError

MAX_BYTES = 20 * 2**20
"""The largest file."""
MAX_PIXELS = 64_000_000
"""The most pixels of one picture, width times height."""
MAX_SIDE = 30_000
"""The longest side in pixels."""

# A progressive JPEG is decoded once per scan, and a scan takes few bytes; cameras write ten.
_MAX_SCANS = 100


def open_picture(data: bytes, param: str) -> ImageFile:
    """A file as Pillow opens it, nothing decoded, its size checked.

    The classes of the formats are called rather than `Image.open`, which warns of pictures
    that are refused here, and knows formats that run programs or read other files.

    Raises:
        InvalidRequestError: the picture is too large (code `image_too_large`) or empty.
        Exception: any error of Pillow about a damaged file, or ValueError if it is no picture.
    """
    check_bytes(data, param)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind: Callable[[io.BytesIO], ImageFile] = PngImageFile
    elif data.startswith(b"\xff\xd8\xff"):
        kind = JpegImageFile
        if data.count(b"\xff\xda") > _MAX_SCANS:
            raise ValueError("too many scans")
    elif data.startswith((b"GIF87a", b"GIF89a")):
        kind = GifImageFile
        data, size = _first_frame(data)
        check_size(size, param)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = WebPImageFile
        check_size(_webp_size(data), param)
    elif data.startswith(b"BM"):
        kind = BmpImageFile
    else:
        raise ValueError("not an image")
    image = kind(io.BytesIO(data))
    check_size(image.size, param)
    if any(tile[0] == "bmp_rle" for tile in image.tile):
        raise ValueError("a compression that is unpacked byte by byte in Python")
    return image


def check_bytes(data: bytes, param: str) -> None:
    """Raise InvalidRequestError if a file is larger than `MAX_BYTES`."""
    if len(data) > MAX_BYTES:
        raise too_many_bytes(param)


def too_many_bytes(param: str) -> InvalidRequestError:
    """The refusal of a file larger than `MAX_BYTES`."""
    return InvalidRequestError(
        f"The image has more than {MAX_BYTES >> 20} MiB. Send a smaller one.",
        param=param,
        code="image_too_large",
    )


def check_size(size: tuple[int, int], param: str) -> None:
    """Raise InvalidRequestError if width or height are 0, or more than the limits."""
    width, height = size
    if width < 1 or height < 1:
        raise InvalidRequestError("The image has no pixels.", param=param)
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise InvalidRequestError(
            f"The image has {width} x {height} pixels. Send one with at most "
            f"{MAX_PIXELS // 10**6} million, and {MAX_SIDE:,} a side.",
            param=param,
            code="image_too_large",
        )


def _first_frame(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """A GIF without what stands before its first frame, and the size of canvas and frame.

    Pillow takes memory for the first frame when it opens the file, before its size is known
    to any other code. What is left of the extensions is the transparent colour.
    """
    at = start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    control = b""
    while data[at] == 0x21:
        label, body = data[at + 1], at + 2
        at = body
        while data[at]:
            at += data[at] + 1
        at += 1
        if label == 0xF9:
            control = bytes([0x21, 0xF9, 4, data[body + 1] & 1, 0, 0, data[body + 4], 0])
    if data[at] != 0x2C:
        raise ValueError("no frame")
    width, height = struct.unpack_from("<HH", data, 6)
    left, top, right, bottom = struct.unpack_from("<4H", data, at + 1)
    size = max(width, left + right), max(height, top + bottom)
    return data[:start] + control + data[at:], size


def _webp_size(data: bytes) -> tuple[int, int]:
    """The canvas of a WebP file, for which memory is taken when it is opened.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    match data[12:16]:
        case b"VP8X":
            low = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
            return low[0], low[1]
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise ValueError("not a WebP file")
