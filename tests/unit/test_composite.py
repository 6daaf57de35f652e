"""Composites: the training pairs with a known result."""

from __future__ import annotations

import torch
from torch import Tensor

from facke_core.data.composite import composite, match_contrast, thin_plate_grid
from facke_core.faces.areas import polygon
from facke_core.faces.mesh import MIRROR, POINTS, REGIONS

SIZE = 32


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Four images, their mesh points and their masks."""
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(len(POINTS), 2, generator=rng) * 20 + 6
    masks = torch.zeros(4, 1, SIZE, SIZE)
    masks[:, :, 6:26, 8:24] = 1
    jitter = torch.randn(4, len(POINTS), 2, generator=rng)
    return torch.rand(4, 3, SIZE, SIZE, generator=rng), points + jitter, masks


def test_the_mirrored_point_list_is_an_involution_that_keeps_regions() -> None:
    assert len(set(POINTS)) == len(POINTS) == len(MIRROR)
    assert all(MIRROR[MIRROR[i]] == i for i in range(len(MIRROR)))
    for region in REGIONS.values():
        inside = set(range(len(POINTS))[region])
        assert {MIRROR[i] for i in inside} == inside


def test_a_spline_through_shifted_points_is_that_shift() -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(2, 30, 2, generator=rng) * 1.6 - 0.8
    grid = thin_plate_grid(points, points + torch.tensor([0.1, -0.2]), SIZE)
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    expected = torch.stack([x + 0.1, y - 0.2], dim=-1).expand_as(grid)
    inner = slice(4, -4)  # the interpolation of the coarse grid has no neighbours at the border
    assert (grid - expected)[:, inner, inner].abs().max() < 2e-3


def test_a_composite_changes_the_inside_of_the_mask_only() -> None:
    images, points, masks = pictures()
    made = composite(
        images[:2],
        points[:2],
        masks[:2],
        images[2:],
        points[2:],
        geometry=torch.full((2,), 0.5),
        softness=5,
    )
    outside = masks[:2].expand_as(made) == 0
    assert torch.equal(made[outside], images[:2][outside])
    assert (made - images[:2])[:, :, 14:18, 14:18].abs().mean() > 0.05


def test_the_oval_is_filled_inside_and_soft_at_its_border() -> None:
    ring = torch.tensor([[8.0, 8.0], [24.0, 8.0], [24.0, 24.0], [8.0, 24.0]])
    mask = polygon(ring, SIZE)[0]
    assert mask[10:23, 10:23].eq(255).all()
    assert mask[:7].eq(0).all()
    assert mask[:, 26:].eq(0).all()
    assert ((mask > 0) & (mask < 255)).any()


def test_a_grey_photo_makes_a_grey_composite() -> None:
    grey = torch.rand(1, 1, SIZE, SIZE).expand(1, 3, SIZE, SIZE)
    result = match_contrast(torch.rand(1, 3, SIZE, SIZE), grey, torch.ones(1, 1, SIZE, SIZE))
    assert (result.amax(1) - result.amin(1)).max() < 1e-5


def test_colour_matching_takes_the_mean_of_the_reference() -> None:
    rng = torch.Generator().manual_seed(1)
    image, reference = torch.rand(2, 1, 3, SIZE, SIZE, generator=rng)
    reference = reference * torch.tensor([0.9, 0.5, 0.2]).view(1, 3, 1, 1)
    result = match_contrast(image, reference, torch.ones(1, 1, SIZE, SIZE))
    assert torch.allclose(result.mean((2, 3)), reference.mean((2, 3)), atol=1e-5)
