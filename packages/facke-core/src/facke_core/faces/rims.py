"""The rims of glasses, found by fitting the outlines of two lenses to the lines of a picture.

A network that sees rims in small crops often sees a part of them only, above all of thin and of
translucent ones. All of them have a shape: a superellipse for each eye, alike on both sides, with
slant and wings. It is moved until it lies on lines that are darker, or lighter, than both of their
sides.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

__all__: list[str] = []

UP = 3
"""Lines are looked for in pictures that are this many times as large as the crop."""
CORNERS = ((33, 133), (362, 263))
TEMPLES = (127, 356)
_LOW = (0.32, 0.16, 2.0, -0.06, -0.12, 0.0, -0.06)
_HIGH = (0.56, 0.5, 4.5, 0.2, 0.12, 0.25, 0.1)
_STEP = (0.02, 0.02, 0.2, 0.015, 0.02, 0.03, 0.015)
"""Bounds of half width, half height, power, drop, slant, wing and shift to the sides, in distances
of the irises, and steps of the search."""
PLACES = 160
"""Places on an outline whose rim is looked at."""
SEEN = 0.035
"""Least contrast of a place of the outline that is a rim."""
REACH = 16
"""Reach across an outline in which its rim is looked for, in pixels of the large picture."""


class Axes(NamedTuple):
    """The axes of a face in a large picture: its points (478, 2), and one unit right and down."""

    points: Tensor
    unit: float
    right: Tensor
    down: Tensor

    @classmethod
    def of(cls, mesh: Tensor) -> Axes:
        """The axes of a face by its mesh (478, 2) in pixels of the crop."""
        points = (mesh + 0.5) * UP - 0.5
        across = points[473] - points[468]
        unit = float(across.norm())
        right = across / unit
        return cls(points, unit, right, torch.stack([-right[1], right[0]]))


class Rims(NamedTuple):
    """The outlines of glasses in a large picture."""

    shape: Tensor
    """The numbers (7,) between the bounds."""
    contrast: float
    """Mean contrast of the outline to both of its sides."""
    light: bool
    """True where it is lighter than its sides."""


def enlarged(crop: Tensor) -> Tensor:
    """The large grey picture (S, S) of a crop (3, s, s)."""
    grey = crop.mean(0)[None, None]
    return F.interpolate(grey, scale_factor=UP, mode="bicubic")[0, 0]


def outlines(shapes: Tensor, axes: Axes, places: int) -> Tensor:
    """The outlines (N, 2, K, 2) of both lenses for shapes (N, 7), from their right ends, down."""
    width, height, power, drop, slant, wing, shift = (x[:, None] for x in shapes.T)
    angle = torch.arange(places).double() * 2 * math.pi / places  # the sine of pi is below 0 else
    cos, sin = angle.cos().float()[None], angle.sin().float()[None]
    lenses = []
    for side, corners in enumerate(CORNERS):
        a, b = axes.points[list(corners)]
        # an eye that is turned away is narrower, and so is its lens
        ratio = max(0.35, min(1.25, float((b - a).norm()) / (0.46 * axes.unit)))
        out = 1 if side else -1
        x = cos.sign() * cos.abs() ** (2 / power) * width * ratio
        y = sin.sign() * sin.abs() ** (2 / power) * height + slant * x * out
        y = torch.where((x * out > 0) & (y < 0), y - wing * x * out, y) + drop
        x = x + shift * out
        place = x[..., None] * axes.right + y[..., None] * axes.down
        lenses.append((a + b) / 2 + axes.unit * place)
    return torch.stack(lenses, 1)


def normals(lines: Tensor, offsets: Tensor) -> Tensor:
    """The places (..., K, O, 2) at offsets (O,) along the normals of closed lines (..., K, 2)."""
    along = lines.roll(-1, -2) - lines.roll(1, -2)
    normal = torch.stack([along[..., 1], -along[..., 0]], -1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    return lines[..., None, :] + normal[..., None, :] * offsets[:, None]


def across(grey: Tensor, lines: Tensor, offsets: Tensor) -> Tensor:
    """The values (..., K, O) of a picture (S, S) at :func:`normals`."""
    places = normals(lines, offsets)
    grid = (places + 0.5) / grey.shape[-1] * 2 - 1
    values = F.grid_sample(
        grey[None, None], grid.reshape(1, -1, 1, 2), padding_mode="border", align_corners=False
    )
    return values.reshape(places.shape[:-1])


def contrast(grey: Tensor, lines: Tensor) -> Tensor:
    """How much darker (N, 0), and lighter (N, 1), outlines (N, 2, K, 2) are than both of their
    sides; what lies below the eye counts three times, because brows and lids are above."""
    v = across(grey, lines, torch.arange(-9, 10, 3).float())
    sides = []
    for sign in (1, -1):
        w = sign * v
        thin = torch.minimum(w[..., 1], w[..., 5]) - w[..., 3]
        thick = torch.minimum(w[..., 0], w[..., 6]) - w[..., 2:5].mean(-1)
        sides.append(torch.maximum(thin, thick).clamp(-0.05, 0.12))
    k = lines.shape[-2]
    weight = torch.where(torch.arange(k) <= k // 2, 1.5, 0.5)
    weight = weight / weight.sum()
    return torch.stack([(x * weight).sum(-1).mean(-1) for x in sides], -1)


def fitted(grey: Tensor, axes: Axes, *, tries: int = 2500, seed: int = 0) -> Rims:
    """The outlines that lie best on lines of a large picture (S, S), of ``tries`` at first."""
    rng = torch.Generator().manual_seed(seed)
    low, high, step = (torch.tensor(bounds) for bounds in (_LOW, _HIGH, _STEP))
    shapes = low + (high - low) * torch.rand(tries, 7, generator=rng)
    shapes[torch.rand(tries, generator=rng) < 0.5, 5] = 0
    values = contrast(grey, outlines(shapes, axes, 40))
    for turn in range(3):
        best = shapes[values.amax(-1).topk(6).indices]
        near = best.repeat(max(tries // 30, 1), 1)
        near = near + step * 0.7**turn * torch.randn(near.shape, generator=rng)
        shapes = torch.cat([best, torch.minimum(torch.maximum(near, low), high)])
        values = contrast(grey, outlines(shapes, axes, 40))
    k = int(values.amax(-1).argmax())
    return Rims(shapes[k], float(values[k].max()), bool(values[k].argmax()))


def edges(grey: Tensor, axes: Axes, rims: Rims) -> list[list[tuple[int, int] | None]]:
    """From where to where the rim of each lens reaches across its outline, as places of
    :func:`normals` with :data:`REACH`; None where it is not seen."""
    lines = outlines(rims.shape[None], axes, PLACES)[0]
    values = across(grey, lines, torch.arange(-REACH, REACH + 1).float()) * (
        -1 if rims.light else 1
    )
    centres = REACH - 5 + values[..., REACH - 5 : REACH + 6].argmin(-1)
    sides = []
    for lens, centre in zip(values.tolist(), centres.tolist(), strict=True):
        sides.append(_alike([_extent(*each) for each in zip(lens, centre, strict=True)]))
    return sides


def _extent(values: list[float], centre: int) -> tuple[int, int] | None:
    """From where to where values are nearer to that of the centre than to those of both sides."""
    left, right = values[max(centre - 10, 0) : centre - 2], values[centre + 3 : centre + 11]
    if not left or not right:
        return None
    around = min(max(left), max(right))
    if around - values[centre] < SEEN:
        return None
    half = (around + values[centre]) / 2
    low = high = centre
    while low > 0 and centre - low < 10 and values[low - 1] < half:
        low -= 1
    while high < len(values) - 1 and high - centre < 10 and values[high + 1] < half:
        high += 1
    return low, high


def _alike(edges: list[tuple[int, int] | None]) -> list[tuple[int, int] | None]:
    """Without those that lie elsewhere than most of their neighbours, or have few."""
    kept: list[tuple[int, int] | None] = []
    for k, edge in enumerate(edges):
        around = [edges[(k + step) % len(edges)] for step in range(-6, 7)]
        there = [(a + b) / 2 for each in around if each for a, b in [each]]
        middle = sorted(there)[len(there) // 2] if len(there) > 7 else None
        right = edge is not None and middle is not None and abs(sum(edge) / 2 - middle) <= 2
        kept.append(edge if right else None)
    return kept


def drawn(grey: Tensor, axes: Axes, rims: Rims) -> Tensor:
    """The share (1, s, s) of each pixel of the crop that belongs to glasses: rims as wide as they
    are seen, or of the usual width, with bridge and temples."""
    lines, side = outlines(rims.shape[None], axes, PLACES)[0], grey.shape[-1]
    places = normals(lines, torch.arange(-REACH, REACH + 1).float())
    usual = max(2, round(0.03 * axes.unit))
    plain = (REACH - usual, REACH + usual)
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)

    for lens, seen in zip(places.tolist(), edges(grey, axes, rims), strict=True):
        for k, edge in enumerate(seen):
            after = (k + 1) % PLACES
            a, b = edge or plain, seen[after] or plain
            ends = [(k, a[0] - 1), (k, a[1] + 1), (after, b[1] + 1), (after, b[0] - 1)]
            corners = [tuple(lens[i][min(max(o, 0), 2 * REACH)]) for i, o in ends]
            draw.polygon(corners, fill=255)
    lift = 0.12 * axes.unit * axes.down
    bars = [(lines[0, 0] - lift, lines[1, PLACES // 2] - lift, 0.07)]
    lift = (0.1 + float(rims.shape[5] * rims.shape[0])) * axes.unit * axes.down
    for outer, temple in zip((lines[0, PLACES // 2], lines[1, 0]), TEMPLES, strict=True):
        bars.append((outer - lift, axes.points[temple], 0.06))
    for start, end, half in bars:
        away = half * axes.unit * axes.down
        bar = torch.stack([start - away, end - away, end + away, start + away])
        draw.polygon([(x, y) for x, y in bar.tolist()], fill=255)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return F.avg_pool2d(pixels.view(1, side, side).float() / 255, UP)
