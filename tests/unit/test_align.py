"""Alignment: transforms, templates, sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facke_core.errors import NoFaceError, UnknownNameError, UsageError
from facke_core.faces.align import (
    align,
    alignment_matrix,
    choose_template,
    invert_affine,
    similarity_transform,
    transform_points,
    warp,
)
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import TEMPLATE_SETS, TEMPLATES, Alignment, template_points
from facke_core.types import Face


def similarity(angle: float, scale: float, x: float, y: float) -> Tensor:
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[[a, -b, x], [b, a, y]]], dtype=torch.float64)


def face_at(points: Tensor) -> Face:
    return Face(torch.cat([points.amin(0), points.amax(0)]).float(), points.float(), 1.0)


def smooth_photo(height: int, width: int) -> Tensor:
    """A photo whose value is linear in the position, so that every sample is known."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x / width, y / height, (x + y) / (height + width)]).float()


def test_a_known_similarity_is_recovered() -> None:
    points = torch.randn(4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = torch.cat([similarity(0.3 * i, 0.5 + i, i, -2 * i) for i in range(4)])
    found = similarity_transform(points, transform_points(truth, points))
    assert torch.allclose(found, truth, atol=1e-12)


def test_the_fit_is_the_best_similarity_and_never_a_reflection() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(1, 5, 2, dtype=torch.float64, generator=generator)
    mirrored = points[0] * torch.tensor([-1.0, 1.0]) + 0.1
    found = similarity_transform(points, mirrored)
    assert torch.linalg.det(found[:, :, :2]) > 0

    def cost(matrix: Tensor) -> Tensor:
        return (transform_points(matrix, points) - mirrored).square().sum()

    for _ in range(50):
        change = 1e-3 * torch.randn(4, dtype=torch.float64, generator=generator)
        a, b, x, y = change
        other = found + torch.stack([torch.stack([a, -b, x]), torch.stack([b, a, y])])[None]
        assert cost(other) >= cost(found)


def test_it_works_far_from_the_origin_in_single_precision() -> None:
    template = template_points("arcface", 112)
    points = transform_points(similarity(0.2, 0.9, 9000, 7000), template[None]).float()
    moved = transform_points(alignment_matrix(points, "arcface", 112).double(), points.double())
    assert (moved - template).abs().max() < 2e-3


def test_gradients_reach_points_and_pixels() -> None:
    points = (template_points("ffhq", 40)[None] + torch.randn(1, 5, 2)).requires_grad_()
    image = torch.rand(1, 3, 48, 48, dtype=torch.float64).requires_grad_()
    crop = warp(image, alignment_matrix(points, "ffhq", 32), 32)
    crop.square().sum().backward()
    for tensor in (points, image):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [*TEMPLATES, *TEMPLATE_SETS])
@pytest.mark.parametrize("size", [64, 224, (120, 90), (90, 120)])
def test_template_points_lie_inside_and_scale(name: str, size: int | tuple[int, int]) -> None:
    points = template_points(name, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert points.shape == (5, 2)
    assert points.min() > 0
    assert points[:, 0].max() < width
    assert points[:, 1].max() < height
    if isinstance(size, int):
        assert torch.allclose(template_points(name, 2 * size), 2 * points)


def test_a_template_keeps_its_shape_in_any_frame() -> None:
    native = template_points("sphereface", (112, 96))
    assert native[0].tolist() == pytest.approx([30.2946, 51.6963])
    square = template_points("sphereface", 112)
    assert torch.allclose(square - native, torch.tensor([8.0, 0.0]).double())


def test_left_and_right_poses_mirror_each_other() -> None:
    for left, right in (("left", "right"), ("left_profile", "right_profile")):
        mirrored = template_points(f"simswap_{left}", 112)[[1, 0, 2, 4, 3]]
        mirrored[:, 0] = 112.414 - mirrored[:, 0]
        assert (mirrored - template_points(f"simswap_{right}", 112)).abs().max() < 0.25


def test_the_best_fitting_pose_is_chosen() -> None:
    points = torch.stack([template_points(n, 200) for n in TEMPLATE_SETS["simswap"]])
    assert choose_template(points, "simswap").tolist() == [0, 1, 2, 3, 4]
    matrices = alignment_matrix(points, "simswap", 100)
    assert torch.allclose(transform_points(matrices, points), points / 2)


def test_unknown_templates_and_settings_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'arcface'"):
        template_points("arcfaces", 112)
    with pytest.raises(UnknownNameError, match="Known: arcface"):
        Alignment(template="nothing-like-it", size=112)
    with pytest.raises(UsageError, match="border 'mirror'"):
        Alignment(template="ffhq", size=112, border="mirror")
    with pytest.raises(UsageError, match="size 0"):
        Alignment(template="ffhq", size=0)


def test_pixel_centres_lie_at_integers() -> None:
    photo = smooth_photo(40, 60)
    matrix = similarity(0.0, 1.0, -7, -5)
    assert torch.allclose(warp(photo[None], matrix, 20)[0], photo[:, 5:25, 7:27], atol=1e-5)


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.31, 0.12])
def test_a_reduced_crop_shows_the_same_places_as_a_full_one(scale: float) -> None:
    photo = smooth_photo(700, 900)
    matrix = similarity(0.4, scale, 0, 0)
    matrix[0, :, 2] = (
        torch.tensor([12.0, 16.0]) - matrix[0, :, :2] @ torch.tensor([450.0, 350.0]).double()
    )
    inverse = invert_affine(matrix)
    crop = warp(photo[None], matrix, (32, 24))[0]
    y, x = torch.meshgrid(torch.arange(32), torch.arange(24), indexing="ij")
    seen = transform_points(inverse, torch.stack([x, y], 2).reshape(1, -1, 2).double())[0]
    inside = ((seen > 20) & (seen < torch.tensor([880, 680]))).all(1)
    assert inside.sum() > 40
    expected = (seen[:, 0] / 900).float()
    assert (crop[0].flatten() - expected)[inside].abs().max() < 2e-3


def test_antialiasing_averages_what_plain_sampling_skips() -> None:
    photo = torch.zeros(1, 1, 400, 400)
    photo[..., ::2] = 1  # stripes of one pixel
    matrix = similarity(0.0, 0.125, 0, 0)
    smooth = warp(photo, matrix, 48)[..., 2:-2, 2:-2]
    assert (smooth - 0.5).abs().max() < 0.01
    assert (warp(photo, matrix, 48, antialias=False)[..., 2:-2, 2:-2] - 0.5).abs().max() > 0.4


def test_the_border_is_reflected_repeated_or_black() -> None:
    photo = smooth_photo(30, 30)[None]
    matrix = similarity(0.0, 1.0, 5, 0)
    left = {
        b: warp(photo, matrix, 30, border=b)[0, 0, 3, :6] for b in ("reflection", "border", "zeros")
    }
    assert torch.allclose(left["reflection"], torch.tensor([5.0, 4, 3, 2, 1, 0]) / 30, atol=1e-5)
    assert torch.allclose(left["border"], torch.zeros(6), atol=1e-5)
    bright = warp(torch.ones_like(photo), matrix, 30, border="zeros")[0, 0, 3]
    assert bright[:5].tolist() == pytest.approx([0] * 5, abs=1e-4)
    assert bright[5] == pytest.approx(1, abs=1e-4)


def test_a_face_is_brought_to_its_template() -> None:
    points = transform_points(similarity(-0.3, 2.0, 60, 90), template_points("ffhq", 96)[None])[0]
    aligned = align(smooth_photo(400, 400), face_at(points), Alignment(template="ffhq", size=96))
    assert aligned.crop.shape == (3, 96, 96)
    assert aligned.matrix.shape == (2, 3)
    assert aligned.matrix.dtype == torch.float32
    moved = transform_points(aligned.matrix[None].double(), points[None])[0]
    assert (moved - template_points("ffhq", 96)).abs().max() < 1e-3


def test_a_face_partly_outside_of_the_photo_gives_a_whole_crop() -> None:
    points = template_points("ffhq", 2000) - 900
    aligned = align(smooth_photo(300, 300), face_at(points), Alignment(template="ffhq", size=64))
    assert aligned.crop.shape == (3, 64, 64)
    assert torch.isfinite(aligned.crop).all()


def test_landmarks_that_coincide_are_refused() -> None:
    with pytest.raises(NoFaceError, match="coincide"):
        align(torch.zeros(3, 9, 9), face_at(torch.ones(5, 2)), Alignment(template="ffhq", size=8))


@pytest.mark.parametrize(
    "mesh", [torch.ones(478, 2), torch.full((478, 2), torch.nan), torch.rand(468, 2)]
)
def test_a_mesh_that_is_none_is_refused(mesh: Tensor) -> None:
    framing = Alignment(template="ffhq", size=64)
    face = face_at(template_points("ffhq", 64))._replace(mesh=torch.rand(478, 2))
    assert align(torch.zeros(3, 64, 64), face, framing).face is face
    with pytest.raises(NoFaceError, match=r"A mesh of shape \(4\d8, 2\) cannot be aligned"):
        align(torch.zeros(3, 64, 64), face._replace(mesh=mesh), framing)


def test_crops_change_their_template() -> None:
    photo = smooth_photo(500, 500)
    face = face_at(template_points("ffhq", 400) + 40)
    wide = align(photo, face, Alignment(template="ffhq", size=256))
    tight = align(photo, face, Alignment(template="arcface", size=112))
    changed = retemplate(wide.crop[None], Alignment(template="ffhq", size=256), "arcface", 112)
    assert (changed[0] - tight.crop).abs().max() < 0.01


def test_crops_of_the_same_or_of_no_template_pass_unchanged() -> None:
    crops = torch.rand(2, 3, 64, 64)
    alignment = Alignment(template="simswap", size=64)
    assert retemplate(crops, alignment, "simswap_frontal", (112, 112)) is crops
    assert retemplate(crops, alignment, "", (112, 112)) is crops
    assert retemplate(crops, alignment, "sphereface", (112, 96)).shape == (2, 3, 112, 96)
