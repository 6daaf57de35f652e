"""Masks of parts of a face, by its mesh."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from facke_core.faces.mesh import EYE_RINGS, MOUTH_RING, OVAL_RING

__all__ = ["inside", "lips", "openings"]

LIPS_RING = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip
"""The outer edges of the lips."""
_BROWS = (
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
_NOSTRILS = (64, 98, 97, 2, 326, 327, 294, 4)


def polygon(ring: Tensor, size: int) -> Tensor:
    """A mask (1, size, size) uint8, antialiased: 255 inside the polygon ``ring`` (R, 2), in
    pixels."""
    scale = 4 if size <= 256 else 2
    mask = Image.new("L", (scale * size, scale * size))
    corners = [(x, y) for x, y in ((ring + 0.5) * scale).tolist()]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    pixels = bytearray(mask.reduce(scale).tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).view(1, size, size)


def inside(mesh: Tensor, rings: Sequence[Sequence[int]], size: int) -> Tensor:
    """The share (1, size, size) of each pixel inside any of some rings of a mesh (478, 2)."""
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    for ring in rings:
        mask = torch.maximum(mask, polygon(mesh[list(ring)], size))
    return mask.float() / 255


def openings(mesh: Tensor, size: int, *, eyes: bool) -> Tensor:
    """The inside (1, size, size) of the mouth, and of the eyes."""
    return inside(mesh, (MOUTH_RING, *(EYE_RINGS if eyes else ())), size)


def lips(mesh: Tensor, size: int) -> Tensor:
    """The lips (1, size, size), without what is between them."""
    return inside(mesh, (LIPS_RING,), size) * (1 - openings(mesh, size, eyes=False))


def skin(mesh: Tensor, size: int) -> Tensor:
    """The skin (1, size, size) of the face: without eyes and lashes, brows, lips and nostrils."""
    lashes = size // 64
    eyes = F.max_pool2d(inside(mesh, EYE_RINGS, size), 2 * lashes + 1, 1, lashes)
    features = inside(mesh, (*_BROWS, LIPS_RING, _NOSTRILS), size)
    return inside(mesh, (OVAL_RING,), size) * (1 - eyes.maximum(features))
