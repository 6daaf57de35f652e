"""DDPM-GAN, the future work of Facke's paper: another method swaps, and a DDPM redraws.

The result of the other method is what is noised to ``start``, and what the low frequencies follow,
so that the DDPM keeps the swap and replaces only what a face should not look like.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facke_core import SwapInputs
from facke_core.delegate import pipeline_of, swapped_by
from facke_core.errors import CompatibilityError
from facke_core.faces.templates import template_points

__all__: list[str] = []


def refined(method: str, inputs: SwapInputs, *, rng: torch.Generator | None = None) -> Tensor:
    """Swap the crops with another method: results (B, 3, S, S) in [0, 1], of the target's size.

    Args:
        method: a name, as :func:`facke_core.load` takes it; the method's identity encoder sees
            ``inputs.source``.
        inputs: the crops, which are resized to the method's size and back.
        rng: the source of noise, for methods that draw any.

    Raises:
        CompatibilityError: the method frames its crops in another way, or refines, too.
        UnknownNameError, WeightsError: no such method or weights.
    """
    pipeline = pipeline_of(method, str(inputs.target.device))
    if getattr(pipeline.method.sampler, "refine", ""):
        raise CompatibilityError(
            f"refine: the weights {method!r} refine another method themselves. Name a method that "
            "swaps directly, such as simswap."
        )
    ours, theirs = inputs.alignment, pipeline.alignment
    if ours is not None and not torch.equal(
        template_points(ours.template, 112), template_points(theirs.template, 112)
    ):
        raise CompatibilityError(
            f"refine: {method!r} takes crops framed as {theirs.template!r}, this DDPM takes "
            f"{ours.template!r}, so the one cannot redraw what the other makes. Use weights of the "
            "same template."
        )
    return swapped_by(method, inputs, rng=rng)
