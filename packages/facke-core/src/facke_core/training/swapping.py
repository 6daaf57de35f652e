"""The objective of every one-shot swap generator: SimSwap, CVAE, CVAE-GAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from facke_core.objective import Forward, LossTerm, Phase
from facke_core.types import FaceBatch, GeneratorOutput, Step

__all__ = ["SwapObjective"]


def generate(
    modules: Mapping[str, nn.Module],
    batch: FaceBatch,
    rng: torch.Generator | None,
    made: GeneratorOutput | None = None,
) -> Step:
    """Compute the generator phase: a result with its graph."""
    output = modules["generator"](batch.target, identity=batch.identity)
    return Step(batch=batch, output=output, modules=modules, rng=rng)


class SwapObjective:
    """An objective of a generator phase, then a discriminator phase, if there is a discriminator.

    Args:
        modules: ``generator``, ``identity_encoder``, and ``discriminator`` for a GAN.
        generator_terms: what the generator minimises.
        discriminator_terms: what the discriminator minimises; empty without one.
        discriminator_every: train the discriminator in every n-th step.
        forward: the generator phase, for generators that take more than an identity.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        generator_terms: Sequence[LossTerm],
        discriminator_terms: Sequence[LossTerm] = (),
        discriminator_every: int = 1,
        forward: Forward = generate,
    ) -> None:
        self.modules = dict(modules)
        self.forward = forward
        self.phases = [Phase("generator", forward, tuple(generator_terms))]
        if discriminator_terms:
            terms = tuple(discriminator_terms)
            self.phases.append(
                Phase("discriminator", self.discriminate, terms, every=discriminator_every)
            )

    def discriminate(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step:
        """Compute the discriminator phase on the result that the generator phase just made, as in
        SimSwap's step, where one forward pass serves both."""
        if made is None:
            with torch.no_grad():
                return self.forward(modules, batch, rng)
        return Step(batch=batch, output=made, modules=modules, rng=rng)
