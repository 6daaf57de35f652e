"""Metrics of what should stay the target's: pose, expression, gaze, lids, mouth, background.

Those of faces come from their landmarks in the target and in the finished photo. The ones that need
a mesh have no value without.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facke_core.evaluation.metrics import PerPair, SwappedPairs, given
from facke_core.faces.paste import face_mask
from facke_core.faces.pose import angle_between, expression, frontal, head_pose
from facke_core.types import Face

__all__: list[str] = []

EDGE = 1e-3
"""Width of the fade at the face's outline, so small that the outline is a line."""
_EYES = (
    (33, 133, 468, ((160, 144), (159, 145), (158, 153))),
    (362, 263, 473, ((385, 380), (386, 374), (387, 373))),
)
"""The corners of each eye, the iris, and points of the lids above each other."""
_MOUTH = (61, 291, ((81, 178), (82, 87), (13, 14), (312, 317), (311, 402)))
"""The corners, and points of the inner edges of the lips above each other."""


def pose_error() -> PerPair:
    """The angle between the heads in target and result, in degrees."""

    def measure(pairs: SwappedPairs) -> Tensor:
        return _of_faces(pairs, lambda a, b: angle_between(head_pose(a), head_pose(b)))

    return PerPair(name="pose-error", unit="degrees", needs=frozenset({"faces"}), function=measure)


def expression_error() -> PerPair:
    """The mean distance of the points of eyes, brows and lips in target and result, in percent of
    the distance of the irises, after the pose was removed. It needs a detector with a mesh."""

    def between(a: Face, b: Face) -> float:
        target, result = expression(a), expression(b)
        if target is None or result is None:
            return float("nan")
        return 100 * float((target - result).norm(dim=1).mean())

    return PerPair(
        name="expression-error",
        unit="% of eye distance",
        needs=frozenset({"faces"}),
        function=lambda pairs: _of_faces(pairs, between),
    )


def _of_faces(pairs: SwappedPairs, between: Callable[[Face, Face], float]) -> Tensor:
    values = [
        float("nan") if target is None or result is None else between(target, result)
        for target, result in zip(pairs.target_faces, pairs.result_faces, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def background() -> PerPair:
    """The mean absolute change, in [0, 1], of the pixels of the target's crop that lie outside of
    its face."""

    def measure(pairs: SwappedPairs) -> Tensor:
        change = (given(pairs.pasted) - pairs.target.double()).abs().mean(1, keepdim=True)
        size = change.shape[-1]
        faces = [
            aligned if face is None else aligned._replace(face=face)
            for aligned, face in zip(pairs.aligned, pairs.target_faces, strict=True)
        ]
        inside = torch.stack([face_mask(face, size, feather=EDGE) for face in faces])
        outside = (inside < 0.5).double()
        return (change * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3))

    return PerPair(
        name="background", unit="of 1", needs=frozenset({"photo", "faces"}), function=measure
    )


# -- eyes and mouth --------------------------------------------------------------------------------


def gaze() -> PerPair:
    """How far the irises moved between the corners of their eyes from target to result, in percent
    of the width of the eye; the mean of both eyes."""

    def places(points: Tensor) -> Tensor:
        return torch.stack(
            [_between(points[a], points[b], points[iris]) for a, b, iris, _ in _EYES]
        )

    return _of_meshes("gaze", "eye", lambda target, result: (result - target).norm(dim=1), places)


def lids() -> PerPair:
    """The difference of the openings of the eyes in target and result, in percent of the width of
    the eye; the mean of both eyes."""

    def openings(points: Tensor) -> Tensor:
        return torch.stack([_opening(points, a, b, gaps) for a, b, _, gaps in _EYES])

    return _of_meshes("lids", "eye", lambda target, result: (result - target).abs(), openings)


def mouth() -> PerPair:
    """The difference of the opening of the mouth in target and result, between the inner edges of
    the lips, in percent of the width of the mouth."""
    return _of_meshes(
        "mouth",
        "mouth",
        lambda target, result: (result - target).abs(),
        lambda points: _opening(points, *_MOUTH),
    )


def _of_meshes(
    name: str,
    part: str,
    difference: Callable[[Tensor, Tensor], Tensor],
    measured: Callable[[Tensor], Tensor],
) -> PerPair:
    """A metric of what is ``measured`` of the points (478, 2) of a mesh, in the head's own axes."""

    def between(a: Face, b: Face) -> float:
        meshes = [frontal(face.mesh.cpu()) for face in (a, b) if face.mesh is not None]
        points = [mesh for mesh in meshes if mesh is not None]
        if len(points) < 2:
            return float("nan")
        return 100 * float(difference(measured(points[0]), measured(points[1])).mean())

    return PerPair(
        name=name,
        unit=f"% of {part} width",
        needs=frozenset({"faces"}),
        function=lambda pairs: _of_faces(pairs, between),
    )


def _between(a: Tensor, b: Tensor, point: Tensor) -> Tensor:
    """The place (2,) of a point along the line from ``a`` to ``b`` and beside it, in distances of
    the two."""
    along = (b - a) / (b - a).square().sum()
    return torch.stack([(point - a) @ along, (point - a) @ torch.stack([-along[1], along[0]])])


def _opening(points: Tensor, a: int, b: int, gaps: tuple[tuple[int, int], ...]) -> Tensor:
    above, below = zip(*gaps, strict=True)
    height = (points[list(above)] - points[list(below)]).norm(dim=1).mean()
    return height / (points[a] - points[b]).norm()
