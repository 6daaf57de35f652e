"""The ID block of SimSwap: a residual block whose two normalisations carry the identity."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.nn.adain import AdaIN

__all__ = ["IDBlock"]

Padding = Literal["reflect", "zeros"]
"""The padding of a convolution: the mirrored image, or zeros."""


class IDBlock(nn.Module):
    """The residual block ``x + AdaIN(conv(ReLU(AdaIN(conv(x)))))``, without an activation after the
    sum (SimSwap, arXiv:2106.06340, Fig. 2; Facke, Sec. 2.1). The originals pad by reflection."""

    def __init__(self, channels: int, identity_dim: int, *, padding: Padding = "reflect") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding)
        self.adain1 = AdaIN(identity_dim, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding)
        self.adain2 = AdaIN(identity_dim, channels)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Put identities (B, D) into features (B, C, H, W), whose shape stays."""
        y = F.relu(self.adain1(self.conv1(x), identity))
        return x + self.adain2(self.conv2(y), identity)
