"""A canvas in a face's own axes, and smooth curves: what occluders are drawn with."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

__all__: list[str] = []

Point = tuple[float, float]
Colour = tuple[int, int, int]
Paint = Colour | Image.Image

SCALE = 3
"""Things are drawn this many times as large as the crop, and reduced."""
_IRISES = (468, 473)


class Canvas:
    """A thing in the making: its paint and how much it covers, in large pixels."""

    def __init__(self, mesh: Tensor, size: int, rng: random.Random) -> None:
        self.rng, self.side = rng, size * SCALE
        self.points: list[Point] = [(x, y) for x, y in ((mesh + 0.5) * SCALE).tolist()]
        self.paint = Image.new("RGB", (self.side, self.side))
        self.alpha = Image.new("L", (self.side, self.side))
        self.extent = Image.new("L", (self.side, self.side))
        """The place of the thing: as much as ``alpha``, or more where one sees through it."""
        (x0, y0), (x1, y1) = (self.points[i] for i in _IRISES)
        self.unit = max(math.hypot(x1 - x0, y1 - y0), self.side / 20)
        """Distance of the irises."""
        self.right: Point = ((x1 - x0) / self.unit, (y1 - y0) / self.unit)
        self.down: Point = (-self.right[1], self.right[0])
        self.middle: Point = ((x0 + x1) / 2, (y0 + y1) / 2)

    def at(self, right: float, down: float, origin: Point | None = None) -> Point:
        """A place in the face's axes, in distances of the irises from the middle of the eyes."""
        x, y = origin or self.middle
        return (
            x + self.unit * (right * self.right[0] + down * self.down[0]),
            y + self.unit * (right * self.right[1] + down * self.down[1]),
        )

    def mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """An empty mask, and what draws on it."""
        mask = Image.new("L", (self.side, self.side))
        return mask, ImageDraw.Draw(mask)

    def put(
        self, mask: Image.Image, paint: Paint, opacity: float = 1.0, *, whole: bool = False
    ) -> None:
        """Cover what the mask shows with a colour or a picture.

        ``whole``: the thing is there in full, although one sees through it.
        """
        extent = mask
        if isinstance(paint, Image.Image):
            paint = paint.resize((self.side, self.side), Image.Resampling.BICUBIC)
        else:
            paint = Image.new("RGB", (self.side, self.side), paint)
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
            extent = extent if whole else mask
        if opacity == 1:
            self.paint = Image.composite(paint, self.paint, mask)
        else:  # over what is there already; alone where nothing is
            behind = Image.composite(self.paint, paint, self.alpha)
            self.paint = Image.composite(paint, behind, mask)
        self.alpha = ImageChops.screen(self.alpha, mask)
        self.extent = ImageChops.screen(self.extent, extent)

    def shaded(self, mask: Image.Image, depth: float) -> None:
        """Darken the paint towards the edges of a mask, as of something round."""
        soft = mask.filter(ImageFilter.BoxBlur(self.unit * 0.12))
        low = round(255 * (1 - depth))
        light = soft.point([round(low + (255 - low) * (v / 255)) for v in range(256)])
        dark = ImageChops.multiply(self.paint, Image.merge("RGB", [light] * 3))
        self.paint = Image.composite(dark, self.paint, mask)


def any_colour(rng: random.Random) -> Colour:
    """Any colour; half of all are nearly black, white or grey."""
    if rng.random() < 0.5:
        grey = rng.choice([rng.randrange(10, 60), rng.randrange(60, 200), rng.randrange(200, 250)])
        return tuple(max(0, min(255, grey + rng.randrange(-8, 9))) for _ in range(3))  # type: ignore[return-value]
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def varied(colour: Colour, rng: random.Random, amount: int) -> Colour:
    light = rng.randrange(-amount, amount + 1)
    r, g, b = (max(0, min(255, value + light + rng.randrange(-4, 5))) for value in colour)
    return (r, g, b)


def closed(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """A smooth closed curve through points (Catmull and Rom)."""
    curve, n = [], len(points)
    for i in range(n):
        p0, p1, p2, p3 = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            curve.append(
                (
                    _spline(p0[0], p1[0], p2[0], p3[0], t),
                    _spline(p0[1], p1[1], p2[1], p3[1], t),
                )
            )
    return curve


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + t * (
        (c - a) / 2 + t * ((2 * a - 5 * b + 4 * c - d) / 2 + t * (3 * b - a - 3 * c + d) / 2)
    )


def line(a: Point, control: Point, b: Point, steps: int = 10) -> list[Point]:
    """A curve from a to b (Bezier, of second degree)."""
    curve = []
    for step in range(steps + 1):
        t = step / steps
        u = 1 - t
        curve.append(
            (
                u * u * a[0] + 2 * u * t * control[0] + t * t * b[0],
                u * u * a[1] + 2 * u * t * control[1] + t * t * b[1],
            )
        )
    return curve


def noise(size: tuple[int, int], spread: float, rng: random.Random) -> Image.Image:
    """Grey noise around 128 with this standard deviation, of a width and a height."""
    width, height = size
    flat = Image.frombytes("L", size, rng.randbytes(width * height))
    gain = spread / 73.9  # that of all bytes alike
    return flat.point([max(0, min(255, round(128 + gain * (v - 127.5)))) for v in range(256)])
