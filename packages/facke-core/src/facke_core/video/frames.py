"""The frames of a clip as whoever changes them sees them.

A clip is cut into segments of about ten seconds. What becomes of a segment depends on the clip, the
settings and the segment alone: each is changed from a fresh start, from its own frames and up to
:data:`MARGIN` before and after them, which are looked at but not written. So it does not matter who
does which segment, in which order, or how often the work was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Change", "Changed", "Frame"]

MARGIN = 24
"""Most frames before and after a segment that are looked at with it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a clip, upright."""

    index: int
    """Its number in the clip, from 0."""
    seconds: float
    """When it is shown."""
    image: Tensor
    """Colours (3, H, W) float32 RGB in [0, 1], on the CPU."""
    inside: bool = True
    """True in the segment itself. The frames of its margins are there to be looked at; they need
    not be changed."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a frame."""

    index: int
    """The number of the frame."""
    image: Tensor
    """Colours (3, H, W) float32 RGB in [0, 1]."""
    mask: Tensor | None = None
    """The share (1, H, W) in [0, 1] of each pixel that was changed. Where it is 0 the pixels of the
    clip itself are written. None: the frame stays as it was."""


Change = Callable[[Iterator[Frame]], Iterator[Changed]]
"""A function that changes the frames of one segment, in order. It reads ahead as far as it likes;
what it gives back for frames of the margins is dropped."""
