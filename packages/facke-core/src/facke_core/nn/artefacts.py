"""A small network that tells a photographed face from a swapped one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__: list[str] = []

LAYERS = ((24, 1), (32, 2), (32, 1), (56, 2), (56, 1), (72, 2), (72, 1))
"""Channels and stride of each convolution."""


class ArtefactNet(nn.Module):
    """Seven convolutions with 147,000 parameters, for crops of 128 pixels in the SimSwap frontal
    template; where it looks is fixed, as faces of that template are always at one place."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 12
        for outputs, stride in LAYERS:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.where = nn.Parameter(torch.zeros(1, 1, 8, 8))
        self.head = nn.Linear(inputs, 1)

    def forward(self, crop: Tensor) -> Tensor:
        """The logits (B,) of crops (B, 3, 128, 128) in [0, 1]: above 0 for a swapped face."""
        features = self.body(F.pixel_unshuffle(crop * 2 - 1, 2))
        share = self.where.flatten(2).softmax(2).view_as(self.where)
        logits: Tensor = self.head((features * share).sum((2, 3)))
        return logits[:, 0]
