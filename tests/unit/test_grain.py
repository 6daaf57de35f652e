"""The fine detail of skin, and filters of any width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facke_core.faces.areas import inside, openings, skin
from facke_core.faces.grain import grained
from facke_core.faces.mesh import OVAL_RING
from facke_core.faces.smooth import blurred
from standins import meshes

SIZE, WIDTH = 160, 100.0


def noise(amount: float, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (0.5 + amount * torch.randn(1, SIZE, SIZE, generator=rng)).expand(3, -1, -1)


def detail(picture: Tensor) -> float:
    return float((picture - blurred(picture[None], 0.7)[0]).square().mean().sqrt())


def test_a_smooth_face_gets_as_much_grain_as_the_photo_has() -> None:
    target, whole = noise(0.03), torch.ones(1, SIZE, SIZE)
    face = torch.full((3, SIZE, SIZE), 0.4)
    result = grained(face, target, whole, WIDTH)
    assert detail(result) == pytest.approx(detail(target), rel=0.25)
    assert (blurred((result - face)[None], 6.0)).abs().max() < 0.01, "and no colour with it"
    half = whole.clone()
    half[..., : SIZE // 2] = 0
    assert torch.equal(grained(face, target, half, WIDTH)[..., : SIZE // 2], face[..., : SIZE // 2])


def test_a_face_with_the_grain_of_the_photo_stays() -> None:
    target = noise(0.03)
    result = grained(target.clone(), target, torch.ones(1, SIZE, SIZE), WIDTH)
    assert (result - target).abs().max() < 0.01


def test_a_face_that_is_sharper_than_the_photo_becomes_as_soft() -> None:
    target, face = noise(0.01), noise(0.05, seed=1)
    result = grained(face, target, torch.ones(1, SIZE, SIZE), WIDTH)
    assert detail(result) == pytest.approx(detail(target), rel=0.25)


def laplacian(picture: Tensor) -> float:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(torch.nn.functional.conv2d(picture[:1, None], kernel).abs().mean())


def test_every_band_is_filled_up_to_that_of_the_photo() -> None:
    """Coarse detail is no pores, however strong it is."""
    target, whole = noise(0.03), torch.ones(1, SIZE, SIZE)
    coarse = 0.5 + 6 * (blurred(noise(0.03, seed=1)[None], 2.0)[0] - 0.5)
    result = grained(coarse, target, whole, 3 * WIDTH)
    assert laplacian(coarse) < 0.3 * laplacian(target)
    assert laplacian(result) == pytest.approx(laplacian(target), rel=0.15)


def test_soft_features_become_sharper_and_get_no_grain() -> None:
    target = noise(0.03)
    skin, inside = torch.zeros(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE)
    skin[..., : SIZE // 2] = 1
    lines = torch.zeros(3, SIZE, SIZE)
    lines[..., SIZE // 2 :: 8] = 0.06
    soft = 0.4 + blurred(lines[None], 1.0)[0]
    result = grained(soft, target, skin, 3 * WIDTH, inside)[..., SIZE // 2 + 16 :]
    plain = soft[..., SIZE // 2 + 16 :]
    assert 1.2 < laplacian(result) / laplacian(plain) <= 1.5 + 1e-3
    assert (result[:, 1:] - result[:, :-1]).abs().max() < 0.02, "lines stay lines"
    flat = grained(torch.full((3, SIZE, SIZE), 0.4), target, skin, WIDTH, inside)
    assert (flat[..., SIZE // 2 :] - 0.4).abs().max() < 1e-6


def test_without_skin_nothing_changes() -> None:
    face = noise(0.05)
    assert torch.equal(grained(face, noise(0.2, 1), torch.zeros(1, SIZE, SIZE), WIDTH), face)


def test_grain_is_no_wrinkle() -> None:
    """A dark line of the target does not come through at its strength."""
    target = noise(0.01).clone()
    target[:, 80] -= 0.4
    face = torch.full((3, SIZE, SIZE), 0.5)
    result = grained(face, target, torch.ones(1, SIZE, SIZE), WIDTH)
    assert (result - face)[:, 80].mean() > -0.2


@pytest.mark.parametrize("sigma", [0.6, 2.0, 5.0, 20.0])
def test_a_filter_of_any_width_is_the_gaussian(sigma: float) -> None:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 8, generator=rng)
    picture = torch.nn.functional.interpolate(coarse, (96, 120), mode="bilinear")
    reach = int(4 * sigma)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-taps.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    exact = torch.nn.functional.pad(picture.double(), (reach,) * 4, mode="replicate").flatten(0, 1)
    exact = torch.nn.functional.conv2d(
        torch.nn.functional.conv2d(exact[:, None], kernel), kernel.mT
    ).view_as(picture)
    assert (blurred(picture, sigma) - exact).abs().max() < 0.04


def test_skin_is_the_face_without_its_features() -> None:
    mesh = meshes(1, SIZE, torch.Generator().manual_seed(0))[0]
    whole, bare = inside(mesh, (OVAL_RING,), SIZE), skin(mesh, SIZE)
    assert 0.5 < bare.sum() / whole.sum() < 0.95
    assert (bare <= whole + 1e-6).all()
    both = openings(mesh, SIZE, eyes=True)
    mouth = openings(mesh, SIZE, eyes=False)
    assert (both * bare).max() < 0.5
    assert mouth.sum() < both.sum()
    x, y = mesh[4].round().int().tolist()  # the tip of the nose
    assert whole[0, y, x] == 1
