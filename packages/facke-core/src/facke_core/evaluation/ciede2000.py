"""The colour difference CIEDE2000 (Luo, Cui and Rigg 2001), as Sharma, Wu and Dalal write it down.

G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes,
supplementary test data, and mathematical observations", Color Research and Application 30 (2005).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__: list[str] = []

_TWENTY_FIVE = 25.0**7


def difference(a: Tensor, b: Tensor) -> Tensor:
    """The difference (...) of colours (..., 3) and (..., 3) in CIE Lab, with all weights 1.

    A difference of 1 can just be seen.
    """
    (l1, a1, b1), (l2, a2, b2) = a.double().unbind(-1), b.double().unbind(-1)
    # equations 2 to 7: chroma and hue, with a stretched near grey
    mean = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - _chroma_share(mean) / 2
    a1, a2 = stretch * a1, stretch * a2
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.rad2deg(torch.atan2(y, x)) % 360 for y, x in ((b1, a1), (b2, a2)))
    grey = c1 * c2 == 0
    # equations 8 to 11: differences
    turn = (h2 - h1 + 180) % 360 - 180
    turn = torch.where((turn == -180) & (h2 > h1), 180, turn)
    dl, dc = l2 - l1, c2 - c1
    dh = 2 * (c1 * c2).sqrt() * torch.sin(torch.deg2rad(turn / 2))
    # equations 12 to 14: means
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (h1 + h2) / 2
    far = (h1 - h2).abs() > 180
    hue = torch.where(far, torch.where(h1 + h2 < 360, hue + 180, hue - 180), hue)
    hue = torch.where(grey, h1 + h2, hue)

    def wave(times: int, shift: float) -> Tensor:
        return torch.cos(torch.deg2rad(times * hue + shift))

    # equations 15 to 22: what differences count, and how hue and chroma do together in blue
    t = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.2 * wave(4, -63)
    middle = (lightness - 50).square()
    dl = dl / (1 + 0.015 * middle / (20 + middle).sqrt())
    dc = dc / (1 + 0.045 * chroma)
    dh = dh / (1 + 0.015 * chroma * t)
    blue = 30 * torch.exp(-((hue - 275) / 25).square())
    rotation = -torch.sin(torch.deg2rad(2 * blue)) * 2 * _chroma_share(chroma)
    return (dl.square() + dc.square() + dh.square() + rotation * dc * dh).clamp(min=0).sqrt()


def _chroma_share(chroma: Tensor) -> Tensor:
    seventh = chroma.pow(7)
    return (seventh / (seventh + _TWENTY_FIVE)).sqrt()
