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
BANDS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Standard deviations of the filters that part detail into bands, in units of :data:`FINE`; what is
coarser than 1 is no grain."""
NEAR = 0.05
"""That of the neighbourhood in which detail is measured, in widths of the face."""
MOST = 1.5
"""Most by which a band of the face is strengthened."""
_LEAST = 0.4
"""Least standard deviation of a filter, in pixels."""
_CLIP = 3.0
"""Detail beyond this many standard deviations is a wrinkle or a hair, and no grain."""


def grained(
    face: Tensor, target: Tensor, skin: Tensor, width: float, inside: Tensor | None = None
) -> Tensor:
    """The face with the target's grain on its skin, and as sharp as the target.

    What the face has of detail is strengthened first where the target has more, up to
    :data:`MOST`, in eyes and lips too; grain makes up for the rest.

    Args:
        face: (3, H, W) in [0, 1], the swapped face in the place of the target's.
        target: (3, H, W) in [0, 1], the photo there.
        skin: (1, H, W) in [0, 1], where the target shows skin.
        width: of the face, in pixels.
        inside: (1, H, W) in [0, 1], where the face is pasted; default: ``skin``.
    """
    area = skin.sum()
    if float(area) < 64:
        return face
    features = torch.zeros_like(skin) if inside is None else (inside - skin).clamp(min=0)
    luma = torch.stack([face.mean(0, keepdim=True), target.mean(0, keepdim=True)])
    near = max(NEAR * width, 2.0)

    def strength(detail: Tensor) -> float:
        return float((detail.square() * skin).sum().div(area).sqrt())

    for upper in BANDS:
        sigma = upper * FINE * width
        if sigma < _LEAST and upper < 1:
            continue
        low = blurred(luma, max(sigma, _LEAST))
        (ours, theirs), luma = luma - low, low
        most = _CLIP * strength(theirs)
        grain = theirs.clamp(-most, most)
        if upper <= 1 and strength(ours) > strength(grain):  # no sharper than the photo
            least = strength(low[0] - blurred(low[:1], max(sigma, _LEAST))[0])
            share = (strength(grain) - least) / max(strength(ours) - least, 1e-9)
            face = face + (min(max(share, 0.0), 1.0) - 1) * ours
        sizes = [ours.abs() * features, theirs.abs() * features, features]
        sizes += [ours.abs() * skin, grain.abs() * skin, skin]
        have, want, around, own, wanted, known = blurred(torch.stack(sizes), near).clamp(min=0)
        gain = (want / have.clamp(min=1e-9)).clamp(1, MOST)
        face = face + (gain - 1) * ours * features * (around > 0.02)
        if upper <= 1:
            missing = 1 - (own / wanted.clamp(min=1e-9)).square()
            face = face + missing.clamp(0, 1).sqrt() * (known > 0.05) * grain * skin
    return face.clamp(0, 1)
