"""The low-pass filter phi_N."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facke_core.errors import CompatibilityError, ConfigError
from facke_diffusion.low_pass import cubic, low_pass, resampling_matrix


def picture(height: int = 32, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def wave(periods: float, size: int = 64) -> Tensor:
    """(1, 1, size, size): a cosine from left to right."""
    x = (torch.arange(size) + 0.5) / size
    return torch.cos(2 * math.pi * periods * x).expand(1, 1, size, size)


def test_the_kernel_interpolates_and_reproduces_lines() -> None:
    assert cubic(torch.tensor([-2.0, -1, 0, 1, 2, 3])).tolist() == [0, 0, 1, 0, 0, 0]
    for shift in (0.0, 0.3, 0.5, 0.9):
        at = torch.arange(-4, 5, dtype=torch.float64) - shift
        torch.testing.assert_close(cubic(at).sum().item(), 1.0)
        assert abs((cubic(at) * at).sum().item()) < 1e-12


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_even_pictures_pass_and_fine_detail_does_not(factor: int) -> None:
    flat = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(low_pass(flat, factor), flat, atol=1e-6, rtol=0)
    fine = wave(0.9 * 64 / 2)
    assert low_pass(fine, factor).norm() < 0.25 * fine.norm()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_passband_is_an_nth_of_the_frequencies(factor: int) -> None:
    nyquist = 64 / 2 / factor  # periods that a picture of an N-th of the size can show
    slow, fast = wave(nyquist / 4), wave(2.5 * nyquist)
    assert (low_pass(slow, factor) - slow).norm() < 0.12 * slow.norm()
    assert low_pass(fast, factor).norm() < 0.25 * fast.norm()


def test_rows_columns_and_channels_are_independent() -> None:
    x = picture()
    both = low_pass(x, 4)
    assert both.shape == x.shape
    torch.testing.assert_close(low_pass(x[1:, 2:], 4), both[1:, 2:])
    torch.testing.assert_close(low_pass(x.mT, 4), both.mT)
    torch.testing.assert_close(low_pass(x.flip(-1), 4), both.flip(-1))


def test_it_is_linear_and_lets_gradients_through_after_an_inference() -> None:
    with torch.inference_mode():
        low_pass(picture(16, 16), 8)  # fills the cache
    x, y = picture(16, 16), picture(16, 16, seed=1)
    torch.testing.assert_close(
        low_pass(2 * x - y, 8), 2 * low_pass(x, 8) - low_pass(y, 8), atol=1e-5, rtol=1e-5
    )
    x.requires_grad_()
    low_pass(x, 8).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum().item(), float(x.numel()), rtol=1e-4, atol=0)


def test_half_precision_and_autocast_are_filtered_in_float32() -> None:
    x = picture().bfloat16()
    expected = low_pass(x.float(), 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(low_pass(x, 4), expected)


def test_outputs_are_weighted_means_whose_weights_add_up_to_one() -> None:
    for matrix in (resampling_matrix(32, 1 / 32), resampling_matrix(1, 32)):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))


@pytest.mark.parametrize("factor", [0, 1, 3, 12, -4])
def test_a_factor_that_is_no_power_of_two_is_refused(factor: int) -> None:
    with pytest.raises(ConfigError, match=f"factor: {factor} is not a power of two"):
        low_pass(picture(), factor)


@pytest.mark.parametrize(
    ("size", "message"),
    [(24, r"16 does not divide the image size 24.*Use 8 or a smaller"), (33, "Use an even size")],
)
def test_a_size_that_the_factor_does_not_divide_is_refused(size: int, message: str) -> None:
    with pytest.raises(CompatibilityError, match=message):
        low_pass(picture(size, size), 16)
