"""Colours of a swapped face: those of the target's skin, and its tones where it has no colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor

__all__: list[str] = []

_TONED, _COLOURED = 1.5, 2.0
"""Below the one a photograph has tones only, from the other on it is a colour photograph."""
_TONES = 26
"""Lightnesses at which tones are kept."""
_GREY = 1.5 / 255
"""Largest difference of R, G and B in a grey picture."""


def match_color(crop: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Move mean and spread of ``crop``'s colours inside the mask to those of ``target``.

    Per channel of CIE Lab (Reinhard et al. 2001); the spread changes by at most a quarter, so
    that noise and flat faces are not blown up. Where the target has one tone for each lightness, as
    black-and-white and sepia have, the result has these tones: see :func:`_toned`.

    Args:
        crop: (3, S, S) in [0, 1].
        target: (3, S, S) in [0, 1].
        mask: (1, S, S), weights.

    Returns:
        (3, S, S) in [0, 1].
    """
    total = mask.sum().clamp(min=1e-6)

    def moments(lab: Tensor) -> tuple[Tensor, Tensor]:
        mean = (lab * mask).sum((1, 2), keepdim=True) / total
        spread = ((lab - mean).square() * mask).sum((1, 2), keepdim=True) / total
        return mean, spread.sqrt()

    lab, wanted = rgb_to_lab(crop), rgb_to_lab(target)
    mean, spread = moments(lab)
    wanted_mean, wanted_spread = moments(wanted)
    gain = (wanted_spread / spread.clamp(min=1e-3)).clamp(0.8, 1.25)
    moved = _toned((lab - mean) * gain + wanted_mean, lab, wanted, mask)
    matched: Tensor = lab_to_rgb(moved).clamp(0, 1)
    if float(((target.amax(0) - target.amin(0)) * (mask[0] > 0)).amax()) < _GREY:
        return matched.mean(0, keepdim=True).expand(3, -1, -1)  # not even rounding differs
    return matched


def is_toned(crop: Tensor, mask: Tensor) -> bool:
    """Tell whether a face (3, S, S) in [0, 1] has one tone for each lightness, as black-and-white
    and sepia have; the mask (1, S, S) says where it is."""
    lab = rgb_to_lab(crop)
    return _left(lab, _tones(lab, mask + 1e-4), mask) < _TONED


def _left(lab: Tensor, tones: Tensor, mask: Tensor) -> float:
    return _size(lab[1:] - _at(tones, lab[0]), mask)


def _toned(moved: Tensor, lab: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Take the chroma from the target's tones, as far as the target is toned.

    What is left of a photograph's chroma when the mean for each lightness is subtracted, and noise
    is averaged away, has a root mean square of 2.1 to 7.5 in faces of colour photographs; of 0.1 to
    0.6 in toned ones, and about 1 where these were JPEGs. The crop keeps as much of its own as the
    target has; from 2 upwards nothing changes.

    Args:
        moved: Lab colours (3, S, S) of the crop, with mean and spread of the target's.
        lab: those of the crop as it was.
        wanted: the target's.
        mask: (1, S, S), weights.
    """
    # tones that the face does not have come from around it
    weights = mask + 1e-4
    tones = _tones(wanted, weights)
    left = _left(wanted, tones, mask)
    if left >= _COLOURED:
        return moved
    own = lab[1:] - _at(_tones(lab, weights), lab[0])
    share = left / max(_size(own, mask), left, 1e-6) * min(max((left - 0.3) / 0.7, 0), 1)
    chroma = _at(tones, moved[0]) + share * own
    toned = min((_COLOURED - left) / (_COLOURED - _TONED), 1)
    return torch.cat([moved[:1], moved[1:] + toned * (chroma - moved[1:])])


def _tones(lab: Tensor, weights: Tensor) -> Tensor:
    """The mean chroma (2, K) at K lightnesses from 0 to 100."""
    place = lab[0].flatten().clamp(0, 100) / 100 * (_TONES - 1)
    below = place.floor().clamp(max=_TONES - 2).long()
    above_share = place - below
    sums = torch.zeros(3, _TONES)
    values = torch.cat([lab[1:].flatten(1), torch.ones(1, len(place))])
    for index, share in ((below, 1 - above_share), (below + 1, above_share)):
        sums.index_add_(1, index, values * share * weights.flatten())
    known = sums[2] > 1e-6
    if not bool(known.any()):
        return sums[:2]
    # lightnesses that do not occur have the tone of the nearest that does
    ticks = torch.arange(_TONES)
    distance = (ticks[:, None] - ticks[None, :]).abs() + (~known) * _TONES
    return (sums[:2] / sums[2].clamp(min=1e-6))[:, distance.argmin(1)]


def _at(tones: Tensor, lightness: Tensor) -> Tensor:
    """The tones (2, H, W) of lightnesses (H, W), interpolated."""
    place = lightness.clamp(0, 100) / 100 * (_TONES - 1)
    below = place.floor().clamp(max=_TONES - 2).long()
    return tones[:, below].lerp(tones[:, below + 1], (place - below)[None])


def _size(chroma: Tensor, mask: Tensor) -> float:
    """The root mean square of a chroma (2, S, S), noise averaged over an eighth of the face."""
    pool = max(mask.shape[-1] // 16, 1)
    seen = F.avg_pool2d(torch.cat([chroma * mask, mask])[None], pool, ceil_mode=True)[0]
    share = seen[2:].clamp(min=1e-6)
    square = ((seen[:2] / share).square() * share).sum() / share.sum()
    return float(square.sqrt())
