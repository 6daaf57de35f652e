"""The objective of every one-shot swap generator: SimSwap, CVAE, CVAE-GAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from facke_core.training.step import LossTerm, Phase, Step
from facke_core.types import FaceBatch


def generate(
    modules: Mapping[str, nn.Module], batch: FaceBatch, rng: torch.Generator | None
) -> Step:
    """The generator phase: a result with its graph."""
    output = modules["generator"](batch.target, identity=batch.identity)
    return Step(batch=batch, output=output, modules=modules, rng=rng)


def discriminate(
    modules: Mapping[str, nn.Module], batch: FaceBatch, rng: torch.Generator | None
) -> Step:
    """The discriminator phase: a result without a graph."""
    with torch.no_grad():
        return generate(modules, batch, rng)


class SwapObjective:
    """Discriminator phase (if there is one), then generator phase.

    Args:
        modules: ``generator``, ``identity_encoder``, and ``discriminator`` for a GAN.
        generator_terms: what the generator minimises.
        discriminator_terms: what the discriminator minimises; empty without one.
        discriminator_every: train the discriminator in every n-th step.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        generator_terms: Sequence[LossTerm],
        discriminator_terms: Sequence[LossTerm] = (),
        discriminator_every: int = 1,
    ) -> None:
        self.modules = dict(modules)
        self.phases = [Phase("generator", generate, tuple(generator_terms))]
        if discriminator_terms:
            terms = tuple(discriminator_terms)
            self.phases.insert(
                0, Phase("discriminator", discriminate, terms, every=discriminator_every)
            )
