"""Five-point alignment: templates, similarity transforms and crops.

Coordinates are pixels with centres at integers (OpenCV's convention, kornia's
``align_corners=True``): the centre of the top-left pixel is (0, 0). Points are (x, y), in the
order eye, eye, nose, mouth corner, mouth corner, image-left first. Everything is differentiable
in images and points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.geometry.transform import warp_affine
from torch import Tensor

from facke_core.errors import NoFaceError, UnknownNameError, UsageError, did_you_mean
from facke_core.types import AlignedFace, Face

__all__ = [
    "TEMPLATES",
    "TEMPLATE_SETS",
    "Alignment",
    "Size",
    "Template",
    "align",
    "alignment_matrix",
    "choose_template",
    "invert_affine",
    "retemplate",
    "similarity_transform",
    "template_points",
    "transform_points",
    "warp",
]

Size = int | tuple[int, int]
"""Side of a square crop, or (height, width)."""


@dataclass(frozen=True, slots=True)
class Template:
    """Where the five points of a face belong in a crop."""

    points: tuple[tuple[float, float], ...]
    """(x, y) in pixels of a crop of ``size``."""
    size: tuple[int, int]
    """(height, width) at which ``points`` hold."""


_SIMSWAP = {
    "simswap_left_profile": (
        (51.642, 50.115),
        (57.617, 49.990),
        (35.740, 69.007),
        (51.157, 89.050),
        (57.025, 89.702),
    ),
    "simswap_left": (
        (45.031, 50.118),
        (65.568, 50.872),
        (39.677, 68.111),
        (45.177, 86.190),
        (64.246, 86.758),
    ),
    "simswap_frontal": (
        (39.730, 51.138),
        (72.270, 51.138),
        (56.000, 68.493),
        (42.463, 87.010),
        (69.537, 87.010),
    ),
    "simswap_right": (
        (46.845, 50.872),
        (67.382, 50.118),
        (72.737, 68.111),
        (48.167, 86.758),
        (67.236, 86.190),
    ),
    "simswap_right_profile": (
        (54.796, 49.990),
        (60.771, 50.115),
        (76.673, 69.007),
        (55.388, 89.702),
        (61.257, 89.050),
    ),
}
_ARCFACE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
_FFHQ = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)

TEMPLATES: dict[str, Template] = {
    **{name: Template(points, (112, 112)) for name, points in _SIMSWAP.items()},
    "ffhq": Template(_FFHQ, (512, 512)),
    "arcface": Template(_ARCFACE, (112, 112)),
    # insightface's looser framing, used for crop sizes that are multiples of 128
    "arcface_128": Template(tuple((x + 8.0, y) for x, y in _ARCFACE), (128, 128)),
    # our points in the frame of dlib's get_face_chip(size=150, padding=0.25)
    "dlib_150": Template(
        ((47.13, 45.23), (100.87, 45.23), (74.00, 79.90), (50.30, 101.54), (97.70, 101.54)),
        (150, 150),
    ),
    "sphereface": Template(tuple((x - 8.0, y) for x, y in _ARCFACE), (112, 96)),
}
"""Name -> template at its native size."""

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {"simswap": tuple(_SIMSWAP)}
"""Name -> templates for several poses, of which the best fitting one is taken for each face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How a method wants its crops; the ``alignment`` part of ``config.json``."""

    template: str
    """A name of :data:`TEMPLATES` or :data:`TEMPLATE_SETS`."""
    size: int
    """Side of the crop in pixels."""
    border: str = "reflection"
    """What lies beyond the photo: ``reflection``, ``border`` (replicate) or ``zeros`` (black, as
    the original systems do)."""
    antialias: bool = True
    """Average pixels before a face is reduced by 2 or more. The original systems do not."""

    def __post_init__(self) -> None:
        _templates(self.template)
        if self.size < 1:
            raise UsageError(f"Alignment size {self.size} is not possible: give pixels, e.g. 224.")
        if self.border not in ("reflection", "border", "zeros"):
            raise UsageError(
                f"Alignment border {self.border!r} is unknown: use reflection, border or zeros."
            )


def _templates(name: str) -> tuple[str, ...]:
    if name in TEMPLATES:
        return (name,)
    if name in TEMPLATE_SETS:
        return TEMPLATE_SETS[name]
    known = [*TEMPLATES, *TEMPLATE_SETS]
    raise UnknownNameError(
        f"Unknown alignment template {name!r}.{did_you_mean(name, known)} "
        f"Known: {', '.join(sorted(known))}."
    )


def _frontal(name: str) -> str:
    names = _templates(name)
    return names[len(names) // 2]


def _height_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def template_points(name: str, size: Size) -> Tensor:
    """The template (5, 2) in pixels of a crop of ``size``, float64.

    The native frame is scaled to fit and centred, which for equal aspect ratios is the plain
    scaling ``size / native`` of the original systems. For a template set: the frontal one.

    Raises:
        UnknownNameError: no such template.
    """
    template = TEMPLATES[_frontal(name)]
    (height, width), (native_h, native_w) = _height_width(size), template.size
    scale = min(height / native_h, width / native_w)
    margin = torch.tensor([width - scale * native_w, height - scale * native_h]) / 2
    return torch.tensor(template.points, dtype=torch.float64) * scale + margin.double()


def similarity_transform(points: Tensor, template: Tensor) -> Tensor:
    """Least-squares similarity (rotation, uniform scale, shift; no reflection), Umeyama 1991.

    Solved in closed form in float64: in the plane such maps are ``[[a, -b], [b, a]]``, which is
    linear in (a, b).

    Args:
        points: (B, N, 2), any float dtype.
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
    """Points (B, N, 2) moved by affine maps (B, 2, 3)."""
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def invert_affine(matrix: Tensor) -> Tensor:
    """The inverse maps (B, 2, 3) of affine maps (B, 2, 3), computed in float64."""
    linear = torch.linalg.inv(matrix[:, :, :2].double())
    return torch.cat([linear, -linear @ matrix[:, :, 2:].double()], 2).to(matrix.dtype)


def choose_template(points: Tensor, name: str) -> Tensor:
    """Index (B,) of the template of a set with the smallest sum of point distances; first wins.

    ``points`` is (B, 5, 2); a plain template gives zeros.
    """
    distances = []
    for single in _templates(name):
        template = template_points(single, TEMPLATES[single].size).to(points.device)
        moved = transform_points(similarity_transform(points.double(), template), points.double())
        distances.append((moved - template).norm(dim=2).sum(1))
    return torch.stack(distances, 1).argmin(1)


def alignment_matrix(points: Tensor, template: str, size: Size) -> Tensor:
    """Maps (B, 2, 3) from photo to crop pixels for landmarks (B, 5, 2), in their dtype.

    Raises:
        UnknownNameError: no such template.
    """
    candidates = torch.stack([template_points(name, size) for name in _templates(template)])
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
    """Sample crops: ``crop(M x) = image(x)``.

    Args:
        images: (B, C, H, W).
        matrices: (B, 2, 3) or (1, 2, 3), image pixels -> crop pixels.
        size: of the crops.
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
        images, matrices.to(images.dtype), _height_width(size), mode, padding_mode=border
    )


def _reduce(images: Tensor, matrices: Tensor, size: Size, n: int) -> tuple[Tensor, Tensor]:
    """Average n x n pixels of the region that the crops show; adapt the maps to it."""
    height, width = _height_width(size)
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


def align(photo: Tensor, face: Face, alignment: Alignment) -> AlignedFace:
    """Bring a face of a photo (3, H, W) to a template: crop (3, S, S) and map (2, 3).

    Raises:
        NoFaceError: the landmarks coincide or are not finite.
    """
    matrix = alignment_matrix(face.landmarks[None].float(), alignment.template, alignment.size)
    if not bool(torch.isfinite(matrix).all()):
        raise NoFaceError(
            f"The landmarks {face.landmarks.tolist()} cannot be aligned: the five points coincide "
            "or are not finite. Check the face detector, or give other landmarks."
        )
    crop = warp(
        photo[None],
        matrix,
        alignment.size,
        border=alignment.border,
        antialias=alignment.antialias,
    )
    return AlignedFace(crop[0], matrix[0], face)


def retemplate(crops: Tensor, alignment: Alignment, template: str, size: Size) -> Tensor:
    """Crops (B, 3, S, S) of ``alignment`` (any S) as crops (B, 3, h, w) of another template.

    This is how an identity encoder of another template sees a method's crops. Where the template
    is the same, or the encoder names none, they pass unchanged: encoders resize by themselves.
    Of a template set the frontal one counts, since a crop does not tell which one was taken.
    """
    if not template or _frontal(template) == _frontal(alignment.template):
        return crops
    own = template_points(alignment.template, (crops.shape[2], crops.shape[3]))
    matrix = similarity_transform(own[None], template_points(template, size))
    return warp(crops, matrix.to(crops.dtype), size, border=alignment.border)
