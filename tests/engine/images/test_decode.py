"""Pictures become RGB arrays, or refusals. LIMITS 83 to 86."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from budmlx.engine.images import decode as pictures
from budmlx.engine.images.formats import MAX_BYTES, MAX_PIXELS
from budmlx.errors import InvalidRequestError
from budmlx.plugins.vision import Pixels
from tests.engine.images.picture_samples import chunk, gif, many_scans, photo, png, saved, webp

PARAM = "messages[0].content[1].image_url.url"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# Half red on white, as 8 bits round it.
HALF = (255, 127, 127)


def decode(data: bytes) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = pictures.decode(data, PARAM)
    assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and pixels.flags.c_contiguous
    return pixels


def refused(data: bytes) -> InvalidRequestError:
    """The refusal of a file, which says what to do and tells nothing of our insides."""
    with pytest.raises(InvalidRequestError) as caught:
        decode(data)
    assert caught.value.param == PARAM
    assert "0x" not in caught.value.message and "Send" in caught.value.message
    return caught.value


def row(*colours: tuple[int, ...]) -> list[list[list[int]]]:
    return [[list(colour) for colour in colours]]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"interlace": True}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_are_exact(kind: str, options: dict[str, object]) -> None:
    assert (decode(saved(photo(), kind, **options)) == np.asarray(photo())).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {})],
)
def test_lossy_formats_are_close(kind: str, options: dict[str, object]) -> None:
    off = decode(saved(photo(), kind, **options)).astype(int) - np.asarray(photo())
    assert np.abs(off).mean() < 12


def test_cmyk() -> None:  # LIMITS 85
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode(saved(image, "JPEG"))[8, 8].astype(int) - RED).max() < 4


def test_palettes_with_transparency() -> None:  # LIMITS 85
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *RED, *BLUE])
    image.putdata([0, 1, 2])
    some = saved(image, "PNG", transparency=bytes([255, 128, 0]))
    assert decode(some).tolist() == row(RED, HALF, WHITE)
    one = saved(image, "PNG", transparency=2)
    assert decode(one).tolist() == row(RED, RED, WHITE)
    assert decode(saved(image, "PNG")).tolist() == row(RED, RED, BLUE)
    assert decode(saved(image, "GIF", transparency=2)).tolist() == row(RED, RED, WHITE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (*RED, 128), (*BLUE, 0)])
    options = {"lossless": True} if kind == "WEBP" else {}
    assert decode(saved(image, kind, **options)).tolist() == row(RED, HALF, WHITE)


def test_grey_and_alpha() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(10, 255), (10, 0), (0, 127)])
    assert decode(saved(image, "PNG")).tolist() == row((10, 10, 10), WHITE, (128, 128, 128))


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putdata([1, 0])
    assert decode(saved(image, "PNG")).tolist() == row(WHITE, (0, 0, 0))
    assert decode(saved(image, "BMP")).tolist() == row(WHITE, (0, 0, 0))


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "transparent", "colours"),
    [
        (1, 0, b"\0\x40", None, [(0, 0, 0), WHITE]),
        (1, 0, b"\0\x40", [0], [WHITE, WHITE]),
        (2, 0, b"\0\x40", None, [(85, 85, 85), (0, 0, 0)]),
        (2, 0, b"\0\x40", [1], [WHITE, (0, 0, 0)]),
        (4, 0, b"\0\x31", [1], [(51, 51, 51), WHITE]),
        (8, 0, b"\0\x31\x32", [0x32], [(49, 49, 49), WHITE]),
        (8, 2, b"\0\x01\x02\x03\x04\x05\x06", [4, 5, 6], [(1, 2, 3), WHITE]),
        (16, 0, b"\0\x80\xff\xff\xff", None, [(128, 128, 128), WHITE]),
        (16, 0, b"\0\x80\xff\x20\x00", [0x80FF], [WHITE, (32, 32, 32)]),
        (16, 2, b"\0" + bytes(range(0x10, 0x1C)), None, [(16, 18, 20), (22, 24, 26)]),
        (16, 2, b"\0" + bytes(range(0x10, 0x1C)), [0x1011, 0x1213, 0x1415], [WHITE, (22, 24, 26)]),
        (16, 4, b"\0\x80\x00\xff\xff\x80\x00\x00\x00", None, [(128, 128, 128), WHITE]),
        (16, 6, b"\0" + b"\xff\xff\0\0\0\0\xff\xff" + bytes(8), None, [RED, WHITE]),
    ],
)
def test_depths_of_png(
    depth: int,
    colour: int,
    rows: bytes,
    transparent: list[int] | None,
    colours: list[tuple[int, int, int]],
) -> None:
    values = b"".join(struct.pack(">H", value) for value in transparent or [])
    extra = chunk(b"tRNS", values) if values else b""
    assert decode(png((2, 1), depth, colour, rows, extra)).tolist() == row(*colours)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """What a camera stores of an upright picture. Source: TIFF 6.0, tag 274."""
    transposed = pixels.swapaxes(0, 1)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: transposed,
        6: transposed[::-1],
        7: transposed[::-1, ::-1],
        8: transposed[:, ::-1],
    }[orientation]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(kind: str, orientation: int) -> None:  # LIMITS 85
    upright = np.asarray(photo())
    stored = Image.fromarray(np.ascontiguousarray(turned(upright, orientation)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    shown = decode(data).astype(int)
    assert shown.shape == upright.shape and np.abs(shown - upright).mean() < 5
    opened = Image.open(io.BytesIO(data))
    assert (pictures.from_python(opened, PARAM) == shown).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_bad_exif_does_no_harm() -> None:
    data = saved(photo(), "PNG")
    at = data.index(b"IDAT") - 4
    for exif in (b"junk", b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0", b""):
        broken = data[:at] + chunk(b"eXIf", exif) + data[at:]
        assert (pictures.decode(broken, PARAM) == np.asarray(photo())).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:  # LIMITS 85
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(data).tolist() == [[list(RED)] * 4] * 3


def test_a_gif_of_many_frames() -> None:  # LIMITS 85
    data = saved(Image.new("RGB", (4, 3), RED), "GIF")
    frame = data[data.index(b",\0\0\0\0") : -1]
    assert decode(data[:-1] + frame * 10_000 + b";").tolist() == [[list(RED)] * 4] * 3


def test_the_smallest_and_the_longest() -> None:  # LIMITS 85
    assert decode(saved(Image.new("RGB", (1, 1), BLUE), "PNG")).tolist() == row(BLUE)
    assert decode(png((1, 30_000), 8, 0)).shape == (30_000, 1, 3)
    assert decode(png((30_000, 1), 8, 0)).shape == (1, 30_000, 3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png((9000, 9000), 1, 0), id="1 bit"),  # LIMITS 84
        pytest.param(png((14_000, 14_000), 1, 0), id="more than Pillow takes"),
        pytest.param(png((30_001, 1), 1, 0), id="long"),
        pytest.param(webp((16_000, 16_000)), id="webp"),
        pytest.param(gif((9000, 9000), (1, 1)), id="gif"),
        pytest.param(gif((1, 1), (14_000, 14_000)), id="frame that Pillow refuses"),
        pytest.param(gif((1, 1), (9000, 9000), b"\x21\xf9\4\x09\0\0\0\0"), id="frame of a gif"),
        pytest.param(
            saved(photo(), "BMP").replace(b"\x28\0\0\0\x18\0\0\0", struct.pack("<ii", 9000, 9000)),
            id="bmp",
        ),
        pytest.param(
            saved(photo(), "JPEG").replace(b"\0\x18\0\x28", struct.pack(">HH", 9000, 9000)),
            id="jpeg",
        ),
        pytest.param(bytes(MAX_BYTES + 1), id="bytes"),
    ],
)
def test_too_large(data: bytes) -> None:
    assert refused(data).code == "image_too_large"
    with pytest.raises(InvalidRequestError, match="Send"):
        pictures.size_of(data, PARAM)


def test_the_size_is_known_before_decoding() -> None:
    assert pictures.size_of(png((8000, 8000), 1, 0)[:100], PARAM) == (8000, 8000)
    assert MAX_PIXELS == 8000 * 8000
    with pytest.raises(InvalidRequestError, match="cannot be decoded"):
        pictures.size_of(b"nothing", PARAM)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_see(size: tuple[int, int]) -> None:  # LIMITS 85
    refused(png(size, 8, 0, b"\0"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated(kind: str) -> None:  # LIMITS 85
    data = saved(photo(200, 150), kind)
    for length in (1, 8, 20, 40, len(data) // 2, len(data) * 3 // 4):
        refused(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        b"%PDF-1.4\n",
        saved(photo(), "TIFF"),
        saved(photo(), "ICO"),
        saved(photo(), "PPM"),
        saved(photo(), "ICNS"),
        many_scans(200),
    ],
)
def test_not_a_picture_that_is_opened(data: bytes) -> None:  # LIMITS 86
    assert refused(data).code is None


def test_a_run_length_bmp() -> None:
    """Pillow unpacks it byte by byte in Python."""
    image = Image.new("P", (4, 1))
    image.putpalette([*RED, *BLUE])
    data = bytearray(saved(image, "BMP"))
    struct.pack_into("<I", data, 30, 1)
    packed = bytes(data[: struct.unpack_from("<I", data, 10)[0]]) + b"\4\1\0\1"
    assert np.asarray(Image.open(io.BytesIO(packed)).convert("RGB")).tolist() == row(*[BLUE] * 4)
    refused(packed)


SAMPLES = [saved(photo(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_are_pictures_or_refused(sample: bytes, data: st.DataObject) -> None:
    broken = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(6, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert pictures.decode(bytes(broken), PARAM).shape[2] == 3
    except InvalidRequestError as error:
        assert error.param == PARAM


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_data_urls() -> None:
    data = saved(photo(), "PNG")
    for kind in ("image/png", "IMAGE/JPEG", "image/svg+xml", "image/png;name=a.png"):
        assert pictures.from_data_url(url(data, kind), PARAM) == data
    head, text = url(data).split(",")
    broken = f"{head},\n" + "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + " "
    assert pictures.from_data_url(broken, PARAM) == data
    assert pictures.from_data_url(url(data).replace("data:", "DATA:"), PARAM) == data


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;name=a%20b.png;base64,",
        'data:image/png;name="a.png";base64,',
        'data:image/png;name="a;b,c=\\" d.png";charset=utf-8;base64,',
        "data:image/png;name='it (1).png';base64,",
        "data:image/png;x;y=;base64,",
        "data:image/png; charset=utf-8; base64,",
        "Data:Image/PNG;Charset=UTF-8;Base64,",
    ],
)
@pytest.mark.parametrize("length", [3, 4, 5])
def test_data_urls_as_browsers_read_them(head: str, length: int) -> None:
    data = bytes(range(0xF9, 0xF9 + length))
    text = base64.b64encode(data).decode()
    for body in (text, text.rstrip("="), quote(text, safe=""), quote(f"{text[:3]}\n{text[3:]} ")):
        assert pictures.from_data_url(head + body, PARAM) == data


def test_data_urls_without_base64() -> None:
    data = saved(photo(), "PNG")
    assert pictures.from_data_url("data:image/png;name=x," + quote(data), PARAM) == data


@pytest.mark.parametrize(
    "bad",
    [
        "data:text/html;base64,PGI+",
        "data:;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64,A",
        "data:image/png;base64,AA=",
        "data:image/png;base64,AA==AAAA",
        "data:image/png;base64,AA%3D",
        'data:image/png;name="a;base64,AAAA',
        "data:image/png;base64=,AAAA",
        # If parts of parameters could be read in several ways, this would take for ever.
        pytest.param("data:image/png" + ";a=     " * 10_000 + '"', id="many parameters"),
        "data:image/png;base64,A-_A",
        "data:image/png;base64,äAAA",
        "data:image/png;base64,\ud800AAA",
        "file:///etc/passwd",
        "/etc/passwd",
        "\\\\host\\share",
        "",
    ],
)
def test_bad_data_urls(bad: str) -> None:  # LIMITS 83
    with pytest.raises(InvalidRequestError) as caught:
        pictures.from_data_url(bad, PARAM)
    assert caught.value.param == PARAM and "passwd" not in caught.value.message


def test_a_data_url_of_too_many_bytes() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        pictures.from_data_url(url(bytes(MAX_BYTES + 1)), PARAM)
    assert caught.value.code == "image_too_large"
    with pytest.raises(InvalidRequestError) as caught:  # known without unpacking it
        pictures.from_data_url(url(bytes(MAX_BYTES)) + "AAAA!", PARAM)
    assert caught.value.code == "image_too_large"


def test_what_python_gives(tmp_path: Path) -> None:
    image = photo()
    wanted = np.asarray(image)
    path = tmp_path / "photo.png"
    image.save(path)
    alpha = np.dstack([wanted, np.full(wanted.shape[:2], 255, np.uint8)])
    values = [image, image.convert("RGBA"), path, str(path), path.read_bytes(), wanted, alpha]
    values += [Image.open(path), bytearray(path.read_bytes()), wanted[:, ::-1].copy()[:, ::-1]]
    for value in values:
        assert (pictures.from_python(value, "image") == wanted).all()  # type: ignore[arg-type]
    grey = np.asarray(image.convert("L"))
    assert (pictures.from_python(grey, "image") == grey[..., None]).all()
    clear = np.dstack([wanted, np.zeros(wanted.shape[:2], np.uint8)])
    assert (pictures.from_python(clear, "image") == 255).all()
    for mode in ("1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "HSV", "I;16"):
        made = pictures.from_python(Image.new(mode, (5, 4)), "image")
        assert made.shape == (4, 5, 3)


def test_the_array_is_a_copy() -> None:
    given_array = np.asarray(photo()).copy()
    made = pictures.from_python(given_array, "image")
    given_array[:] = 0
    assert made.any()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 1), np.uint8), "[4, 4, 1]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "[1, 4, 4, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((1, 30_001), np.uint8), "30001 x 1"),
        (Image.new("F", (2, 2)), "Convert it to RGB"),
        (Image.new("I", (2, 2)), "Convert it to RGB"),
        (Image.new("L", (0, 2)), "no pixels"),
        (Image.new("1", (9000, 9000)), "9000 x 9000"),
        ("/no/such/file.png", "/no/such/file.png"),
        (Path("/"), "cannot be read"),
        ("a\0b", "cannot be read"),
        (b"nothing", "cannot be decoded"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_python_cannot_give(value: pictures.Picture, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        pictures.from_python(value, "images[0]")
    assert says in caught.value.message and caught.value.param == "images[0]"


def test_a_damaged_file_behind_an_image(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(saved(photo(200, 150), "PNG")[:300])
    with Image.open(path) as image, pytest.raises(InvalidRequestError, match="cannot be loaded"):
        pictures.from_python(image, "image")


@pytest.mark.limits
@pytest.mark.parametrize(
    "made",
    [
        "png((9000, 9000), 1, 0)",  # LIMITS 84
        "webp((16_000, 10_000))",
        r"gif((1, 1), (9000, 9000), b'\x21\xf9\4\x09\0\0\0\0')",
    ],
)
def test_memory_of_refused_pictures(made: str) -> None:
    """In a process of its own, whose peak no other test has raised."""
    script = f"""
        import resource, sys
        from pathlib import Path
        from budmlx.engine.images import decode as pictures
        from budmlx.errors import InvalidRequestError
        from tests.engine.images.picture_samples import gif, photo, png, saved, webp

        def peak():
            # A child's ru_maxrss begins at its parent's on Linux, VmHWM at nothing.
            if sys.platform == "darwin":
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if "VmHWM" in line) * 1024

        for kind in ("PNG", "WEBP", "GIF"):
            pictures.decode(saved(photo(), kind), "p")
        data = {made}
        before = peak()
        try:
            pictures.decode(data, "p")
        except InvalidRequestError as error:
            print(error.code, peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    code, growth = done.stdout.split()
    assert code == "image_too_large" and int(growth) < 20 * 2**20
