"""Boxes of faces, and the squares, tiles and quarter turns of pictures that hold them.

Boxes are (4,): x0, y0, x1, y1, in pixels with centres at integers. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facke_core.types import Face

__all__: list[str] = []

Pixels = np.ndarray[Any, Any]

FITS = 0.3
"""Overlap (intersection over union) from which two boxes show one face."""
PART = 0.6
"""Share of the smaller box that lies in the other, from which it shows a part of the same face."""
LARGEST_CROP = 8192
"""Side in pixels from which a square keeps every n-th pixel only."""


def windows(shape: Sequence[int], tiles: int) -> Iterator[tuple[int, int, int, int]]:
    """Corner (y, x), height and width of half-overlapping tiles, so many per side, or for 0 of
    squares along the longer side."""
    height, width = shape[:2]
    if tiles:
        h, w, rows, columns = -(-height // tiles), -(-width // tiles), tiles, tiles
    else:
        h = w = min(height, width)
        rows, columns = -(-height // h), -(-width // w)
    for i in range(2 * rows - 1):
        for j in range(2 * columns - 1):
            yield min(i * h // 2, height - h), min(j * w // 2, width - w), h, w


def turned_points(points: Tensor, shape: Sequence[int], quarters: int) -> Tensor:
    """The places of points (N, 2) of a picture (H, W, ...) after quarter turns of it against the
    clock."""
    height, width = shape[:2]
    for _ in range(quarters % 4):
        points = torch.stack([points[:, 1], width - 1 - points[:, 0]], 1)
        height, width = width, height
    return points


def turned_box(box: Tensor, shape: Sequence[int], quarters: int) -> Tensor:
    """The box after quarter turns of the picture against the clock."""
    return bounds(turned_points(box.view(2, 2), shape, quarters)) if quarters else box


def turned_face(face: Face, shape: Sequence[int], quarters: int) -> Face:
    """The face, with its mesh, after quarter turns of the picture against the clock."""
    if quarters % 4 == 0:
        return face
    assert face.mesh is not None
    return face._replace(
        box=turned_box(face.box, shape, quarters),
        landmarks=turned_points(face.landmarks, shape, quarters),
        mesh=turned_points(face.mesh, shape, quarters),
    )


def square(pixels: Pixels, box: Tensor, factor: float) -> tuple[Pixels, int, int, int]:
    """A square around a box, black beyond the photo, its corner (x, y), and its side in pixels of
    the photo, of which a very large one keeps every n-th only."""
    x0, y0, x1, y1 = box.tolist()
    size = max(round(factor * max(x1 - x0, y1 - y0)), 8)
    x, y = round((x0 + x1 - size) / 2), round((y0 + y1 - size) / 2)
    step = -(-size // LARGEST_CROP)
    side = -(-size // step)
    rows, columns = (torch.arange(side).mul(step).add(first).numpy() for first in (y, x))
    (top, bottom), (left, right) = (
        np.searchsorted(places, (0, length)).tolist()
        for places, length in ((rows, pixels.shape[0]), (columns, pixels.shape[1]))
    )
    crop = np.zeros((side, side, 3), np.uint8)
    if top < bottom and left < right:
        crop[top:bottom, left:right] = pixels[
            rows[top] : rows[bottom - 1] + 1 : step, columns[left] : columns[right - 1] + 1 : step
        ]
    return crop, x, y, side * step


def bounds(points: Tensor) -> Tensor:
    """The box (4,) around points (N, 2)."""
    return torch.cat([points.amin(0), points.amax(0)])


def _common(a: Tensor, b: Tensor) -> Tensor:
    return (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes."""
    common = _common(a, b)
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
    return float(common / union.clamp(min=1e-9))


def covered(a: Tensor, b: Tensor) -> bool:
    """Tell whether two boxes show the same face, or one a part of the other's."""
    smaller = torch.minimum((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())
    return overlap(a, b) > FITS or float(_common(a, b) / smaller.clamp(min=1e-9)) > PART


def distinct(boxes: Tensor, scores: Sequence[float]) -> list[int]:
    """Indices that remain of boxes (N, 4) that show the same face: the best score of each."""
    from kornia.geometry.bbox import nms

    kept: list[int] = nms(boxes, torch.tensor(scores), FITS).tolist()
    return kept


def largest_first(faces: list[Face]) -> list[Face]:
    """Faces by the area of their boxes."""
    return sorted(faces, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))
