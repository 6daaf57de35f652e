"""Put a swapped crop back into its photo: only the face, without a seam.

The mask covers the face that the mesh (or the five points) outlines, is smaller than it and fades
over a width that follows the face, so the blend is the same for faces of any size. What the
original system does instead is in :mod:`facke_gan.original.paste`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from facke_core.faces.align import invert_affine, transform_points, warp
from facke_core.faces.areas import skin
from facke_core.faces.colour import match_color
from facke_core.faces.grain import grained
from facke_core.faces.smooth import smoothstep
from facke_core.images.io import resize
from facke_core.types import AlignedFace, Face

__all__ = ["face_mask", "paste"]

MARGIN = 0.12
"""Width of what is kept around a face in front of another, as a share of its width."""
FEATHER = 0.12
"""Width of the fade, as a share of the face's width; it ends at the outline of the face."""

_DIRECTIONS = 72
# Centre and half axes of a face in units of the distance from the eyes to the mouth, fitted to
# the meshes of 199 faces of all poses; the centre moves against the nose when the head turns.
_CENTRE_Y, _HALF_WIDTH, _HALF_HEIGHT = 0.47, 1.02, 1.20


def face_mask(aligned: AlignedFace, size: int = 128, *, feather: float = FEATHER) -> Tensor:
    """The share (1, size, size) in [0, 1] that the swapped crop has at each place of the crop.

    It is 1 in the middle of the face, falling smoothly to 0 at its outline: the convex hull of the
    mesh where the detector gave one, else an ellipse through the five points. It is always 0 at
    the border of the crop.

    Args:
        aligned: the target's face as it was aligned.
        size: side of the mask in pixels.
        feather: width of the fade, as a share of the face's width.
    """
    inside, width = _inside(aligned, size)
    ticks = torch.arange(size, dtype=torch.float32)
    border = torch.minimum(ticks, size - 1 - ticks)
    border = torch.minimum(border[:, None], border[None, :])
    return smoothstep(torch.minimum(inside, border) / (feather * width))[None]


def mask_behind(aligned: AlignedFace, front: Iterable[Face], size: int = 128) -> Tensor:
    """The mask (1, size, size) of a face whose head is partly behind others: :func:`face_mask`
    without the faces in front and a margin around them, so that their heads keep their pixels.

    Args:
        aligned: the target's face as it was aligned.
        front: the faces of the same photo that are in front of it.
        size: side of the mask in pixels.
    """
    mask = face_mask(aligned, size)
    for face in front:
        inside, width = _inside(aligned._replace(face=face), size)
        mask = mask * (1 - smoothstep((inside / width + MARGIN) / MARGIN))
    return mask


def _inside(aligned: AlignedFace, size: int) -> tuple[Tensor, Tensor]:
    """How deep each place of a mask (size, size) lies in the face, and how wide that is where it is
    narrowest, in pixels of the mask."""
    directions, reach = outline(aligned, size / aligned.crop.shape[-1])
    half = _DIRECTIONS // 2
    return _depth(directions, reach, size), (reach[:half] + reach[half:]).amin()


def face_hull(aligned: AlignedFace, size: int) -> Tensor:
    """The share (1, size, size) of each pixel that lies inside the outline of the face: the convex
    hull of the mesh where the detector gave one, else an ellipse through the five points."""
    return (_inside(aligned, size)[0] + 0.5).clamp(0, 1)[None]


def mesh_hull(mesh: Tensor, size: int) -> Tensor:
    """The same as :func:`face_hull` (B, 1, size, size), by meshes (B, 478, 2) in its pixels."""
    directions = _directions()
    inside = [_depth(directions, (m @ directions.T).amax(0), size) for m in mesh.float()]
    return (torch.stack(inside) + 0.5).clamp(0, 1)[:, None]


def _directions() -> Tensor:
    angles = torch.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
    return torch.stack([angles.cos(), angles.sin()], 1)


def _depth(directions: Tensor, reach: Tensor, size: int) -> Tensor:
    """The distance (size, size) from each place to the outline, in pixels; below 0 outside."""
    ticks = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    places = torch.stack([x, y], -1).view(-1, 2)
    return (reach - places @ directions.T).amin(1).view(size, size)


def outline(aligned: AlignedFace, scale: float) -> tuple[Tensor, Tensor]:
    """Unit vectors (K, 2), and how far the face reaches along each, in pixels of the mask.

    A place p lies in the convex outline where ``p @ directions[k] <= reach[k]`` for every k.
    """
    directions = _directions()
    matrix = resized(aligned.matrix[None].float().cpu(), scale)
    face = aligned.face
    if face.mesh is not None:
        points = transform_points(matrix, face.mesh[None].float().cpu())[0]
        return directions, (points @ directions.T).amax(0)
    eye_1, eye_2, nose, mouth_1, mouth_2 = transform_points(
        matrix, face.landmarks[None].float().cpu()
    )[0]
    eyes, mouth = (eye_1 + eye_2) / 2, (mouth_1 + mouth_2) / 2
    down = mouth - eyes
    right = torch.stack([down[1], -down[0]])
    turn = ((nose - eyes) @ right / right.square().sum()).clamp(-0.5, 0.5)
    centre = eyes + _CENTRE_Y * down - turn * right
    axes = torch.stack([_HALF_WIDTH * right, _HALF_HEIGHT * down])
    return directions, directions @ centre + (axes @ directions.T).norm(dim=0)


def resized(matrix: Tensor, scale: float) -> Tensor:
    """The maps (B, 2, 3) to a crop, after the crop was resized by ``scale``.

    Resizing aligns pixel areas, not centres.
    """
    shift = matrix[:, :, 2:] * scale + (scale - 1) / 2
    return torch.cat([matrix[:, :, :2] * scale, shift], 2)


class Pasted(NamedTuple):
    """A photo with a swapped face in it."""

    image: Tensor
    """The photo (3, H, W), a new tensor."""
    share: Tensor
    """The share (1, H, W) in [0, 1] of each pixel that is the swapped face."""


def paste(
    photo: Tensor,
    crop: Tensor,
    aligned: AlignedFace,
    mask: Tensor | None = None,
    *,
    color: bool = True,
    grain: bool = True,
) -> Pasted:
    """Put the face of ``crop`` in the place of ``aligned``.

    Only the box around the mask is computed; pixels where the mask is 0 keep their bits.

    Args:
        photo: (3, H, W) in [0, 1].
        crop: (3, S, S) in [0, 1], the swapped face; any S.
        aligned: the target face as it was aligned, with the crop that was swapped.
        mask: (1, M, M) in [0, 1], in crop space, any M; default: :func:`face_mask`.
        color: match the colours to the target's first
            (:func:`~facke_core.faces.colour.match_color`).
        grain: give the face the fine detail of the target's skin
            (:func:`~facke_core.faces.grain.grained`), where the target has a mesh.
    """
    crop, target = crop.float().cpu(), aligned.crop.float().cpu()
    mask = face_mask(aligned) if mask is None else mask.float().cpu()
    if color:
        crop = match_color(crop, _fit(target, crop), _fit(mask, crop))
    result, shares = photo.clone(), photo.new_zeros(1, *photo.shape[1:])
    matrix = aligned.matrix[None].double().cpu()
    size = aligned.crop.shape[-1]
    box = _box(resized(matrix, mask.shape[-1] / size), mask, photo)
    if box is None:
        return Pasted(result, shares)
    x0, y0, x1, y1 = box
    corner = torch.tensor([[0, 0, x0], [0, 0, y0]])

    def place(image: Tensor, mode: str, border: str) -> Tensor:
        back = invert_affine(resized(matrix, image.shape[-1] / size)) - corner
        return warp(image[None], back, (y1 - y0, x1 - x0), mode=mode, border=border)[0]

    face = place(crop, "bicubic", "border").clamp(0, 1)
    share = place(mask, "bilinear", "zeros").clamp(0, 1)
    region = result[:, y0:y1, x0:x1]
    if grain and aligned.face.mesh is not None:
        mesh = transform_points(matrix, aligned.face.mesh[None].double().cpu())[0]
        whole = (4 * mask).clamp(max=1)  # what fades needs grain as much as the middle
        bare = place(skin(mesh, size) * _fit(whole, target), "bilinear", "zeros").clamp(0, 1)
        width = float(mesh[:, 0].max() - mesh[:, 0].min()) / _scale(matrix)
        face = grained(face, region, bare, width, (4 * share).clamp(max=1))
    region += share * (face - region)
    shares[:, y0:y1, x0:x1] = share
    return Pasted(result, shares)


def _scale(matrix: Tensor) -> float:
    return float(torch.linalg.det(matrix[0, :, :2]).abs().sqrt())


def _fit(image: Tensor, like: Tensor) -> Tensor:
    """Resize ``image`` (C, H, W) to the size of ``like``."""
    same = image.shape[1:] == like.shape[1:]
    return image if same else resize(image[None], (like.shape[1], like.shape[2]))[0]


def _box(matrix: Tensor, mask: Tensor, photo: Tensor) -> tuple[int, int, int, int] | None:
    """The part x0, y0, x1, y1 of the photo on which the mask is not 0, or None."""
    rows, columns = mask[0].amax(1).nonzero(), mask[0].amax(0).nonzero()
    if not len(rows):
        return None
    x0, x1 = float(columns[0] - 1), float(columns[-1] + 1)
    y0, y1 = float(rows[0] - 1), float(rows[-1] + 1)
    corners = matrix.new_tensor([[[x0, y0], [x1, y0], [x0, y1], [x1, y1]]])
    seen = transform_points(invert_affine(matrix), corners)[0]
    height, width = photo.shape[1:]
    left, top = (max(math.floor(v), 0) for v in seen.amin(0).tolist())
    right, bottom = (math.ceil(v) + 1 for v in seen.amax(0).tolist())
    right, bottom = min(right, width), min(bottom, height)
    return (left, top, right, bottom) if left < right and top < bottom else None
