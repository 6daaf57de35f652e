"""The method keeps facke's contract, and does what it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from facke_core import load
from facke_core.errors import ConfigError
from facke_core.testing import MethodConformance, faces

from facke_pyramid.method import PyramidConfig, PyramidGenerator, PyramidSampler, bent


class TestPyramid(MethodConformance):
    """Everything that facke relies on."""

    method = "pyramid"
    tiny = {"image_size": 64, "levels": 3}  # noqa: RUF012


def test_at_strength_0_the_target_stays_as_it_is() -> None:
    swapper = load("pyramid", sampler={"strength": 0.0})
    source, target = faces(2, 256)[:, None]
    torch.testing.assert_close(swapper.swap_crops(source, target), target)


def test_the_mask_chooses_between_the_bands_and_the_rest_is_the_targets() -> None:
    generator = PyramidGenerator(PyramidConfig(image_size=64, levels=3))
    x, donor = faces(2, 64)[:, None]
    nothing, everything = torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)
    torch.testing.assert_close(generator(x, donor=donor, mask=nothing).image, x)
    light = F.avg_pool2d(x - donor, 8)
    for _ in range(3):
        light = F.interpolate(light, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(generator(x, donor=donor, mask=everything).image, donor + light)


def test_landmarks_of_the_source_come_to_those_of_the_target() -> None:
    """Bright dots on black: a dot moves with its landmark, and the frame stays."""
    places = torch.tensor([[20.0, 24], [44, 24], [32, 34], [24, 44], [40, 44]])
    goals = places + torch.tensor([[2.0, 1], [-3, 2], [0, -3], [1, 2], [2, 3]])
    image = torch.zeros(3, 64, 64)
    for x, y in places.long().tolist():
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 1
    image[:, :2] = 1
    moved = bent(image, places, goals)
    for x, y in goals.round().long().tolist():
        assert moved[0, y, x] > 0.5
    assert float(moved[0, 0, :].min()) > 0.9


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be halved 5 times"):
        PyramidConfig(image_size=100)
    with pytest.raises(ConfigError, match="strength: 2"):
        PyramidSampler(strength=2.0)
