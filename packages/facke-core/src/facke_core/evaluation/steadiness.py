"""How steady the faces of a clip are, and how steady they were in the clip that it was made of.

Jitter is how far the points of a face lie from the middle between where they are in the frame
before and in the one after, which even movement does not change. Flicker is the same of the light
of the face, in crops that are cut where the face was in the first clip.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from facke_core.errors import NoFaceError
from facke_core.faces.align import align
from facke_core.faces.boxes import overlap
from facke_core.faces.templates import Alignment
from facke_core.images.io import resize
from facke_core.types import Face
from facke_core.video.frames import Frame
from facke_core.video.tracks import Tracker

__all__: list[str] = []

CELLS = 16
"""Cells of light along each side of a crop."""
FRAMING = Alignment(template="arcface", size=112)
SAME_FACE = 0.3
"""Overlap from which faces of both clips are one."""
CHANGED = 2 / 255
"""Mean difference of a face's pixels from which it counts as changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """What was measured."""

    frames: int
    """Frames of both clips."""
    faces: int
    """Faces, over all frames, that were seen in both."""
    changed: int
    """Those of them that differ."""
    jitter: float
    """Root mean square over points, faces and frames, in % of the width of the face."""
    jitter_before: float
    """The same of the first clip."""
    flicker: float
    """Root mean square over cells, faces and frames, in steps of 255."""
    flicker_before: float
    """The same of the first clip."""


@dataclass
class _Seen:
    place: int
    width: float
    points: tuple[Tensor, Tensor]
    light: tuple[Tensor, Tensor]


def steadiness(
    before: Iterator[Frame],
    after: Iterator[Frame],
    detect: Callable[..., list[Face]],
    *,
    on_frame: Callable[[int], None] | None = None,
) -> Steadiness:
    """Compare the frames of a clip with those of what was made of it.

    Args:
        before: frames of the clip.
        after: frames of the result; as many are compared as both have.
        detect: finds faces.
        on_frame: called with the number of each frame.

    Raises:
        NoFaceError: no face is seen in three frames in a row of both.
    """
    results: deque[Frame] = deque()

    def both() -> Iterator[Frame]:
        for frame, result in zip(before, after, strict=False):
            results.append(result)
            yield frame

    tracks: dict[int, deque[_Seen]] = defaultdict(lambda: deque(maxlen=3))
    sums: dict[str, list[float]] = defaultdict(list)
    frames = faces = changed = 0
    for sight in Tracker(detect, every=False, known=False).sights(both()):
        frames += 1
        result = results.popleft()
        if on_frame:
            on_frame(sight.place)
        faces_after = detect(result.image, quick=True) if sight.faces else []
        for track, face in sight.faces.items():
            same = max(faces_after, key=lambda other: overlap(face.box, other.box), default=None)
            if same is None or overlap(face.box, same.box) < SAME_FACE:
                continue
            crops = [
                align(image, face, FRAMING).crop for image in (sight.frame.image, result.image)
            ]
            faces += 1
            changed += float((crops[0] - crops[1]).abs().mean()) > CHANGED
            width = float((face.box[2:] - face.box[:2]).max())
            light = [255 * resize(x.mean(0)[None, None], (CELLS, CELLS))[0, 0] for x in crops]
            last = tracks[track]
            points = _points(face), _points(same)
            last.append(_Seen(sight.place, width, points, (light[0], light[1])))
            if len(last) == 3 and last[2].place - last[0].place == 2:
                for name, which in (("before", 0), ("after", 1)):
                    a, b, c = (seen.points[which] for seen in last)
                    unit = 100 / last[1].width
                    sums[f"jitter {name}"].append(2 * unit**2 * _square(a, b, c))  # x and y
                    a, b, c = (seen.light[which] for seen in last)
                    sums[f"flicker {name}"].append(_square(a, b, c))
    if not sums:
        raise NoFaceError(
            "No face is seen in three frames in a row of both clips, so nothing can be said of how "
            "steady it is. Use a longer clip that shows a face."
        )
    mean = {name: math.sqrt(math.fsum(values) / len(values)) for name, values in sums.items()}
    return Steadiness(
        frames=frames,
        faces=faces,
        changed=changed,
        jitter=mean["jitter after"],
        jitter_before=mean["jitter before"],
        flicker=mean["flicker after"],
        flicker_before=mean["flicker before"],
    )


def _points(face: Face) -> Tensor:
    return face.landmarks if face.mesh is None else face.mesh


def _square(before: Tensor, now: Tensor, after: Tensor) -> float:
    if not before.shape == now.shape == after.shape:
        return 0.0
    return float((now - (before + after) / 2).square().mean())
