"""The faces of a photo that a swap is about."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Literal

from facke_core.errors import FackeWarning, NoFaceError, UsageError
from facke_core.images.io import Photo
from facke_core.types import Face

__all__ = ["FaceChoice"]

FaceChoice = Literal["largest", "all", "left", "right"] | int | Sequence[int]
"""The faces of a target to swap. Numbers count from the largest, which is 1, through all faces that
can be found; ``left`` and ``right`` are the outermost of them, as one looks at the picture;
``largest`` is the largest of those that are found first, and takes less time."""
WORDS = ("largest", "all", "left", "right")
_CALLER = 5
"""Number of frames from a warning to the code that asked for a swap, about."""


def numbers_of(choice: FaceChoice) -> list[int] | None:
    """The chosen numbers, each once; None for one of :data:`WORDS`.

    Raises:
        UsageError: it is no choice.
    """
    if isinstance(choice, str):
        return None if choice in WORDS else [number_of(choice)]
    if isinstance(choice, Sequence) and choice:
        return sorted({number_of(number) for number in choice})
    return [number_of(choice)]


def number_of(value: object, where: str = "face") -> int:
    """The number of a face.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    others = "" if where == "source_face" else "'largest', 'all', 'left', 'right', or "
    raise UsageError(
        f"{where}={value!r} is not possible. Use {others}a number from 1, which counts from the "
        f"largest face{', or several such numbers' if others else ''}."
    )


def chosen_faces(faces: Sequence[Face], choice: FaceChoice, photo: Photo) -> list[Face]:
    """The chosen ones of the faces of a photo, of which there is one at least.

    Raises:
        UsageError: it is no choice.
        NoFaceError: there are fewer.

    Warns:
        FackeWarning: one of them is doubtful.
    """
    numbers = numbers_of(choice)
    missing = [number for number in numbers or () if number > len(faces)]
    if missing:
        there = "is 1 face" if len(faces) == 1 else f"are {len(faces)} faces"
        raise NoFaceError(
            f"There is no face {missing[0]} in {shown(photo)}: there {there}. Count from the "
            "largest, 1, or ask for largest or all."
        )
    if numbers is None:
        chosen = by_word(faces, str(choice))
    else:
        chosen = [faces[number - 1] for number in numbers]
    warn_of(chosen, photo)
    return chosen


def by_word(faces: Sequence[Face], word: str) -> list[Face]:
    """The faces, largest first, that one of :data:`WORDS` names; none where there are none."""
    if word == "all":
        return list(faces)
    if word in ("left", "right"):
        across = sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))
        return across[:1] if word == "left" else across[-1:]
    return list(faces[:1])


def warn_of(faces: Sequence[Face], photo: Photo) -> None:
    """Warn of the doubtful ones of faces that are swapped."""
    for face in faces:
        if face.doubts:
            x, y = ((face.box[:2] + face.box[2:]) / 2).round().int().tolist()
            warnings.warn(
                f"The face at ({x}, {y}) in {photo.name} is doubtful: {', '.join(face.doubts)}. "
                "Look at the result.",
                FackeWarning,
                stacklevel=_CALLER,
            )


def larger_than(face: Face, faces: Sequence[Face]) -> list[Face]:
    """The faces that come before one of them in a list, the largest first: those in front of it,
    where heads overlap."""
    return list(itertools.takewhile(lambda other: other is not face, faces))


def largest_of(faces: Sequence[Face], photo: Photo) -> Face:
    """The largest face of a source for which nobody chose one.

    Warns:
        FackeWarning: there are others, or it is doubtful.
    """
    if len(faces) > 1:
        warnings.warn(
            f"{photo.name} shows {len(faces)} faces or more, of which the largest gives the "
            "identity. Choose one by `source_face`, counted from the largest, 1.",
            FackeWarning,
            stacklevel=_CALLER,
        )
    return chosen_faces(faces, "largest", photo)[0]


def shown(photo: Photo, threshold: float | None = None) -> str:
    """Name and size of a photo for messages, and the threshold of the detector."""
    height, width = photo.image.shape[1:]
    by = "" if threshold is None else f"; the detector's threshold is {threshold:g}"
    return f"{photo.name} ({width} x {height} pixels{by})"
