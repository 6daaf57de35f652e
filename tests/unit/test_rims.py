"""``facke_core.faces.rims``: outlines of glasses, drawn and real."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core.building import make_detector
from facke_core.data.occluders import draw
from facke_core.faces.align import align, meshes
from facke_core.faces.mesh import face_mesh
from facke_core.faces.occlusion import CLEAR_CONTRAST, FRAMING, LEAST_CONTRAST, occlusion
from facke_core.faces.rims import Axes, drawn, enlarged, fitted, outlines
from facke_core.images.io import read_image
from facke_core.types import AlignedFace

DARK_RIMS = 4
"""Seed of a pair of dark rims."""


@pytest.fixture(scope="module")
def faces() -> dict[str, tuple[Tensor, AlignedFace]]:
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    detector = make_detector("mediapipe")
    seen = {}
    for name in ("collins", "hopper"):
        photo = read_image(sample_or_path(f"sample:{name}")).image
        seen[name] = (photo, align(photo, detector(photo)[0], FRAMING))
    return seen


def plain(rng: random.Random) -> Image.Image:
    return Image.new("RGB", (8, 8), "white")


def mesh_of(face: AlignedFace) -> Tensor:
    points = meshes([face])
    assert points is not None
    return points[0]


def test_drawn_rims_are_found_whole_where_they_are(
    faces: dict[str, tuple[Tensor, AlignedFace]],
) -> None:
    _, face = faces["collins"]
    mesh = mesh_of(face)
    thing = draw(mesh, 128, random.Random(DARK_RIMS), plain, kind="glasses")
    axes, grey = Axes.of(mesh), enlarged(thing.over(face.crop))
    rims = fitted(grey, axes)
    assert rims.contrast > CLEAR_CONTRAST
    assert not rims.light
    found, there = drawn(grey, axes, rims) > 0.3, thing.extent > 0.5
    assert float((found & there).sum() / there.sum()) > 0.85
    assert float((found & there).sum() / found.sum()) > 0.4  # with some skin around


def test_the_lenses_of_a_face_that_looks_ahead_are_alike() -> None:
    """At every place, the ends below the wings too."""
    points = face_mesh().points[:, :2]
    even = (points + points[face_mesh().mirror] * torch.tensor([-1, 1])) / 2
    axes = Axes.of((even * 32 + 64).float())
    shape = torch.tensor([[0.44, 0.33, 4.5, 0.0, 0.0, 0.25, 0.0]])
    left, right = outlines(shape, axes, 40)[0]
    across = (20 - torch.arange(40)) % 40  # from the other side
    middle = (axes.points[468, 0] + axes.points[473, 0]) / 2
    mirrored = torch.stack([2 * middle - right[across, 0], right[across, 1]], 1)
    torch.testing.assert_close(left, mirrored, atol=0.01, rtol=0)


def test_a_bare_face_has_no_outline_of_glasses(
    faces: dict[str, tuple[Tensor, AlignedFace]],
) -> None:
    _, face = faces["collins"]
    assert fitted(enlarged(face.crop), Axes.of(mesh_of(face))).contrast < LEAST_CONTRAST


def test_the_search_is_repeatable(faces: dict[str, tuple[Tensor, AlignedFace]]) -> None:
    _, face = faces["hopper"]
    grey, axes = enlarged(face.crop), Axes.of(mesh_of(face))
    assert torch.equal(fitted(grey, axes).shape, fitted(grey, axes).shape)


def test_translucent_rims_are_left_alone_as_a_whole(
    faces: dict[str, tuple[Tensor, AlignedFace]],
) -> None:
    """Those of Hopper, of which the network sees a part."""
    photo, face = faces["hopper"]
    covered = occlusion(photo, [face], 128)[0] > 0.5
    mesh = mesh_of(face)
    unit = float((mesh[473] - mesh[468]).norm())
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    for iris in (468, 473):
        right, down = (x - mesh[iris, 0]) / unit, (y - mesh[iris, 1]) / unit
        away, angle = right.hypot(down), torch.atan2(down, right)
        ring = covered[0] & (away > 0.2) & (away < 0.75)
        sectors = ((angle[ring] + torch.pi) / (2 * torch.pi) * 12).long().clamp(0, 11).unique()
        assert len(sectors) >= 11  # all around the eye
        assert covered[0][away < 0.12].float().mean() < 0.1  # the eye is seen through
