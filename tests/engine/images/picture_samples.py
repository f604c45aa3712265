"""Files of pictures, made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    size: tuple[int, int], depth: int, colour: int, rows: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG; rows: the unpacked data with its filter bytes, nothing for zeros; extra: chunks."""
    width, height = size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = rows or bytes((1 + (width * depth * channels + 7) // 8) * height)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + extra
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def gif(screen: tuple[int, int], frame: tuple[int, int], control: bytes = b"") -> bytes:
    """A GIF of one frame without pixels; control: extensions before it."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + bytes(6)
        + control
        + struct.pack("<BHHHHB", 0x2C, 0, 0, *frame, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def webp(size: tuple[int, int]) -> bytes:
    """The head of a lossless WebP of a size."""
    bits = (size[0] - 1) | (size[1] - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(8)
    data = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(data)) + data


def photo(width: int = 40, height: int = 24) -> Image.Image:
    """Smooth colours, so that lossy formats stay close to them."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // (width - 1), y * 255 // (height - 1)
    return Image.fromarray(np.stack([red, green, 255 - red], axis=-1).astype(np.uint8))


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times more."""
    data = saved(photo(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]
