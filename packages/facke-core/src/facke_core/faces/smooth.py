"""Gaussian filters of any width, in time that does not grow with it, and smooth steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blurred"]


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Pictures (B, C, H, W) under a Gaussian of this standard deviation in pixels; the border is
    repeated. Where it is wide, they are reduced first."""
    factor = max(1, int(sigma / 3))
    if factor > 1:
        height, width = image.shape[-2:]
        small = F.interpolate(image, (-(-height // factor), -(-width // factor)), mode="area")
        return F.interpolate(blurred(small, sigma / factor), (height, width), mode="bilinear")
    reach = max(1, round(3 * sigma))
    taps = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-taps.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(image.shape[1], 1, 1, -1)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))


def smoothstep(share: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, and between them a smooth rise (a cubic)."""
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)
