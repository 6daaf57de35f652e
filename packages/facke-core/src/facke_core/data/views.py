"""Second views of a face, made from the only picture that there is of a person.

Whoever learns to put a source onto a target needs two pictures of one person that differ in pose
and light; most people of a crop set have one. Its head is turned: the mesh gets the depth of the
mean face, is rotated and shows the picture's own pixels (as in Rotate-and-Render, Zhou et al.,
arXiv:2003.08124, without the network that fills what is hidden). Then the light is changed.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from facke_core.faces.mesh import face_mesh
from facke_core.faces.pose import mesh_pose
from facke_core.faces.warp import rasterize

__all__: list[str] = []

YAW, PITCH = 35.0, 12.0
"""Largest angles in degrees by which a head is turned."""
LIGHT = 0.45
"""Largest change of the logarithm of light from the middle of a picture to its border."""
TINT = 0.12
"""Largest change of a channel's logarithm."""
SHADOW = 0.9
"""Largest depth of a hard shadow's logarithm."""


def turned(image: Tensor, mesh: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Turn the heads of crops (B, 3, S, S) with meshes (B, 478, 2): the crops, and their meshes.

    What surrounds a face stays where it is. Angles are drawn anew for each crop.
    """
    goals, depths = [], []
    for points in mesh:
        yaw, pitch = (math.radians(rng.uniform(-1, 1) * limit) for limit in (YAW, PITCH))
        pose = mesh_pose(points)
        depth = face_mesh().points @ pose.rotation[2]
        flat = (points.double() - pose.shift) / pose.scale
        solid = torch.cat([flat, depth[:, None]], 1) @ _rotation(yaw, pitch).T
        goals.append(solid[:, :2] * pose.scale + pose.shift)
        depths.append(solid[:, 2])
    goal, depth = torch.stack(goals).to(mesh.dtype), torch.stack(depths).to(mesh.dtype)
    raster = rasterize(goal, image.shape[-1], depth)
    seen = (raster.triangle >= 0)[:, None]
    return torch.where(seen, raster.read(image, mesh), image), goal


def _rotation(yaw: float, pitch: float) -> Tensor:
    """The rotation (3, 3) by a yaw, then a pitch, in radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    d, t = math.cos(pitch), math.sin(pitch)
    across = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    upwards = torch.tensor([[1, 0, 0], [0, d, -t], [0, t, d]], dtype=torch.float64)
    return upwards @ across


def in_other_light(image: Tensor, rng: random.Random) -> Tensor:
    """Crops (B, 3, S, S) in [0, 1] in another light each: brighter or darker from place to place,
    in other colours, one in five with a hard shadow on one side."""
    size = image.shape[-1]
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    lit = []
    for picture in image:
        shape = torch.stack([x, y, x * y, x * x - 0.3, y * y - 0.3])
        slopes = torch.tensor([rng.uniform(-LIGHT, LIGHT) for _ in range(len(shape))]) / 2
        change = (slopes[:, None, None] * shape).sum(0)[None] + rng.uniform(-LIGHT, LIGHT / 2)
        change = change + torch.tensor([rng.uniform(-TINT, TINT) for _ in range(3)])[:, None, None]
        if rng.random() < 0.2:
            angle, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.25)
            side = x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.3, 0.3)
            change = change - rng.uniform(0.2, SHADOW) * torch.sigmoid(side / width)
        gamma = math.exp(rng.uniform(-0.25, 0.25))
        lit.append((picture.clamp(min=1e-4) ** gamma * change.exp()).clamp(0, 1))
    return torch.stack(lit)
