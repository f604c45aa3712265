"""Image decoding: from the forms that requests use to RGB arrays."""

from __future__ import annotations

import binascii
import os
import re
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from budmlx.engine.images.formats import (
    MAX_BYTES,
    check_bytes,
    check_size,
    open_picture,
    too_many_bytes,
)
from budmlx.errors import InvalidRequestError
from budmlx.plugins.vision import Pixels

Picture = Image.Image | bytes | str | os.PathLike[str] | NDArray[np.uint8]
"""What the Python API takes: str is the path of a file, as PathLike; arrays as `from_python`."""

# Values of parameters may be quoted, and are not read. What was read is never read again, since
# white space could be in several parts of each of many parameters.
_DATA_URL = re.compile(
    r"data:\s*+image/[\w.+-]++\s*+"
    r'(?:;[^;,="]*+(?:=\s*+(?:"(?:[^"\\]|\\.)*"\s*+|[^;,"]*+))?)*,',
    re.IGNORECASE,
)
_BASE64 = re.compile(r";\s*base64\s*,\Z", re.IGNORECASE)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, param: str) -> Pixels:
    """The picture in a PNG, JPEG, WebP, GIF or BMP file, as RGB [height, width, 3].

    It is turned upright as EXIF says and laid on white where it is transparent; of an
    animation it is the first frame. Blocking: to be called on a thread.

    Raises:
        InvalidRequestError: it is not such a file or a damaged one, or (code
        `image_too_large`) it has more than `MAX_BYTES`, `MAX_PIXELS` or `MAX_SIDE`.
    """
    try:
        return _pixels(open_picture(data, param))
    except InvalidRequestError:
        raise
    except Exception as error:  # Pillow documents no closed set of errors of damaged files.
        raise _damaged(param) from error


def from_data_url(url: str, param: str) -> bytes:
    """The file in a URL like `data:image/png;base64,...`, as RFC 2397 has it and browsers read it.

    Parameters are skipped, and so is white space in the base64, whose padding may be missing. What
    is percent-encoded is decoded first.

    Raises:
        InvalidRequestError: the URL is not like that, or (code `image_too_large`) holds more
        than `MAX_BYTES`.
    """
    match = _DATA_URL.match(url)
    is_base64 = match is not None and _BASE64.search(match[0]) is not None
    # Base64 that lacks its mark would be read as the bytes of its letters.
    if match is None or not (is_base64 or "%" in url[match.end() :]):
        raise InvalidRequestError(
            "A data: URL of an image begins like data:image/png;base64,", param=param
        )
    try:
        data = unquote_to_bytes(url[match.end() :].encode("ascii"))
        if is_base64:
            data = _from_base64(data.translate(None, b" \t\r\n\f"), param)
    except ValueError as error:
        raise InvalidRequestError("The data: URL is not valid base64.", param=param) from error
    check_bytes(data, param)
    return data


def _from_base64(text: bytes, param: str) -> bytes:
    """The bytes in base64, whose padding may be missing. Raises ValueError."""
    if len(text) // 4 * 3 > MAX_BYTES + 2:
        raise too_many_bytes(param)
    padding = b"" if text.endswith(b"=") else b"=" * (-len(text) % 4)
    return binascii.a2b_base64(text + padding, strict_mode=True)


def from_python(value: Picture, param: str) -> Pixels:
    """A picture given to the Python API, as RGB [height, width, 3].

    value: a PIL image; the bytes or the path of a file that `decode` takes; or an array of
    uint8, [height, width] grey, [height, width, 3] RGB or [height, width, 4] RGBA.

    Raises:
        InvalidRequestError: it is none of these, or for the reasons of `decode`.
    """
    match value:
        case bytes() | bytearray() | memoryview():
            return decode(bytes(value), param)
        case str() | os.PathLike():
            return decode(read_file(value, param), param)
        case np.ndarray():
            return _from_array(value, param)
        case Image.Image():
            return _from_pil(value, param)
        case _:
            raise InvalidRequestError(
                f"An image is a PIL image, bytes, a path or an array, not {type(value).__name__}.",
                param=param,
            )


def size_of(data: bytes, param: str) -> tuple[int, int]:
    """Width and height that a file declares, before EXIF turns it; nothing is decoded.

    Raises:
        InvalidRequestError: for the reasons of `decode` that the header shows.
    """
    try:
        return open_picture(data, param).size
    except InvalidRequestError:
        raise
    except Exception as error:  # As in `decode`.
        raise _damaged(param) from error


def _damaged(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        "The image cannot be decoded. Send a complete PNG, JPEG, WebP, GIF or BMP file.",
        param=param,
    )


def _pixels(image: Image.Image) -> Pixels:
    key = _transparent_value(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I;16"):
        image = _grey_of_16_bits(image, key)
    elif key is not None:
        image.info["transparency"] = key
    if image.has_transparency_data:
        over = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", over.size, "white")
        image.paste(over, mask=over)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    return np.array(image, np.uint8)


def _transparent_value(image: Image.Image) -> Any:
    """The value that PNG calls transparent, in the depth that the pixels will have.

    Pillow widens 2 and 4 bits to 8 and drops the low half of 16, but leaves this value as it
    is in the file (so in 13.0).
    """
    key = image.info.get("transparency")
    if isinstance(image, PngImageFile) and key is not None:
        match image.tile[0][3]:
            case "L;2":
                return (key & 3) * 85
            case "L;4":
                return (key & 15) * 17
            case "RGB;16B":
                return tuple(value >> 8 for value in key)
    return key


def _grey_of_16_bits(image: Image.Image, key: int | None) -> Image.Image:
    """Pillow's own conversion has clipped at 255 in some versions."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (KeyError, SyntaxError, TypeError, ValueError, struct.error):
        return None  # a picture is good without its EXIF


def _from_array(array: NDArray[Any], param: str) -> Pixels:
    shape = array.shape
    if array.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        raise InvalidRequestError(
            "An array of an image is uint8 of shape [height, width], [height, width, 3] or "
            f"[height, width, 4], not {array.dtype} {list(shape)}. Scale it to 0..255 first.",
            param=param,
        )
    check_size((shape[1], shape[0]), param)
    return _pixels(Image.fromarray(np.ascontiguousarray(array)))


def _from_pil(image: Image.Image, param: str) -> Pixels:
    check_size(image.size, param)
    if image.mode in ("I", "F"):
        raise InvalidRequestError(
            f"An image of mode {image.mode} has no known range. Convert it to RGB first.",
            param=param,
        )
    try:
        return _pixels(image.copy())
    except Exception as error:  # As in `decode`: the file behind it may be damaged.
        raise InvalidRequestError("The image cannot be loaded.", param=param) from error


def read_file(path: str | os.PathLike[str], param: str) -> bytes:
    """The bytes of a file, no more than one too many. Raises InvalidRequestError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"The file {str(path)!r} cannot be read.", param=param) from error
