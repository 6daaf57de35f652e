"""Metrics of clips: what a swap adds to the movement from frame to frame.

The pairs of a clip are those whose targets name it (the column ``clip`` of the CSV) and that have
one source. A row keeps what was seen of its frame, and clips are put together from rows, so that
their values depend neither on who computed the rows nor on when.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facke_core.evaluation.metrics import SetMetric, SwappedPairs
from facke_core.evaluation.rows import Row, rounded, unpack
from facke_core.evaluation.statistics import Estimate
from facke_core.faces.mesh import POINTS
from facke_core.faces.pose import frontal
from facke_core.images.io import resize
from facke_core.jobs.pairs import SwapPair

__all__: list[str] = []

CELLS = 16
"""Cells of light along each side of a crop; those of its inner half are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flicker:
    """The movement of the frames of results, of that of their targets."""

    name: str = "flicker"
    unit: str = "of the target's"
    higher_is_better: bool = False
    needs: frozenset[str] = frozenset({"clip"})

    def of_set(self, results: Tensor, real: Tensor) -> float | None:
        """The standard deviation over frames of results (F, D), of that of real frames (F, D).

        None with fewer than two of either, and where the real ones do not move.
        """
        if min(len(results), len(real)) < 2:
            return None
        # sorted, so that the sums do not depend on the order of the frames
        spread, real_spread = (
            math.sqrt(float(x.sort(0).values.double().var(0).sum())) for x in (results, real)
        )
        return spread / real_spread if real_spread else None


def flicker() -> Flicker:
    """The metric :class:`Flicker`, as ``MetricSpec.build`` names it: 1 where results move like
    their targets, more where they flicker."""
    return Flicker()


def frame_of(swapped: SwappedPairs) -> Tensor | None:
    """What moves in the target and in the result of one pair: (2, D); None without meshes.

    That is the shape of the face in the head's own axes, in distances of the irises, and the light
    (0 to 1) of coarse cells of the aligned crop. Squares of each sum up to a mean.
    """
    seen = []
    assert swapped.pasted is not None
    faces = (*swapped.target_faces, *swapped.result_faces)
    for face, crop in zip(faces, (swapped.target, swapped.pasted), strict=True):
        mesh = None if face is None or face.mesh is None else frontal(face.mesh.cpu())
        if mesh is None:
            return None
        inner = slice(CELLS // 4, CELLS - CELLS // 4)
        light = resize(crop.mean(1, keepdim=True), (CELLS, CELLS))[..., inner, inner].flatten()
        points = mesh[list(POINTS)].flatten()
        seen.append(torch.cat([x.float() / math.sqrt(len(x)) for x in (points, light)]))
    return torch.stack(seen)


def of_clips(metric: SetMetric, rows: Sequence[Row], pairs: Sequence[SwapPair]) -> Estimate:
    """The mean of a metric over clips; ``n`` is their number."""
    clips: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for row, pair in zip(rows, pairs, strict=True):
        if pair.target.clip and row.frame:
            frame = torch.from_numpy(unpack(row.frame).copy())
            clips[pair.target.clip, pair.source.key].append(frame.view(2, -1))
    values = []
    for frames in clips.values():
        targets, results = torch.stack(frames, 1)
        if (value := metric.of_set(results, targets)) is not None:
            values.append(value)
    mean = rounded(math.fsum(values) / len(values)) if values else None
    return Estimate(value=mean, n=len(values))
