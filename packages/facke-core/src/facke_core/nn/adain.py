"""Instance normalisation without parameters, and AdaIN driven by an identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["AdaIN", "instance_norm"]


def instance_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Give each channel of ``x`` (B, C, H, W) zero mean and unit (biased) variance over its pixels.

    Statistics are taken in float32 whatever the dtype of ``x`` is. It is computed as group
    normalisation with one channel per group, whose kernel is several times faster in the
    contiguous layout. A graph gets the one operation that there is for it, which runtimes compute
    in any layout.
    """
    if torch.compiler.is_exporting():
        return F.instance_norm(x, eps=eps)
    return F.group_norm(x.contiguous(), x.shape[1], eps=eps)


class AdaIN(nn.Module):
    """Adaptive instance normalisation: ``(gamma + 1) * IN(x) + beta``, gamma and beta linear in
    the identity (Huang & Belongie, arXiv:1703.06868; SimSwap, arXiv:2106.06340, Eq. (1))."""

    def __init__(self, identity_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(identity_dim, 2 * channels)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Normalise features (B, C, H, W) and give them the statistics of identities (B, D)."""
        gamma, beta = rearrange(self.linear(identity), "b (two c) -> two b c 1 1", two=2)
        return instance_norm(x) * (gamma + 1) + beta
