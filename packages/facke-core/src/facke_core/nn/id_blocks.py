"""The ID block of SimSwap: a residual block whose two normalisations carry the identity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.nn.adain import AdaIN


class IDBlock(nn.Module):
    """``x + AdaIN(conv(ReLU(AdaIN(conv(x)))))`` with reflect padding and no activation after the
    sum (SimSwap, arXiv:2106.06340, Fig. 2; Facke Sec. 2.1)."""

    def __init__(self, channels: int, identity_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.adain1 = AdaIN(identity_dim, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.adain2 = AdaIN(identity_dim, channels)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        y = F.relu(self.adain1(self.conv1(x), identity))
        return x + self.adain2(self.conv2(y), identity)
