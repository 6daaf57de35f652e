"""A blur of the inner face, for generators that are to take the identity from elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Veil"]


class Veil(nn.Module):
    """Blurs what a crop in the SimSwap frontal template shows inside an ellipse from the brows to
    the chin, with a soft edge.

    Args:
        amount: standard deviation of the Gaussian, as a share of the image size.
    """

    CENTRE = (0.5, 0.64)
    """Middle (x, y) of the ellipse, as shares of the crop."""
    RADII = (0.29, 0.37)
    """Half axes (x, y) of the ellipse, as shares of the crop."""
    EDGE = 0.1
    """Half the width of the edge, as a share of the radius."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        """The crops (B, 3, S, S), veiled; in the range that they had."""
        sigma = self.amount * x.shape[-1]
        reach = round(3 * sigma)
        taps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-taps.square() / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
        padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
        rows, columns = (
            (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) / side
            for side in x.shape[2:]
        )
        dx = (columns - self.CENTRE[0]) / self.RADII[0]
        dy = (rows - self.CENTRE[1]) / self.RADII[1]
        radius = (dx.square()[None, :] + dy.square()[:, None]).sqrt()
        return torch.lerp(x, blurred, ((1 + self.EDGE - radius) / (2 * self.EDGE)).clamp(0, 1))
