"""How a DDPM is trained: a random timestep and noise for each picture, and a guess of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from facke_core.errors import ConfigError, UsageError
from facke_core.training.step import LossTerm, Phase, Step
from facke_core.types import FaceBatch, GeneratorOutput
from facke_diffusion import schedule as S
from facke_diffusion.losses import TERMS, DenoisingStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from facke_core.methods import Method
    from facke_core.protocols import IdentityEncoder
    from facke_core.training.recipe import Recipe
    from facke_core.training.step import Objective
    from facke_diffusion.ddpm import DDPMGenerator


class DenoisingObjective:
    """One phase: noise the batch's targets and let the generator estimate them.

    Args:
        generator: the network.
        terms: what it minimises.
        schedule: the steps to train on; default: all that the network knows.
    """

    def __init__(
        self,
        generator: DDPMGenerator,
        terms: Sequence[LossTerm],
        *,
        schedule: S.Schedule | None = None,
    ) -> None:
        self.modules: dict[str, nn.Module] = {"generator": generator}
        self.schedule = schedule or generator.schedule
        self.phases = [Phase("generator", self.denoise, tuple(terms))]

    def denoise(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step:
        """Timestep and noise come from ``rng`` alone, for the whole batch: first (B,), then
        (B, 3, S, S).

        Raises:
            UsageError: no ``rng``.
        """
        if rng is None:
            raise UsageError("Training a denoiser needs rng=torch.Generator(...).")
        clean = 2 * batch.target.float() - 1
        t = torch.randint(len(self.schedule), (len(clean),), generator=rng, device=rng.device)
        noise = torch.randn(clean.shape, generator=rng, device=rng.device).to(clean)
        noisy = S.q_sample(self.schedule, clean, t, noise)
        timestep = self.schedule.timestep_map[t.cpu()]
        return DenoisingStep(
            batch=batch,
            output=modules["generator"](noisy, timestep=timestep.to(clean.device)),
            modules=modules,
            rng=rng,
            schedule=self.schedule,
            t=t.to(clean.device),
            clean=clean,
            noise=noise,
            noisy=noisy,
        )


def objective(method: Method, encoder: IdentityEncoder, recipe: Recipe) -> Objective:
    """The objective of a DDPM with the terms of :data:`facke_diffusion.losses.TERMS`. The identity
    encoder takes no part.

    Raises:
        ConfigError: an unknown term, or one that the network cannot have.
    """
    from facke_core.training.recipe import terms

    generator = cast("DDPMGenerator", method.generator)
    if "variance" in recipe.loss and not generator.config.learn_sigma:
        raise ConfigError(
            "loss.variance: the network learns no variance. Leave the term out, or set "
            "generator.learn_sigma=true."
        )
    return DenoisingObjective(generator, terms(recipe.loss, TERMS))
