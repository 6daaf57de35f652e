"""Crops of one template shown as crops of another, by two small matrix products.

The products are differentiable, antialiased and deterministic.

A crop that is aligned to one upright template becomes a crop aligned to another by a scale and a
shift alone, and such a map separates into rows and columns. As matrices it needs no ``grid_sample``
(whose backward pass is not deterministic on CUDA) and filters and shifts in a single step.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from facke_core.faces.templates import Alignment, Size, frontal, height_width, template_points

__all__ = ["reframe", "retemplate"]

Points = tuple[tuple[float, float], ...]
"""Five points (x, y) in pixels of a crop."""


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
def _upright(
    source: str, height: int, width: int, template: str | Points, size: Size
) -> tuple[float, float, float]:
    points = (
        template_points(template, size)
        if isinstance(template, str)
        else torch.tensor(template, dtype=torch.float64)
    )
    return upright_map(template_points(source, (height, width)), points)


def reframe(crops: Tensor, source: str, template: str | Points, size: Size) -> Tensor:
    """Show crops (B, C, H, W) of the template named ``source`` as crops of another template.

    A template set counts as its frontal one. What lies beyond a crop repeats its border.

    Args:
        crops: the crops, in any range.
        source: name of the template that they are aligned to.
        template: name of the other template, or its five points in pixels of a crop of ``size``.
        size: side of the result, or its (height, width).

    Raises:
        UnknownNameError: no template has one of these names.
    """
    scale, dx, dy = _upright(source, crops.shape[-2], crops.shape[-1], template, size)
    return resample(crops, height_width(size), (scale, scale), (dy, dx))


def retemplate(crops: Tensor, alignment: Alignment, template: str, size: Size) -> Tensor:
    """Show crops (B, 3, S, S) of ``alignment``, any S, to what wants crops of ``template``.

    This is how an identity encoder of another template sees a method's crops. Where the template
    is the same, or the encoder names none (an empty ``template``), they pass unchanged: encoders
    resize by themselves. Otherwise they are reframed (:func:`reframe`) to ``size``.

    Raises:
        UnknownNameError: no template or set has this name.
    """
    if not template or frontal(template) == frontal(alignment.template):
        return crops
    return reframe(crops, alignment.template, template, size)


def stretch(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch images (B, C, H, W) to ``size`` (height, width): bilinear, antialiased where it
    shrinks, with pixel areas aligned."""
    scale = (size[0] / image.shape[-2], size[1] / image.shape[-1])
    return resample(image, size, scale, (scale[0] / 2 - 0.5, scale[1] / 2 - 0.5))
