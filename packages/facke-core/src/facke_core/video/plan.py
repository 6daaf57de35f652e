"""A plan of a clip: the people in it, found by their faces, and whom each of them becomes.

It is JSON that somebody edits: a ``source`` for whoever is to be swapped. The people are known by
what an encoder made of their faces, so a plan serves every cut of the same people. A picture of
some faces of each goes with it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.config import from_dict, read_json
from facke_core.errors import ConfigError, NoFaceError, UsageError
from facke_core.faces.align import align
from facke_core.faces.templates import Alignment
from facke_core.identity.digest import encoder_digest
from facke_core.identity.people import DIM, Cast, matched, recogniser, seen_as
from facke_core.images.grid import labelled, picture_grid
from facke_core.types import Face
from facke_core.video.frames import Frame

__all__ = ["read_plan"]

KIND = "facke plan 1"
EVERY = 0.25
"""Seconds between two frames that are looked at."""
SHOWN = 6
"""Faces of each person on the sheet."""
ONE = 0.6
"""Cosine from which two groups of faces are one person's."""
_HEAD = Alignment(template="ffhq", size=160)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody in a clip."""

    name: str
    """For whoever edits."""
    face: str
    """Embedding (128,): its numbers in 16 bits, as base64."""
    source: str | list[str] | None = None
    """Whom the person becomes: a picture, several, a folder or a saved face, as a path from the
    folder of the plan. None: the person stays."""
    during: list[list[float]] | None = None
    """When, in seconds from and to; None: always."""
    seen: list[list[float]] = field(default_factory=list)
    """When the person was seen, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a plan's file holds."""

    facke: str
    """What it is: :data:`KIND`."""
    clip: str
    """Name of the clip."""
    encoder: str
    """Digest of the encoder of the faces."""
    people: list[Person]
    others: str | list[str] | None = None
    """Whom everybody else becomes; None: they stay."""


@dataclass
class _Group:
    """Faces that are like each other."""

    total: Tensor = field(default_factory=lambda: torch.zeros(DIM))
    times: list[float] = field(default_factory=list)
    shown: list[tuple[float, Tensor]] = field(default_factory=list)
    """Times and crops."""

    def who(self) -> Tensor:
        return F.normalize(self.total, dim=0)


def people_of(
    frames: Iterator[Frame],
    detect: Callable[..., list[Face]],
    *,
    name: str,
    on_frame: Callable[[int], None] | None = None,
) -> tuple[Cut, Tensor]:
    """Find the people of a clip.

    Args:
        frames: of the clip, in order; one of every :data:`EVERY` seconds is looked at.
        detect: finds faces.
        name: of the clip.
        on_frame: called with the number of each frame that was read.

    Returns:
        A plan in which everybody stays, the longest seen first, and a sheet (3, H, W) with faces of
        each.

    Raises:
        NoFaceError: there is nobody.
    """
    groups: list[_Group] = []
    due = float("-inf")
    for frame in frames:
        if on_frame:
            on_frame(frame.index)
        if frame.seconds < due:
            continue
        due = frame.seconds + EVERY - 1e-6
        faces = detect(frame.image, every=True)
        known = seen_as(frame.image, faces)
        means = torch.stack([each.who() for each in groups]) if groups else torch.zeros(0, DIM)
        for face, own, number in zip(faces, known, matched(known, means), strict=True):
            if not bool(own.any()):
                continue
            group = groups[number] if number is not None else _Group()
            if number is None:
                groups.append(group)
            group.total = group.total + own
            group.times.append(frame.seconds)
            _show(group, frame, face)
    groups = _joined(groups)
    most = max((len(group.times) for group in groups), default=0)
    # what is seen once beside people who are seen often is a face in the pattern of a curtain
    groups = [group for group in groups if len(group.times) > 1 or most < 4]
    if not groups:
        raise NoFaceError(f"No face was found in {name}. Use a clip that shows a face.")
    groups.sort(key=lambda group: (-len(group.times), group.times[0]))
    people = [
        Person(
            name=f"person {number}",
            face=base64.b64encode(group.who().half().numpy().tobytes()).decode(),
            seen=_spans(group.times),
        )
        for number, group in enumerate(groups, 1)
    ]
    rows = []
    for person, group in zip(people, groups, strict=True):
        crops: list[Tensor | None] = [crop for _, crop in group.shown]
        first = crops[0]
        assert first is not None
        rows.append([labelled(first, person.name), *crops[1:], *[None] * (SHOWN - len(crops))])
    sheet = picture_grid(rows, size=_HEAD.size)
    return Cut(facke=KIND, clip=name, encoder=_encoder(), people=people), sheet


def _show(group: _Group, frame: Frame, face: Face) -> None:
    """Keep a crop, so that those that are kept are spread over the time."""
    group.shown.append((frame.seconds, align(frame.image, face, _HEAD).crop))
    if len(group.shown) > SHOWN:
        times = [time for time, _ in group.shown]
        gaps = [times[i + 1] - times[i - 1] for i in range(1, len(times) - 1)]
        del group.shown[1 + gaps.index(min(gaps))]


def _joined(groups: Sequence[_Group]) -> list[_Group]:
    """Join groups that are one person's and were never seen together, the likest first."""
    rest = list(groups)
    while len(rest) > 1:
        alike = torch.stack([each.who() for each in rest])
        alike = (alike @ alike.T).tril(-1)
        for i, group in enumerate(rest):
            for j in range(i):
                if set(group.times) & set(rest[j].times):
                    alike[i, j] = 0
        if float(alike.max()) < ONE:
            break
        i, j = divmod(int(alike.argmax()), len(rest))
        group, other = rest[j], rest.pop(i)
        group.total = group.total + other.total
        group.times = sorted([*group.times, *other.times])
        both = sorted([*group.shown, *other.shown], key=lambda pair: pair[0])
        group.shown = both[:: -(-len(both) // SHOWN)]
    return rest


def _spans(times: Sequence[float]) -> list[list[float]]:
    """From when to when, where at most one look in between missed."""
    spans: list[list[float]] = []
    for time in times:
        if spans and time - spans[-1][1] <= 2.5 * EVERY:
            spans[-1][1] = round(time, 2)
        else:
            spans.append([round(time, 2)] * 2)
    return spans


def _encoder() -> str:
    return encoder_digest(recogniser(), {"name": recogniser().spec.name})


def read_plan(path: str | Path) -> Cast:
    """Read a plan as somebody left it: the cast of a clip, for
    :meth:`~facke_core.pipeline.SwapPipeline.video`::

        swapper.video(read_plan("plan.json"), "clip.mp4", "out.mp4")

    Sources are paths from the folder of the plan.

    Raises:
        ConfigError: it cannot be read, or is no plan.
        UsageError: nobody in it is swapped.
    """
    file = Path(path)
    values = read_json(file)
    if not isinstance(values, dict) or values.get("facke") != KIND:
        raise ConfigError(f"{file} is no plan of a clip. Make one by `facke plan CLIP`.")
    cut = from_dict(Cut, values, where="")
    if cut.encoder != _encoder():
        raise ConfigError(
            f"{file}: encoder: its faces were made by another version of the encoder, and cannot "
            "be compared. Make the plan anew by `facke plan CLIP`, and enter the sources again."
        )

    def here(source: str | list[str] | None) -> Any:
        if isinstance(source, list):
            return [str(file.parent / each) for each in source]
        return None if source is None else str(file.parent / source)

    people, during = [], []
    for number, person in enumerate(cut.people):
        face = _face(person.face, f"people[{number}].face")
        people.append((face, here(person.source)))
        during.append(_times(person.during, f"people[{number}].during"))
    cast = Cast(people, others=here(cut.others), during=during)
    if cast.others is None and all(source is None for _, source in people):
        raise UsageError(
            f"{file} swaps nobody: no person in it has a source. Write the path of a picture as "
            "the source of a person."
        )
    return cast


def _face(text: str, where: str) -> Tensor:
    try:
        numbers = bytearray(base64.b64decode(text, validate=True))
    except ValueError:
        numbers = bytearray()
    if len(numbers) == 2 * DIM:
        face = torch.frombuffer(numbers, dtype=torch.float16).float()
        if bool(face.isfinite().all()) and bool(face.any()):
            return F.normalize(face, dim=0)
    raise ConfigError(f"{where}: it is not what the plan had there. Make the plan anew.")


def _times(spans: list[list[float]] | None, where: str) -> list[tuple[float, float]] | None:
    if spans is None:
        return None
    for span in spans:
        if len(span) != 2 or not span[0] <= span[1]:
            raise ConfigError(
                f"{where}: {span} is no time from and to. Give [from, to] in seconds."
            )
    return [(start, end) for start, end in spans]
