"""Group normalisation that is fast on CPUs, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__: list[str] = []

GROUPS = 32
"""Number of groups of every group normalisation."""


class _ChannelsLastNorm(torch.autograd.Function):
    """Group normalisation of channels-last features, with the gradient of contiguous ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        b, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, GROUPS, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        x, weight, mean, rstd = ctx.saved_tensors
        b, c, h, w = x.shape
        dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
            grad.contiguous(),
            x.contiguous(),
            mean,
            rstd,
            weight,
            b,
            c,
            h * w,
            GROUPS,
            [True, True, True],
        )
        return dx.contiguous(memory_format=torch.channels_last), dweight, dbias, None


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups, with eps 1e-5; statistics are float32 whatever the input
    is.

    On CPUs torch's gradient for channels-last features takes some thirty times as long as that for
    contiguous ones, so they are copied for it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise features (B, C, H, W)."""
        x = input
        slow = x.is_cpu and x.requires_grad and not x.is_contiguous()
        if slow and x.is_contiguous(memory_format=torch.channels_last):
            return _ChannelsLastNorm.apply(x, self.weight, self.bias, self.eps)
        return super().forward(x)
