"""ILVR: the low-pass filter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixture import assert_close, load
from torch import Tensor

from facke_diffusion.low_pass import low_pass, resampling_matrix

FACTORS = [2, 4, 8, 16, 32]


def dense(weights: Tensor, sources: Tensor, size: int) -> Tensor:
    """(outputs, size) of the weights (taps, outputs) and the pixels they belong to."""
    matrix = torch.zeros(weights.shape[1], size, dtype=torch.float64)
    return matrix.scatter_add_(1, sources.T.long(), weights.T.double())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [64, 256])
def test_low_pass_filter(shared: Path, size: int, factor: int) -> None:
    tensors, _ = load("resizer", shared)
    down = resampling_matrix(size, 1 / factor)
    up = resampling_matrix(size // factor, factor)
    for name, ours in {"down": down, "up": up}.items():
        weights, sources = (tensors[f"{name}_{part}.{size}.{factor}"] for part in ("w", "fov"))
        torch.testing.assert_close(
            ours, dense(weights, sources, ours.shape[1]), atol=1e-6, rtol=1e-6
        )
    x = tensors[f"x{size}"]
    small = (down @ x.double() @ down.mT).float()
    assert_close(small, tensors[f"down.{size}.{factor}"], atol=1e-5)
    filtered = low_pass(x, factor)
    if size == 256:
        filtered = torch.cat([filtered[:, :, :48], filtered[:, :, 128:160]], dim=2)
    assert_close(filtered, tensors[f"phi.{size}.{factor}"], atol=1e-5)


def test_low_pass_filter_of_colours(shared: Path) -> None:
    tensors, _ = load("resizer", shared)
    assert_close(low_pass(tensors["rgb_x"], 8), tensors["rgb_phi8"], atol=1e-5)
