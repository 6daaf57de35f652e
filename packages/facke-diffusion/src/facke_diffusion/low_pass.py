"""The low-pass filter phi_N of ILVR: shrink by N, enlarge by N, both with a cubic kernel.

Both are linear and separable, so a picture is filtered by two small matrices on each side,
``U (D x D') U'``, which are made once per size. The passband is one N-th of the frequencies.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from facke_core.errors import CompatibilityError, ConfigError

__all__ = ["low_pass"]


def cubic(x: Tensor) -> Tensor:
    """The cubic kernel of Keys (IEEE TASSP 1981) with a = -0.5 at distances ``x``; zero from 2
    on."""
    x = x.abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def resampling_matrix(size: int, scale: float) -> Tensor:
    """The matrix (size * scale, size) float64 that resamples a row of ``size`` pixels by ``scale``.

    Output o, counted from 1, lies at ``p = o / scale + (1 - 1 / scale) / 2`` between the inputs
    1 ... size; beyond the ends the row is mirrored, edge pixels included. Shrinking widens the
    kernel by ``1 / scale``, which is the antialiasing. The weights of an output add up to 1.
    """
    out = round(size * scale)
    width = 4 / min(scale, 1.0)
    centre = _numbers(out) / scale + (1 - 1 / scale) / 2
    taps = _numbers(int(width) + 2) - 2
    index = torch.floor(centre - width / 2)[:, None] + taps  # from 0
    weight = cubic((centre[:, None] - index - 1) * min(scale, 1.0))
    weight = weight / weight.sum(1, keepdim=True)
    folded = index.long() % (2 * size)
    folded = torch.minimum(folded, 2 * size - 1 - folded)
    return weight.new_zeros(out, size).scatter_add_(1, folded, weight)


def _numbers(n: int) -> Tensor:
    """The numbers 1 ... n, float64."""
    return torch.arange(1, n + 1, dtype=torch.float64, device="cpu")


def check_factor(factor: int) -> None:
    """Refuse a ``factor`` that is no power of two from 2.

    Raises:
        ConfigError: it is none.
    """
    if factor < 2 or factor & (factor - 1):
        raise ConfigError(
            f"factor: {factor} is not a power of two from 2, and phi_N is defined for those. Use "
            "2, 4, 8, 16 or 32: a larger one leaves more to the network."
        )


def check_size(size: int, factor: int) -> None:
    """Refuse a ``factor`` that does not divide ``size``.

    Raises:
        CompatibilityError: it does not.
    """
    if size % factor:
        most = size & -size
        advice = f"Use {most} or a smaller power of two." if most > 1 else "Use an even size."
        raise CompatibilityError(
            f"factor: {factor} does not divide the image size {size}, so phi_N cannot shrink the "
            f"picture to whole pixels. {advice}"
        )


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what a swap computed must serve a later training too
def _matrices(size: int, factor: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrices ``D`` (size / N, size) and ``U`` (size, size / N), float32."""
    check_factor(factor)
    check_size(size, factor)
    shrink = resampling_matrix(size, 1 / factor)
    enlarge = resampling_matrix(size // factor, factor)
    return shrink.float().to(device), enlarge.float().to(device)


def low_pass(x: Tensor, factor: int) -> Tensor:
    """Apply phi_N, which leaves what a picture of an N-th of the size can show (ILVR,
    arXiv:2108.02938, Sec. 3.2).

    Args:
        x: (B, C, H, W), any range.
        factor: N, a power of two that divides H and W.

    Returns:
        Shaped like ``x``, computed in float32.

    Raises:
        ConfigError: N is no power of two.
        CompatibilityError: it does not divide H or W.
    """
    height, width = x.shape[-2:]
    down_h, up_h = _matrices(height, factor, x.device)
    down_w, up_w = _matrices(width, factor, x.device)
    with torch.autocast(x.device.type, enabled=False):
        small = down_h @ x.float() @ down_w.mT
        return up_h @ small @ up_w.mT
