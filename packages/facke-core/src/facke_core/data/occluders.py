"""Drawn occluders: things before a face, with the exact share of each pixel that they cover.

Glasses, hair, hands, masks, microphones, cups and shapeless things are drawn over a crop by its
face mesh, so that a network can learn where a face is covered, and swaps can learn to leave what
covers it alone. Shapeless things with textures of other pictures alone already teach a segmenter
much about what it has never seen (Voo et al., arXiv:2205.06218).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from facke_core.data.canvas import (
    SCALE,
    Canvas,
    Colour,
    Paint,
    any_colour,
    closed,
    line,
    noise,
    varied,
)
from facke_core.data.glasses import glasses
from facke_core.faces.mesh import OVAL_RING

__all__: list[str] = []

Texture = Callable[[random.Random], Image.Image]
"""A function that gives a picture of any size, taken from some photograph."""

KINDS = {"glasses": 38, "hair": 26, "hand": 10, "mask": 6, "thing": 7, "blob": 13}
"""How often each kind is drawn, of 100 times."""
TONED = 0.015
"""Mean difference from one tone below which a photograph counts as grey or toned."""
_HAIR = [(20, 16, 14), (58, 38, 24), (96, 66, 40), (150, 112, 66), (196, 160, 104), (130, 128, 126)]


class Occluder(NamedTuple):
    """A thing before a face, as large as the crop."""

    colour: Tensor
    """Colours (3, S, S) in [0, 1]."""
    alpha: Tensor
    """The share (1, S, S) in [0, 1] of each pixel that it covers."""
    extent: Tensor
    """The share (1, S, S) in [0, 1] of each pixel that is to be left alone: ``alpha``, or more
    where one sees through rims."""
    shade: Tensor
    """The light (1, S, S) in [0, 1] that it leaves to what lies behind it."""

    def over(self, crop: Tensor) -> Tensor:
        """The crop (3, S, S) with the thing before it, in its tones if it has no colours."""
        grey = crop.mean(0, keepdim=True)
        tone = crop.mean((1, 2), keepdim=True) / grey.mean().clamp(min=1e-3)
        toned = float((crop - tone * grey).abs().mean()) < TONED
        colour = self.colour
        if toned:  # no lighter than the tone can be
            colour = tone * colour.mean(0, keepdim=True).clamp(max=1 / float(tone.max()))
        return torch.lerp(crop * self.shade, colour, self.alpha)


def draw(
    mesh: Tensor,
    size: int,
    rng: random.Random,
    texture: Texture,
    hair: Texture | None = None,
    *,
    kind: str = "",
) -> Occluder:
    """Draw one thing, or two, before a face.

    Args:
        mesh: the face's mesh (478, 2), in pixels of the crop.
        size: side S of the crop.
        rng: the only source of randomness.
        texture: gives pictures of skin and backgrounds.
        hair: gives pictures of hair; default: ``texture``.
        kind: one of :data:`KINDS`, of which one thing is drawn; default: any.
    """
    canvas = Canvas(mesh, size, rng)
    any_kind = rng.choices(list(KINDS), list(KINDS.values()), k=2 if rng.random() < 0.15 else 1)
    for each in [kind] if kind else any_kind:
        if each == "glasses":
            glasses(canvas, rng)
        else:
            _DRAW[each](canvas, rng, (hair or texture) if each == "hair" else texture)
    alpha = canvas.alpha
    paint = ImageChops.multiply(canvas.paint, Image.merge("RGB", [alpha] * 3))
    paint, alpha, extent = (image.reduce(SCALE) for image in (paint, alpha, canvas.extent))
    if rng.random() < 0.6:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8))
        paint, alpha, extent = (image.filter(blur) for image in (paint, alpha, extent))
    shade = Image.new("L", alpha.size, 255)
    if rng.random() < 0.7:
        unit, angle = canvas.unit / SCALE, rng.uniform(0, 2 * math.pi)
        away = rng.uniform(0.01, 0.12) * unit
        moved = ImageChops.offset(alpha, round(away * math.cos(angle)), round(away))
        cast = moved.filter(ImageFilter.GaussianBlur(rng.uniform(0.02, 0.1) * unit))
        depth = rng.uniform(0.1, 0.6)
        shade = cast.point([round(255 - depth * v) for v in range(256)])
    covered, share, whole, light = (_tensor(image) for image in (paint, alpha, extent, shade))
    return Occluder((covered / share.clamp(min=1e-3)).clamp(0, 1), share, whole, light)


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255


# -- what is drawn ---------------------------------------------------------------------------------


def _hair(canvas: Canvas, rng: random.Random, hair: Texture) -> None:
    """Strands that hang into the face, or a fringe."""
    colour = varied(rng.choice(_HAIR), rng, 24)
    real = hair(rng).convert("RGB") if rng.random() < 0.7 else None
    top = [canvas.points[i] for i in (54, 103, 67, 109, 10, 338, 297, 332, 284)]
    side = [canvas.points[i] for i in (127, 162, 21, 54)]
    if rng.random() < 0.5:
        side = [canvas.points[i] for i in (356, 389, 251, 284)]
    fringe = rng.random() < 0.4
    depth = rng.uniform(0.25, 0.95)
    if fringe:
        edge, waves, parted = [], rng.uniform(2, 9), rng.random() < 0.5
        part, open_by = rng.uniform(-0.9, 0.9), rng.uniform(0.3, 1.2)
        ragged = rng.choice([0.05, 0.2, 0.6])
        for step in range(25):
            x = -1.15 + 2.3 * step / 24
            y = -1.2 + depth * (1 + 0.25 * math.sin(waves * x + rng.uniform(-ragged, ragged)))
            if parted:  # to both sides
                y = -1.4 + open_by * abs(x - part) ** 0.7 + 0.06 * math.sin(waves * x)
            edge.append(canvas.at(x, y + 0.35 * x * x * rng.choice([0, 0.4])))
        mask, drawing = canvas.mask()
        crown = [canvas.at(x, y) for x, y in ((1.3, -2.1), (0.6, -2.7), (-0.6, -2.7), (-1.3, -2.1))]
        drawing.polygon([*edge, *crown], fill=255)
        soft = ImageFilter.GaussianBlur(SCALE * rng.choice([0.2, 0.5, 1, 2]))
        canvas.put(mask.filter(soft), real or _streaks(canvas.side, colour, rng))
    roots = top if fringe or rng.random() < 0.6 else side
    bend, slope = rng.uniform(-0.4, 0.4), rng.uniform(-0.5, 0.5)
    count = rng.randrange(60, 200) if fringe else rng.randrange(12, 140)
    spread = rng.uniform(0.02, 0.25)
    start = rng.uniform(0, 1)
    groups: dict[Colour, tuple[Image.Image, ImageDraw.ImageDraw]] = {}
    shades = [varied(colour, rng, 34) for _ in range(4)]
    if real:
        piece = real.resize((4, 1), Image.Resampling.BOX)
        shades = [varied(piece.getpixel((i, 0)), rng, 12) for i in range(4)]  # type: ignore[arg-type]
    for _ in range(count):
        where = rng.random() if fringe else min(1, max(0, rng.gauss(start, spread)))
        place = where * (len(roots) - 1)
        i = min(int(place), len(roots) - 2)
        (ax, ay), (bx, by) = roots[i], roots[i + 1]
        root = (ax + (bx - ax) * (place - i), ay + (by - ay) * (place - i))
        root = canvas.at(0, -rng.uniform(0.1, 0.5), root)
        length = depth * rng.uniform(0.7, 1.2) + 0.3 if fringe else rng.uniform(0.5, 1.9)
        lean = slope + rng.gauss(0, 0.12)
        tip = canvas.at(lean * length, length, root)
        control = canvas.at(lean * length / 2 + bend, length / 2, root)
        shade = rng.choice(shades)
        if shade not in groups:
            groups[shade] = canvas.mask()
        width = rng.choice([1, 1, 2, 3]) if fringe else rng.choice([1, 2, 2, 3, 5])
        groups[shade][1].line(line(root, control, tip), fill=255, width=width)
    for shade, (mask, _) in groups.items():
        canvas.put(mask, shade, 1 if fringe else rng.uniform(0.6, 1))


def _streaks(side: int, colour: Colour, rng: random.Random) -> Image.Image:
    """Hair that hangs down, close up: lighter and darker streaks."""
    streaks = noise((side // rng.randrange(2, 6), rng.randrange(3, 9)), 50, rng)
    streaks = streaks.resize((side, side), Image.Resampling.BICUBIC).rotate(rng.uniform(-15, 15))
    low, depth = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.2)
    channels = [
        streaks.point([min(255, round(c * (low + depth * v / 255))) for v in range(256)])
        for c in colour
    ]
    return Image.merge("RGB", channels)


def _hand(canvas: Canvas, rng: random.Random, texture: Texture) -> None:
    """Fingers, or a hand, from outside of the face."""
    skin = texture(rng)
    angle = rng.uniform(0, 2 * math.pi)
    reach = rng.uniform(0.1, 1.1)
    thick = rng.uniform(0.24, 0.38)
    centre = (rng.uniform(-0.7, 0.7), rng.uniform(-0.6, 1.5))
    along = (math.cos(angle), math.sin(angle))
    across = (-along[1], along[0])
    if rng.random() < 0.5:  # the palm
        mask, drawing = canvas.mask()
        away = reach + rng.uniform(0.3, 0.9)
        ring = []
        for step in range(9):
            turn = 2 * math.pi * step / 9
            radius = rng.uniform(0.45, 0.8)
            ring.append(
                canvas.at(
                    centre[0] + along[0] * away + radius * math.cos(turn),
                    centre[1] + along[1] * away + radius * math.sin(turn),
                )
            )
        drawing.polygon(closed(ring), fill=255)
        canvas.put(mask, skin)
        canvas.shaded(mask, rng.uniform(0.1, 0.5))
    fingers = rng.randrange(1, 5)
    for finger in range(fingers):
        offset = (finger - (fingers - 1) / 2) * thick * rng.uniform(1.0, 1.25)
        tilt = rng.gauss(0, 0.12)
        tip = (
            centre[0] + across[0] * offset + along[0] * rng.uniform(-0.15, 0.15),
            centre[1] + across[1] * offset + along[1] * rng.uniform(-0.15, 0.15),
        )
        end = (
            tip[0] + (along[0] + tilt * across[0]) * (reach + 2.5),
            tip[1] + (along[1] + tilt * across[1]) * (reach + 2.5),
        )
        radius = canvas.unit * thick * rng.uniform(0.42, 0.52)
        mask, drawing = canvas.mask()
        a, b = canvas.at(*tip), canvas.at(*end)
        drawing.line([a, b], fill=255, width=round(2 * radius))
        drawing.ellipse([a[0] - radius, a[1] - radius, a[0] + radius, a[1] + radius], fill=255)
        canvas.put(mask, skin)
        canvas.shaded(mask, rng.uniform(0.2, 0.6))
        if rng.random() < 0.4:  # a nail
            nail, drawing = canvas.mask()
            r = radius * 0.55
            x, y = a[0] + along[0] * r * 0.3, a[1] + along[1] * r * 0.3
            drawing.ellipse([x - r, y - r, x + r, y + r], fill=255)
            canvas.put(nail, varied((226, 186, 180), rng, 25), rng.uniform(0.3, 0.9))


def _mask(canvas: Canvas, rng: random.Random, texture: Texture) -> None:
    """A mask of cloth over mouth and nose."""
    colour = rng.choice([(238, 240, 242), (150, 190, 215), (30, 30, 34), any_colour(rng)])
    lower = [canvas.points[i] for i in OVAL_RING[8:29]]
    above = [canvas.points[i] for i in (50, rng.choice([6, 197, 195, 5]), 280)]
    grown = [canvas.at(0, rng.uniform(0.02, 0.12), point) for point in lower[3:-3]]
    mask, drawing = canvas.mask()
    cheeks = rng.choice([0, 1, 2])
    drawing.polygon([*lower[cheeks:3], *grown, *lower[-3 : len(lower) - cheeks], *above], fill=255)
    paint: Paint = varied(colour, rng, 12)
    if rng.random() < 0.15:
        paint = texture(rng)
    canvas.put(mask, paint)
    canvas.shaded(mask, rng.uniform(0.1, 0.4))
    for fold in range(rng.choice([0, 3, 3, 4])):
        crease, drawing = canvas.mask()
        y = 0.55 + 0.25 * fold
        drawing.line(
            line(canvas.at(-0.9, y), canvas.at(0, y + 0.25), canvas.at(0.9, y)), fill=255, width=3
        )
        shade = tuple(max(0, v - 40) for v in colour)
        canvas.put(ImageChops.multiply(crease, mask), shade, 0.5)  # type: ignore[arg-type]
    straps, drawing = canvas.mask()
    for start, end in ((lower[cheeks], 454), (lower[len(lower) - 1 - cheeks], 234)):
        drawing.line([start, canvas.at(0, -0.3, canvas.points[end])], fill=255, width=4)
    canvas.put(straps, colour)


def _thing(canvas: Canvas, rng: random.Random, texture: Texture) -> None:
    """A microphone, a cup, a telephone, a bar or a line of writing."""
    mask, drawing = canvas.mask()
    x, y = rng.uniform(-0.9, 0.9), rng.uniform(0.6, 1.9)
    kind = rng.choice(["microphone", "cup", "box", "bar", "writing"])
    paint: Paint = any_colour(rng) if rng.random() < 0.6 else texture(rng)
    if kind == "microphone":
        r, lean = rng.uniform(0.18, 0.4), rng.uniform(-0.6, 0.6)
        stick, stick_drawing = canvas.mask()
        width = round(canvas.unit * r * rng.uniform(0.5, 1.3))
        stick_drawing.line([canvas.at(x, y), canvas.at(x + lean * 3, y + 3)], fill=255, width=width)
        canvas.put(stick, varied((30, 30, 32), rng, 28))
        canvas.shaded(stick, 0.5)
        (cx, cy), radius = canvas.at(x, y), r * canvas.unit
        stretched = radius * rng.uniform(1, 1.3)
        drawing.ellipse([cx - radius, cy - stretched, cx + radius, cy + stretched], fill=255)
        grain = noise((canvas.side // 2, canvas.side // 2), rng.uniform(20, 90), rng)
        dark = varied((70, 70, 74), rng, 60)
        canvas.put(mask, Image.blend(grain.convert("RGB"), Image.new("RGB", grain.size, dark), 0.6))
    elif kind == "cup":
        w, h, taper = rng.uniform(0.3, 0.7), rng.uniform(0.6, 1.6), rng.uniform(0.6, 1)
        corners = [(x - w, y), (x + w, y), (x + w * taper, y + h), (x - w * taper, y + h)]
        drawing.polygon([canvas.at(*corner) for corner in corners], fill=255)
        canvas.put(mask, paint)
    elif kind == "box":
        w, h, turn = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.4), rng.uniform(-0.6, 0.6)
        y -= rng.uniform(0, 2.2)
        sides = [(-w, -h), (w, -h), (w, h), (-w, h)]
        cos, sin = math.cos(turn), math.sin(turn)
        corners = [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in sides]
        drawing.polygon([canvas.at(*corner) for corner in corners], fill=255)
        canvas.put(mask, paint)
    elif kind == "bar":
        angle, y = rng.uniform(0, math.pi), rng.uniform(-1, 1.6)
        a = (x + 4 * math.cos(angle), y + 4 * math.sin(angle))
        b = (x - 4 * math.cos(angle), y - 4 * math.sin(angle))
        width = round(canvas.unit * rng.uniform(0.03, 0.4))
        drawing.line([canvas.at(*a), canvas.at(*b)], fill=255, width=width)
        canvas.put(mask, paint)
    else:
        letters = "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ0123456789 ") for _ in range(14))
        small = Image.new("L", (90, 12))
        ImageDraw.Draw(small).text((0, 0), letters, fill=255)
        wide = round(canvas.unit * rng.uniform(1.2, 3))
        small = small.resize((wide, max(1, wide * 12 // 90)), Image.Resampling.BICUBIC)
        place = canvas.at(rng.uniform(-1.2, 0), rng.uniform(-1, 1.8))
        mask.paste(small, (round(place[0]), round(place[1])))
        canvas.put(mask, any_colour(rng), rng.uniform(0.6, 1))
    if kind in ("cup", "box", "bar"):
        canvas.shaded(mask, rng.uniform(0, 0.4))


def _blob(canvas: Canvas, rng: random.Random, texture: Texture) -> None:
    """A shapeless thing with the texture of another picture."""
    x, y = rng.uniform(-1, 1), rng.uniform(-1.1, 1.8)
    size, corners = rng.uniform(0.15, 0.95), rng.randrange(4, 11)
    ring = []
    for corner in range(corners):
        turn, radius = 2 * math.pi * corner / corners, size * rng.uniform(0.4, 1.3)
        ring.append(canvas.at(x + radius * math.cos(turn), y + radius * math.sin(turn)))
    mask, drawing = canvas.mask()
    drawing.polygon(closed(ring) if rng.random() < 0.7 else ring, fill=255)
    canvas.put(mask, texture(rng) if rng.random() < 0.8 else any_colour(rng))
    if rng.random() < 0.4:
        canvas.shaded(mask, rng.uniform(0.1, 0.5))


_DRAW: dict[str, Callable[[Canvas, random.Random, Texture], None]] = {
    "hair": _hair,
    "hand": _hand,
    "mask": _mask,
    "thing": _thing,
    "blob": _blob,
}
