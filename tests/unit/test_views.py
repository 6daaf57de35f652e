"""``facke_core.data.views``: second views of a face, and the batches that use them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from facke_core.data import views
from facke_core.data.batches import BatchConfig, SwapBatches
from facke_core.data.crops import CropSet
from facke_core.errors import DataError
from facke_core.faces.areas import openings
from facke_core.faces.mesh import face_mesh
from facke_core.faces.pose import mesh_pose
from facke_core.faces.warp import rasterize

SIZE = 96


def head(scale: float = 1.0) -> Tensor:
    """The mean face (1, 478, 2), in pixels."""
    points = face_mesh().points[:, :2] * SIZE / 4 * scale
    return (points + torch.tensor([SIZE / 2, SIZE * 0.45])).float()[None]


def smooth(seed: int = 0) -> Tensor:
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (SIZE, SIZE), mode="bicubic").clamp(0, 1)


def turned_by(yaw: float, pitch: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The head, turned by these angles in degrees."""
    angles = iter((yaw, pitch))
    monkeypatch.setattr(views, "YAW", 1.0)
    monkeypatch.setattr(views, "PITCH", 1.0)
    rng = random.Random(0)
    monkeypatch.setattr(rng, "uniform", lambda *_: next(angles))
    return views.turned(smooth(), head(), rng)


@pytest.mark.parametrize(("yaw", "pitch"), [(20.0, 0.0), (-30.0, 0.0), (0.0, 10.0)])
def test_a_head_is_turned_by_the_angles_that_were_drawn(
    yaw: float, pitch: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, mesh = turned_by(yaw, pitch, monkeypatch)
    forward = mesh_pose(mesh[0]).rotation[:, 2]
    assert math.degrees(math.asin(forward[0])) == pytest.approx(yaw, abs=1.5)
    assert math.degrees(math.asin(forward[1])) == pytest.approx(-pitch, abs=1.5)


def test_a_head_that_is_not_turned_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    image, mesh = turned_by(0.0, 0.0, monkeypatch)
    torch.testing.assert_close(mesh, head(), atol=1e-3, rtol=0)
    torch.testing.assert_close(image, smooth(), atol=1e-2, rtol=0)


def test_pixels_travel_with_their_place_on_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    image, mesh = turned_by(20.0, 5.0, monkeypatch)
    back = rasterize(head(), SIZE)
    seen = back.triangle >= 0
    middle = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    middle[34:60, 40:56] = True  # what both heads show
    chosen = (seen[0] & middle).expand(3, -1, -1)
    off = (back.read(image, mesh) - smooth())[0][chosen].abs()
    assert float(off.mean()) < 0.01
    assert float((image - smooth())[0][chosen].abs().mean()) > 0.03


def test_another_light_is_smooth_or_has_one_edge_and_follows_from_the_seed() -> None:
    grey = torch.full((60, 3, SIZE, SIZE), 0.4)
    lit = views.in_other_light(grey, random.Random(1))
    assert torch.equal(lit, views.in_other_light(grey, random.Random(1)))
    assert float(lit.min()) >= 0
    assert float(lit.max()) <= 1
    assert float((lit - grey).abs().flatten(1).mean(1).min()) > 0.005
    steps = lit.diff(dim=-1).abs().flatten(1).amax(1)
    assert float(steps.median()) < 0.01
    assert 1 <= int((steps > 0.008).sum()) <= 20  # shadows


def crop_set(people: list[int]) -> CropSet:
    rng = torch.Generator().manual_seed(0)
    n = len(people)
    return CropSet(
        images=(torch.cat([smooth(i) for i in range(n)]) * 255).to(torch.uint8),
        mesh=torch.cat([head(0.8 + 0.02 * i) for i in range(n)]),
        embeddings=torch.nn.functional.normalize(torch.randn(n, 2, 8, generator=rng), dim=-1),
        people=torch.tensor(people),
        weights=torch.ones(n),
        info={},
    )


PLAIN = BatchConfig(intra=1, views=1, colour_jitter=0, mirror=False)


def test_the_source_of_a_lonely_picture_is_that_picture_turned() -> None:
    batch = SwapBatches(crop_set([0, 1, 2]), batch_size=6, config=PLAIN, seed=0).read(0)
    assert batch.source_mesh is not None
    assert batch.target_mesh is not None
    moved = (batch.source_mesh - batch.target_mesh).norm(dim=2).mean(1)
    assert float(moved.min()) > 0.5
    torch.testing.assert_close(batch.target, batch.reference)
    assert float((batch.source - batch.target).abs().flatten(1).mean(1).min()) > 0.005


def test_the_source_of_a_person_with_several_pictures_is_another_one() -> None:
    crops = crop_set([0, 0])
    batch = SwapBatches(crops, batch_size=16, config=PLAIN, seed=0).read(0)
    other = crops.embeddings[:, 0].flip(0)
    which = [int((crops.embeddings[:, 0] @ row).argmax()) for row in batch.identity]
    images = crops.images[torch.arange(2)].float() / 255
    targets = [int((images - row).abs().flatten(1).mean(1).argmin()) for row in batch.target]
    assert [1 - source for source in which] == targets
    assert set(targets) == {0, 1}
    assert batch.identity.shape[1] == other.shape[1]


def test_strangers_are_seen_as_they_are() -> None:
    config = replace(PLAIN, intra=0)
    seen = SwapBatches(crop_set([0, 1]), batch_size=4, config=config, seed=0).read(0)
    plain = SwapBatches(
        crop_set([0, 1]), batch_size=4, config=replace(config, views=0), seed=0
    ).read(0)
    assert torch.equal(seen.source, plain.source)


def test_what_is_drawn_before_sources_is_told_and_leaves_targets_alone() -> None:
    config = replace(PLAIN, views=0, source_occluders=1)
    crops = crop_set([0, 1, 2])
    drawn = SwapBatches(crops, batch_size=4, config=config, seed=0).read(0)
    plain = SwapBatches(crops, batch_size=4, config=replace(config, source_occluders=0), seed=0)
    before = plain.read(0)
    assert drawn.source_occlusion is not None
    assert before.source_occlusion is None
    assert torch.equal(drawn.target, before.target)
    untouched = (drawn.source_occlusion == 0).expand_as(drawn.source)
    changed = (drawn.source - before.source).abs()
    assert float(changed[~untouched].mean()) > 10 * float(changed[untouched].mean())


def test_natural_composites_have_the_light_the_eyes_and_the_mouth_of_the_photograph() -> None:
    config = BatchConfig(composite=1, colour_jitter=0, mirror=False, max_geometry=0)
    crops = crop_set([0, 1, 2, 3])
    usual, natural = (
        SwapBatches(crops, batch_size=4, config=replace(config, natural=flag), seed=0).read(0)
        for flag in (False, True)
    )
    assert natural.target_mesh is not None
    open_ = torch.stack([openings(mesh, SIZE, eyes=True) for mesh in natural.target_mesh])
    inner = (open_ > 0.99).expand_as(natural.target)
    torch.testing.assert_close(natural.target[inner], natural.reference[inner])
    assert not torch.allclose(usual.target[inner], usual.reference[inner])

    def shade(image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image, 24)[:, :, 1:3, 1:3]

    near, far = (
        float((shade(batch.target) - shade(batch.reference)).abs().mean())
        for batch in (natural, usual)
    )
    assert near < 0.5 * far


def test_views_need_meshes() -> None:
    crops = replace(crop_set([0, 1]), mesh=None)
    with pytest.raises(DataError, match=r"data\.views is 1"):
        SwapBatches(crops, batch_size=4, config=PLAIN, seed=0)
