"""The faces of a clip from frame to frame: which of a frame is which of the frame before.

A track is one face as long as it is seen without a break of more than :data:`GAP` frames and
without a cut. Tracks have numbers only to hold together what belongs together: who somebody is, is
told by the face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.faces.boxes import overlap
from facke_core.identity.people import DIM, OTHER, seen_as
from facke_core.images.io import resize
from facke_core.types import Face
from facke_core.video.frames import Frame

__all__: list[str] = []

GAP = 6
"""Most frames in a row in which a face may be missed."""
WHOLE_LOOK, EVERY_LOOK = 12, 48
"""Every so many frames a frame is searched for turned faces, too, and, as after cuts, for small
ones."""
KNOW = 8
"""Every so many frames a face is compared with others by who it shows."""
NEAR = 2.5
"""Side of the part of a frame in which a face that is missed is looked for, in sides of its box."""
SAME_PLACE = 0.25
"""Least overlap of a face with the place where its track should be by now."""
CONTESTED = 0.02
"""Overlap of boxes, made half as large again, from which faces may be taken for each other."""
CUT = 0.5
"""Correlation of the light of two frames below which there is a cut between them."""
_CELLS = 32


class Sight(NamedTuple):
    """A frame and the faces that were seen in it."""

    frame: Frame
    place: int
    """Its number among the frames that were looked at, from 0."""
    faces: dict[int, Face]
    """Faces by the number of their track."""


@dataclass
class Track:
    """One face over frames."""

    last: Face
    frame: int
    """Place of the frame in which it was seen last."""
    moved: Tensor = field(default_factory=lambda: torch.zeros(2))
    """Way (2,) from frame to frame."""
    known: Tensor = field(default_factory=lambda: torch.zeros(DIM))
    """Sum (128,) of what was seen of who it is."""
    doubtful: Tensor = field(default_factory=lambda: torch.zeros(DIM))
    """The same of frames in which another face was near."""
    looked: int = -KNOW
    """Place of the frame in which it was looked at for that."""

    def place(self, frame: int) -> Tensor:
        """The box (4,) where it should be in a frame."""
        return self.last.box + (self.moved * (frame - self.frame)).repeat(2)

    def who(self) -> Tensor:
        """Its embedding (128,), unit norm; zeros where nobody looked."""
        known = self.known if bool(self.known.any()) else self.doubtful
        return F.normalize(known, dim=0)


class Tracker:
    """Follows the faces of one segment.

    Args:
        detect: finds faces, as :meth:`~facke_core.pipeline.SwapPipeline.detect`.
        every: look for small faces beside larger ones, too.
        known: look at who they show.
    """

    def __init__(self, detect: Callable[..., list[Face]], *, every: bool, known: bool) -> None:
        self.detect = detect
        self.every = every
        self.known = known
        self.tracks: dict[int, Track] = {}
        self._live: set[int] = set()
        self._before: Tensor | None = None
        self._looks = -1, -1

    def sights(self, frames: Iterator[Frame]) -> Iterator[Sight]:
        """Look at frames in order."""
        for place, frame in enumerate(frames):
            light = _light(frame.image)
            if self._before is None or _alike(light, self._before) < CUT:
                self._live.clear()
                self._looks = -1, -1
            self._before = light
            yield Sight(frame, place, self._seen(frame, place))

    def _found(self, frame: Frame) -> list[Face]:
        """The faces of a frame, for which it is searched more thoroughly from time to time."""
        looks = frame.index // WHOLE_LOOK, frame.index // EVERY_LOOK
        before, self._looks = self._looks, looks
        if looks[0] == before[0]:
            return self.detect(frame.image, quick=True)
        return self.detect(frame.image, every=self.every and looks[1] != before[1])

    def _seen(self, frame: Frame, place: int) -> dict[int, Face]:
        self._live = {n for n in self._live if place - self.tracks[n].frame <= GAP + 1}
        detected = self._found(frame)
        pairs = self._paired(frame, place, detected)
        missed = [n for n in sorted(self._live) if n not in pairs]
        more = [face for n in missed for face in self._near(frame, place, self.tracks[n])]
        more = [face for face in more if all(overlap(face.box, f.box) < 0.3 for f in detected)]
        if more:
            detected += more
            pairs = self._paired(frame, place, detected)
        taken = set(pairs.values())
        for i in range(len(detected)):
            if i not in taken:
                number = len(self.tracks)
                self.tracks[number] = Track(detected[i], place)
                self._live.add(number)
                pairs[number] = i
        self._learn(frame, place, {n: detected[i] for n, i in pairs.items()})
        return {n: detected[i] for n, i in sorted(pairs.items())}

    def _paired(self, frame: Frame, place: int, detected: list[Face]) -> dict[int, int]:
        """Which face each track is: the best overlaps first, but no face of somebody else."""
        scores = []
        for n in sorted(self._live):
            there = self.tracks[n].place(place)
            for i, face in enumerate(detected):
                common = overlap(there, face.box)
                if common >= SAME_PLACE:
                    scores.append((common, n, i))
        if self.known:
            rivals = {i for _, _, i in scores if self._contested(detected, i)}
            seen = dict(
                zip(rivals, seen_as(frame.image, [detected[i] for i in rivals]), strict=True)
            )
            judged = []
            for common, n, i in scores:
                who = self.tracks[n].who()
                if i in seen and bool(who.any()) and bool(seen[i].any()):
                    alike = float(who @ seen[i])
                    if alike < OTHER:
                        continue
                    common += alike
                judged.append((common, n, i))
            scores = judged
        pairs: dict[int, int] = {}
        for _, n, i in sorted(scores, key=lambda score: (-score[0], score[1:])):
            if n not in pairs and i not in pairs.values():
                pairs[n] = i
        return pairs

    def _contested(self, detected: list[Face], i: int) -> bool:
        boxes = [face.box for j, face in enumerate(detected) if j != i]
        boxes += [self.tracks[n].last.box for n in self._live]
        near = sum(overlap(_larger(detected[i].box), _larger(box)) > CONTESTED for box in boxes)
        return near > 1  # its own track is near, too

    def _near(self, frame: Frame, place: int, track: Track) -> list[Face]:
        """What is detected in the neighbourhood of a face that is missed."""
        box = track.place(place)
        centre = (box[:2] + box[2:]) / 2
        reach = NEAR / 2 * float((box[2:] - box[:2]).max())
        height, width = frame.image.shape[1:]
        x0, y0 = (max(int(v), 0) for v in (centre - reach).tolist())
        x1, y1 = (int(v) + 1 for v in (centre + reach).tolist())
        part = frame.image[:, y0 : min(y1, height), x0 : min(x1, width)]
        if min(part.shape[1:]) < 16:
            return []
        corner = torch.tensor([x0, y0], dtype=torch.float32)
        return [
            face._replace(
                box=face.box + corner.repeat(2),
                landmarks=face.landmarks + corner,
                mesh=None if face.mesh is None else face.mesh + corner,
            )
            for face in self.detect(part.contiguous(), quick=True)
            if overlap(face.box + corner.repeat(2), box) >= SAME_PLACE
        ]

    def _learn(self, frame: Frame, place: int, faces: dict[int, Face]) -> None:
        """Take what was seen into the tracks."""
        detected = list(faces.values())
        for i, (n, face) in enumerate(faces.items()):
            track = self.tracks[n]
            steps = place - track.frame
            if steps > 0:
                way = (face.box - track.last.box).view(2, 2).mean(0) / steps
                track.moved = (track.moved + way) / 2
            track.last, track.frame = face, place
            if self.known and place - track.looked >= KNOW:
                track.looked = place
                alone = all(
                    overlap(_larger(face.box), _larger(other.box)) <= CONTESTED
                    for j, other in enumerate(detected)
                    if j != i
                )
                seen = seen_as(frame.image, [face])[0]
                if alone:
                    track.known = track.known + seen
                else:
                    track.doubtful = track.doubtful + seen


def _larger(box: Tensor) -> Tensor:
    quarter = (box[2:] - box[:2]) / 4
    return torch.cat([box[:2] - quarter, box[2:] + quarter])


def _light(image: Tensor) -> Tensor:
    """The light (32 * 32,) of a frame, without its mean."""
    step = max(1, min(image.shape[1:]) // (4 * _CELLS))
    grey = image[:, ::step, ::step].mean(0)[None, None]
    light = resize(grey, (_CELLS, _CELLS)).flatten()
    return light - light.mean()


def _alike(a: Tensor, b: Tensor) -> float:
    """The correlation of two frames' light; 1 where both are flat."""
    flat = 0.01 * len(a) ** 0.5  # of noise of a hundredth nothing is said
    return float((a @ b + flat**2) / ((a.norm() ** 2 + flat**2) * (b.norm() ** 2 + flat**2)).sqrt())
