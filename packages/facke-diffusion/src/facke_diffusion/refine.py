"""DDPM-GAN, the future work of Facke's paper: another method swaps, and a DDPM redraws.

The result of the other method is what is noised to ``start``, and what the low frequencies follow,
so that the DDPM keeps the swap and replaces only what a face should not look like.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from facke_core import SwapInputs, SwapPipeline, load
from facke_core.errors import CompatibilityError
from facke_core.faces.templates import template_points
from facke_core.images.io import resize
from facke_core.weights.sources import Source, locate

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
    pipeline = _pipeline(method, str(inputs.target.device))
    _check(method, pipeline, inputs)
    side = pipeline.alignment.size
    crops = (_resized(x.float(), (side, side)) for x in (inputs.source, inputs.target))
    result = pipeline.swap_crops(*crops, rng=rng)
    return _resized(result, (inputs.target.shape[2], inputs.target.shape[3])).clamp(0, 1)


def _check(method: str, pipeline: SwapPipeline, inputs: SwapInputs) -> None:
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


def _resized(crops: Tensor, size: tuple[int, int]) -> Tensor:
    return crops if crops.shape[-2:] == size else resize(crops, size)


@lru_cache(maxsize=2)
def located(method: str) -> Source:
    """The weights that ``method`` means. They are looked up once, so that the encoder that judges
    are compared with is the one of the pipeline that refines."""
    return locate(method)


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # a pipeline that is kept must not be bound to inference mode
def _pipeline(method: str, device: str) -> SwapPipeline:
    return load(located(method), device=device)
