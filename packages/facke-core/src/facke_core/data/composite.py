"""Composites: a known answer for a swap, made from two ordinary photographs.

Put the inner face of a donor onto a photograph of A by a landmark-guided warp. Swapping A's
identity onto that composite has a known result: the untouched photograph of A. A generator that
learns this gets a pixel-wise signal for *identity*, where the losses of SimSwap only give one for
what must not change. The idea is ReliableSwap's "cycle triplets" (Yuan et al.,
arXiv:2306.05356), with a classical warp in place of their reenactment network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.faces.mesh import REGIONS
from facke_core.faces.smooth import blurred

__all__ = ["composite"]

EXPRESSION = 0.35
"""Share of the donor's geometry that eyes and lips take, as their shape is expression as well."""
LIGHT = 0.08
"""Standard deviation of the low-pass filter that tells light from features, in sides of a crop."""


def thin_plate_grid(points: Tensor, values: Tensor, size: int, coarse: int = 16) -> Tensor:
    """A thin-plate spline through ``points -> values`` as a sampling grid, with the kernel
    ``r^2 log r^2`` (Bookstein, IEEE TPAMI 1989).

    Args:
        points: positions (B, P, 2) in the result, in [-1, 1] (``align_corners=False``).
        values: positions (B, P, 2) in the input that are read there.
        size: side of the result in pixels.
        coarse: the spline is evaluated at ``coarse`` x ``coarse`` positions and interpolated
            between them.

    Returns:
        A grid (B, size, size, 2) for :func:`torch.nn.functional.grid_sample`.
    """
    b, p, _ = points.shape

    def basis(x: Tensor) -> Tensor:
        d = torch.cdist(x, points).square()
        affine = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        return torch.cat([d * torch.log(d.clamp_min(1e-12)), affine], dim=-1)

    top = basis(points)
    top[:, :, :p] += 1e-3 * torch.eye(p, device=points.device)
    affine = top[:, :, p:]
    bottom = torch.cat([affine.mT, affine.new_zeros(b, 3, 3)], dim=-1)
    weights = torch.linalg.solve(
        torch.cat([top, bottom], dim=1).double(), F.pad(values, (0, 0, 0, 3)).double()
    ).float()  # (B, P + 3, 2)
    axis = (torch.arange(coarse, device=points.device) + 0.5) * 2 / coarse - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    where = torch.stack([x, y], dim=-1).view(1, -1, 2).expand(b, -1, -1)
    grid = (basis(where) @ weights).view(b, coarse, coarse, 2)
    return F.interpolate(
        grid.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)


def composite(
    photo: Tensor,
    photo_points: Tensor,
    photo_mask: Tensor,
    donor: Tensor,
    donor_points: Tensor,
    *,
    geometry: Tensor,
    softness: int,
    light: bool = False,
    keep: Tensor | None = None,
) -> Tensor:
    """Put the donor's inner face into the photo, in the photo's colours.

    Args:
        photo: (B, 3, S, S) in [0, 1].
        photo_points: (B, P, 2) mesh points in pixels, in the order of
            :data:`facke_core.faces.mesh.POINTS`.
        photo_mask: (B, 1, S, S) in [0, 1], the face oval of the photo.
        donor: (B, 3, S, S), aligned like the photo.
        donor_points: (B, P, 2) mesh points of the donor.
        geometry: (B,) in [0, 1]: 0 warps the donor onto the photo's landmarks, 1 leaves its
            features where the donor has them (eyes and lips go :data:`EXPRESSION` of the way, the
            outline always stays the photo's).
        softness: width of the blend in pixels, odd.
        light: give the donor's face the low frequencies of the photo's as well.
        keep: the share (B, 1, S, S) of each pixel that stays the photo's.

    Returns:
        (B, 3, S, S) in [0, 1].
    """
    size = photo.shape[-1]
    pull = geometry[:, None].repeat(1, photo_points.shape[1])
    pull[:, REGIONS["oval"]] = 0
    for region in ("eyes", "lips"):
        pull[:, REGIONS[region]] *= EXPRESSION
    goal = photo_points + pull[..., None] * (donor_points - photo_points)
    grid = thin_plate_grid((goal + 0.5) * 2 / size - 1, (donor_points + 0.5) * 2 / size - 1, size)
    warped = F.grid_sample(donor, grid, mode="bilinear", padding_mode="border", align_corners=False)

    mask = photo_mask
    for _ in range(3):  # three box filters are close to a Gaussian
        mask = F.avg_pool2d(mask, softness, stride=1, padding=softness // 2)
    mask = (2 * mask - 1).clamp(0, 1)  # inside the oval only
    face = match_contrast(warped, photo, mask)
    if light:
        difference = blurred((photo - face) * mask, LIGHT * size)
        face = face + difference / blurred(mask, LIGHT * size).clamp_min(1e-3)
    if keep is not None:
        mask = mask * (1 - keep)
    return torch.lerp(photo, face, mask).clamp(0, 1)


def match_contrast(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Give ``image`` the mean per channel and the contrast that ``reference`` has inside ``mask``.

    A grey reference gives a grey result. The method is that of Reinhard et al. (IEEE CG&A 2001) in
    RGB, with one contrast for all channels, which keeps hues.

    Args:
        image: (B, 3, S, S) in [0, 1].
        reference: (B, 3, S, S) in [0, 1].
        mask: weights (B, 1, S, S) in [0, 1].

    Returns:
        (B, 3, S, S), not clamped.
    """
    spread = reference.amax(dim=1, keepdim=True) - reference.amin(dim=1, keepdim=True)
    grey = spread.mean(dim=(2, 3), keepdim=True) < 0.01
    image = torch.where(grey, image.mean(dim=1, keepdim=True), image)
    area = mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x * mask).sum(dim=(2, 3), keepdim=True) / area
        var = ((x - mean).square() * mask).sum(dim=(2, 3), keepdim=True) / area
        return mean, (var + 1e-5).sqrt()

    (m, s), (rm, rs) = moments(image), moments(reference)
    contrast = rs.mean(dim=1, keepdim=True) / s.mean(dim=1, keepdim=True)
    return (image - m) * contrast.clamp(0.5, 1.5) + rm
