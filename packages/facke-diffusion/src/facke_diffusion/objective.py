"""The training of a DDPM: a random timestep and noise for each picture, and a guess of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from facke_core import FaceBatch, GeneratorOutput, LossTerm
from facke_core.errors import ConfigError, UsageError, check_choice
from facke_core.objective import Phase
from facke_core.types import Step
from facke_diffusion import schedule as S
from facke_diffusion.losses import TERMS, DenoisingLoss, DenoisingStep
from facke_diffusion.timesteps import SAMPLERS, Uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from facke_core import IdentityEncoder, Method, Objective, Recipe
    from facke_diffusion.ddpm import DDPMGenerator

__all__ = ["DenoisingObjective", "objective"]


class DenoisingObjective:
    """An objective of one phase, which noises the batch's targets and lets the generator estimate
    them.

    Args:
        generator: the network.
        terms: the terms to minimise.
        schedule: the steps to train on; default: all that the network knows.
        timesteps: draws the steps; default: all alike.
    """

    def __init__(
        self,
        generator: DDPMGenerator,
        terms: Sequence[LossTerm],
        *,
        schedule: S.Schedule | None = None,
        timesteps: Uniform | None = None,
    ) -> None:
        self.schedule = schedule or generator.schedule
        self.timesteps = timesteps or Uniform(len(self.schedule))
        self.modules: dict[str, nn.Module] = {"generator": generator, "timesteps": self.timesteps}
        self.phases = [Phase("generator", self.denoise, tuple(terms))]

    def denoise(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step:
        """Noise the targets of a batch and have the generator estimate them.

        Timesteps (B,), then noise (B, 3, S, S) are drawn from ``rng``, for the whole batch.

        Raises:
            UsageError: no ``rng``.
        """
        if rng is None:
            raise UsageError("Training a denoiser needs rng=torch.Generator(...).")
        clean = 2 * batch.target.float() - 1
        t, weight = self.timesteps.draw(len(clean), rng)
        noise = torch.randn(clean.shape, generator=rng, device=rng.device).to(clean)
        noisy = S.q_sample(self.schedule, clean, t, noise)
        timestep = self.schedule.timestep_map[t.cpu()].to(clean.device)
        step = DenoisingStep(
            batch=batch,
            output=modules["generator"](noisy, timestep=timestep),
            modules=modules,
            rng=rng,
            schedule=self.schedule,
            t=t.to(clean.device),
            weight=weight.to(clean.device),
            clean=clean,
            noise=noise,
            noisy=noisy,
        )
        self._learn(step)
        return step

    @torch.no_grad()
    def _learn(self, step: DenoisingStep) -> None:
        if type(self.timesteps) is Uniform:
            return
        plain = replace(step, weight=torch.ones_like(step.weight))
        terms = [x for x in self.phases[0].terms if isinstance(x.loss, DenoisingLoss)]
        losses = torch.stack([term.weight * term.loss(plain) for term in terms])
        self.timesteps.learn(step.t, losses.sum(dim=0))


def objective(
    method: Method,
    encoder: IdentityEncoder,
    recipe: Recipe,
    timesteps: str = "uniform",
    respacing: int | str = "",
) -> Objective:
    """Make the objective of a DDPM with the terms of :data:`facke_diffusion.losses.TERMS`. The
    identity encoder takes no part.

    Args:
        method: one with a :class:`~facke_diffusion.ddpm.DDPMGenerator`.
        encoder: not used.
        recipe: names the terms.
        timesteps: name of what draws them, out of :data:`facke_diffusion.timesteps.SAMPLERS`.
        respacing: the steps to train on, as :func:`~facke_diffusion.schedule.respaced` takes them;
            empty: all.

    Raises:
        ConfigError: an unknown term, or one that the network cannot have; no such respacing.
        UsageError: no such ``timesteps``.
    """
    from facke_core.training.recipe import terms

    generator = cast("DDPMGenerator", method.generator)
    if "variance" in recipe.loss and not generator.config.learn_sigma:
        raise ConfigError(
            "loss.variance: the network learns no variance. Leave the term out, or set "
            "generator.learn_sigma=true."
        )
    if not recipe.loss.keys() & TERMS.keys():
        raise ConfigError(f"loss: names none of {', '.join(TERMS)}. Add noise.")
    check_choice("objective.timesteps", timesteps, SAMPLERS)
    schedule = S.respaced(generator.schedule, respacing)
    return DenoisingObjective(
        generator,
        terms(recipe.loss, TERMS),
        schedule=schedule,
        timesteps=SAMPLERS[timesteps](len(schedule)),
    )
