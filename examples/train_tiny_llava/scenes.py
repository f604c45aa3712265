"""Pictures of coloured shapes, drawn from a seed, with what is in them."""

import colorsys
import itertools
import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

IMAGE = 64  # pixels a side, as the vision tower sees a picture
SHAPES = ("circle", "square", "triangle", "star", "cross")
# name: (the colours of this name in CSS, hue in degrees, saturation, value)
Range = tuple[float, float]
COLOURS: dict[str, tuple[list[str], Range, Range, Range]] = {
    "red": (["red", "crimson"], (-8, 8), (0.8, 1), (0.75, 1)),
    "green": (["green", "lime"], (95, 145), (0.65, 1), (0.45, 1)),
    "blue": (["blue", "royalblue"], (212, 245), (0.75, 1), (0.65, 1)),
    "yellow": (["yellow", "gold"], (50, 62), (0.75, 1), (0.88, 1)),
    "orange": (["orange", "darkorange"], (22, 39), (0.85, 1), (0.92, 1)),
    "purple": (["purple", "blueviolet"], (270, 302), (0.6, 1), (0.5, 0.9)),
    "black": (["black"], (0, 360), (0, 0.3), (0, 0.12)),
    "white": (["white"], (0, 360), (0, 0.04), (0.95, 1)),
}
SIZES: dict[int, Range] = {1: (0.22, 0.85), 2: (0.2, 0.47), 3: (0.2, 0.36), 4: (0.2, 0.32)}
COLUMN = 0.13  # least distance from left to right where the order is asked for


@dataclass(frozen=True)
class Thing:
    """A shape. x, y, size: of its centre and its diameter, as shares of the central square."""

    colour: str
    shape: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """A picture and its shapes from left to right."""

    picture: Image.Image
    things: list[Thing]

    @property
    def ordered(self) -> bool:
        """Whether which shape is left of which is plain to see."""
        centres = [thing.x for thing in self.things]
        return all(b - a >= COLUMN for a, b in itertools.pairwise(centres))


def colour_of(rng: Random, name: str) -> tuple[int, int, int] | str:
    css, *ranges = COLOURS[name]
    if rng.random() < 0.35:
        return rng.choice(css)
    hue, saturation, value = (rng.uniform(*bounds) for bounds in ranges)
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def background(rng: Random, dark: bool) -> tuple[int, int, int] | str:
    if rng.random() < 0.4:
        return "black" if dark else "white"
    value = rng.uniform(0.0, 0.3) if dark else rng.uniform(0.78, 1.0)
    tint = [rng.uniform(-0.04, 0.04) for _ in range(3)]
    red, green, blue = (round(255 * min(1.0, max(0.0, value + t))) for t in tint)
    return red, green, blue


def place(rng: Random, count: int, ordered: bool) -> list[tuple[float, float, float]]:
    """(x, y, size) of shapes that do not touch."""
    while True:
        placed: list[tuple[float, float, float]] = []
        for _ in range(60):
            if len(placed) == count:
                return placed
            size = rng.uniform(*SIZES[count])
            x, y = (rng.uniform(size / 2 + 0.02, 0.98 - size / 2) for _ in range(2))
            apart = all(
                math.hypot(x - a, y - b) > (size + other) / 2 + 0.02
                and (not ordered or abs(x - a) >= COLUMN)
                for a, b, other in placed
            )
            if apart:
                placed.append((x, y, size))


def outline(rng: Random, shape: str) -> list[tuple[float, float]]:
    """A polygon about the origin within the unit circle's radius."""
    if shape == "square":
        stretch = rng.uniform(0.94, 1.0)
        return [(-0.78, -0.78 * stretch), (0.78, -0.78 * stretch),
                (0.78, 0.78 * stretch), (-0.78, 0.78 * stretch)]  # fmt: skip
    if shape == "triangle":
        width, lean = rng.uniform(0.8, 0.98), rng.choice((0.0, 0.0, rng.uniform(-0.15, 0.15)))
        return [(lean, -0.95), (width, 0.7), (-width, 0.7)]
    if shape == "cross":
        arm = rng.uniform(0.26, 0.36)
        corner = [(arm, -0.95), (arm, -arm), (0.95, -arm), (0.95, arm), (arm, arm), (arm, 0.95)]
        return [*corner, *((-x, -y) for x, y in corner)]
    inner = rng.uniform(0.38, 0.48)
    turns = [(math.pi * n / 5, 1.0 if n % 2 == 0 else inner) for n in range(10)]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for turn, radius in turns]


def draw_scene(rng: Random, count: int, kinds: list[tuple[str, str]] | None = None,
               ordered: bool = False) -> Scene:  # fmt: skip
    """A picture of count shapes, 64 to 112 pixels a side. kinds: their colours and shapes."""
    kinds = kinds or [(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(count)]
    used = {colour for colour, _ in kinds}
    if {"black", "white"} <= used:
        kinds = [("red" if colour == "black" else colour, shape) for colour, shape in kinds]
    dark = "white" in used or ("black" not in used and rng.random() < 0.4)
    width = rng.randint(64, 112)
    height = width if rng.random() < 0.6 else rng.randint(64, 112)
    fine = rng.choice((1, 2, 3))
    side = min(width, height) * fine
    left, top = (width * fine - side) / 2, (height * fine - side) / 2
    picture = Image.new("RGB", (width * fine, height * fine), background(rng, dark))
    pencil = ImageDraw.Draw(picture)
    things = []
    for (colour, shape), (x, y, size) in zip(kinds, place(rng, count, ordered), strict=True):
        centre_x, centre_y, radius = left + x * side, top + y * side, size * side / 2
        fill = colour_of(rng, colour)
        if shape == "circle":
            reach = radius * 0.95
            box = (centre_x - reach, centre_y - reach, centre_x + reach, centre_y + reach)
            pencil.ellipse(box, fill=fill)
        else:
            angle = 0.0 if rng.random() < 0.4 else math.radians(rng.uniform(-15, 15))
            cos, sin = radius * math.cos(angle), radius * math.sin(angle)
            points = [
                (centre_x + a * cos - b * sin, centre_y + a * sin + b * cos)
                for a, b in outline(rng, shape)
            ]
            pencil.polygon(points, fill=fill)
        things.append(Thing(colour, shape, x, y, size))
    picture = picture.reduce(fine) if fine > 1 else picture
    if rng.random() < 0.4:
        picture = noisy(picture, rng)
    return Scene(picture, sorted(things, key=lambda thing: thing.x))


def some_scene(rng: Random, number: int | None = None, ordered: bool | None = None) -> Scene:
    """A picture; in a third of the cases its shapes are of few colours or forms."""
    if number is None:
        number = rng.choices(range(5), (2, 22, 34, 20, 22))[0]
    if ordered is None:
        ordered = number == 2 or rng.random() < 0.35
    shades = rng.sample([*COLOURS], rng.choice((8, 8, 8, 8, 2, 1)))
    forms = rng.sample(SHAPES, rng.choice((5, 5, 5, 5, 2, 1)))
    kinds = [(rng.choice(shades), rng.choice(forms)) for _ in range(number)]
    return draw_scene(rng, number, kinds, ordered)


def noisy(picture: Image.Image, rng: Random) -> Image.Image:
    pixels = np.asarray(picture)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 7), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def cropped(picture: Image.Image) -> NDArray[np.uint8]:
    """[64, 64, 3]: the shortest side resized to 64, then the centre, as CLIPImageProcessor does."""
    width, height = picture.size
    scale = IMAGE / min(width, height)
    size = tuple(
        IMAGE if edge == min(width, height) else int(edge * scale) for edge in picture.size
    )
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (resized.width - IMAGE) // 2, (resized.height - IMAGE) // 2
    return np.asarray(resized.crop((left, top, left + IMAGE, top + IMAGE)))
