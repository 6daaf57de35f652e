"""What lies before a face: glasses, hair, hands, masks, microphones, found by a small network.

A swap leaves them alone: :class:`~facke_core.pipeline.SwapPipeline` takes them out of the mask by
which a result is pasted, and methods that use the source's pixels take none of them from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

from facke_core.errors import NoFaceError
from facke_core.faces.align import align, invert_affine, meshes, transform_points, warp
from facke_core.faces.paste import face_hull, resized
from facke_core.faces.rims import Axes, drawn, enlarged, fitted
from facke_core.faces.templates import Alignment
from facke_core.nn.bundled import bundled
from facke_core.nn.occlusion import OcclusionNet
from facke_core.types import AlignedFace

__all__: list[str] = []

FRAMING = Alignment(template="simswap_frontal", size=128)
"""The framing in which the network looks at faces."""
WEIGHTS = "occlusion.safetensors"
DIGEST = "bedd2da3133cfa538b10a13314a10b9678e7905b0a0fa82e33e435a724c3fcf4"
"""SHA-256 of the bundled weights."""
HINT = 0.006
"""What the network sees below the eyes where there are glasses."""
TRIES = 1000
LEAST_CONTRAST, CLEAR_CONTRAST = 0.045, 0.06
"""Contrast from which outlines are those of glasses, where the network has seen some and where it
has not: bare faces mostly have less than 0.04."""
_SURE = (0.35, 0.75)
"""Shares of the network up to which nothing is seen, and from which a pixel is covered."""


def occlusion(photo: Tensor, faces: Sequence[AlignedFace], size: int) -> Tensor:
    """The share (N, 1, size, size) in [0, 1] of each pixel of faces that something covers, or that
    lies outside of the photo.

    Args:
        photo: (3, H, W) in [0, 1].
        faces: N faces of the photo, in any framing.
        size: side of the result, which shows the crops of ``faces``, in pixels.
    """
    shares = []
    for face in faces:
        there = resized(face.matrix[None].double().cpu(), size / face.crop.shape[-1])
        outside = _outside(photo, there, size)
        try:
            seen = align(photo, face.face, FRAMING)
        except NoFaceError:  # a mesh that is no face
            shares.append(outside)
            continue
        covered = _covered(seen)
        # from the network's framing to that of the face, by way of the photo
        back = invert_affine(seen.matrix[None].double().cpu())
        whole = torch.tensor([[[0.0, 0, 1]]], dtype=torch.float64)
        between = (torch.cat([there, whole], 1) @ torch.cat([back, whole], 1))[:, :2]
        share = warp(covered[None], between, size, border="zeros")[0]
        guide = F.interpolate(face.crop[None].float().cpu(), (size, size), mode="bilinear")
        shares.append(_refined(share, guide[0].mean(0, keepdim=True)).maximum(outside))
    return torch.stack(shares)


def _outside(photo: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Which pixels (1, size, size) of a crop of a photo, by its map (1, 2, 3), show none of it."""
    steps = torch.arange(size, dtype=matrix.dtype)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 2)
    places = transform_points(invert_affine(matrix), grid)
    beyond = places.new_tensor([photo.shape[-1], photo.shape[-2]]) - 0.5
    out = ((places < -0.5) | (places > beyond)).any(-1)
    return out.float().view(1, size, size)


@torch.inference_mode()
def _covered(face: AlignedFace) -> Tensor:
    """What the network sees, and the whole of glasses of which it sees a part."""
    crop, hull = face.crop[None].float().cpu(), face_hull(face, FRAMING.size)[None]
    own, other = _network()(*(torch.cat([each, each.flip(3)]) for each in (crop, hull)))
    seen = own.maximum(other.flip(2)).sigmoid()
    points = meshes([face])
    if points is None or torch.equal(points[0, 468], points[0, 473]):  # eyes without a distance
        return seen.clone()
    axes, grey = Axes.of(points[0].cpu()), enlarged(crop[0])
    rims = fitted(grey, axes, tries=TRIES)
    hinted = _below_the_eyes(seen, points[0].cpu()) > HINT
    if rims.contrast < (LEAST_CONTRAST if hinted else CLEAR_CONTRAST):
        return seen.clone()
    return seen.maximum(drawn(grey, axes, rims))


def _below_the_eyes(seen: Tensor, mesh: Tensor) -> float:
    """How much (1, S, S) is seen where the lower rims of glasses would be, in square distances of
    the irises."""
    size = seen.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    unit = float((mesh[473] - mesh[468]).norm())
    where = torch.zeros(size, size, dtype=torch.bool)
    for iris in (468, 473):
        away = (x - mesh[iris, 0]).hypot(y - mesh[iris, 1]) / unit
        where |= (away > 0.22) & (away < 0.62) & (y > mesh[iris, 1] + 0.08 * unit)
    return float((seen[0] > 0.3)[where].sum()) / max(unit, 1.0) ** 2


def _refined(share: Tensor, guide: Tensor) -> Tensor:
    """Follow the edges of the picture, and be sure of what is nearly sure."""
    size = share.shape[-1]
    reach = max(2 * (size // 100) + 1, 3)
    share = guided_blur(guide[None], share[None], reach, 1e-4, subsample=2)[0]
    low, high = _SURE
    return ((share - low) / (high - low)).clamp(0, 1)


@lru_cache(maxsize=1)
def _network() -> OcclusionNet:
    return bundled(OcclusionNet, "facke_core.faces", WEIGHTS, DIGEST)
