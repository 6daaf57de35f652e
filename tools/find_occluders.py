"""Finds rims of real glasses, and real hair before foreheads, in portraits.

    ./dev python tools/find_occluders.py DATASET --glasses PEOPLE --out runs/found.safetensors
                                         [--sheet FILE]

DATASET is one of ``facke prepare --size 128``, PEOPLE a file of names, one a line, of those who
wear glasses. The outline of a pair of lenses (a superellipse each, with slant and wings) is moved
until it lies on lines that are darker, or lighter, than both of their sides; portraits on which it
lies well are kept. What is dark or light along the outline is the label. Everybody else has hair
where the forehead has the colours of what is above it, and not those of cheeks and nose. Places
that cannot be told have no weight. ``tools/train_occlusion.py --found`` reads the file.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from facke_core.data.crops import CropSet
from facke_core.faces.areas import polygon
from facke_core.faces.paste import mesh_hull
from facke_core.faces.smooth import blurred
from facke_core.images.io import to_pil
from facke_core.weights.tensors import to_bytes

UP = 3
"""Lines are looked for in pictures that are this many times as large."""
CORNERS = ((33, 133), (362, 263))
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
LOW = torch.tensor([0.32, 0.16, 2.0, -0.06, -0.12, 0.0, -0.06])
HIGH = torch.tensor([0.56, 0.5, 4.5, 0.2, 0.12, 0.25, 0.1])
"""Bounds of half width, half height, power, drop, slant, wing and shift to the sides, in distances
of the irises."""
STEP = torch.tensor([0.02, 0.02, 0.2, 0.015, 0.02, 0.03, 0.015])
BEST = 0.078
"""Least mean contrast of an outline that is kept."""
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
TOP = (127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356)
SKIN = ((50, 0.14), (280, 0.14), (205, 0.14), (425, 0.14), (5, 0.1), (197, 0.07))
"""Points on cheeks and nose, and how far around them there is skin."""
NO_HAIR = 0.005
"""Share of a forehead up to which a portrait shows no hair before it."""
SEEN = 0.035
"""Least contrast of a place of the outline that is a rim."""


class Axes(NamedTuple):
    """The axes of a face in a picture: its points (478, 2), and what is one unit right and down."""

    points: Tensor
    unit: float
    right: Tensor
    down: Tensor

    @classmethod
    def of(cls, mesh: Tensor) -> Axes:
        points = (mesh + 0.5) * UP - 0.5
        across = points[473] - points[468]
        unit = float(across.norm())
        right = across / unit
        return cls(points, unit, right, torch.stack([-right[1], right[0]]))


def outlines(shapes: Tensor, axes: Axes, places: int) -> Tensor:
    """The outlines (N, 2, K, 2) of both lenses for shapes (N, 7), from their right ends, down."""
    width, height, power, drop, slant, wing, shift = (x[:, None] for x in shapes.T)
    angle = torch.arange(places) * 2 * math.pi / places
    cos, sin = angle.cos()[None], angle.sin()[None]
    lenses = []
    for side, corners in enumerate(CORNERS):
        a, b = axes.points[list(corners)]
        ratio = max(0.35, min(1.25, float((b - a).norm()) / (0.46 * axes.unit)))
        out = 1 if side else -1
        x = cos.sign() * cos.abs() ** (2 / power) * width * ratio
        y = sin.sign() * sin.abs() ** (2 / power) * height + slant * x * out
        y = torch.where((x * out > 0) & (y < 0), y - wing * x * out, y) + drop
        x = x + shift * out
        place = x[..., None] * axes.right + y[..., None] * axes.down
        lenses.append((a + b) / 2 + axes.unit * place)
    return torch.stack(lenses, 1)


def across(grey: Tensor, lines: Tensor, offsets: Tensor) -> Tensor:
    """The values (..., K, O) of a picture (S, S) along the normals of closed lines (..., K, 2)."""
    along = lines.roll(-1, -2) - lines.roll(1, -2)
    normal = torch.stack([along[..., 1], -along[..., 0]], -1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    places = lines[..., None, :] + normal[..., None, :] * offsets[:, None]
    grid = (places + 0.5) / grey.shape[-1] * 2 - 1
    values = F.grid_sample(
        grey[None, None], grid.reshape(1, -1, 1, 2), padding_mode="border", align_corners=False
    )
    return values.reshape(places.shape[:-1])


def contrast(grey: Tensor, lines: Tensor) -> Tensor:
    """How much darker (..., 0), and lighter (..., 1), outlines (N, 2, K, 2) are than both of their
    sides; what lies below the eye counts twice, because brows and lids are above."""
    v = across(grey, lines, torch.arange(-9, 10, 3).float())
    found = []
    for sign in (1, -1):
        w = sign * v
        thin = torch.minimum(w[..., 1], w[..., 5]) - w[..., 3]
        thick = torch.minimum(w[..., 0], w[..., 6]) - w[..., 2:5].mean(-1)
        found.append(torch.maximum(thin, thick).clamp(-0.05, 0.12))
    k = lines.shape[-2]
    weight = torch.where(torch.arange(k) <= k // 2, 1.5, 0.5)
    weight = weight / weight.sum()
    return torch.stack([(x * weight).sum(-1).mean(-1) for x in found], -1)


def fitted(grey: Tensor, axes: Axes, rng: torch.Generator) -> tuple[Tensor, float, int]:
    """The shape (7,) that lies best, its contrast, and whether it is dark (0) or light (1)."""
    shapes = LOW + (HIGH - LOW) * torch.rand(2500, 7, generator=rng)
    shapes[torch.rand(len(shapes), generator=rng) < 0.5, 5] = 0
    values = contrast(grey, outlines(shapes, axes, 40))
    for turn in range(3):
        best = shapes[values.amax(-1).topk(6).indices]
        near = best.repeat(80, 1)
        near = near + STEP * 0.7**turn * torch.randn(near.shape, generator=rng)
        shapes = torch.cat([best, torch.minimum(torch.maximum(near, LOW), HIGH)])
        values = contrast(grey, outlines(shapes, axes, 40))
    k = int(values.amax(-1).argmax())
    return shapes[k], float(values[k].max()), int(values[k].argmax())


def labelled(grey: Tensor, axes: Axes, shape: Tensor, light: int) -> tuple[Tensor, Tensor]:
    """The share (1, S, S) of each pixel that is rim, and the weight (1, S, S) of the label."""
    lines = outlines(shape[None], axes, 160)[0]
    reach = 16
    offsets = torch.arange(-reach, reach + 1).float()
    values = across(grey, lines, offsets) * (-1 if light else 1)
    centre = reach - 5 + values[..., reach - 5 : reach + 6].argmin(-1)
    side = grey.shape[-1]
    rim, unsure = (Image.new("L", (side, side)) for _ in range(2))
    draw, doubt = ImageDraw.Draw(rim), ImageDraw.Draw(unsure)
    normals = across_places(lines, offsets)
    for lens in range(2):
        edges = _alike([_edges(values[lens, k].tolist(), int(centre[lens, k])) for k in range(160)])
        lids = axes.points[list(LIDS[lens])]
        near_lids = torch.cdist(lines[lens], lids).amin(1) < 0.1 * axes.unit
        edges = [None if near_lids[k] else edge for k, edge in enumerate(edges)]
        for k in range(160):
            after = (k + 1) % 160
            a, b = edges[k], edges[after]
            low, high = (a, b) if a and b else ((reach - 9, reach + 9),) * 2
            quad = [
                normals[lens, k, low[0]],
                normals[lens, k, low[1]],
                normals[lens, after, high[1]],
                normals[lens, after, high[0]],
            ]
            corners = [(float(x), float(y)) for x, y in quad]
            (draw if a and b else doubt).polygon(corners, fill=255)
        inside = [(float(x), float(y)) for x, y in lines[lens]]
        lens_mask = Image.new("L", (side, side))
        ImageDraw.Draw(lens_mask).polygon(inside, fill=255)
        within = _tensor(lens_mask) > 0.5
        cheek = axes.points[(205, 425)[lens]].round().int().tolist()
        near = grey[max(cheek[1] - 12, 0) : cheek[1] + 12, max(cheek[0] - 12, 0) : cheek[0] + 12]
        if float(grey[within[0]].median()) < 0.75 * float(near.median()):
            unsure.paste(255, mask=lens_mask)  # a tinted lens
    ends = [lines[0, 0], lines[1, 80], lines[0, 80], lines[1, 0]]
    _box(doubt, axes, ends[0], ends[1], 0.3)
    for end, sign in ((ends[2], -1), (ends[3], 1)):
        _box(doubt, axes, end, end + sign * axes.unit * axes.right, 0.25)
    middle = (axes.points[468] + axes.points[473]) / 2 - 2 * axes.unit * axes.down
    ends = [middle + sign * 4 * axes.unit * axes.right for sign in (-1, 1)]
    _box(doubt, axes, ends[0], ends[1], 1.5)  # nobody looked for hair
    share = F.avg_pool2d(_tensor(rim)[None], UP)[0]
    ring = F.max_pool2d((share > 0).float(), 3, 1, 1) * (share == 0)
    doubtful = F.max_pool2d(F.avg_pool2d(_tensor(unsure)[None], UP)[0], 3, 1, 1) > 0
    weight = 1 - torch.maximum(ring, doubtful.float() * (share < 0.5))
    return share, weight


def across_places(lines: Tensor, offsets: Tensor) -> Tensor:
    """The places (..., K, O, 2) along the normals of closed lines."""
    along = lines.roll(-1, -2) - lines.roll(1, -2)
    normal = torch.stack([along[..., 1], -along[..., 0]], -1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    return lines[..., None, :] + normal[..., None, :] * offsets[:, None]


def _edges(values: list[float], centre: int) -> tuple[int, int] | None:
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


def _box(draw: ImageDraw.ImageDraw, axes: Axes, a: Tensor, b: Tensor, half: float) -> None:
    away = half * axes.unit * axes.down
    corners = [a - away, b - away, b + away, a + away]
    draw.polygon([(float(x), float(y)) for x, y in corners], fill=255)


# -- hair ------------------------------------------------------------------------------------------


def hair(crop: Tensor, mesh: Tensor) -> tuple[Tensor, Tensor, float] | None:
    """Which pixels (1, S, S) of a forehead are hair, the weight (1, S, S) of that, and its share.

    None where there is too little above the forehead, or the head is turned away.
    """
    size, unit = crop.shape[-1], float((mesh[473] - mesh[468]).norm())
    y, x = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    skin = torch.zeros(size, size, dtype=torch.bool)
    for point, radius in SKIN:
        skin |= (x - mesh[point, 0]).hypot(y - mesh[point, 1]) < radius * unit
    right, top = mesh[10].tolist()
    above = (y < top - 0.08 * unit) & (y > top - 0.5 * unit) & ((x - right).abs() < 0.7 * unit)
    ring = mesh[[*TOP, *reversed(BROWS)]]
    forehead = polygon(ring, size).view(size, size).float() > 127
    if above.sum() < 30 or forehead.sum() < 50 or skin.sum() < 50:
        return None
    light = (crop + 0.04).log()
    values = torch.stack([light.mean(0), light[0] - light[1], light[2] - light[1]])
    as_skin, rare = _likeness(values, skin)
    as_hair, rare_hair = _likeness(values, above)
    more = blurred((as_skin + rare - as_hair - rare_hair)[None, None], 0.7)[0, 0]
    sure = (more > 4) & (as_skin > 9) & forehead
    # from outside in: what shines on a forehead touches no edge of it
    edge = forehead & (F.max_pool2d((~forehead)[None, None].float(), 3, 1, 1)[0, 0] > 0)
    grown = edge & sure
    for _ in range(size):
        wider = (F.max_pool2d(grown[None, None].float(), 3, 1, 1)[0, 0] > 0) & sure
        if torch.equal(wider, grown):
            break
        grown = wider
    doubtful = forehead & ~grown & ((more > -2) | (as_skin > 6))
    ring = F.max_pool2d(grown[None, None].float(), 3, 1, 1)[0, 0] - grown.float()
    inside = mesh_hull(mesh[None], size)[0, 0] > 0.5
    rim = F.max_pool2d((~inside)[None, None].float(), 13, 1, 6)[0, 0] > 0
    unsure = doubtful | (ring > 0) | (rim & ~forehead) | ~inside
    return grown.float()[None], (~unsure).float()[None], float(grown.sum() / forehead.sum())


def _likeness(values: Tensor, mask: Tensor) -> tuple[Tensor, float]:
    """How far (S, S) values (3, S, S) are from those of a mask, and how much these spread."""
    known = values[:, mask]
    middle = known.median(1).values
    away = known - middle[:, None]
    length = away.norm(dim=0)
    away = away[:, length < length.quantile(0.9)]
    spread = away @ away.T / away.shape[1] + torch.diag(torch.tensor([0.02, 0.003, 0.003]))
    d = (values - middle[:, None, None]).flatten(1)
    far = (d * torch.linalg.solve(spread, d)).sum(0).view(values.shape[1:])
    return far, float(torch.logdet(spread))


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width).float() / 255


class Found(NamedTuple):
    """What was found in one portrait."""

    row: int
    hull: Tensor
    label: Tensor
    weight: Tensor
    hair: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--glasses", type=Path, metavar="PEOPLE", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw some of what was found")
    args = parser.parse_args()
    crops = CropSet.load(args.data)
    assert crops.mesh is not None
    named = set(args.glasses.read_text("utf-8").split("\n"))
    wear = torch.tensor([name in named for name in crops.info["people"]])[crops.people].tolist()
    found, bare = list[Found](), torch.zeros(len(crops), dtype=torch.bool)
    for row in range(len(crops)):
        index = torch.tensor([row])
        crop, mesh = crops.images[index].float() / 255, crops.mesh[index][0]
        hull = mesh_hull(mesh[None], crop.shape[-1])[0]
        if wear[row]:
            large = crop.mean(1, keepdim=True)
            grey = F.interpolate(large, scale_factor=UP, mode="bicubic")[0, 0]
            axes = Axes.of(mesh)
            shape, value, light = fitted(grey, axes, torch.Generator().manual_seed(row))
            if value >= BEST:
                label, weight = labelled(grey, axes, shape, light)
                found.append(Found(row, hull, label, weight, hair=False))
        elif seen := hair(crop[0], mesh):
            label, weight, share = seen
            bare[row] = share <= NO_HAIR
            if not bare[row]:
                found.append(Found(row, hull, label, weight, hair=True))
    rows = torch.tensor([each.row for each in found])
    tensors = {
        "row": rows,
        "person": crops.people[rows],
        "crop": crops.images[rows],
        "hull": torch.stack([each.hull for each in found]).half(),
        "label": torch.stack([each.label for each in found]).half(),
        "weight": torch.stack([each.weight for each in found]).half(),
        "hair": torch.tensor([each.hair for each in found]),
        "bare": bare,
    }
    args.out.write_bytes(to_bytes(tensors, {}))
    hairy = int(tensors["hair"].sum())
    print(
        f"{len(found) - hairy} of {sum(wear)} with rims, {hairy} with hair, {int(bare.sum())} bare"
    )
    if args.sheet:
        some = torch.cat(
            [kind.nonzero()[:, 0][:48] for kind in (tensors["hair"], ~tensors["hair"])]
        )
        tiles = []
        for k in some.tolist():
            label, weight = tensors["label"][k].float(), tensors["weight"][k].float()
            shown = torch.cat([label, weight, label])
            tiles.append(torch.cat([tensors["crop"][k].float() / 255, shown], 1))
        lines = [torch.cat(tiles[i : i + 12], 2) for i in range(0, len(tiles) - 11, 12)]
        to_pil(torch.cat(lines, 1)).save(args.sheet)


if __name__ == "__main__":
    main()
