"""The pose of a head and the expression of its face, from two-dimensional landmarks.

A mean face in three dimensions (:func:`facke_core.faces.mesh.face_mesh`) is fitted to the
landmarks under a scaled orthographic camera, in closed form (POS of DeMenthon and Davis 1995).
Whatever the camera and the shape of the head add to the angles is the same in a target and in its
result, and so nearly cancels in their difference.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from facke_core.faces.mesh import POINTS, REGIONS, face_mesh
from facke_core.types import Face

__all__ = ["expression", "head_pose"]

_FIVE = [POINTS.index(point) for point in (468, 473, 1, 61, 291)]
"""Irises, nose tip, mouth corners: what every detector finds."""
# what does not move with the expression: eye corners, nose, temples, forehead, upper cheeks
_STILL = [33, 263, 133, 362, 6, 197, 195, 4, 1, 2, 48, 278, 64, 294, 98, 327, 49, 279, 129, 358]
_STILL += [10, 109, 338, 103, 332, 21, 251, 127, 356, 234, 454, 117, 346]
_MOVING = [i for name in ("eyes", "brows", "lips") for i in range(len(POINTS))[REGIONS[name]]]
_STEEP = 0.3
"""Below this determinant (a turn of about 70 degrees) depth cannot be told from width."""


class Pose(NamedTuple):
    """The rotation, scale and shift that fit the mean face to a face, in float64."""

    rotation: Tensor
    """Rotation (3, 3) from the head's axes (right, down, away from the camera) to the picture's."""
    scale: float
    """Pixels per distance of the irises."""
    shift: Tensor
    """Place (2,) of the middle between the irises, in pixels."""


@cache
def mean_face() -> Tensor:
    """The points (P, 3) of the mean face, float64, in distances of the irises.

    Their order is that of :data:`facke_core.faces.mesh.POINTS`.
    """
    return face_mesh().points[list(POINTS)]


def head_pose(face: Face) -> Pose:
    """The pose of a face, from its mesh where there is one, else from its five points."""
    if face.mesh is not None:
        return mesh_pose(face.mesh.cpu())
    return _fitted(mean_face()[_FIVE], face.landmarks.double().cpu())


def angle_between(a: Pose, b: Pose) -> float:
    """The angle of the rotation from one pose to the other, in degrees from 0 to 180."""
    turn = a.rotation.T @ b.rotation
    sine = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    # the arc cosine of the trace alone has no digits left near 0
    return float(torch.rad2deg(torch.atan2(sine.norm(), turn.trace() - 1)))


def expression(face: Face) -> Tensor | None:
    """The points (Q, 2) of eyes, brows and lips in the head's own axes, in distances of the irises.

    They are float64, with the depth of the mean face. None where there is no mesh, or the head is
    turned so far that width cannot be told from depth.
    """
    points = None if face.mesh is None else frontal(face.mesh.cpu())
    return None if points is None else points[[POINTS[i] for i in _MOVING]]


def frontal(mesh: Tensor, pose: Pose | None = None) -> Tensor | None:
    """The points (478, 2) of a mesh in the head's own axes, in distances of the irises.

    They are float64, with the depth of the mean face. None where the head is turned so far that
    width cannot be told from depth. The pose is that of the mesh, where it is known already.
    """
    pose = pose or mesh_pose(mesh)
    turned = pose.rotation[:2, :2]
    if abs(float(torch.linalg.det(turned))) < _STEEP:
        return None
    depth = face_mesh().points[:, 2:] * pose.rotation[:2, 2]
    return torch.linalg.solve(turned, ((mesh.double() - pose.shift) / pose.scale - depth).T).T


def mesh_pose(mesh: Tensor) -> Pose:
    """The pose of a face by its mesh (478, 2) in any pixels."""
    return _fitted(face_mesh().points[_STILL], mesh.double()[_STILL])


def _fitted(model: Tensor, points: Tensor) -> Pose:
    """Fit ``points = scale * rotation[:2] @ model + shift`` by least squares, then make the linear
    part a rotation."""
    middle, centre = model.mean(0), points.mean(0)
    linear = torch.linalg.lstsq(model - middle, points - centre).solution.T
    u, s, vt = torch.linalg.svd(linear, full_matrices=False)
    rows = u @ vt
    rotation = torch.cat([rows, torch.linalg.cross(rows[0], rows[1])[None]])
    scale = float(s.mean())
    return Pose(rotation, scale, centre - scale * rows @ middle)
