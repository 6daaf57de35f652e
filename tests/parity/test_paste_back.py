"""The paste-back of the original SimSwap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from facke_gan.original.paste import blend_by_classes, class_planes, paste_original, soft_erosion


@pytest.fixture(scope="module")
def fixture(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "parity" / "paste_back.safetensors")


@pytest.fixture(scope="module")
def frame(fixture: dict[str, Tensor]) -> Tensor:
    return fixture["frame_bgr"].permute(2, 0, 1).flip(0).float() / 255


def assert_same_picture(ours: Tensor, bgr: Tensor) -> None:
    """Within two grey levels; the original cuts off decimals."""
    theirs = bgr.permute(2, 0, 1).flip(0).float()
    assert ((ours * 255).floor().clamp(0, 255) - theirs).abs().max() <= 2


def test_class_maps_become_the_same_planes(fixture: dict[str, Tensor]) -> None:
    for neck, name in ((False, "enc_noneck_random"), (True, "enc_neck_random")):
        planes = class_planes(fixture["parse_random"].long(), neck=neck)
        assert torch.equal((planes * 255).byte().permute(1, 2, 0), fixture[name])


def test_soft_erosion_equals_the_original(fixture: dict[str, Tensor]) -> None:
    soft, hard = soft_erosion(fixture["soft_in"])
    assert (soft - fixture["soft_out"]).abs().max() <= 1e-5
    assert torch.equal(hard, fixture["soft_hard"].bool())


def test_a_face_is_pasted_without_a_parsing(fixture: dict[str, Tensor], frame: Tensor) -> None:
    crop = fixture["swapped_rgb_u8"].float() / 255
    ours = paste_original(frame, crop, fixture["mat"])
    assert_same_picture(ours, fixture["result_bgr_nomask"])


def test_a_face_is_pasted_with_a_parsing(fixture: dict[str, Tensor], frame: Tensor) -> None:
    crop = blend_by_classes(
        fixture["swapped_rgb_u8"].float() / 255,
        fixture["src_crop_rgb_u8"][0].float() / 255,
        fixture["parse_face"].long(),
    )
    assert_same_picture(paste_original(frame, crop, fixture["mat"]), fixture["result_bgr_mask"])


def test_two_faces_are_pasted_one_after_the_other(
    fixture: dict[str, Tensor], frame: Tensor
) -> None:
    ours = frame
    for crop, matrix in (("swapped_rgb_u8", "mat"), ("swapped2_rgb_u8", "mat2")):
        ours = paste_original(ours, fixture[crop].float() / 255, fixture[matrix])
    assert_same_picture(ours, fixture["result_bgr_two_nomask"])


def test_a_parsing_without_a_face_changes_nothing() -> None:
    crop, target = torch.rand(3, 32, 32), torch.rand(3, 32, 32)
    assert blend_by_classes(crop, target, torch.zeros(64, 64, dtype=torch.long)) is crop
