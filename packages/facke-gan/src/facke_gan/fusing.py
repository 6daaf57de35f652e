"""The training of ``fuse``: its generator phase, and its own loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facke_core import FaceBatch, GeneratorOutput, Loss, SwapInputs
from facke_core.types import Step
from facke_gan.geometry import Geometry, geometry, without

__all__: list[str] = []

NO_GEOMETRY, NO_IDENTITY = 0.15, 0.1
"""Shares of the samples of which the generator gets no geometry, and no identity."""
SURE = 0.9, 0.2
"""Trust from which bent pixels are to be used, and up to which they are not."""


@dataclass(frozen=True, slots=True)
class Fusing:
    """The generator phase: bend the sources, leave out some of what is known, and generate."""

    def __call__(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step:
        inputs = SwapInputs(
            batch.source,
            batch.target,
            batch.identity,
            source_mesh=batch.source_mesh,
            target_mesh=batch.target_mesh,
            source_occlusion=batch.source_occlusion,
            target_occlusion=batch.occlusion,
        )
        bent = geometry(inputs, pull=0.0)
        no_geometry, no_identity = torch.rand(2, len(batch.target), generator=rng)
        bent = without(bent, inputs, no_geometry < NO_GEOMETRY)
        some = (no_identity >= NO_IDENTITY)[:, None].to(batch.identity.device)
        x, *rest = bent
        conditions = dict(zip(Geometry._fields[1:], rest, strict=True))
        output = modules["generator"](x, identity=batch.identity * some, **conditions)
        return Step(batch=batch, output=output, modules=modules, rng=rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaLoss:
    """The mean squared difference between ``alpha`` and the trust of the geometry, where that is
    sure: it keeps the generator from leaving the bent pixels before it can do better."""

    name: str = "alpha"

    def __call__(self, step: Step) -> Tensor:
        alpha, trust = (step.output.aux[name].float() for name in ("alpha", "sure"))
        high, low = SURE
        sure = ((trust > high) | (trust < low)).float()
        return ((alpha - trust).square() * sure).flatten(1).mean(1)


TERMS: dict[str, Callable[..., Loss]] = {"alpha": AlphaLoss}
"""The terms that only this method has."""
