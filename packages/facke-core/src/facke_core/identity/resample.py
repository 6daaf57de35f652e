"""Resampling of crops as two small matrix products: differentiable, antialiased, deterministic.

A crop that is aligned to one upright template becomes a crop aligned to another by a scale and a
shift alone, and such a map separates into rows and columns. As matrices it needs no ``grid_sample``
(whose backward pass is not deterministic on CUDA) and filters and shifts in a single step.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["reframe", "resample", "resize", "upright_map"]


def upright_map(points: Tensor, template: Tensor) -> tuple[float, float, float]:
    """The least-squares ``(scale, dx, dy)`` of ``template = scale * points + (dx, dy)``.

    Both are (N, 2). A rotation is left out on purpose: templates show upright faces.
    """
    p, t = points, template
    p0, t0 = p - p.mean(0), t - t.mean(0)
    scale = float((p0 * t0).sum() / (p0 * p0).sum())
    dx, dy = (t.mean(0) - scale * p.mean(0)).tolist()
    return scale, dx, dy


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what a swap computed must serve a later training too
def _weights(size: int, out: int, scale: float, shift: float) -> Tensor:
    """The matrix (out, size) of a triangle filter, widened when shrinking; the border is repeated.

    Coordinates are those of pixel centres, ``out = scale * in + shift``.
    """
    width = max(1.0, 1.0 / scale)
    centre = (torch.arange(out, dtype=torch.float64) - shift) / scale
    reach = int(width) + 1
    taps = torch.floor(centre)[:, None] + torch.arange(-reach, reach + 2, dtype=torch.float64)
    value = (1.0 - (taps - centre[:, None]).abs() / width).clamp(min=0.0)
    value = value / value.sum(1, keepdim=True)
    weights = torch.zeros(out, size, dtype=torch.float64)
    weights.scatter_add_(1, taps.long().clamp(0, size - 1), value)
    return weights.float()


def resample(
    image: Tensor, size: tuple[int, int], scale: tuple[float, float], shift: tuple[float, float]
) -> Tensor:
    """Scale and shift ``image`` (B, C, H, W) onto a canvas of ``size`` (height, width).

    ``scale`` and ``shift`` are (y, x) and map pixel centres: ``out = scale * in + shift``. Outside
    of the image its border is repeated.
    """
    height, width = image.shape[-2:]
    rows = _weights(height, size[0], scale[0], shift[0]).to(image)
    columns = _weights(width, size[1], scale[1], shift[1]).to(image)
    return rows @ image @ columns.mT


@lru_cache(maxsize=256)
def _reframing(
    source: str, height: int, width: int, points: tuple[tuple[float, float], ...]
) -> tuple[float, float, float]:
    from facke_core.faces.templates import template_points

    template = torch.tensor(points, dtype=torch.float64)
    return upright_map(template_points(source, (height, width)), template)


def reframe(
    crops: Tensor, source: str, points: tuple[tuple[float, float], ...], size: tuple[int, int]
) -> Tensor:
    """Show crops (B, C, H, W) of the template named ``source`` as crops of another template.

    Args:
        crops: the crops, in any range.
        source: name of the template that they are aligned to.
        points: the other template's five points (x, y), in pixels of its crop of ``size``.
        size: (height, width) of the result.

    Raises:
        UnknownNameError: no template is named ``source``.
    """
    scale, dx, dy = _reframing(source, crops.shape[-2], crops.shape[-1], points)
    return resample(crops, size, (scale, scale), (dy, dx))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, C, H, W) to ``size`` (height, width): bilinear, antialiased where it
    shrinks, with pixel areas aligned."""
    scale = (size[0] / image.shape[-2], size[1] / image.shape[-1])
    return resample(image, size, scale, (scale[0] / 2 - 0.5, scale[1] / 2 - 0.5))
