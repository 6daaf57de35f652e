"""A small network that tells a photographed face from a swapped one."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__: list[str] = []

CHANNELS = (12, 24, 40, 56, 88)


class ArtefactNet(nn.Module):
    """Five convolutions with 76,000 parameters, whose verdicts on patches are averaged.

    It was trained on crops of 128 pixels in the SimSwap frontal template.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(CHANNELS):
            stride = 1 if inputs == CHANNELS[0] else 2
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(CHANNELS[-1], 1, 1)

    def forward(self, crop: Tensor) -> Tensor:
        """The mean logits (B,) of crops (B, 3, S, S) in [0, 1]: above 0 for a swapped face."""
        logits: Tensor = self.head(self.body(F.pixel_unshuffle(crop * 2 - 1, 2)))
        return logits.mean((1, 2, 3))
