"""Resizing, centre crops and the way back to 8 bits, against the original systems."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from facke_core.images.io import resize, to_pil


@pytest.fixture(scope="module")
def fixture(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "parity" / "preprocess.safetensors")


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [
        ("tv012_tensor_resize_56", (56, 56), "bilinear"),
        ("tv_new_antialias_resize_56", (56, 56), "antialias"),
        ("nearest_112", (112, 112), "nearest"),
        ("nearest_112x96", (112, 96), "nearest"),
        ("bicubic_112", (112, 112), "bicubic"),
    ],
)
def test_resizing_equals_the_originals(
    fixture: dict[str, Tensor], name: str, size: tuple[int, int], mode: str
) -> None:
    image = fixture["u8"][None].float() / 255
    assert (resize(image, size, mode=mode) - fixture[name]).abs().max() <= 1e-5


@pytest.mark.parametrize(("name", "scale", "shift"), [("nonorm", 1.0, 0.0), ("norm", 0.5, 0.5)])
def test_eight_bits_equal_the_originals_within_a_level(
    fixture: dict[str, Tensor], name: str, scale: float, shift: float
) -> None:
    """The originals cut decimals off where we round."""
    picture = to_pil(fixture["tensor2im.in"] * scale + shift)
    ours = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(8, 8, 3)
    difference = ours.int() - fixture[f"tensor2im.{name}"].int()
    assert difference.min() >= 0
    assert difference.max() <= 1
