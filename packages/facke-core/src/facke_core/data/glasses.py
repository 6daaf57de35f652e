"""Drawn glasses: of plastic, metal or both, clear or rimless, with clear or dark lenses."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from facke_core.data.canvas import Canvas, Colour, Point, any_colour, line, varied
from facke_core.faces.rims import CORNERS, TEMPLES, Axes, outlines

__all__: list[str] = []

STYLES = {"plastic": 40, "metal": 20, "clear": 18, "brow": 13, "rimless": 9}
"""How often each kind of rims is drawn, of 100 times."""
_METAL = [(196, 164, 96), (186, 188, 194), (110, 112, 118), (60, 58, 58), (150, 104, 84)]
_CLEAR = [(196, 140, 84), (214, 176, 140), (226, 214, 206), (176, 112, 92), (150, 150, 156)]


class Frame(NamedTuple):
    """The lines of a pair of glasses, in pixels of the canvas."""

    lenses: list[list[Point]]
    """Outline of each lens, from its right end over its lower half."""
    bridge: list[Point]
    temples: list[list[Point]]
    pads: list[Point]
    """Places of the pads on the nose."""


def glasses(canvas: Canvas, rng: random.Random) -> None:
    """Draw glasses: rims through the corners of the eyes, a bridge, temples, lenses with tints and
    reflections."""
    frame = _frame(canvas, rng)
    lenses, drawing = canvas.mask()
    for outline in frame.lenses:
        drawing.polygon(outline, fill=255)
    _tint(canvas, rng, lenses)
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    if rng.random() < (0.75 if style in ("metal", "rimless") else 0.15):
        _pads(canvas, rng, frame)
    _RIMS[style](canvas, rng, frame)
    _reflections(canvas, rng, lenses)


def _frame(canvas: Canvas, rng: random.Random) -> Frame:
    half_width, half_height = rng.uniform(0.36, 0.5), rng.uniform(0.2, 0.46)
    power, drop = rng.choice([2, 2, 2.4, 3, 4.5]), rng.uniform(-0.02, 0.16)
    slant, wing = rng.uniform(-0.12, 0.12), rng.choice([0, 0, rng.uniform(0, 0.3)])
    points, right, down = (torch.tensor(x) for x in (canvas.points, canvas.right, canvas.down))
    shape = torch.tensor([[half_width, half_height, power, drop, slant, wing, 0]])
    both = outlines(shape, Axes(points, canvas.unit, right, down), 48)[0].tolist()
    lenses: list[list[Point]] = [[(x, y) for x, y in outline] for outline in both]
    inner: list[Point] = []
    outer: list[Point] = []
    pads: list[Point] = []
    for side, corners in enumerate(CORNERS):
        (x0, y0), (x1, y1) = (canvas.points[i] for i in corners)
        middle = canvas.at(0, drop, ((x0 + x1) / 2, (y0 + y1) / 2))
        (x0, y0), (x1, y1) = lenses[side][24], lenses[side][0]  # its ends
        across = (x1 - x0) * canvas.right[0] + (y1 - y0) * canvas.right[1]
        width, out = across / 2 / canvas.unit, 1 if side else -1
        ends = [canvas.at(sign * width, -0.05, middle) for sign in (-out, out)]
        inner.append(ends[0])
        outer.append(canvas.at(0, -wing * width, ends[1]))
        pads.append(canvas.at(-out * width * 0.95, 0.12, middle))
    lift = rng.uniform(0.02, 0.14)
    middle = ((inner[0][0] + inner[1][0]) / 2, (inner[0][1] + inner[1][1]) / 2)
    bridge = line(inner[0], canvas.at(0, -lift, middle), inner[1])
    temples = []
    for place, index in zip(outer, TEMPLES, strict=True):
        x, y = canvas.points[index]
        temples.append([place, (x + 0.25 * (x - place[0]), y + 0.25 * (y - place[1]))])
    return Frame(lenses, bridge, temples, pads)


def _tint(canvas: Canvas, rng: random.Random, lenses: Image.Image) -> None:
    dark = rng.random() < 0.25
    tint = rng.uniform(0.55, 1) if dark else rng.choice([0, 0, 0.04, 0.12, 0.3])
    if not tint:
        return
    colour = varied((24, 24, 28), rng, 24) if dark else any_colour(rng)
    if rng.random() < 0.5:  # lighter below
        ramp = Image.linear_gradient("L").rotate(180).resize(lenses.size)
        low = rng.uniform(0.3, 1)
        ramp = ramp.point([round(255 * (low + (1 - low) * v / 255)) for v in range(256)])
        lenses = ImageChops.multiply(lenses, ramp)
    canvas.put(lenses, colour, tint)


def _reflections(canvas: Canvas, rng: random.Random, lenses: Image.Image) -> None:
    for _ in range(rng.choice([0, 0, 1, 2])):
        glare, drawing = canvas.mask()
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.3, 0.3)
        w, h, lean = rng.uniform(0.03, 0.25), rng.uniform(0.1, 0.5), rng.uniform(-0.3, 0.3)
        corners = [(x, y), (x + w, y), (x + w + lean, y + h), (x + lean, y + h)]
        drawing.polygon([canvas.at(*corner) for corner in corners], fill=255)
        glare = glare.filter(ImageFilter.GaussianBlur(canvas.unit * rng.uniform(0.005, 0.08)))
        light = varied((235, 240, 246), rng, 14)
        canvas.put(ImageChops.multiply(glare, lenses), light, rng.uniform(0.25, 0.95))


def _pads(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    mask, drawing = canvas.mask()
    r = canvas.unit * rng.uniform(0.025, 0.05)
    for x, y in frame.pads:
        drawing.ellipse([x - r, y - 1.6 * r, x + r, y + 1.6 * r], fill=255)
    canvas.put(mask, varied((226, 206, 190), rng, 25), rng.uniform(0.3, 0.8), whole=True)


# -- rims ------------------------------------------------------------------------------------------


def _lines(
    canvas: Canvas, frame: Frame, width: int, *, rims: bool = True, half: slice | None = None
) -> Image.Image:
    """The rims, or a half of each, with bridge and temples where all or none of them is drawn."""
    mask, drawing = canvas.mask()
    if rims:
        for outline in frame.lenses:
            ring = [*outline, *outline[:2]] if half is None else [*outline, outline[0]][half]
            drawing.line(ring, fill=255, width=width, joint="curve")
    if half is None:
        _joints(drawing, frame, width)
    return mask


def _joints(drawing: ImageDraw.ImageDraw, frame: Frame, width: int) -> None:
    drawing.line(frame.bridge, fill=255, width=width, joint="curve")
    for temple in frame.temples:
        drawing.line(temple, fill=255, width=max(2, round(width * 0.8)))


LOWER, UPPER = slice(0, 25), slice(24, 49)


def _width(canvas: Canvas, *widths: float) -> int:
    return max(2, round(canvas.unit * canvas.rng.choice(widths)))


def _plastic(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    """Opaque rims, whole or above only, some of them of two colours."""
    width = _width(canvas, 0.035, 0.05, 0.08, 0.12)
    colour = any_colour(rng) if rng.random() < 0.45 else varied((28, 24, 24), rng, 18)
    rims = _lines(canvas, frame, width)
    if rng.random() < 0.2:
        rims = ImageChops.lighter(
            _lines(canvas, frame, width, half=UPPER),
            _lines(canvas, frame, max(2, round(width * 0.8)), rims=False),
        )
    canvas.put(rims, colour)
    if rng.random() < 0.3:  # another colour below, or towards the middle
        ramp = Image.linear_gradient("L").resize(rims.size)
        top = canvas.middle[1] / canvas.side
        ramp = ramp.point([max(0, min(255, round((v / 255 - top) * 2400))) for v in range(256)])
        canvas.put(ImageChops.multiply(rims, ramp), rng.choice([any_colour(rng), *_CLEAR]))
    if width > 4 and rng.random() < 0.5:
        _shine(canvas, rng, rims, colour, width // 2)


def _metal(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    """Thin rims, dark and light in turns."""
    colour = varied(rng.choice(_METAL), rng, 24)
    width = _width(canvas, 0.02, 0.028, 0.038, 0.05)
    rims = _lines(canvas, frame, width)
    if rng.random() < 0.2:
        rims = ImageChops.lighter(
            _lines(canvas, frame, width, half=UPPER), _lines(canvas, frame, width, rims=False)
        )
    canvas.put(rims, colour, rng.uniform(0.7, 1), whole=True)
    if rng.random() < 0.7:
        _shine(canvas, rng, rims, colour, 1)


def _clear(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    """Rims through which the skin is seen, with darker or lighter edges."""
    colour = varied(rng.choice(_CLEAR), rng, 24)
    rims = _lines(canvas, frame, _width(canvas, 0.05, 0.07, 0.09, 0.12))
    canvas.put(rims, colour, rng.uniform(0.2, 0.75), whole=True)
    core = rims.filter(ImageFilter.MinFilter(3))
    edge = rng.choice([(60, 40, 30), (250, 250, 250)])
    if rng.random() < 0.5:
        edge = varied(colour, rng, 30)
    canvas.put(ImageChops.subtract(rims, core), edge, rng.uniform(0.2, 0.8), whole=True)
    if rng.random() < 0.6:
        _shine(canvas, rng, rims, (230, 226, 220), 2)


def _brow(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    """A heavy upper half, and a thin or clear lower one."""
    thick = _width(canvas, 0.07, 0.1, 0.13)
    below = _lines(canvas, frame, _width(canvas, 0.02, 0.03, 0.05))
    canvas.put(below, varied(rng.choice(_METAL + _CLEAR), rng, 24), rng.uniform(0.4, 1), whole=True)
    above = _lines(canvas, frame, thick, half=UPPER)
    if rng.random() < 0.5:  # towards the temples only
        mask, drawing = canvas.mask()
        for sign in (-1, 1):
            near, far = sign * rng.uniform(0.3, 0.55), sign * 2
            corners = [canvas.at(x, y) for x, y in ((near, -2), (far, -2), (far, 1), (near, 1))]
            drawing.polygon(corners, fill=255)
        above = ImageChops.multiply(above, mask.filter(ImageFilter.GaussianBlur(canvas.unit / 30)))
    colour = any_colour(rng) if rng.random() < 0.3 else varied((30, 26, 26), rng, 20)
    canvas.put(above, colour)
    temples, drawing = canvas.mask()
    for temple in frame.temples:
        drawing.line(temple, fill=255, width=thick)
    canvas.put(temples, colour)


def _rimless(canvas: Canvas, rng: random.Random, frame: Frame) -> None:
    """The edges of the glass, faint, with bridge and temples of metal."""
    edge = rng.choice([(250, 250, 250), (70, 60, 56), (190, 190, 196)])
    rims = ImageChops.lighter(*(_lines(canvas, frame, 2, half=half) for half in (LOWER, UPPER)))
    canvas.put(rims, edge, rng.uniform(0.25, 0.7), whole=True)
    joints = _lines(canvas, frame, _width(canvas, 0.025, 0.04), rims=False)
    canvas.put(joints, varied(rng.choice(_METAL), rng, 24))


def _shine(
    canvas: Canvas, rng: random.Random, rims: Image.Image, colour: Colour, width: int
) -> None:
    """A lighter line along the upper edge of the rims, or a darker one."""
    thin = ImageChops.subtract(rims, ImageChops.offset(rims, rng.choice([-1, 0, 1]), width))
    light = varied(colour, rng, 60) if rng.random() < 0.5 else varied((245, 240, 230), rng, 10)
    canvas.put(thin, light, rng.uniform(0.3, 0.9))


_RIMS = {
    "plastic": _plastic,
    "metal": _metal,
    "clear": _clear,
    "brow": _brow,
    "rimless": _rimless,
}
