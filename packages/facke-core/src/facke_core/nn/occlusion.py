"""A small network that tells what lies before a face: glasses, hair, hands, masks, microphones."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__: list[str] = []

CHANNELS = (24, 48, 96, 128)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class OcclusionNet(nn.Module):
    """A U-Net (Ronneberger et al., arXiv:1505.04597) on pixel-unshuffled crops, with 0.59 million
    parameters and 0.47 GFLOP at 128 pixels.

    It was trained on crops of 128 pixels in the SimSwap frontal template, so faces have to have
    about the size that they have there.
    """

    def __init__(self) -> None:
        super().__init__()
        first, *_, last = CHANNELS
        self.down = nn.ModuleList([_convolution(4 * 4, first)])
        self.down += [_convolution(a, b, 2) for a, b in pairwise(CHANNELS)]
        self.middle = _convolution(last, last)
        self.up = nn.ModuleList(_convolution(b + a, a) for b, a in pairwise(reversed(CHANNELS)))
        self.head = nn.Conv2d(first, 2 * 2, 3, padding=1)

    def forward(self, crop: Tensor, hull: Tensor) -> Tensor:
        """The logits (B, 1, S, S): above 0 where the pixel shows something before the face.

        Args:
            crop: (B, 3, S, S) in [0, 1], S a multiple of 16.
            hull: (B, 1, S, S) in [0, 1], 1 inside the outline of the face.
        """
        x = F.pixel_unshuffle(torch.cat([crop, hull], 1) * 2 - 1, 2)
        seen = []
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        x = self.middle(seen.pop())
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = layer(torch.cat([x, seen.pop()], 1))
        return F.pixel_shuffle(self.head(x), 2)
