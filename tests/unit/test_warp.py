"""``facke_core.faces.warp``: the index map, against float64 and against a face that is turned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facke_core.faces.mesh import OVAL_RING, face_mesh
from facke_core.faces.warp import (
    TWIN,
    areas,
    bend,
    depths,
    poses_of,
    pulled,
    rasterize,
)

SIZE = 96
UNIT = SIZE / 4
"""Distance of the irises in pixels."""


def head(yaw: float = 0.0, pitch: float = 0.0, *, scale: float = 1.0, dx: float = 0.0) -> Tensor:
    """The mean face (1, 478, 2), turned by angles in degrees, in pixels."""
    a, b = torch.deg2rad(torch.tensor([yaw, pitch], dtype=torch.float64))
    side = torch.tensor([[a.cos(), 0, a.sin()], [0, 1, 0], [-a.sin(), 0, a.cos()]])
    nod = torch.tensor([[1, 0, 0], [0, b.cos(), -b.sin()], [0, b.sin(), b.cos()]])
    turned = face_mesh().points @ (nod @ side).double().T
    middle = torch.tensor([SIZE / 2 + dx, SIZE * 0.45], dtype=torch.float64)
    return (turned[:, :2] * UNIT * scale + middle).float()[None]


def painted(yaw: float = 0.0) -> Tensor:
    """A turned head (1, 3, S, S), each pixel in a colour that belongs to its place on the face."""
    points = face_mesh().points
    colour = torch.stack(
        [0.5 + 0.3 * torch.sin(2 * points[:, 0] + 1), 0.5 + 0.3 * torch.cos(2 * points[:, 1])]
    )
    both = torch.cat([colour, 0.5 + 0.2 * torch.sin(points[None, :, 0] * points[None, :, 1])])
    return rasterize(head(yaw), SIZE).carry(both.float().T[None])


def test_every_pixel_of_a_face_knows_its_place() -> None:
    mesh = torch.cat([head(), head(30, -10, scale=0.8)])
    raster = rasterize(mesh, SIZE)
    inside = raster.triangle >= 0
    assert inside.flatten(1).sum(1).min() > 0.15 * SIZE**2
    torch.testing.assert_close(raster.weights.sum(3)[inside], torch.ones(int(inside.sum())))
    assert raster.weights[~inside].abs().max() == 0
    places = raster.carry(mesh)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for row in range(2):
        for axis, want in enumerate((x, y)):
            assert (places[row, axis] - want)[inside[row]].abs().max() < 1e-3


def test_the_triangles_are_a_surface_that_is_seen_from_one_side() -> None:
    """What two of them share runs one way in the one and back in the other; a triangle that is
    turned over leaves a hole in every face."""
    runs = [(int(t[i]), int(t[(i + 1) % 3])) for t in face_mesh().triangles for i in range(3)]
    assert len(set(runs)) == len(runs)
    around = {(a, b) for a, b in runs if (b, a) not in set(runs)}
    assert {a for a, _ in around} == set(OVAL_RING), "it ends at the outline only"


@pytest.mark.parametrize("yaw", [0, 25, 45, -45])
def test_the_nearest_triangle_that_faces_the_camera_is_seen(yaw: float) -> None:
    """As one at a time in float64 says."""
    mesh, corners = head(yaw), face_mesh().triangles
    raster, depth = rasterize(mesh, SIZE), depths(poses_of(mesh))[0].double()
    assert areas(mesh)[0, raster.triangle[raster.triangle >= 0]].min() > 0, "none is folded"
    points, checked = mesh[0].double(), 0
    front = areas(mesh)[0] > 1e-4
    rng = torch.Generator().manual_seed(0)
    for x, y in torch.randint(SIZE, (150, 2), generator=rng).tolist():
        a, b, c = points[corners].unbind(1)
        place = torch.tensor([x, y], dtype=torch.float64)
        cross = [(q - p)[:, 0] * (place - p)[:, 1] - (q - p)[:, 1] * (place - p)[:, 0]
                 for p, q in ((a, b), (b, c), (c, a))]  # fmt: skip
        size = torch.stack(cross).amin(0)
        if bool((size.abs()[front] < 1e-3).any()):
            continue  # on an edge
        over = (size > 0) & front
        found = int(raster.triangle[0, y, x])
        if not bool(over.any()):
            assert found == -1
            continue
        nearest = depth[corners].mean(1).masked_fill(~over, torch.inf).argmin()
        assert found == int(nearest)
        checked += 1
    assert checked > 20


def test_an_affine_picture_is_bent_exactly() -> None:
    """Colours that are linear in the place stay linear: the result is known in float64."""
    goal = head(15)
    source = head(15, scale=0.9, dx=3)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    picture = torch.stack([x / 100, y / 100, (x + y) / 200])[None].float()
    bent = bend(picture, source, goal, SIZE)
    sure = bent.confidence[0, 0] > 1 - 1e-5
    assert sure.sum() > 0.1 * SIZE**2
    # the map from goal to source is one similarity
    middle = torch.tensor([SIZE / 2, SIZE * 0.45], dtype=torch.float64)
    u = (x.double() - middle[0]) * 0.9 + middle[0] + 3
    v = (y.double() - middle[1]) * 0.9 + middle[1]
    want = torch.stack([u / 100, v / 100, (u + v) / 200])
    assert (bent.image[0].double() - want)[:, sure].abs().max() < 1e-3  # a tenth of a pixel


@pytest.mark.parametrize(("have", "want"), [(0, 25), (25, 0), (-20, 20)])
def test_a_head_is_turned_as_if_it_were_rendered_so(have: float, want: float) -> None:
    bent = bend(painted(have), head(have), head(want), SIZE)
    sure = bent.confidence[0, 0] > 0.95
    assert sure.sum() > 0.1 * SIZE**2
    error = (bent.image - painted(want))[0].abs().amax(0)[sure]
    assert error.mean() < 0.01
    assert error.quantile(0.99) < 0.06


def test_what_the_source_hides_comes_from_its_other_half_and_is_trusted_less() -> None:
    bent = bend(painted(45), head(45), head(-45), SIZE)
    shown = bent.raster.triangle[0] >= 0
    trust = bent.confidence[0, 0]
    assert ((trust > 0.5) & (trust <= TWIN + 1e-3)).sum() > 0.2 * shown.sum()
    assert trust[~shown].max() < 0.7
    away = bend(painted(), head(), head(), SIZE)
    assert away.confidence[0, 0][shown].max() == pytest.approx(1, abs=1e-5)


def test_what_covers_the_source_does_not_travel() -> None:
    covered = torch.zeros(1, 1, SIZE, SIZE)
    covered[..., : SIZE // 2] = 1  # the left half
    both = torch.cat([covered, covered.flip(3)])
    mesh = head().expand(2, -1, -1)
    bent = bend(painted().expand(2, -1, -1, -1), mesh, mesh, SIZE, occlusion=both)
    left, right = bent.confidence[..., : SIZE // 2 - 4], bent.confidence[..., SIZE // 2 + 4 :]
    assert left[1].max() == pytest.approx(1, abs=1e-5)
    assert left[0].max() <= TWIN + 1e-5, "only the mirrored half is left"
    assert right[0].max() == pytest.approx(1, abs=1e-5)
    whole = bend(painted(), head(), head(), SIZE, occlusion=torch.ones(1, 1, SIZE, SIZE))
    assert whole.confidence.max() == 0


@pytest.mark.parametrize(("source", "target"), [(75, 0), (0, -75)])
def test_nothing_is_trusted_of_heads_in_profile(source: float, target: float) -> None:
    bent = bend(painted(), head(source), head(target), SIZE)
    assert bent.confidence.max() == 0
    assert bend(painted(), head(40), head(0), SIZE).confidence.max() > 0.9


def test_rows_do_not_depend_on_each_other() -> None:
    meshes = torch.cat([head(0), head(30), head(-20, 10)])
    pictures = torch.cat([painted(a) for a in (0, 30, -20)])
    together = bend(pictures, meshes, meshes.flip(0), SIZE)
    for row in range(3):
        one = slice(row, row + 1)
        alone = bend(pictures[one], meshes[one], meshes.flip(0)[one], SIZE)
        torch.testing.assert_close(together.image[row], alone.image[0])
        torch.testing.assert_close(together.confidence[row], alone.confidence[0])


def test_gradients_reach_the_picture_and_the_meshes() -> None:
    picture = painted().requires_grad_()
    source, goal = head().requires_grad_(), head(10).requires_grad_()
    bend(picture, source, goal, SIZE).image[0, :, SIZE // 2, SIZE // 2].sum().backward()
    for tensor in (picture, source, goal):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_the_shape_is_pulled_inside_of_the_outline_only() -> None:
    rng = torch.Generator().manual_seed(1)
    target, source = head(20), head(-10)
    source = source + torch.randn(source.shape, generator=rng)
    assert torch.equal(pulled(source, target, 0.0), target)
    goal = pulled(source, target, 1.0)
    moved = (goal - target).norm(dim=2)[0]
    assert moved[list(OVAL_RING)].max() < 1e-4
    assert moved.max() > 0.5
    half = (pulled(source, target, 0.5) - target).norm(dim=2)[0]
    torch.testing.assert_close(2 * half, moved, rtol=1e-3, atol=1e-4)
    # a face of its own shape is not changed, whatever the poses are
    assert (pulled(head(-15, 5), head(20), 1.0) - head(20)).abs().max() < 0.02 * UNIT
    profile = head(85)
    assert torch.equal(pulled(profile, target, 1.0), target), "width cannot be told from depth"
