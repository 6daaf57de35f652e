"""Five-point alignment: templates, similarity transforms and crops.

Coordinates are pixels with centres at integers (OpenCV's convention, kornia's
``align_corners=True``): the centre of the top-left pixel is (0, 0). Points are (x, y), in the
order eye, eye, nose, mouth corner, mouth corner, image-left first. Everything is differentiable
in images and points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from kornia.geometry.transform import warp_affine
from torch import Tensor

from facke_core.errors import NoFaceError
from facke_core.faces.templates import (
    TEMPLATES,
    Alignment,
    Size,
    height_width,
    template_points,
    templates_of,
)
from facke_core.types import AlignedFace, Face

__all__ = [
    "align",
    "alignment_matrix",
    "invert_affine",
    "similarity_transform",
    "transform_points",
    "warp",
]


def similarity_transform(points: Tensor, template: Tensor) -> Tensor:
    """The least-squares similarity from points to a template: rotation, uniform scale and shift,
    no reflection (Umeyama, IEEE TPAMI 1991).

    It is solved in closed form in float64: in the plane such maps are ``[[a, -b], [b, a]]``, which
    is linear in (a, b).

    Args:
        points: (B, N, 2) positions (x, y), any float dtype.
        template: (N, 2) or (B, N, 2), where the points should go.

    Returns:
        (B, 2, 3) in the dtype of ``points``. Not finite where all points coincide.
    """
    p, t = points.double(), template.to(points.device, torch.float64).expand(points.shape)
    p_mean, t_mean = p.mean(1, keepdim=True), t.mean(1, keepdim=True)
    p, t = p - p_mean, t - t_mean
    power = p.square().sum((1, 2))
    a = (p * t).sum((1, 2)) / power
    b = (p[..., 0] * t[..., 1] - p[..., 1] * t[..., 0]).sum(1) / power
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], 1)
    shift = t_mean - p_mean @ linear.mT
    return torch.cat([linear, shift.mT], 2).to(points.dtype)


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """The points (B, N, 2), moved by affine maps (B, 2, 3)."""
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def invert_affine(matrix: Tensor) -> Tensor:
    """The inverse maps (B, 2, 3) of affine maps (B, 2, 3), computed in float64."""
    linear = torch.linalg.inv(matrix[:, :, :2].double())
    return torch.cat([linear, -linear @ matrix[:, :, 2:].double()], 2).to(matrix.dtype)


def choose_template(points: Tensor, name: str) -> Tensor:
    """The index (B,) of the template of a set that fits landmarks (B, 5, 2) best.

    The sum of the distances of the points decides, at the templates' native sizes; of equals the
    first wins. A name that stands for a single template gives zeros.

    Raises:
        UnknownNameError: no template or set has this name.
    """
    distances = []
    for single in templates_of(name):
        template = template_points(single, TEMPLATES[single].size).to(points.device)
        moved = transform_points(similarity_transform(points.double(), template), points.double())
        distances.append((moved - template).norm(dim=2).sum(1))
    return torch.stack(distances, 1).argmin(1)


def alignment_matrix(points: Tensor, template: str, size: Size) -> Tensor:
    """The maps (B, 2, 3) from photo to crop pixels for landmarks (B, 5, 2), in their dtype.

    Of a template set the best fitting one is taken (:func:`choose_template`).

    Raises:
        UnknownNameError: no template or set has this name.
    """
    candidates = torch.stack([template_points(name, size) for name in templates_of(template)])
    chosen = candidates.to(points.device)[choose_template(points.detach(), template)]
    return similarity_transform(points, chosen)


def warp(
    images: Tensor,
    matrices: Tensor,
    size: Size,
    *,
    mode: str = "bilinear",
    border: str = "reflection",
    antialias: bool = True,
) -> Tensor:
    """Sample crops out of images by affine maps M: ``crop(M x) = image(x)``.

    Args:
        images: (B, C, H, W), any range.
        matrices: (B, 2, 3) or (1, 2, 3), from image to crop pixels.
        size: the size of the crops.
        mode: ``bilinear`` or ``bicubic`` (sharper where crops are larger; overshoots a little).
        border: ``reflection``, ``border`` or ``zeros``.
        antialias: where all maps shrink by 2 or more, average n x n pixels first (n = whole part
            of the reduction), because bilinear sampling would skip pixels.

    Returns:
        (B, C, h, w) in the dtype of ``images``.
    """
    matrices = matrices.to(images.device)
    if antialias:
        scale = float(torch.linalg.det(matrices[:, :, :2].detach().double()).abs().max().sqrt())
        if 0 < scale <= 0.5:
            images, matrices = _reduce(images, matrices, size, math.floor(1 / scale + 1e-6))
    return warp_affine(
        images, matrices.to(images.dtype), height_width(size), mode, padding_mode=border
    )


def _reduce(images: Tensor, matrices: Tensor, size: Size, n: int) -> tuple[Tensor, Tensor]:
    """Average n x n pixels of the region that the crops show; adapt the maps to it."""
    height, width = height_width(size)
    corners = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]]) - 0.5
    seen = transform_points(
        invert_affine(matrices.detach()), corners.to(matrices).expand(len(matrices), 4, 2)
    ).reshape(-1, 2)
    h, w = images.shape[2:]
    x0, y0 = (max(int(v) - 2 * n, 0) for v in seen.amin(0).floor().tolist())
    x1, y1 = (int(v) + 2 * n for v in seen.amax(0).ceil().tolist())
    region = images[:, :, min(y0, h - 1) : max(y1, 1), min(x0, w - 1) : max(x1, 1)]
    x0, y0 = min(x0, w - 1), min(y0, h - 1)
    missing = (0, -region.shape[3] % n, 0, -region.shape[2] % n)
    region = F.avg_pool2d(F.pad(region, missing, mode="replicate"), n)
    # pixel u of the reduced region lies at n * u + (n - 1) / 2 + x0 of the image
    offset = matrices.new_tensor([x0 + (n - 1) / 2, y0 + (n - 1) / 2])
    linear, shift = matrices[:, :, :2], matrices[:, :, 2:]
    return region, torch.cat([linear * n, shift + linear @ offset[:, None]], 2)


def meshes(faces: Sequence[AlignedFace]) -> Tensor | None:
    """The meshes (N, 478, 2) of aligned faces, in pixels of their crops; None where the detector
    gave none."""
    moved = [
        transform_points(face.matrix[None].float().cpu(), face.face.mesh[None].float().cpu())[0]
        for face in faces
        if face.face.mesh is not None
    ]
    return torch.stack(moved) if faces and len(moved) == len(faces) else None


def align(photo: Tensor, face: Face, alignment: Alignment) -> AlignedFace:
    """Bring a face of a photo (3, H, W) to a template: crop (3, S, S) and map (2, 3).

    Raises:
        NoFaceError: the landmarks coincide or are not finite, or the mesh is none.
    """
    matrix = alignment_matrix(face.landmarks[None].float(), alignment.template, alignment.size)
    if not bool(torch.isfinite(matrix).all()):
        raise NoFaceError(
            f"The landmarks {face.landmarks.tolist()} cannot be aligned: the five points coincide "
            "or are not finite. Check the face detector, or give other landmarks."
        )
    if face.mesh is not None and not _is_mesh(face.mesh):
        raise NoFaceError(
            f"A mesh of shape {tuple(face.mesh.shape)} cannot be aligned: it has not 478 points, "
            "or they coincide or are not finite. Check the face detector, or give `mesh=None`."
        )
    crop = warp(
        photo[None],
        matrix,
        alignment.size,
        border=alignment.border,
        antialias=alignment.antialias,
    )
    return AlignedFace(crop[0], matrix[0], face)


def _is_mesh(mesh: Tensor) -> bool:
    if mesh.shape != (478, 2) or not bool(torch.isfinite(mesh).all()):
        return False
    return bool((mesh != mesh[0]).any())
