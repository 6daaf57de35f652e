"""Paste-back: only the face, no seam, any size."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from kornia.color import lab_to_rgb, rgb_to_lab
from PIL import Image
from torch import Tensor

from facke_core.faces.align import align
from facke_core.faces.colour import match_color
from facke_core.faces.paste import face_mask, mask_behind, paste
from facke_core.faces.templates import Alignment, template_points
from facke_core.images.io import read_image, to_pil
from facke_core.types import AlignedFace, Face

SIZE = 128


def oval(x: float, y: float, eyes: float) -> Tensor:
    """A mesh: 478 points in an oval around the eyes, nose and mouth of a frontal face."""
    angles = torch.arange(478) * (2 * math.pi / 478)
    return torch.stack([x + 1.1 * eyes * angles.cos(), y + 1.35 * eyes * angles.sin()], 1)


def face_at(x: float, y: float, eyes: float, *, mesh: bool = True, angle: float = 0) -> Face:
    """A frontal face whose eyes are ``eyes`` pixels apart, around (x, y), turned by ``angle``."""
    points = template_points("simswap_frontal", 112)
    points = ((points - points.mean(0)) * eyes / 32.54).float()
    outline = oval(0, 0, eyes)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = torch.tensor([x, y])
    points, outline = points @ turn + centre, outline @ turn + centre
    box = torch.cat([outline.amin(0), outline.amax(0)])
    return Face(box, points, 0.9, outline if mesh else None)


def aligned_at(photo: Tensor, face: Face, size: int = SIZE) -> AlignedFace:
    return align(photo, face, Alignment(template="simswap_frontal", size=size))


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# The mask


@pytest.mark.parametrize("mesh", [True, False])
def test_the_mask_is_one_inside_and_fades_to_zero_at_the_outline(mesh: bool) -> None:
    mask = face_mask(aligned_at(noise(3, 300, 300), face_at(150, 150, 40, mesh=mesh)))
    assert mask.shape == (1, 128, 128)
    assert mask.min() == 0
    assert mask.max() == 1
    assert mask[0, 78, 64] == 1  # the nose
    assert mask[0, :6].max() == mask[0, -1].max() == mask[0, :, :12].max() == 0
    step = torch.maximum(mask.diff(dim=1).abs().max(), mask.diff(dim=2).abs().max())
    assert step < 0.2


@pytest.mark.parametrize("mesh", [True, False])
def test_the_mask_follows_the_face_and_not_its_size_in_the_photo(mesh: bool) -> None:
    small = face_mask(aligned_at(noise(3, 90, 90), face_at(45, 45, 12, mesh=mesh, angle=0.5)))
    large = face_mask(aligned_at(noise(3, 900, 900), face_at(450, 450, 120, mesh=mesh)))
    assert (small - large).abs().max() < 1e-3


def test_a_turned_head_without_mesh_moves_the_mask_against_the_nose() -> None:
    face = face_at(150, 150, 40, mesh=False)
    turned = face._replace(
        landmarks=face.landmarks + torch.tensor([[0.0, 0], [0, 0], [15, 0], [0, 0], [0, 0]])
    )

    def middle(face: Face) -> float:
        columns = face_mask(aligned_at(noise(3, 300, 300), face))[0].sum(0)
        return float((columns * torch.arange(128.0)).sum() / columns.sum())

    assert middle(turned) < middle(face) - 5


def test_the_mask_is_zero_at_the_border_of_a_tight_crop() -> None:
    face = face_at(150, 150, 40)
    tight = align(noise(3, 300, 300), face, Alignment(template="arcface", size=SIZE))
    tight = tight._replace(face=face._replace(mesh=oval(150, 150, 80)))
    mask = face_mask(tight)[0]
    assert mask[[0, -1]].max() == 0
    assert mask[:, [0, -1]].max() == 0
    assert mask[64, 64] == 1


# Pasting


@pytest.mark.parametrize("eyes", [6, 25, 60, 150])
def test_pasting_the_crop_itself_changes_almost_nothing(eyes: float) -> None:
    smooth = F.interpolate(noise(1, 3, 12, 15), (480, 600), mode="bicubic")[0].clamp(0, 1)
    aligned = aligned_at(smooth, face_at(290, 240, eyes, angle=0.3), 256)
    assert (paste(smooth, aligned.crop, aligned).image - smooth).abs().max() < 0.03


def test_pixels_outside_the_mask_keep_their_bits() -> None:
    photo = noise(3, 400, 500)
    before = photo.clone()
    aligned = aligned_at(photo, face_at(250, 200, 40))
    result = paste(photo, torch.zeros(3, SIZE, SIZE), aligned, color=False, grain=False).image
    touched = (result != photo).any(0).nonzero()
    (top, left), (bottom, right) = touched.amin(0).tolist(), touched.amax(0).tolist()
    assert left > 250 - 46
    assert right < 250 + 46
    assert top > 200 - 56
    assert bottom < 200 + 56
    assert torch.equal(photo, before)
    assert result[:, 200, 250].max() < 0.01


@pytest.mark.parametrize("size", [64, SIZE, 256])
def test_what_is_pasted_lands_where_it_belongs(size: int) -> None:
    """A cross on the nose of the crop is on the nose of the photo, whatever the crop's size."""
    photo = torch.full((3, 400, 500), 0.5)
    face = face_at(250, 200, 50, angle=-0.4)
    aligned = aligned_at(photo, face)
    ticks = (torch.arange(size) + 0.5) * SIZE / size - 0.5
    nose = aligned.matrix[:, :2] @ face.landmarks[2] + aligned.matrix[:, 2]
    distance = torch.hypot(ticks[None, :] - nose[0], ticks[:, None] - nose[1])
    crop = (1 - distance / 12).clamp(min=0).expand(3, -1, -1)
    result = paste(photo, crop, aligned, color=False).image[0]
    y, x = torch.meshgrid(torch.arange(400.0), torch.arange(500.0), indexing="ij")
    weight = (result - 0.5).clamp(min=0)
    found = torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert (found - face.landmarks[2]).norm() < 0.2


def test_a_face_at_the_border_of_the_photo_is_pasted() -> None:
    photo = torch.full((3, 200, 200), 0.5)
    aligned = aligned_at(photo, face_at(5, 100, 40))
    result = paste(photo, torch.ones(3, SIZE, SIZE), aligned, color=False).image
    assert result[:, 100, 2].min() > 0.99
    assert result[:, 100, 150].max() == 0.5


def test_a_face_outside_of_the_photo_changes_nothing() -> None:
    photo = torch.full((3, 100, 100), 0.5)
    aligned = aligned_at(photo, face_at(400, 400, 20))
    assert torch.equal(paste(photo, torch.ones(3, SIZE, SIZE), aligned).image, photo)


@pytest.mark.parametrize("mesh", [True, False])
def test_a_face_in_front_and_what_is_around_it_keep_their_pixels(mesh: bool) -> None:
    photo = noise(3, 300, 400)
    front, rear = face_at(150, 150, 60, mesh=mesh), face_at(240, 140, 45, mesh=mesh)
    aligned = aligned_at(photo, rear)
    alone, behind = face_mask(aligned), mask_behind(aligned, [front])
    assert float((alone - behind).amax()) > 0.9, "they overlap"
    assert float((alone - behind).amin()) >= 0
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, SIZE, SIZE)
    result = paste(photo, red, aligned, behind, color=False).image
    changed = (result - photo).abs().amax(0)
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    head = ((x - 150) / 66) ** 2 + ((y - 150) / 81) ** 2 <= 1
    if mesh:
        assert float(changed[head].amax()) < 0.02
    assert (
        float((paste(photo, red, aligned, color=False).image - photo).abs().amax(0)[head].amax())
        > 0.5
    )
    assert float(changed[140, 270]) > 0.3, "the rear face itself is swapped"
    assert torch.equal(mask_behind(aligned, [face_at(-400, 150, 60)]), alone)
    assert torch.equal(mask_behind(aligned, []), alone)


def test_an_own_mask_of_any_size_is_used() -> None:
    photo = noise(3, 300, 300)
    aligned = aligned_at(photo, face_at(150, 150, 40))
    crop = torch.ones(3, SIZE, SIZE)
    assert torch.equal(paste(photo, crop, aligned, torch.zeros(1, 32, 32)).image, photo)
    result = paste(photo, crop, aligned, torch.ones(1, 32, 32), color=False).image
    assert result[:, 150 - 50, 150 - 50].min() > 0.99


# Colours


def test_colours_are_moved_to_the_targets() -> None:
    target = 0.6 + 0.1 * noise(3, SIZE, SIZE)
    crop = (0.8 * target + torch.tensor([0.15, 0.0, -0.1])[:, None, None]).clamp(0, 1)
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 30:100, 30:100] = 1
    inside = mask[0].bool()
    before = (crop - target)[:, inside].mean(1).abs().max()
    after = (match_color(crop, target, mask) - target)[:, inside].mean(1).abs().max()
    assert before > 0.1
    assert after < 0.01


def test_matching_a_crop_with_itself_changes_nothing() -> None:
    crop = noise(3, SIZE, SIZE)
    assert (match_color(crop, crop, torch.ones(1, SIZE, SIZE)) - crop).abs().max() < 1e-4


def test_faint_noise_in_a_flat_crop_is_not_blown_up() -> None:
    mask = torch.ones(1, SIZE, SIZE)
    flat = 0.3 + 0.002 * noise(3, SIZE, SIZE)
    matched = match_color(flat, noise(3, SIZE, SIZE).flip(2), mask)
    assert matched.flatten(1).std(1).max() < 2 * flat.flatten(1).std(1).max()
    assert torch.isfinite(match_color(torch.zeros_like(flat), flat, mask)).all()


def portrait(size: int = SIZE) -> Tensor:
    """A face in colours: skin with a light from the left, red lips, green eyes."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    light = (0.75 - 0.25 * x + 0.05 * torch.sin(9 * y))[None]
    face = light * torch.tensor([0.9, 0.65, 0.5])[:, None, None]
    lips = ((x / 0.3).square() + ((y - 0.5) / 0.1).square() < 1)[None]
    eyes = ((x.abs() - 0.35).square() + (y + 0.2).square() < 0.01)[None]
    face = torch.where(lips, torch.tensor([0.7, 0.15, 0.2])[:, None, None], face)
    return torch.where(eyes, torch.tensor([0.1, 0.4, 0.2])[:, None, None], face)


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    to_pil(image).save(stream, "JPEG", quality=quality)
    return read_image(Image.open(stream)).image


def sepia(grey: Tensor) -> Tensor:
    return torch.cat([grey.pow(0.8), 0.95 * grey, 0.8 * grey.pow(1.3)])


WHOLE = torch.ones(1, SIZE, SIZE)


@pytest.mark.parametrize("quality", [0, 50, 95])
def test_a_face_for_a_black_and_white_photograph_is_grey(quality: int) -> None:
    target = portrait().flip(2).mean(0, keepdim=True).expand(3, -1, -1).round(decimals=2)
    if quality:
        target = through_jpeg(target, quality)
    matched = match_color(portrait(), target, WHOLE)
    assert torch.equal(matched.amax(0), matched.amin(0))
    assert matched.std() > 0.05
    nearly = (target + torch.tensor([1, 0, -0.4])[:, None, None] / 255).clamp(0, 1)
    assert (match_color(portrait(), nearly, WHOLE).diff(dim=0).abs().max()) <= 1.5 / 255


@pytest.mark.parametrize(("quality", "limit"), [(0, 2.5), (95, 4), (75, 8)])
def test_a_face_for_a_toned_photograph_has_its_tones(quality: int, limit: float) -> None:
    """Its colours follow from its lightness, as in the target."""
    target = sepia(portrait().flip(2).mean(0, keepdim=True))
    if quality:
        target = through_jpeg(target, quality)
    matched = match_color(portrait(), target, WHOLE)
    levels = torch.linspace(0, 1, 2001)[None, None]
    tones = sepia(levels)[:, 0].T
    distance = torch.cdist(matched.flatten(1).T, tones).amin(1) * 255
    assert distance.quantile(0.99) < limit
    coloured = match_color(portrait(), portrait().flip(2), WHOLE)
    assert torch.cdist(coloured.flatten(1).T, tones).amin(1).max() * 255 > 60


def test_colour_photographs_are_matched_as_before() -> None:
    """By mean and spread alone, however pale the colours are."""

    def before(crop: Tensor, target: Tensor) -> Tensor:
        lab, wanted = rgb_to_lab(crop), rgb_to_lab(target)
        mean, goal = (x.mean((1, 2), keepdim=True) for x in (lab, wanted))
        spread, goal_spread = (
            (x - m).square().mean((1, 2), keepdim=True).sqrt()
            for x, m in ((lab, mean), (wanted, goal))
        )
        return lab_to_rgb((lab - mean) * (goal_spread / spread).clamp(0.8, 1.25) + goal).clamp(0, 1)

    target = portrait().flip(2).roll(9, 1)
    pale = target.lerp(target.mean(0, keepdim=True).expand(3, -1, -1), 0.4)
    for wanted in (target, pale):
        matched = match_color(portrait(), wanted, WHOLE)
        assert (matched - before(portrait(), wanted)).abs().max() < 1e-5


def test_a_pale_photograph_keeps_as_much_colour_as_it_has() -> None:
    target = portrait().flip(2)
    grey = target.mean(0, keepdim=True).expand(3, -1, -1)
    spreads = []
    for share in (0.02, 0.1, 0.2, 0.4, 1.0):
        matched = match_color(portrait(), grey.lerp(target, share), WHOLE)
        spreads.append(float(rgb_to_lab(matched)[1:].flatten(1).std(1).norm()))
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.5
    assert spreads[-1] > 8


def test_a_grey_photograph_stays_grey_around_and_inside_the_face() -> None:
    photo = (0.3 + 0.4 * noise(1, 300, 300)).expand(3, -1, -1)
    aligned = aligned_at(photo, face_at(150, 150, 40))
    result = paste(photo, portrait(), aligned).image
    assert torch.equal(result.amax(0), result.amin(0))
    assert not torch.equal(result, photo)


def test_pasting_with_colours_keeps_the_surroundings_tone() -> None:
    photo = 0.55 + 0.1 * noise(3, 300, 300)
    aligned = aligned_at(photo, face_at(150, 150, 40))
    dark = aligned.crop * 0.6
    plain = paste(photo, dark, aligned, color=False).image[:, 140:160, 140:160].mean()
    matched = paste(photo, dark, aligned).image[:, 140:160, 140:160].mean()
    assert plain < 0.4
    assert matched == pytest.approx(0.6, abs=0.02)
