"""What makes a face doubtful: whoever swaps it should look at the result."""

from __future__ import annotations

from torch import Tensor

from facke_core.types import Face

__all__: list[str] = []

UNSURE_SCORE = 0.65
"""Score below which a detector is not sure."""
MISFIT_OVERLAP = 0.4
"""Overlap of the mesh with the detector's box below which they disagree."""
MOST_AWAY = 0.38
"""Largest :func:`turned_away` of a face that methods are made for: about 50 degrees of yaw."""

UNSURE = "the detector is not sure of it (score {:.2f})"
MISFIT = "its mesh and its box disagree"
WHICH_WAY = "which way is up cannot be told"
AWAY = "the head is turned far to the side"


def turned_away(landmarks: Tensor) -> float:
    """The distance of the nose tip from the middle of the eyes, along their line and in distances
    of the eyes, by landmarks (5, 2): 0 where the head looks at the camera. Not finite where the
    eyes coincide."""
    eyes = landmarks[1] - landmarks[0]
    nose = landmarks[2] - landmarks[:2].mean(0)
    return abs(float((nose * eyes).sum() / eyes.square().sum()))


def looked_over(face: Face) -> Face:
    """The face with a doubt about its pose, where there is one."""
    if turned_away(face.landmarks) <= MOST_AWAY or AWAY in face.doubts:
        return face
    return face._replace(doubts=(*face.doubts, AWAY))
