"""Points that stand still where a face does, and move with it at once where it moves.

A frame is looked at together with the frames before and after it, so the filter has no lag. The
points of frame t are averaged with the middles of those of t - k and t + k. On a straight way at
even speed the middle is where the face is at t; where it is not, as in a blink, at a turn of the
way or a start, the pair counts less, and none that is farther away counts more. That is the idea of
the one-euro filter (Casiez et al., CHI 2012), a cutoff that follows the speed, for recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from facke_core.faces.boxes import bounds
from facke_core.faces.detect import FIVE_POINTS
from facke_core.faces.mesh import EYE_RINGS, MOUTH_RING, SIZE, face_mesh
from facke_core.faces.smooth import blurred, smoothstep
from facke_core.images.io import resize
from facke_core.types import Face

__all__: list[str] = []

REACH = 8
"""Frames before and after that are looked at."""
SIGMA = 4.0
"""Standard deviation of the weights of pairs over time, in frames."""
NOISE = 0.005
"""Distance from which a pair counts less, in widths of the face. Points of MediaPipe's mesh on a
face that stands still, under sensor noise, have a standard deviation of 0.002."""
MOVING = 0.06
"""Difference of neighbouring frames, of 1, from which something moves before a face; from twice as
much on nothing but the frame itself counts."""
_LOOK = 64
"""Side in pixels at which that is looked at."""
_EYE, _MOUTH = 0.28, 0.2
"""How near points lie to an iris, or to the opening of the mouth, in distances of the irises, that
move together."""


@cache
def _groups() -> Tensor:
    """Which points (G, 478) of a mesh move together, as means: both eyes, the mouth, the rest."""
    points = face_mesh().points[:, :2]
    groups = []
    for ring, near in ((EYE_RINGS[0], _EYE), (EYE_RINGS[1], _EYE), (MOUTH_RING, _MOUTH)):
        centres = points[list(ring)]
        distance = torch.cdist(points, centres.mean(0, keepdim=True) if near == _EYE else centres)
        groups.append(distance.amin(1) < near)
    groups.append(~torch.stack(groups).any(0))
    return torch.stack(groups).float()


def steady(faces: Mapping[int, Face], *, sigma: float = SIGMA) -> Face:
    """The face of a frame without what trembles.

    Args:
        faces: the face in the frame, 0, and in the frames around it, by how many they come later;
            those up to :data:`REACH` count.
        sigma: standard deviation of the weights over time, in frames.
    """
    face = faces[0]
    bare = {step: other.mesh is None for step, other in faces.items()}
    around = [step for step in range(1, REACH + 1) if bare.get(step) == bare.get(-step) == bare[0]]
    if not around:
        return face
    now = _points(face)
    middles = torch.stack([(_points(faces[-step]) + _points(faces[step])) / 2 for step in around])
    steps = torch.tensor([float(step) for step in around])
    width = float((now.amax(0) - now.amin(0)).max())
    groups = _groups() if len(now) == SIZE else torch.ones(1, len(now))
    apart = (middles - now).square().sum(2) @ (groups / groups.sum(1, keepdim=True)).T
    weights = torch.exp(-steps.square() / (2 * sigma**2))[:, None]
    weights = weights * torch.exp(-apart / (2 * (NOISE * max(width, 1.0)) ** 2))
    weights = weights.cummin(0).values @ groups  # (K, P): each point is in one group
    total = 2 * weights.sum(0)[:, None] + 1
    return _with(face, (now + (2 * weights[..., None] * middles).sum(0)) / total)


def between(before: Face, after: Face, share: float) -> Face | None:
    """The face at a share of the way from one frame to another; None: they cannot be compared."""
    a, b = _points(before), _points(after)
    return _with(before, torch.lerp(a, b, share)) if a.shape == b.shape else None


def steady_mask(masks: Sequence[Tensor], crops: Sequence[Tensor], now: int) -> Tensor:
    """What covers a face, without what flickers: the mean of the masks of neighbouring frames, but
    for the least and the greatest of each place. Where something moves, the own mask counts.

    Args:
        masks: (1, 1, M, M) of neighbouring frames.
        crops: (3, S, S) of the face in them.
        now: the number of the frame among them.
    """
    if len(masks) < 3:
        return masks[now]
    stack = torch.stack(list(masks))
    middle = (stack.sum(0) - stack.amax(0) - stack.amin(0)) / (len(stack) - 2)
    small = resize(torch.stack(list(crops)), (_LOOK, _LOOK))
    apart = (small - small[now]).abs().amax((0, 1))[None, None]
    moves = smoothstep((blurred(apart, 1.0) - MOVING) / MOVING)
    return torch.lerp(middle, masks[now], resize(moves, (middle.shape[2], middle.shape[3])))


def _points(face: Face) -> Tensor:
    if face.mesh is not None:
        return face.mesh.float()
    return torch.cat([face.landmarks, face.box.view(2, 2)]).float()


def _with(face: Face, points: Tensor) -> Face:
    if face.mesh is not None:
        return face._replace(mesh=points, landmarks=points[list(FIVE_POINTS)], box=bounds(points))
    return face._replace(landmarks=points[:5], box=points[5:].flatten())
