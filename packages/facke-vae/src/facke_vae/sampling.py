"""How a CVAE infers: with the mean of its latent, or with a draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from facke_core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from facke_core.types import SwapInputs
    from facke_vae.cvae import CVAEGenerator

__all__ = ["LatentSampler"]


@dataclass(frozen=True, slots=True)
class LatentSampler:
    """One pass on the target crops. Without a temperature, or at 0, the latent is its mean and
    ``rng`` is left alone; above, each sample draws its own."""

    temperature: float | None = None
    """Scales the noise: 1 draws as in training, 0.7 nearer to the mean, 0 does not draw. None does
    not draw either, unless the user asks for a seed: then it is 1."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature: {self.temperature:g} is not a number from 0. Use 0 for the mean of "
                "the latent, 1 for draws as in training."
            )

    @property
    def supplies(self) -> frozenset[str]:
        """``{"identity", "eps"}``."""
        return frozenset({"identity", "eps"})

    def seeded(self) -> LatentSampler:
        """The sampler that draws, for somebody who asks for a seed."""
        return LatentSampler(temperature=1.0) if self.temperature is None else self

    def __call__(
        self,
        generator: CVAEGenerator,
        inputs: SwapInputs,
        *,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1].

        Raises:
            UsageError: a temperature above 0 without ``rng``.
        """
        eps = None
        if self.temperature:
            eps = generator.noise(inputs.target, rng, temperature=self.temperature)
        return generator(inputs.target, identity=inputs.identity, eps=eps).image.clamp(0, 1)
