"""Composites and crop sets: the training pairs with a known result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facke_core.data.composite import composite, match_colour, thin_plate_grid
from facke_core.data.crops import BatchConfig, CropSet, SwapBatches
from facke_core.data.mesh import MIRROR, POINTS, REGIONS
from facke_core.errors import DataError

SIZE = 32


def crop_set(n: int = 12) -> CropSet:
    rng = torch.Generator().manual_seed(0)
    base = torch.rand(len(POINTS), 2, generator=rng) * 20 + 6
    jitter = torch.randn(n, len(POINTS), 2, generator=rng)
    masks = torch.zeros(n, 1, SIZE, SIZE, dtype=torch.uint8)
    masks[:, :, 6:26, 8:24] = 255
    return CropSet(
        images=torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8),
        masks=masks,
        points=base + jitter,
        embeddings=torch.nn.functional.normalize(torch.randn(n, 2, 8, generator=rng), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.ones(n),
        info={"name": "tiny"},
    )


def batches(config: BatchConfig, size: int = 6, seed: int = 3) -> SwapBatches:
    return SwapBatches(crop_set(), batch_size=size, config=config, seed=seed)


PLAIN = BatchConfig(composite=0.0, intra=0.5, colour_jitter=0.0)


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


def make_composite(geometry: float, donor: Tensor | None = None) -> tuple[CropSet, Tensor]:
    crops = crop_set()
    photos = crops.images[:2].float() / 255
    made = composite(
        photos,
        crops.points[:2],
        crops.masks[:2].float() / 255,
        crops.images[2:4].float() / 255 if donor is None else donor,
        crops.points[2:4],
        geometry=torch.full((2,), geometry),
        softness=5,
    )
    return crops, made


def test_a_composite_changes_the_inside_of_the_mask_only() -> None:
    crops, made = make_composite(0.5)
    photos = crops.images[:2].float() / 255
    outside = crops.masks[:2].float().expand_as(photos) == 0
    assert torch.equal(made[outside], photos[outside])
    assert (made - photos)[:, :, 14:18, 14:18].abs().mean() > 0.05


def test_a_grey_photo_makes_a_grey_composite() -> None:
    grey = torch.rand(1, 1, SIZE, SIZE).expand(1, 3, SIZE, SIZE)
    result = match_colour(torch.rand(1, 3, SIZE, SIZE), grey, torch.ones(1, 1, SIZE, SIZE))
    assert (result.amax(1) - result.amin(1)).max() < 1e-5


def test_colour_matching_takes_the_mean_of_the_reference() -> None:
    rng = torch.Generator().manual_seed(1)
    image, reference = torch.rand(2, 1, 3, SIZE, SIZE, generator=rng)
    reference = reference * torch.tensor([0.9, 0.5, 0.2]).view(1, 3, 1, 1)
    result = match_colour(image, reference, torch.ones(1, 1, SIZE, SIZE))
    assert torch.allclose(result.mean((2, 3)), reference.mean((2, 3)), atol=1e-5)


def test_batch_k_is_a_function_of_seed_and_k_alone() -> None:
    config = BatchConfig(composite=0.5, intra=0.25)
    first, second = batches(config), batches(config)
    torch.manual_seed(99)
    _ = second[5]
    for a, b in zip(first[7], second[7], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[7].target, first[8].target)
    assert not torch.equal(first[7].target, batches(config, seed=4)[7].target)


def test_an_intra_pair_is_one_picture_and_its_own_reference() -> None:
    batch = batches(replace(PLAIN, intra=1.0))[0]
    assert batch.same_identity.all()
    assert torch.equal(batch.source, batch.target)
    assert torch.equal(batch.reference, batch.target)


def test_an_inter_pair_takes_the_identity_from_the_source() -> None:
    batch = batches(replace(PLAIN, intra=0.0), size=24)[0]
    crops = crop_set()
    pictures = torch.cat([crops.images.float() / 255, crops.images.float().flip(-1) / 255])
    vectors = torch.cat([crops.embeddings[:, 0], crops.embeddings[:, 1]])
    for source, identity in zip(batch.source, batch.identity, strict=True):
        index = (pictures - source).abs().flatten(1).sum(1).argmin()
        assert torch.equal(vectors[index], identity)
    different = (batch.source - batch.target).abs().flatten(1).sum(1) > 0
    assert torch.equal(batch.same_identity, ~different)


def test_a_composite_pair_asks_for_the_untouched_photograph() -> None:
    batch = batches(BatchConfig(composite=1.0, intra=0.0, colour_jitter=0.0))[2]
    assert batch.same_identity.all()
    assert torch.equal(batch.reference, batch.source)
    assert not torch.equal(batch.target, batch.reference)


def test_colour_jitter_changes_target_and_reference_alike() -> None:
    plain = batches(replace(PLAIN, intra=1.0))[0]
    jittered = batches(replace(PLAIN, intra=1.0, colour_jitter=0.3))[0]
    assert torch.equal(jittered.target, jittered.reference)
    assert not torch.equal(jittered.target, plain.target)


def test_a_crop_set_survives_the_disk(tmp_path: Path) -> None:
    crops = crop_set()
    crops.save(tmp_path / "set")
    again = CropSet.load(tmp_path / "set")
    assert torch.equal(again.points, crops.points)
    assert torch.equal(again.images, crops.images)
    assert again.info == {"name": "tiny"}


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "tensor"])
def test_a_damaged_crop_set_is_refused_in_one_message(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if damage != "missing":
        crop_set().save(folder)
    match damage:
        case "text":
            (folder / "dataset.json").write_text("{")
        case "truncated":
            data = (folder / "crops.safetensors").read_bytes()
            (folder / "crops.safetensors").write_bytes(data[: len(data) // 2])
        case "tensor":
            crops = crop_set()
            replace(crops, points=crops.points[:, :-1]).save(folder)
    with pytest.raises(DataError, match="set"):
        CropSet.load(folder)
