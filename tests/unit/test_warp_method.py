"""``facke_gan.warp``: light, tone and blending."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facke_core.faces.smooth import blurred
from facke_gan.warp import blended, relit

SIZE = 64


def texture(seed: int) -> Tensor:
    """A picture (1, 3, S, S) with soft spots around 0.5."""
    noise = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.5 * blurred(noise, 2.0)).clamp(0.1, 0.9)


def disc() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < (0.4 * SIZE) ** 2).float()[None, None]


def test_a_face_in_its_own_light_stays_as_it_is() -> None:
    face = texture(0)
    torch.testing.assert_close(relit(face, face, disc()), face, atol=1e-4, rtol=0)


@pytest.mark.parametrize("gain", [(0.25, 0.22, 0.2), (1.1, 0.9, 0.7)])
def test_another_skin_gets_the_tone_of_the_target(gain: tuple[float, float, float]) -> None:
    """However far: what differs by factors is the same face in another light."""
    target, mask = texture(1) * torch.tensor(gain).view(3, 1, 1), disc()
    source = texture(1)
    for a, b in ((source, target), (target, source)):
        difference = (relit(a, b, mask) - b).abs() * mask
        assert float(difference.max()) < 0.12  # the darkest are not only factors
        assert float(difference.sum() / mask.sum() / 3) < 0.02


def test_a_light_from_one_side_is_the_targets() -> None:
    ramp = torch.linspace(0.5, 1.0, SIZE).expand(1, 3, SIZE, SIZE)
    source, target, mask = texture(2) * ramp.flip(-1), texture(2) * ramp, disc()
    before, after = (
        ((x - target).abs() * mask).sum() for x in (source, relit(source, target, mask))
    )
    assert float(after) < 0.35 * float(before)


def test_highlights_are_weaker_before_a_target_without_any() -> None:
    target, mask = texture(3) * 0.4 + 0.3, disc()
    spots = (texture(4) > 0.58).float() * 0.4
    shiny = (target * 0.5 + spots).clamp(0, 1)
    result = relit(shiny, target, mask)
    inside = mask.expand_as(result) > 0

    def spread(image: Tensor) -> float:
        values = image[inside].log()
        return float(values.quantile(0.9) - values.median())

    assert spread(target) < 0.3 * spread(shiny)
    assert spread(result) < 0.6 * spread(shiny)


def test_lips_are_as_light_beside_the_skin_as_the_targets() -> None:
    """Pink lips of a dark face would glow in a light one."""
    mask, mouth = disc(), torch.zeros(1, 1, SIZE, SIZE)
    mouth[..., 40:48, 22:42] = 1

    def face(skin: tuple[float, ...], lips: tuple[float, ...], seed: int) -> Tensor:
        tone, other = (torch.tensor(x).view(1, 3, 1, 1) for x in (skin, lips))
        return torch.lerp(tone, other, mouth) * (texture(seed) * 0.4 + 0.8)

    dark = face((0.3, 0.2, 0.16), (0.5, 0.32, 0.3), 1)
    light = face((0.85, 0.66, 0.58), (0.7, 0.4, 0.38), 2)
    inside = (mouth > 0)[0, 0]

    def contrast(image: Tensor) -> Tensor:
        """Of lips to skin, by channel."""
        values = image[0].log()
        skin = (mask - mouth)[0, 0] > 0
        return values[:, inside].median(1).values - values[:, skin].median(1).values

    result = relit(dark, light, mask, mouth)
    assert (contrast(result) - contrast(light)).abs().max() < 0.08
    assert (contrast(relit(dark, light, mask)) - contrast(light)).abs().max() > 0.2
    elsewhere = (blurred(mouth, 1.0) == 0).expand_as(dark)
    assert torch.equal(result[elsewhere], relit(dark, light, mask)[elsewhere])


def test_a_place_without_a_face_is_no_reason_to_fail() -> None:
    source, target = texture(5), texture(6)
    nothing = torch.zeros(1, 1, SIZE, SIZE)
    torch.testing.assert_close(relit(source, target, nothing), source, atol=1e-5, rtol=0)


def test_gradients_pass() -> None:
    source = texture(7).requires_grad_()
    relit(source, texture(8), disc()).mean().backward()
    assert source.grad is not None
    assert float(source.grad.abs().sum()) > 0


def test_bands_add_up_to_the_pictures() -> None:
    a, b = texture(9), texture(10)
    ones = torch.ones(1, 1, SIZE, SIZE)
    torch.testing.assert_close(blended(a, b, ones), b, atol=1e-5, rtol=0)
    torch.testing.assert_close(blended(a, b, 0 * ones), a, atol=1e-5, rtol=0)
