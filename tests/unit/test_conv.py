"""The convolution of discriminators, and its gradient's gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facke_core.nn.conv import Conv2d


def pair(**settings: Any) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours, torchs = Conv2d(3, 4, 4, padding=1, **settings), nn.Conv2d(3, 4, 4, padding=1, **settings)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def penalty(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A gradient penalty, and its gradients in the weights and in ``x``."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    value = (slope.float().flatten(1).norm(dim=1) - 1).square().mean()
    return value.detach(), list(torch.autograd.grad(value, [*layer.parameters(), x]))


@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_are_right(stride: int) -> None:
    layer = pair(stride=stride)[0].double()
    x = torch.rand(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, values, (x,))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_penalty_is_that_of_torch(bias: bool, bfloat16: bool) -> None:
    ours, torchs = pair(stride=2, bias=bias)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        assert ours(x).dtype == torchs(x).dtype
        (value, gradients), (expected, wanted) = penalty(ours, x), penalty(torchs, x)
    assert torch.allclose(value, expected)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - want).norm() <= (1e-2 if bfloat16 else 1e-6) * want.norm()


def test_weights_that_are_not_trained_get_no_gradient() -> None:
    layer = pair()[0].requires_grad_(False)
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
