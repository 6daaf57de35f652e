"""MediaPipe's face mesh of 478 points: what its points are, its triangles, its mean shape.

Indices follow MediaPipe's canonical face model. ``POINTS`` lists 96 of them in a fixed order, which
the composites use; ``MIRROR[i]`` is the position in that list of the point that takes the place of
point ``i`` when the picture is mirrored. :func:`face_mesh` knows the same of all 478.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OVAL_RING", "POINTS", "face_mesh"]

SIZE = 478
"""Points of a mesh."""

# (image-left, image-right) pairs, then points on the axis, by region
_OVAL = [
    (109, 338),
    (103, 332),
    (21, 251),
    (127, 356),
    (234, 454),
    (132, 361),
    (172, 397),
    (150, 379),
    (176, 400),
]
_OVAL_AXIS = [10, 152]
_EYES = [(33, 263), (160, 387), (159, 386), (158, 385), (133, 362), (153, 380), (145, 374)]
_EYES += [(144, 373), (468, 473)]
_BROWS = [(70, 300), (63, 293), (105, 334), (66, 296), (107, 336), (53, 283), (65, 295)]
_NOSE = [(48, 278), (64, 294), (98, 327), (49, 279), (129, 358)]
_NOSE_AXIS = [6, 197, 195, 4, 1, 2]
_LIPS = [(61, 291), (40, 270), (37, 267), (91, 321), (84, 314), (78, 308), (81, 311), (178, 402)]
_LIPS_AXIS = [0, 13, 14, 17]
_CHEEKS = [(50, 280), (205, 425), (117, 346), (101, 330), (36, 266)]


def _flatten() -> tuple[tuple[int, ...], tuple[int, ...], dict[str, slice]]:
    points: list[int] = []
    mirror: list[int] = []
    regions: dict[str, slice] = {}
    for name, pairs, axis in (
        ("oval", _OVAL, _OVAL_AXIS),
        ("eyes", _EYES, []),
        ("brows", _BROWS, []),
        ("nose", _NOSE, _NOSE_AXIS),
        ("lips", _LIPS, _LIPS_AXIS),
        ("cheeks", _CHEEKS, []),
    ):
        start = len(points)
        for left, right in pairs:
            mirror += [len(points) + 1, len(points)]
            points += [left, right]
        for index in axis:
            mirror.append(len(points))
            points.append(index)
        regions[name] = slice(start, len(points))
    return tuple(points), tuple(mirror), regions


POINTS, MIRROR, REGIONS = _flatten()

OVAL_RING = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""Points of the mesh that outline the face, as a closed polygon."""

MOUTH_RING = (
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
"""The opening of the mouth, by the inner edges of the lips: above from left to right, back below.
"""
EYE_RINGS = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
"""The openings of the eyes, image-left first, in the same order."""


class FaceMesh(NamedTuple):
    """What is the same in all meshes."""

    points: Tensor
    """The mean shape (478, 3) of faces, float64: x to the right, y down, z away from the camera, in
    distances of the irises, from the middle between them."""
    mirror: Tensor
    """Number (478,) int64 of the point that takes the place of each in a mirrored picture."""
    triangles: Tensor
    """Numbers (T, 3) int64 of the corners of triangles that cover the face, closed at eyes and
    mouth; clockwise where they are seen from outside."""


@cache
def face_mesh() -> FaceMesh:
    """The mesh that ``tools/measure_face_mesh.py`` measured."""
    import torch

    text = resources.files("facke_core.faces").joinpath("face_mesh.json").read_text("utf-8")
    known = json.loads(text)
    with torch.inference_mode(False):  # what a swap reads must serve a later training too
        return FaceMesh(
            torch.tensor(known["points"], dtype=torch.float64),
            torch.tensor(known["mirror"]),
            torch.tensor(known["triangles"]),
        )
