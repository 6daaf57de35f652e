"""What makes a face doubtful: whoever swaps it should look at the result."""

from __future__ import annotations

import torch
from torch import Tensor

from facke_core.faces.align import warp
from facke_core.types import Face

__all__: list[str] = []

UNSURE_SCORE = 0.65
"""Score below which a detector is not sure."""
MISFIT_OVERLAP = 0.4
"""Overlap of the mesh with the detector's box below which they disagree."""
MOST_AWAY = 0.38
"""Largest :func:`turned_away` of a face that methods are made for: about 50 degrees of yaw."""
DARK = 0.5
"""Lightness of the eyes, relative to the cheeks, below which nobody can see them."""
TINY = 9.0
"""Distance of the eyes in pixels below which a face is too small to look like somebody."""
WIDTH = 2.3
"""Width of a face in distances of its eyes."""
LEAST_DISTANCE = 12.0
"""Distance of the eyes in pixels below which nothing is said of them."""
_SIDE, _FIRST, _LEVEL, _APART = 96, 32, 40, 32
"""The side of the crop in which eyes are looked at, and the places of the eyes in it."""

UNSURE = "the detector is not sure of it (score {:.2f})"
MISFIT = "its mesh and its box disagree"
WHICH_WAY = "which way is up cannot be told"
AWAY = "the head is turned far to the side"
SMALL = "it is only about {:.0f} pixels wide"
SHADED = "both eyes are dark, as behind sunglasses"


def turned_away(landmarks: Tensor) -> float:
    """The distance of the nose tip from the middle of the eyes, along their line and in distances
    of the eyes, by landmarks (5, 2): 0 where the head looks at the camera. Not finite where the
    eyes coincide."""
    eyes = landmarks[1] - landmarks[0]
    nose = landmarks[2] - landmarks[:2].mean(0)
    return abs(float((nose * eyes).sum() / eyes.square().sum()))


def eyes_are_dark(photo: Tensor, landmarks: Tensor) -> bool:
    """Tell whether both eyes lie behind something dark, of a photo (3, H, W) and landmarks (5, 2).

    Lids and the white of an eye are about as light as the cheek below, and dark glasses are not:
    of 1,046 faces without them, with or without ordinary glasses, the lightest tenth around both
    eyes is below :data:`DARK` of the cheek in one, and in 95 to 100 % of those with drawn ones.
    """
    eyes = landmarks[:2].detach().float().cpu()
    along = eyes[1] - eyes[0]
    distance = float(along.norm())
    if not LEAST_DISTANCE <= distance < float("inf"):
        return False
    x, y = (_APART * along / distance**2).tolist()
    turn = torch.tensor([[x, y], [-y, x]])
    matrix = torch.cat([turn, (torch.tensor([_FIRST, _LEVEL]) - turn @ eyes[0])[:, None]], 1)
    crop = warp(photo[None].float().cpu(), matrix[None], _SIDE, border="border")[0]
    light = torch.tensor([0.299, 0.587, 0.114]) @ crop.flatten(1)
    down, across = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    seen, skin = [], []
    for middle in (_FIRST, _FIRST + _APART):
        around = ((across - middle) / 10) ** 2 + ((down - _LEVEL - 1) / 6.5) ** 2 <= 1
        cheek = ((across - middle).abs() <= 6) & ((down - _LEVEL - 17).abs() <= 5)
        seen.append(float(light[around.flatten()].quantile(0.9)))
        skin.append(float(light[cheek.flatten()].median()))
    return max(skin) > 0.08 and max(seen) < DARK * max(skin)


def looked_over(face: Face, photo: Tensor | None = None) -> Face:
    """The face with doubts about its pose and, in a photo (3, H, W), its eyes, where there are."""
    doubts = [AWAY] if turned_away(face.landmarks) > MOST_AWAY else []
    eyes = float((face.landmarks[1] - face.landmarks[0]).norm())
    doubts += [SMALL.format(WIDTH * eyes)] if 0 < eyes < TINY else []
    doubts += [SHADED] if photo is not None and eyes_are_dark(photo, face.landmarks) else []
    new = [doubt for doubt in doubts if doubt not in face.doubts]
    return face._replace(doubts=(*face.doubts, *new)) if new else face
