"""Colour normalisation as a module, so that every network owns its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "Normalize"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """The normalisation ``(x - mean) / std`` per channel of RGB images; :meth:`inverse` undoes it.

    Mean and standard deviation are no part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The images (B, 3, H, W), from [0, 1] to units of ``std`` about ``mean``."""
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """The images (B, 3, H, W), from units of ``std`` about ``mean`` to [0, 1]; not clamped."""
        return x * self.std + self.mean
