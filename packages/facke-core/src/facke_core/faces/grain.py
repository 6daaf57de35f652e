"""The fine detail of skin: a swapped face gets as much of it as the photo around it has.

A network's crop has no pores, and less the larger the face is in the photo; the source's own pixels
may be sharper, or softer, than the target's. Both are told from the target's own face.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facke_core.faces.smooth import blurred

__all__: list[str] = []

FINE = 0.007
"""Standard deviation of the filter that tells fine detail, in widths of the face."""
NEAR = 0.05
"""That of the neighbourhood in which detail is measured, likewise."""
_CLIP = 3.0
"""Detail beyond this many standard deviations is a wrinkle or a hair, and no grain."""


def grained(face: Tensor, target: Tensor, skin: Tensor, width: float) -> Tensor:
    """The face with the target's grain on its skin, and no sharper than the target.

    Args:
        face: (3, H, W) in [0, 1], the swapped face in the place of the target's.
        target: (3, H, W) in [0, 1], the photo there.
        skin: (1, H, W) in [0, 1], where the target shows skin.
        width: of the face, in pixels.
    """
    area = skin.sum()
    if float(area) < 64:
        return face
    fine, near = max(FINE * width, 0.5), max(NEAR * width, 2.0)
    luma = torch.stack([face.mean(0, keepdim=True), target.mean(0, keepdim=True)])
    ours, theirs = luma - blurred(luma, fine)
    spread = (theirs.square() * skin).sum().div(area).sqrt()
    grain = theirs.clamp(-_CLIP * spread, _CLIP * spread)

    def strength(detail: Tensor) -> float:
        return float((detail.square() * skin).sum().div(area).sqrt())

    if strength(ours) > strength(grain):  # sharper than the photo: soften all of it
        soft = blurred(face[None], fine)[0]
        rest = soft.mean(0, keepdim=True)
        least = strength(rest - blurred(rest[None], fine)[0])
        share = (strength(grain) - least) / max(strength(ours) - least, 1e-6)
        return torch.lerp(soft, face, max(share, 0.0))
    energy = blurred(torch.stack([ours.square() * skin, grain.square() * skin, skin]), near)
    have, want, around = energy.clamp(min=0)
    missing = ((want - have) / want.clamp(min=1e-9)).clamp(0, 1).sqrt() * (around > 0.05)
    return (face + grain * missing * skin).clamp(0, 1)
