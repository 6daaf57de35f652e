"""The faces of a clip, swapped so that they stay where they belong and stand still where they do.

Frames are looked at one by one, held until those after them are known, and changed in batches.
Nothing is kept from one segment to the next.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facke_core.errors import NoFaceError
from facke_core.faces.align import align
from facke_core.faces.boxes import overlap
from facke_core.faces.choosing import FaceChoice, larger_than, numbers_of
from facke_core.faces.portrait import Giver
from facke_core.faces.pose import head_pose
from facke_core.faces.templates import Alignment
from facke_core.identity.people import SAME, Players
from facke_core.pipeline import noise
from facke_core.results import SwapResult
from facke_core.types import AlignedFace, Face, SwapRequest
from facke_core.video.frames import Change, Changed, Frame
from facke_core.video.steady import REACH, between, steady, steady_mask
from facke_core.video.tracks import GAP, Sight, Tracker

if TYPE_CHECKING:
    from facke_core.pipeline import SwapPipeline

__all__ = ["followed"]

BATCH = 8
"""Faces, and frames, that go through the generator together."""
MASKS = 2
"""Frames before and after of which masks are averaged."""
STAYS = 0.1
"""Cosine by which a face is taken more readily for the person it was in the frame before."""
LARGER = 1.2
"""How much larger, or in shares of its width farther out, another face has to be to be chosen."""
FREE = 0.05
"""Overlap with another face from which a face that is missed is taken to be behind it."""
STILL_THERE = 0.5
"""Correlation with the frame before the gap from which a face that is missed is taken to be there.
"""
_LOOK = Alignment(template="arcface", size=32)


def followed(
    pipeline: SwapPipeline,
    players: Players,
    *,
    face: FaceChoice = "largest",
    seed: int | None = None,
    steadily: bool = True,
) -> Change:
    """Make the change of a clip.

    Args:
        pipeline: swaps.
        players: whose faces the people of the clip get.
        face: which of those without a reference; numbers count from the largest of a frame.
        seed: seed of the noise, with which each batch begins again; None counts as 0 where a method
            draws any.
        steadily: filter what trembles.
    """
    numbers_of(face)

    def change(frames: Iterator[Frame]) -> Iterator[Changed]:
        follower = _Follower(pipeline, players, face, seed, steadily)
        return follower.changed(frames)

    return change


@dataclass
class _Role:
    """A face of a frame that is swapped."""

    track: int
    face: AlignedFace
    giver: Giver
    number: int
    """Number of the photograph of the source."""
    covers: Tensor | None = None
    """What covers it (1, 1, M, M), as soon as somebody asked."""


@dataclass
class _Scene:
    """A frame on its way."""

    frame: Frame
    seen: list[Face] = field(default_factory=list)
    """All faces, largest first."""
    roles: list[_Role] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    """What covers each of :attr:`roles` (1, 1, M, M), smoothed."""

    def unchanged(self) -> Changed:
        """The frame as it was."""
        return Changed(self.frame.index, self.frame.image)

    def each(self) -> Iterator[tuple[_Role, Tensor]]:
        """Every role with its mask."""
        return zip(self.roles, self.masks, strict=True)


class _Follower:
    """Changes the frames of one segment."""

    def __init__(
        self,
        pipeline: SwapPipeline,
        players: Players,
        face: FaceChoice,
        seed: int | None,
        steadily: bool,
    ) -> None:
        self.pipeline, self.players, self.face, self.seed = pipeline, players, face, seed
        self.numbers, self.steadily = numbers_of(face), steadily
        known = bool(len(players.references))
        self.tracker = Tracker(pipeline.detect, every=known or face != "largest", known=known)
        self.was: dict[int, int] = {}
        """The person that each track was taken for."""
        self.chosen: set[int] = set()
        """The tracks without a reference that were swapped in the frame before."""
        self.views: dict[int, tuple[Giver, int]] = {}

    def changed(self, frames: Iterator[Frame]) -> Iterator[Changed]:
        """Change frames, in order."""
        waiting: list[_Scene] = []
        for scene in self._with_masks(self._scenes(self._steady(self.tracker.sights(frames)))):
            waiting.append(scene)
            if sum(len(each.masks) for each in waiting) >= BATCH or len(waiting) >= BATCH:
                yield from self._swapped(waiting)
                waiting = []
        yield from self._swapped(waiting)

    # where faces are

    def _steady(self, sights: Iterator[Sight]) -> Iterator[tuple[Frame, dict[int, Face]]]:
        """The faces of each frame, once those after it are known."""
        window: deque[Sight] = deque(maxlen=2 * REACH + 1)
        last: dict[int, int] = {}
        for sight in sights:
            window.append(sight)
            for track in sight.faces:
                if 1 < sight.place - last.get(track, sight.place) <= GAP + 1:
                    self._fill(window, track, last[track], sight.place)
                last[track] = sight.place
            if sight.place >= REACH:
                yield self._filtered(window, sight.place - REACH)
        if window:
            end = window[-1].place
            for place in range(max(end - REACH + 1, 0), end + 1):
                yield self._filtered(window, place)

    def _filtered(self, window: deque[Sight], place: int) -> tuple[Frame, dict[int, Face]]:
        (number,) = (i for i, sight in enumerate(window) if sight.place == place)
        now = window[number]
        # of frames that are gone only the faces are needed: their pictures take much memory
        window[number] = now._replace(frame=replace(now.frame, image=torch.zeros(0)))
        if not self.steadily:
            return now.frame, now.faces
        faces = {}
        for track in now.faces:
            around = {
                sight.place - place: sight.faces[track] for sight in window if track in sight.faces
            }
            faces[track] = steady(around)
        return now.frame, faces

    def _fill(self, window: deque[Sight], track: int, first: int, last: int) -> None:
        """Put a face that was missed for a moment into the frames in which it was, unless it was
        behind another or gone."""
        by_place = {sight.place: sight for sight in window}
        before, after = by_place[first], by_place[last]
        for place in range(first + 1, last):
            share = (place - first) / (last - first)
            sight = by_place[place]
            face = between(before.faces[track], after.faces[track], share)
            if face is None or any(overlap(face.box, f.box) > FREE for f in sight.faces.values()):
                continue
            looks = [
                _look(each.frame.image, shown)
                for each, shown in ((before, before.faces[track]), (sight, face))
            ]
            if float(looks[0] @ looks[1]) >= STILL_THERE:
                sight.faces[track] = face

    # who becomes whom

    def _scenes(self, sights: Iterator[tuple[Frame, dict[int, Face]]]) -> Iterator[_Scene]:
        for frame, faces in sights:
            tracks = sorted(faces, key=lambda n: -_area(faces[n]))
            scene = _Scene(frame, [faces[n] for n in tracks])
            givers = self._cast(frame, faces, tracks)
            for track in tracks:
                giver = givers.get(track)
                if giver is None:
                    continue
                try:
                    ready = self.pipeline.align(frame.image, faces[track])
                except NoFaceError:  # a mesh that is no face
                    continue
                known, before = self.views.get(track, (giver, None))
                number = giver.nearest(head_pose(ready.face), before if known is giver else None)
                self.views[track] = giver, number
                scene.roles.append(_Role(track, ready, giver, number))
            yield scene

    def _cast(self, frame: Frame, faces: dict[int, Face], tracks: list[int]) -> dict[int, Giver]:
        """The source of each track that is swapped in a frame."""
        givers: dict[int, Giver] = {}
        free = list(tracks)
        if len(self.players.references):
            people = self._people(tracks)
            free = [track for track in tracks if track not in people]
            for track, person in people.items():
                giver = self.players.givers[person]
                if giver is not None and self.players.swaps(person, frame.seconds):
                    givers[track] = giver
        if self.players.others is not None:
            chosen = self._chosen(faces, tracks, free)
            self.chosen = set(chosen)
            givers |= dict.fromkeys(chosen, self.players.others)
        return givers

    def _people(self, tracks: list[int]) -> dict[int, int]:
        """The person with a reference that each track shows, each once, the likest first."""
        if not tracks:
            return {}
        known = torch.stack([self.tracker.tracks[track].who() for track in tracks])
        alike = known @ self.players.references.T
        for row, track in enumerate(tracks):
            if (person := self.was.get(track)) is not None:
                alike[row, person] += STAYS
        people: dict[int, int] = {}
        while alike.numel() and float(alike.max()) >= SAME:
            row, person = divmod(int(alike.argmax()), alike.shape[1])
            people[tracks[row]] = person
            alike[row], alike[:, person] = -2, -2
        self.was |= people
        return people

    def _chosen(self, faces: dict[int, Face], tracks: list[int], free: list[int]) -> list[int]:
        """The tracks that the choice means, of those that no reference claims. Which it was before
        is left for another only where that is clearly larger, or farther out."""
        if self.face == "all":
            return free
        if self.numbers is not None:
            named = [tracks[number - 1] for number in self.numbers if number <= len(tracks)]
            return [track for track in named if track in free]
        if not free:
            return []

        def rank(track: int) -> float:
            box, stays = faces[track].box, track in self.chosen
            if self.face == "largest":
                return _area(faces[track]) * (LARGER if stays else 1)
            across = float(box[0] + box[2]) / 2 * (1 if self.face == "right" else -1)
            return across + stays * (LARGER - 1) * float(box[2] - box[0])

        return [max(free, key=rank)]

    # what lies before them

    def _with_masks(self, scenes: Iterator[_Scene]) -> Iterator[_Scene]:
        window: deque[_Scene] = deque(maxlen=2 * MASKS + 1)
        came = done = 0
        ends: Iterator[_Scene | None] = itertools.chain(scenes, [None] * MASKS)
        for place, scene in enumerate(ends):
            if scene is not None:
                window.append(scene)
                came += 1
            if place >= MASKS and done < came:
                yield self._masked(window, done - (came - len(window)))
                done += 1

    def _masked(self, window: deque[_Scene], middle: int) -> _Scene:
        scene = window[middle]
        if not scene.frame.inside:
            return scene
        reach = MASKS if self.steadily else 0
        near = list(window)[max(middle - reach, 0) : middle + reach + 1]
        for role in scene.roles:
            known = [
                (cover, other)
                for each in near
                for other in each.roles
                if other.track == role.track and (cover := self._covers(each, other)) is not None
            ]
            if not known:  # nobody is to look
                scene.masks.append(torch.zeros(0))
                continue
            masks, roles = zip(*known, strict=True)
            now = next(i for i, other in enumerate(roles) if other is role)
            scene.masks.append(steady_mask(masks, [other.face.crop for other in roles], now))
        return scene

    def _covers(self, scene: _Scene, role: _Role) -> Tensor | None:
        if role.covers is None:
            role.covers = self.pipeline.occlusion(scene.frame.image, [role.face])
        return role.covers

    # the swap

    def _swapped(self, scenes: Sequence[_Scene]) -> Iterator[Changed]:
        roles = [role for scene in scenes if scene.masks for role in scene.roles]
        masks = [mask for scene in scenes for mask in scene.masks]
        if not roles:
            yield from (scene.unchanged() for scene in scenes if scene.frame.inside)
            return
        sampler = self.pipeline.sampler(self.seed)
        rng, start = noise(self.seed or 0)
        inputs, views = self.pipeline.given(
            [role.face for role in roles],
            [role.giver for role in roles],
            torch.cat(masks) if all(len(mask) for mask in masks) else None,
            numbers=[role.number for role in roles],
        )
        crops = self.pipeline.sample(inputs, rng=rng, sampler=sampler)
        request = self.pipeline.request(sampler, self.seed, rng, start)
        ready = iter(zip(crops, views, strict=True))
        for scene in scenes:
            if scene.masks:
                own = [(role, mask, *next(ready)) for role, mask in scene.each()]
                yield self._pasted(scene, own, request)
            elif scene.frame.inside:
                yield scene.unchanged()

    def _pasted(
        self,
        scene: _Scene,
        made: Sequence[tuple[_Role, Tensor, Tensor, AlignedFace]],
        request: SwapRequest,
    ) -> Changed:
        image, share = scene.frame.image, torch.zeros_like(scene.frame.image[:1])
        for role, mask, crop, _ in reversed(made):  # the largest faces are in front
            image, own = self.pipeline.paste(
                image,
                crop,
                role.face,
                front=larger_than(role.face.face, scene.seen),
                occlusion=mask[0] if len(mask) else None,
            )
            share = share * (1 - own) + own
        result = SwapResult(
            image=image,
            faces=tuple(role.face.face for role in scene.roles),
            faces_seen=len(scene.seen),
            source=made[0][3].face,
            mask=share,
            seconds={},
            request=request,
        )
        hooked = self.pipeline.registry.apply_result(result, request)
        # what a hook draws may be anywhere
        mask = share if hooked is result else torch.ones_like(share)
        return Changed(scene.frame.index, hooked.image, mask)


def _area(face: Face) -> float:
    return float((face.box[2:] - face.box[:2]).prod())


def _look(photo: Tensor, face: Face) -> Tensor:
    """The light (1024,) of a face, of zero mean and unit norm."""
    light = align(photo, face, _LOOK).crop.mean(0).flatten()
    light = light - light.mean()
    return light / light.norm().clamp(min=1e-6)
