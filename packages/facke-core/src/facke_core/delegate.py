"""Samplers that let another method do a part of the work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from facke_core.faces.reframe import reframe
from facke_core.faces.templates import Alignment, frontal
from facke_core.images.io import resize
from facke_core.loading import load
from facke_core.pipeline import SwapPipeline
from facke_core.types import SwapInputs
from facke_core.weights.sources import Source, locate

__all__ = ["encoders_of", "pipeline_of", "swapped_by"]


def swapped_by(method: str, inputs: SwapInputs, *, rng: torch.Generator | None = None) -> Tensor:
    """Swap crops with another method: results (B, 3, S, S) in [0, 1], framed like the targets.

    Crops of another template than the method's are shown to it in its own, and its results are
    brought back; what lies beyond its framing repeats its border.

    Args:
        method: a name, as :func:`facke_core.load` takes it. Its identity encoder sees
            ``inputs.source``.
        inputs: the crops.
        rng: the source of noise, for methods that draw any.

    Raises:
        UnknownNameError, WeightsError: no such method or weights.
    """
    pipeline = pipeline_of(method, str(inputs.target.device))
    ours, theirs = inputs.alignment or pipeline.alignment, pipeline.alignment
    side, own = theirs.size, inputs.target.shape[-1]
    crops = (_framed(x.float(), ours, theirs, side) for x in (inputs.source, inputs.target))
    return _framed(pipeline.swap_crops(*crops, rng=rng), theirs, ours, own).clamp(0, 1)


def _framed(crops: Tensor, have: Alignment, want: Alignment, size: int) -> Tensor:
    if frontal(have.template) != frontal(want.template):
        return reframe(crops, have.template, want.template, size)
    return crops if crops.shape[-1] == size else resize(crops, (size, size))


def encoders_of(method: str) -> list[str | Mapping[str, Any]]:
    """The encoders that results of ``method`` are made to please, for
    :class:`~facke_core.protocols.SteeredSampler`: that with which it was trained, if any."""
    trained_with = located(method).config.identity_encoder
    return [trained_with] if trained_with else []


@lru_cache(maxsize=4)
def located(method: str) -> Source:
    """The weights that ``method`` means. They are looked up once, so that the encoder that judges
    are compared with is the one of the pipeline that swaps."""
    return locate(method)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # a pipeline that is kept must not be bound to inference mode
def pipeline_of(method: str, device: str) -> SwapPipeline:
    """The pipeline of a method; it is built once."""
    return load(located(method), device=device)
