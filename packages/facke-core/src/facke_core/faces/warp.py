"""A source's own pixels, bent by the face mesh into the pose and expression of a target.

The mesh of a face is a net of triangles that is the same in all faces. For every pixel of the
target's crop, :func:`rasterize` finds the triangle that is seen there and the place in it; the same
place in the source's mesh is what :func:`bend` reads. What the source does not show, because its
head looks elsewhere, is taken from the other half of its face, and told by a confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.faces.mesh import EYE_RINGS, MOUTH_RING, OVAL_RING, POINTS, REGIONS, face_mesh
from facke_core.faces.pose import Pose, frontal, mesh_pose
from facke_core.faces.smooth import blurred, smoothstep

__all__ = ["bend"]

LEAST_AREA, FULL_AREA = 0.12, 0.42
"""Size of a triangle in the source, relative to that in the target, up to which it is not trusted
at all, and from which it is trusted fully."""
SOURCE_LOOKS, TARGET_LOOKS = (0.6, 0.68), (0.4, 0.5)
"""Cosines of the angle between a head and the camera up to which nothing is trusted, and from which
all is: half of a source's face has to be seen, and meshes of profiles are guesses."""
TWIN = 0.7
"""Trust in what the other half of the face shows, which has another light."""
EXPRESSION = 0.6
"""Share of that pull that eyes and lips get, as their shape is expression as well."""
COVERED = 0.06
"""Depth in distances of the irises by which something must lie before a triangle to cover it."""


class Raster(NamedTuple):
    """The triangles of meshes that are seen at each pixel."""

    triangle: Tensor
    """Number (B, H, W) int64 of the triangle; -1 beside the face."""
    weights: Tensor
    """Weights (B, H, W, 3) of its corners, which sum to 1; 0 beside the face. They carry gradients
    to the mesh."""

    def carry(self, values: Tensor) -> Tensor:
        """Values (B, 478, C) of the points of meshes, interpolated at each pixel: (B, C, H, W)."""
        corners = face_mesh().triangles[self.triangle.clamp(min=0)]  # (B, H, W, 3)
        b, h, w, _ = corners.shape
        taken = values.gather(1, corners.view(b, -1, 1).expand(-1, -1, values.shape[2]))
        return torch.einsum("bhwkc,bhwk->bchw", taken.view(b, h, w, 3, -1), self.weights)

    def read(self, image: Tensor, mesh: Tensor) -> Tensor:
        """What pictures (B, C, H, W) with these meshes (B, 478, 2), in their pixels, show at the
        place of each pixel: (B, C, H, W) in [0, 1]."""
        return read(image, self.carry(mesh)).clamp(0, 1)


def areas(mesh: Tensor) -> Tensor:
    """The signed areas (B, T) of the triangles of meshes (B, 478, 2), in square pixels: above 0
    where a triangle is seen from outside."""
    a, b, c = mesh[:, face_mesh().triangles].unbind(2)
    (x1, y1), (x2, y2) = (b - a).unbind(-1), (c - a).unbind(-1)
    return (x1 * y2 - y1 * x2) / 2


def poses_of(mesh: Tensor) -> list[Pose]:
    """The poses of faces, by their meshes (B, 478, 2)."""
    return [mesh_pose(face) for face in mesh]


def depths(poses: Sequence[Pose]) -> Tensor:
    """The distance (B, 478) of the points of faces from the camera, in distances of the irises and
    relative to the middle between them: those of the mean face, turned like the heads."""
    turned = [pose.rotation[2].detach() @ face_mesh().points.T for pose in poses]
    return torch.stack(turned).float()


def rasterize(mesh: Tensor, size: int, depth: Tensor | None = None) -> Raster:
    """Find the triangles that are seen at the pixels of crops.

    Triangles that are turned away are not seen; of several at a pixel the nearest is.

    Args:
        mesh: points (B, 478, 2) in pixels of the crops.
        size: side S of the crops.
        depth: distance (B, 478) of the points from the camera; default: :func:`depths` of their
            poses.
    """
    batch, corners = len(mesh), face_mesh().triangles
    depth = depths(poses_of(mesh)) if depth is None else depth
    fixed = mesh.detach()
    count = len(corners)
    shown = fixed[:, corners].view(batch * count, 3, 2)
    area = areas(fixed).view(-1)
    order = depth[:, corners].mean(2).view(-1).argsort()  # of all crops together
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(batch * count))
    low = shown.amin(1).ceil().long().clamp(min=0)
    high = shown.amax(1).floor().long().clamp(max=size - 1)
    sides = (high - low + 1).clamp(min=0) * (area > 1e-4)[:, None]
    boxes = sides.prod(1)
    # one entry for each pixel in the box of each triangle
    which = torch.repeat_interleave(boxes)
    place = torch.arange(len(which)) - (boxes.cumsum(0) - boxes)[which]
    x = low[which, 0] + place % sides[which, 0].clamp(min=1)
    y = low[which, 1] + place // sides[which, 0].clamp(min=1)
    inside = _weights(shown[which], torch.stack([x, y], 1)).amin(1) >= -1e-4
    which, x, y = which[inside], x[inside], y[inside]
    pixel = (which // count * size + y) * size + x
    best = torch.full((batch * size * size,), batch * count)
    best = best.scatter_reduce(0, pixel, rank[which], "amin").view(batch, size, size)
    seen = best < batch * count
    triangle = torch.where(seen, order[best.clamp(max=batch * count - 1)] % count, -1)
    at = seen.nonzero()
    weights = mesh.new_zeros(batch, size, size, 3)
    points = mesh[at[:, :1], corners[triangle[seen]]]
    weights[seen] = _weights(points, at[:, [2, 1]])
    return Raster(triangle, weights)


def _weights(triangles: Tensor, places: Tensor) -> Tensor:
    """The weights (N, 3) of the corners (N, 3, 2) at places (N, 2)."""
    a, b, c = triangles.unbind(1)
    (x1, y1), (x2, y2), (x, y) = ((p - a).unbind(-1) for p in (b, c, places.to(a.dtype)))
    area = x1 * y2 - y1 * x2
    second, third = (x * y2 - y * x2) / area, (x1 * y - y1 * x) / area
    return torch.stack([1 - second - third, second, third], -1)


class Bent(NamedTuple):
    """Sources, bent onto targets."""

    image: Tensor
    """Pictures (B, 3, S, S) in [0, 1]; where a face is, they show the source's."""
    confidence: Tensor
    """Trust (B, 1, S, S) in each pixel, in [0, 1]; 0 beside the face."""
    mesh: Tensor
    """Meshes (B, 478, 2) of the faces, in pixels."""
    raster: Raster
    """What is seen at each pixel."""


def bend(
    source: Tensor,
    source_mesh: Tensor,
    target_mesh: Tensor,
    size: int,
    *,
    pull: float = 0.0,
    occlusion: Tensor | None = None,
) -> Bent:
    """Bend the faces of sources into the pose and expression of targets.

    Args:
        source: crops (B, 3, H, W) in [0, 1], of any size.
        source_mesh: their meshes (B, 478, 2), in their pixels.
        target_mesh: the meshes (B, 478, 2) of the targets, in pixels of the result.
        size: side S of the result.
        pull: share of the shape of the source's face that the result has (:func:`pulled`).
        occlusion: the share (B, 1, h, w) in [0, 1] of each pixel of the sources that something
            before the face covers, which is not trusted; None: nothing does.
    """
    ours, theirs = poses_of(source_mesh), poses_of(target_mesh)
    goal = pulled(source_mesh, target_mesh, pull, (ours, theirs))
    depth = depths(theirs)
    raster, mirror = rasterize(goal, size, depth), face_mesh().mirror
    twins, hidden = source_mesh[:, mirror], _covered(source_mesh, depths(ours))
    scale = (size / source.shape[-1]) ** 2
    # a mirrored triangle is seen from outside where its area is below 0
    facing = _facing(ours, *SOURCE_LOOKS) * _facing(theirs, *TARGET_LOOKS)
    trust = _trust(scale * areas(source_mesh), goal) * ~hidden * facing
    mirrored = _trust(-scale * areas(twins), goal) * ~hidden[:, mirror] * facing
    trusts = [(trust, source_mesh), (mirrored, twins)]
    own, other = _shares(trusts, goal, depth, size, source, occlusion)
    image = read(source, raster.carry(source_mesh))
    if float(((1 - own) * other).detach().amax()) > 0.05:
        twin = read(source, raster.carry(twins))
        image = torch.lerp(twin, image, own / (own + (1 - own) * other).clamp(min=1e-3))
    return Bent(image.clamp(0, 1), own + (1 - own) * TWIN * other, goal, raster)


def _shares(
    trusts: Sequence[tuple[Tensor, Tensor]],
    goal: Tensor,
    depth: Tensor,
    size: int,
    source: Tensor,
    occlusion: Tensor | None,
) -> Iterator[Tensor]:
    """Trust in points (B, 478), each with the meshes in the source that it is about, as trust in
    pixels (B, 1, S, S): none beside the face, narrowed by about 1 % of the crop, and faded over as
    much."""
    small = min(size, 128)
    raster = rasterize((goal + 0.5) * small / size - 0.5, small, depth)
    for trust, mesh in trusts:
        share = raster.carry(trust[..., None])
        if occlusion is not None:
            places = raster.carry(mesh * (occlusion.shape[-1] / source.shape[-1]))
            covered = read(occlusion, places, mode="bilinear").clamp(0, 1)
            # whatever is near to a thing has its shadow
            share = share * (1 - F.max_pool2d(covered, 7, 1, 3))
        narrow = blurred(-F.max_pool2d(-share, 3, 1, 1), 0.012 * small)
        yield F.interpolate(narrow, (size, size), mode="bilinear") if small < size else narrow


def _trust(shown: Tensor, goal: Tensor) -> Tensor:
    """How far what triangles of the areas ``shown`` (B, T) show at each point (B, 478) is to be
    trusted: by the size of those around it, relative to that in the target."""
    corners = face_mesh().triangles.view(-1)

    def around(sizes: Tensor) -> Tensor:
        each = sizes.clamp(min=0).repeat_interleave(3, 1)
        return goal.new_zeros(goal.shape[:2]).index_add_(1, corners, each)

    ratio = around(shown) / around(areas(goal)).clamp(min=1e-3)
    return ((ratio - LEAST_AREA) / (FULL_AREA - LEAST_AREA)).clamp(0, 1)


def _facing(poses: Sequence[Pose], away: float, here: float) -> Tensor:
    """How far (B, 1) heads look at the camera: 0 up to one cosine, 1 from another on."""
    cosine = torch.stack([pose.rotation[2, 2].detach() for pose in poses]).float()
    return smoothstep((cosine - away) / (here - away))[:, None]


def _covered(mesh: Tensor, depth: Tensor) -> Tensor:
    """Which points (B, 478) lie behind another part of the face, by their distance (B, 478)."""
    side = 128
    low = mesh.amin(1, keepdim=True)
    scale = (side - 1) / (mesh.amax(1, keepdim=True) - low).amax(2, keepdim=True).clamp(min=1e-3)
    small = (mesh - low) * scale
    seen = rasterize(small, side, depth)
    places = small.round().long().clamp(0, side - 1)
    row = torch.arange(len(mesh))[:, None]
    at = (row, places[..., 1], places[..., 0])
    before = seen.carry(depth[..., None])[:, 0][at]
    return (seen.triangle[at] >= 0) & (before < depth - COVERED)


def read(image: Tensor, places: Tensor, mode: str = "bicubic") -> Tensor:
    """The colours (B, C, h, w) of pictures (B, C, H, W) at places (B, 2, h, w) in their pixels."""
    side = image.shape[-1]
    grid = (places.permute(0, 2, 3, 1) + 0.5) * 2 / image.new_tensor([side, image.shape[-2]]) - 1
    return F.grid_sample(image, grid, mode, padding_mode="border", align_corners=False)


# -- the shape that a result has -------------------------------------------------------------------


def pulled(
    source_mesh: Tensor,
    target_mesh: Tensor,
    pull: float,
    poses: tuple[Sequence[Pose], Sequence[Pose]] | None = None,
) -> Tensor:
    """The target's meshes (B, 478, 2) with a share of the shape of the sources' faces, in the
    target's pose.

    Inner features move in the head's own axes; eyes and lips move :data:`EXPRESSION` of the way,
    the outline stays.

    Args:
        source_mesh: (B, 478, 2), in any pixels.
        target_mesh: (B, 478, 2), in pixels of the target.
        pull: share of the source's shape, 0 to 1.
        poses: those of sources and targets, where they are known already.
    """
    goals = []
    ours, theirs = poses or (poses_of(source_mesh), poses_of(target_mesh))
    for source, target, giver, pose in zip(source_mesh, target_mesh, ours, theirs, strict=True):
        own, wanted = frontal(source, giver), frontal(target, pose)
        if pull == 0 or own is None or wanted is None:
            goals.append(target)
            continue
        move = pull * _pull_weights()[:, None] * (own - wanted)
        goals.append(target + (pose.scale * move @ pose.rotation[:2, :2].T).to(target.dtype))
    return torch.stack(goals)


@cache
@torch.inference_mode(False)  # what a swap computes must serve a later training too
def _pull_weights() -> Tensor:
    """How much of the pull each of the 478 points gets: none at the outline, more inside."""
    known = face_mesh()
    flat = known.points[:, :2]
    weights = smoothstep(torch.cdist(flat, flat[list(OVAL_RING)]).amin(1) / 0.35)
    soft = [point for ring in (*EYE_RINGS, MOUTH_RING) for point in ring]
    soft += [POINTS[i] for name in ("eyes", "lips") for i in range(len(POINTS))[REGIONS[name]]]
    distance = torch.cdist(flat, flat[soft]).amin(1)
    share = (distance / 0.25).clamp(0, 1)
    return weights * (EXPRESSION + (1 - EXPRESSION) * share)
