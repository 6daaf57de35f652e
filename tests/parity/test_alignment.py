"""Similarity matrices, pose choice and warps against the original systems."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from facke_core.faces.align import alignment_matrix, choose_template, invert_affine, warp

NAMES = {"None": "simswap", "ffhq": "ffhq", "insightface_arcface": "arcface"}
INSIGHTFACE_128 = {256, 512}  # insightface takes its 128-px framing where 112 does not divide


@pytest.fixture(scope="module")
def fixture(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "parity" / "alignment.safetensors")


def assert_equal_matrices(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.parametrize("size", [112, 224, 256, 512])
@pytest.mark.parametrize("name", NAMES)
def test_matrices_equal_the_originals(fixture: dict[str, Tensor], name: str, size: int) -> None:
    landmarks = fixture["landmarks"].double()
    template = NAMES[name]
    if template == "arcface" and size in INSIGHTFACE_128:
        template = "arcface_128"
    ours = alignment_matrix(landmarks, template, size)
    assert_equal_matrices(ours, fixture[f"M.{name}.{size}"])
    if f"index.{name}.{size}" in fixture:
        chosen = choose_template(landmarks, template)
        assert torch.equal(chosen, fixture[f"index.{name}.{size}"])


def test_inverse_matrices_equal_the_originals(fixture: dict[str, Tensor]) -> None:
    assert_equal_matrices(invert_affine(fixture["M.None.224"]), fixture["Minv.None.224"])


def test_a_warp_with_black_border_equals_opencvs(fixture: dict[str, Tensor]) -> None:
    image = fixture["warp.image"].permute(2, 0, 1)[None].float() / 255
    crop = warp(image, fixture["warp.M"][None], 112, border="zeros", antialias=False)
    ours = (crop[0] * 255).round().clamp(0, 255).permute(1, 2, 0)
    difference = (ours - fixture["warp.crop112"].float()).abs()
    # OpenCV 4 rounds positions to 1/32 pixel, which shows only where the photo meets the black;
    # OpenCV 5 samples exactly, and so do we
    assert (difference > 1).float().mean() < 2e-3
    assert difference.max() <= 3
    inside = (warp(torch.ones_like(image), fixture["warp.M"][None], 112, border="zeros"))[
        0, 0
    ] > 0.99
    assert difference[inside].max() <= 1
