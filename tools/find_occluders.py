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
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from facke_core.data.crops import CropSet
from facke_core.faces.areas import polygon
from facke_core.faces.paste import mesh_hull
from facke_core.faces.rims import (
    PLACES,
    REACH,
    UP,
    Axes,
    Rims,
    edges,
    enlarged,
    fitted,
    normals,
    outlines,
)
from facke_core.faces.smooth import blurred
from facke_core.images.io import to_pil
from facke_core.weights.tensors import to_bytes

BEST = 0.078
"""Least mean contrast of an outline that is kept."""
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
TOP = (127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356)
SKIN = ((50, 0.14), (280, 0.14), (205, 0.14), (425, 0.14), (5, 0.1), (197, 0.07))
"""Points on cheeks and nose, and how far around them there is skin."""
NO_HAIR = 0.005
"""Share of a forehead up to which a portrait shows no hair before it."""
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)


def labelled(grey: Tensor, axes: Axes, rims: Rims) -> tuple[Tensor, Tensor]:
    """The share (1, S, S) of each pixel that is rim, and the weight (1, S, S) of the label."""
    lines = outlines(rims.shape[None], axes, PLACES)[0]
    side = grey.shape[-1]
    rim, unsure = (Image.new("L", (side, side)) for _ in range(2))
    draw, doubt = ImageDraw.Draw(rim), ImageDraw.Draw(unsure)
    places = normals(lines, torch.arange(-REACH, REACH + 1).float())
    for lens, seen in enumerate(edges(grey, axes, rims)):
        lids = axes.points[list(LIDS[lens])]
        near_lids = torch.cdist(lines[lens], lids).amin(1) < 0.1 * axes.unit
        seen = [None if near_lids[k] else edge for k, edge in enumerate(seen)]
        for k in range(PLACES):
            after = (k + 1) % PLACES
            a, b = seen[k], seen[after]
            low, high = (a, b) if a and b else ((REACH - 9, REACH + 9),) * 2
            spots = [(k, low[0]), (k, low[1]), (after, high[1]), (after, high[0])]
            corners = [(float(x), float(y)) for x, y in (places[lens, i, o] for i, o in spots)]
            (draw if a and b else doubt).polygon(corners, fill=255)
        inside = [(float(x), float(y)) for x, y in lines[lens]]
        lens_mask = Image.new("L", (side, side))
        ImageDraw.Draw(lens_mask).polygon(inside, fill=255)
        within = _tensor(lens_mask) > 0.5
        cheek = axes.points[(205, 425)[lens]].round().int().tolist()
        near = grey[max(cheek[1] - 12, 0) : cheek[1] + 12, max(cheek[0] - 12, 0) : cheek[0] + 12]
        if float(grey[within[0]].median()) < 0.75 * float(near.median()):
            unsure.paste(255, mask=lens_mask)  # a tinted lens
    half = PLACES // 2
    ends = [lines[0, 0], lines[1, half], lines[0, half], lines[1, 0]]
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
            axes, grey = Axes.of(mesh), enlarged(crop[0])
            rims = fitted(grey, axes, seed=row)
            if rims.contrast >= BEST:
                label, weight = labelled(grey, axes, rims)
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
