"""A convolution whose gradient can be differentiated at the price of a gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__: list[str] = []

Size = tuple[int, ...]
"""Stride or padding per dimension, as torch's layers keep it."""


class Conv2d(nn.Conv2d):
    """A convolution as ``nn.Conv2d``, with zero padding, for networks under a gradient penalty.

    The penalty's own gradient in the weights is that of an ordinary convolution. Torch computes it
    by one whose kernel has the size of the image; in bfloat16 on a CPU that takes ten times as
    long. The values are the same. There is no third derivative.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Convolve ``input`` (B, C, H, W), in the autocast dtype where autocast is on."""
        device = input.device.type
        tensors: tuple[Tensor | None, ...] = (input, self.weight, self.bias)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            tensors = tuple(None if t is None else t.to(dtype) for t in tensors)
        with torch.autocast(device, enabled=False):
            return _Convolution.apply(*tensors, self.stride, self.padding)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, padding: Size
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (slope,) = slopes
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        grads: list[Tensor | None] = [None, None, None]
        if of_weight or of_bias:
            grads = _gradients(slope, x, weight, ctx.sizes, (False, of_weight, of_bias))
        if of_x:
            grads[0] = _InputGradient.apply(slope, weight, x.detach(), *ctx.sizes)
        return *grads, None, None


class _InputGradient(torch.autograd.Function):
    """The gradient in the input, which can itself be differentiated.

    It is linear in ``slope`` and in ``weight``; ``x`` gives the shape only.
    """

    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, weight: Tensor, x: Tensor, stride: Size, padding: Size
    ) -> Tensor:
        ctx.save_for_backward(slope, weight)
        ctx.sizes = stride, padding
        (gradient, *_) = _gradients(slope, x, weight, ctx.sizes, (True, False, False))
        return gradient

    @staticmethod
    @once_differentiable  # torch's decorator makes ctx positional
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *directions: Tensor
    ) -> Any:
        (direction,) = directions
        slope, weight = ctx.saved_tensors
        of_slope, of_weight, *_ = ctx.needs_input_grad
        along = F.conv2d(direction, weight, None, *ctx.sizes) if of_slope else None
        mask = (False, of_weight, False)
        _, grad, _ = _gradients(slope, direction, weight, ctx.sizes, mask)
        return along, grad, None, None, None


def _gradients(
    slope: Tensor, x: Tensor, weight: Tensor, sizes: tuple[Size, Size], mask: tuple[bool, ...]
) -> list[Any]:
    """The gradients in input, weight and bias; None where ``mask`` does not ask for one."""
    return list(
        torch.ops.aten.convolution_backward(
            slope, x, weight, weight.shape[:1], *sizes, (1, 1), False, (0, 0), 1, mask
        )
    )
