"""Put a swapped crop back into its photo: only the face, without a seam.

The mask covers the face that the mesh (or the five points) outlines, is smaller than it and fades
over a width that follows the face, so the blend is the same for faces of any size. What the
original system does instead is in :mod:`facke_gan.original.paste`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor

from facke_core.faces.align import invert_affine, transform_points, warp
from facke_core.images.io import resize
from facke_core.types import AlignedFace, Face

__all__ = ["face_mask", "match_color", "paste"]

MARGIN = 0.12
"""Width of what is kept around a face in front of another, as a share of its width."""
FEATHER = 0.16
"""Width of the fade, as a share of the face's width; it ends at the outline of the face."""

_TONED, _COLOURED = 1.5, 2.0
"""Below the one a photograph has tones only, from the other on it is a colour photograph."""
_TONES = 26
"""Lightnesses at which tones are kept."""
_GREY = 1.5 / 255
"""Largest difference of R, G and B in a grey picture."""
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
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    border = torch.minimum(torch.minimum(x, size - 1 - x), torch.minimum(y, size - 1 - y))
    return _smooth(torch.minimum(inside, border) / (feather * width))[None]


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
        mask = mask * (1 - _smooth((inside / width + MARGIN) / MARGIN))
    return mask


def _inside(aligned: AlignedFace, size: int) -> tuple[Tensor, Tensor]:
    """How deep each place of a mask (size, size) lies in the face, and how wide that is where it is
    narrowest, in pixels of the mask."""
    directions, reach = _outline(aligned, size / aligned.crop.shape[-1])
    half = _DIRECTIONS // 2
    ticks = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    places = torch.stack([x, y], -1).view(-1, 2)
    inside = (reach - places @ directions.T).amin(1).view(size, size)
    return inside, (reach[:half] + reach[half:]).amin()


def _smooth(depth: Tensor) -> Tensor:
    share = depth.clamp(0, 1)
    return share * share * (3 - 2 * share)


def _outline(aligned: AlignedFace, scale: float) -> tuple[Tensor, Tensor]:
    """Unit vectors (K, 2), and how far the face reaches along each, in pixels of the mask.

    A place p lies in the convex outline where ``p @ directions[k] <= reach[k]`` for every k.
    """
    angles = torch.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
    directions = torch.stack([angles.cos(), angles.sin()], 1)
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


def match_color(crop: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Move mean and spread of ``crop``'s colours inside the mask to those of ``target``.

    Per channel of CIE Lab (Reinhard et al. 2001); the spread changes by at most a quarter, so
    that noise and flat faces are not blown up. Where the target has one tone for each lightness, as
    black-and-white and sepia have, the result has these tones: see :func:`_toned`.

    Args:
        crop: (3, S, S) in [0, 1].
        target: (3, S, S) in [0, 1].
        mask: (1, S, S), weights.

    Returns:
        (3, S, S) in [0, 1].
    """
    total = mask.sum().clamp(min=1e-6)

    def moments(lab: Tensor) -> tuple[Tensor, Tensor]:
        mean = (lab * mask).sum((1, 2), keepdim=True) / total
        spread = ((lab - mean).square() * mask).sum((1, 2), keepdim=True) / total
        return mean, spread.sqrt()

    lab, wanted = rgb_to_lab(crop), rgb_to_lab(target)
    mean, spread = moments(lab)
    wanted_mean, wanted_spread = moments(wanted)
    gain = (wanted_spread / spread.clamp(min=1e-3)).clamp(0.8, 1.25)
    moved = _toned((lab - mean) * gain + wanted_mean, lab, wanted, mask)
    matched: Tensor = lab_to_rgb(moved).clamp(0, 1)
    if float(((target.amax(0) - target.amin(0)) * (mask[0] > 0)).amax()) < _GREY:
        return matched.mean(0, keepdim=True).expand(3, -1, -1)  # not even rounding differs
    return matched


def _toned(moved: Tensor, lab: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Take the chroma from the target's tones, as far as the target is toned.

    What is left of a photograph's chroma when the mean for each lightness is subtracted, and noise
    is averaged away, has a root mean square of 2.1 to 7.5 in faces of colour photographs; of 0.1 to
    0.6 in toned ones, and about 1 where these were JPEGs. The crop keeps as much of its own as the
    target has; from 2 upwards nothing changes.

    Args:
        moved: Lab colours (3, S, S) of the crop, with mean and spread of the target's.
        lab: those of the crop as it was.
        wanted: the target's.
        mask: (1, S, S), weights.
    """
    # tones that the face does not have come from around it
    weights = mask + 1e-4
    tones = _tones(wanted, weights)
    left = _size(wanted[1:] - _at(tones, wanted[0]), mask)
    if left >= _COLOURED:
        return moved
    own = lab[1:] - _at(_tones(lab, weights), lab[0])
    share = left / max(_size(own, mask), left, 1e-6) * min(max((left - 0.3) / 0.7, 0), 1)
    chroma = _at(tones, moved[0]) + share * own
    toned = min((_COLOURED - left) / (_COLOURED - _TONED), 1)
    return torch.cat([moved[:1], moved[1:] + toned * (chroma - moved[1:])])


def _tones(lab: Tensor, weights: Tensor) -> Tensor:
    """The mean chroma (2, K) at K lightnesses from 0 to 100."""
    place = lab[0].flatten().clamp(0, 100) / 100 * (_TONES - 1)
    below = place.floor().clamp(max=_TONES - 2).long()
    above_share = place - below
    sums = torch.zeros(3, _TONES)
    values = torch.cat([lab[1:].flatten(1), torch.ones(1, len(place))])
    for index, share in ((below, 1 - above_share), (below + 1, above_share)):
        sums.index_add_(1, index, values * share * weights.flatten())
    known = sums[2] > 1e-6
    if not bool(known.any()):
        return sums[:2]
    # lightnesses that do not occur have the tone of the nearest that does
    ticks = torch.arange(_TONES)
    distance = (ticks[:, None] - ticks[None, :]).abs() + (~known) * _TONES
    return (sums[:2] / sums[2].clamp(min=1e-6))[:, distance.argmin(1)]


def _at(tones: Tensor, lightness: Tensor) -> Tensor:
    """The tones (2, H, W) of lightnesses (H, W), interpolated."""
    place = lightness.clamp(0, 100) / 100 * (_TONES - 1)
    below = place.floor().clamp(max=_TONES - 2).long()
    return tones[:, below].lerp(tones[:, below + 1], (place - below)[None])


def _size(chroma: Tensor, mask: Tensor) -> float:
    """The root mean square of a chroma (2, S, S), noise averaged over an eighth of the face."""
    pool = max(mask.shape[-1] // 16, 1)
    seen = F.avg_pool2d(torch.cat([chroma * mask, mask])[None], pool, ceil_mode=True)[0]
    share = seen[2:].clamp(min=1e-6)
    square = ((seen[:2] / share).square() * share).sum() / share.sum()
    return float(square.sqrt())


def paste(
    photo: Tensor,
    crop: Tensor,
    aligned: AlignedFace,
    mask: Tensor | None = None,
    *,
    color: bool = True,
) -> Tensor:
    """The photo (3, H, W) with the face of ``crop`` in the place of ``aligned``.

    Only the box around the mask is computed; pixels where the mask is 0 keep their bits.

    Args:
        photo: (3, H, W) in [0, 1].
        crop: (3, S, S) in [0, 1], the swapped face; any S.
        aligned: the target face as it was aligned, with the crop that was swapped.
        mask: (1, M, M) in [0, 1], in crop space, any M; default: :func:`face_mask`.
        color: match the colours to the target's first (:func:`match_color`).

    Returns:
        (3, H, W), a new tensor.
    """
    crop, target = crop.float().cpu(), aligned.crop.float().cpu()
    mask = face_mask(aligned) if mask is None else mask.float().cpu()
    if color:
        crop = match_color(crop, _fit(target, crop), _fit(mask, crop))
    result = photo.clone()
    matrix = aligned.matrix[None].double().cpu()
    size = aligned.crop.shape[-1]
    box = _box(resized(matrix, mask.shape[-1] / size), mask, photo)
    if box is None:
        return result
    x0, y0, x1, y1 = box
    corner = torch.tensor([[0, 0, x0], [0, 0, y0]])

    def place(image: Tensor, mode: str, border: str) -> Tensor:
        back = invert_affine(resized(matrix, image.shape[-1] / size)) - corner
        return warp(image[None], back, (y1 - y0, x1 - x0), mode=mode, border=border)[0]

    face = place(crop, "bicubic", "border").clamp(0, 1)
    share = place(mask, "bilinear", "zeros").clamp(0, 1)
    region = result[:, y0:y1, x0:x1]
    region += share * (face - region)
    return result


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
