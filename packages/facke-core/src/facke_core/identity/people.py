"""People are told apart by their faces: who of a picture is the person of a reference photograph.

The measure is the cosine of centred embeddings of :mod:`~facke_core.identity.dlib_resnet`, averaged
over a crop and its mirror image. From :data:`SAME` on two faces count as one person. Of 60 people
of the London set, neutral and smiling, all 60 pairs have 0.74 or more, and where faces are about 50
pixels wide 0.73; 2.0 % of the 7,080 pairs of strangers have 0.5 or more (2.9 % if small), the most
alike 0.76. Of photographs in the wild (LFW, 70 of 7 people), 3.8 % of 315 pairs of one person have
less than 0.5, and of 2,100 pairs of strangers none has more. So of several references the nearest
counts, and a reference has one face of a picture at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.errors import NoFaceError, UsageError
from facke_core.faces.align import align
from facke_core.faces.choosing import FaceChoice, chosen_faces, numbers_of, warn_of
from facke_core.faces.portrait import Giver
from facke_core.faces.templates import Alignment
from facke_core.identity.dlib_resnet import DlibEncoder, build
from facke_core.images.io import Photo
from facke_core.types import Face

__all__ = ["Cast"]

SAME = 0.5
"""Cosine from which two faces are one person's."""
OTHER = 0.2
"""Cosine below which two faces are surely not one person's; half of all strangers have less."""
FRAMING = Alignment(template="simswap_frontal", size=224)
"""The framing in which faces are compared."""
DIM = 128
"""Length of an embedding."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who becomes whom, as the source of a swap::

        cast = Cast([("ann.jpg", "eve.jpg"), ("bob.jpg", None)], others="joe.jpg")
        swapper(cast, "group.jpg", face="all").save("out.png")

    Ann becomes Eve, Bob stays who he is, and all others become Joe.
    """

    people: Sequence[tuple[Any, Any]]
    """Pairs of a reference, a photograph that shows a person of the target, and the source for that
    person, or None: that person is kept. Both are given as a source is. A reference may also be an
    embedding (128,), as a plan has it."""
    others: Any = None
    """The source for people without a reference; None: they are kept. The choice of faces is made
    among them."""
    during: Sequence[Sequence[tuple[float, float]] | None] = ()
    """For each reference the times of a clip, in seconds from and to, at which the person is
    swapped; None, or nothing: always."""

    def __post_init__(self) -> None:
        if not self.people and self.others is None:
            raise UsageError(
                "A cast without people changes nothing. Name a reference and a source."
            )


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def recogniser() -> DlibEncoder:
    """The encoder that compares people; it is built once."""
    return build()


def seen_as(photo: Tensor, faces: Sequence[Face]) -> Tensor:
    """The embeddings (N, 128), unit norm, of N faces of a photo (3, H, W); zeros, which are like
    nobody's, for a face that cannot be aligned."""
    crops, known = [], []
    for number, face in enumerate(faces):
        try:
            crops.append(align(photo, face, FRAMING).crop)
            known.append(number)
        except NoFaceError:
            continue
    result = torch.zeros(len(faces), DIM)
    if crops:
        both = torch.stack(crops)
        with torch.inference_mode():
            encoder = recogniser()
            result[known] = F.normalize(encoder(both) + encoder(both.flip(3)), dim=1)
    return result


def matched(faces: Tensor, references: Tensor, *, least: float = SAME) -> list[int | None]:
    """The number of the reference (R, D) that each face (N, D) shows, or None; each reference once,
    the most alike first."""
    result: list[int | None] = [None] * len(faces)
    alike = (faces @ references.T).clone()
    while alike.numel() and float(alike.max()) >= least:
        face, reference = divmod(int(alike.argmax()), alike.shape[1])
        result[face] = reference
        alike[face], alike[:, reference] = -2, -2
    return result


class Players(NamedTuple):
    """A cast as a swap uses it."""

    references: Tensor
    """Embeddings (R, 128) of the people that have a reference."""
    givers: Sequence[Giver | None]
    """R sources; None keeps the person."""
    others: Giver | None
    """The source for everybody else; None keeps them."""
    during: Sequence[Sequence[tuple[float, float]] | None] = ()
    """When in a clip each of the people is swapped; None, or nothing: always."""

    def swaps(self, person: int, seconds: float) -> bool:
        """Tell whether a person of a reference is swapped at a time of a clip."""
        times = self.during[person] if person < len(self.during) else None
        return times is None or any(start <= seconds <= end for start, end in times)

    def among(
        self, photo: Photo, faces: Sequence[Face], choice: FaceChoice
    ) -> tuple[list[Face], list[Giver]]:
        """The faces of a photo that are swapped, largest first, and the source of each.

        Raises:
            UsageError: it is no choice.
            NoFaceError: there are none, or fewer than the choice asks for.

        Warns:
            FackeWarning: one of them is doubtful.
        """
        if not len(self.references):
            assert self.others is not None
            chosen = chosen_faces(faces, choice, photo)
            return chosen, [self.others] * len(chosen)
        known = seen_as(photo.image, faces)
        who = matched(known, self.references)
        free = [face for face, person in zip(faces, who, strict=True) if person is None]
        some: list[Face] = []
        if self.others is not None and free:
            # numbers count through all faces, words are about those that nobody claims
            among = free if numbers_of(choice) is None else faces
            some = chosen_faces(among, choice, photo)
        named: list[Face] = []
        chosen, givers = [], []
        for face, person in zip(faces, who, strict=True):
            giver = self.others if person is None else self.givers[person]
            if person is None and not any(face is other for other in some):
                continue
            if giver is not None:
                chosen.append(face)
                givers.append(giver)
                named += [face] if person is not None else []
        if not chosen:
            best = float((known @ self.references.T).max())
            kept = sum(person is not None for person in who)
            raise NoFaceError(
                f"Nobody in {photo.name} is to be swapped: of {len(faces)} faces, {kept} are kept "
                f"by a reference, and {len(faces) - kept} are like none of "
                f"{len(self.references)} (the likest has {best:.2f}, and {SAME:g} is one person). "
                "Give a reference that shows the person more clearly, or a source for the others."
            )
        warn_of(named, photo)
        return chosen, givers
