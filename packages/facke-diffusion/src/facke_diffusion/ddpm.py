"""DDPM: a U-Net with its noise schedule, as a generator of facke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from facke_core import GeneratorOutput, GeneratorSpec
from facke_core.errors import check_ranges
from facke_diffusion import schedule as S
from facke_diffusion.unet import UNet, UNetConfig

__all__ = ["FFHQ_256", "DDPMConfig", "DDPMGenerator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DDPMConfig(UNetConfig):
    """The shape of a U-Net and its noise schedule. The defaults are those of :data:`FFHQ_256`.

    Raises:
        ConfigError: a setting out of its range, or sizes that do not fit each other.
    """

    schedule: S.Kind = "linear"
    timesteps: int = 1000
    """Number T of timesteps, which are 0 ... T - 1."""
    rescale_timesteps: bool = False
    """True: the U-Net sees ``t * 1000 / T``."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """Quantity that the U-Net guesses: the noise, the clean image, or the velocity (Salimans and
    Ho, arXiv:2202.00512)."""

    def __post_init__(self) -> None:
        UNetConfig.__post_init__(self)  # slots: no super()
        check_ranges(self, "generator", timesteps=(1, 100_000))


FFHQ_256 = DDPMConfig()
"""The network of ``ffhq_10m.pt`` (ILVR, arXiv:2108.02938), which Facke fine-tunes and swaps
with: 93,563,910 parameters."""


class DDPMGenerator(UNet):
    """A generator with a noisy image and its timestep in, the estimate of the clean image out."""

    config: DDPMConfig

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__(config)
        self.schedule = S.make_schedule(config.schedule, config.timesteps)
        """Schedule of the training, with T steps; no part of the state dict."""

    @property
    def spec(self) -> GeneratorSpec:
        """The sizes; the conditions are ``timestep`` and, with classes, ``label``."""
        conditions = {"timestep", "label"} if self.config.num_classes else {"timestep"}
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=0,
            conditions=frozenset(conditions),
            x="noisy, about [-1, 1]",
        )

    def example_inputs(self, x: Tensor, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Noisy states with timesteps over the whole range, and labels where there are classes."""
        inputs = {}
        if self.config.num_classes:
            inputs["label"] = torch.randint(self.config.num_classes, (len(x),), generator=rng)
        t = torch.linspace(0, len(self.schedule) - 1, len(x) + 2)[1:-1].long()
        noise = torch.randn(x.shape, generator=rng)
        return {"x": S.q_sample(self.schedule, 2 * x - 1, t, noise), "timestep": t, **inputs}

    def forward(  # type: ignore[override]
        self, x: Tensor, *, timestep: Tensor, label: Tensor | None = None
    ) -> GeneratorOutput:
        """Estimate the clean image.

        Args:
            x: the state ``x_t`` (B, 3, H, W) float32, about [-1, 1].
            timestep: (B,) int64, 0 ... T - 1: an index into the schedule of training, also when
                sampling with fewer steps.
            label: (B,) int64, of a class-conditional network.

        Returns:
            ``image``, the estimate in [0, 1], not clamped; and in ``aux``, all (B, 3, H, W) and
            float32 whatever the network computes in: ``x0``, the same in [-1, 1]; ``eps``, the
            noise; ``prediction``, what the U-Net guessed of ``config.prediction``; and with
            ``learn_sigma`` ``variance``, for
            :func:`~facke_diffusion.schedule.learned_log_variance`.

        Raises:
            CompatibilityError: a size that does not fit.
            UsageError: a label too few or too many.
        """
        x = x if x.dtype == torch.float64 else x.float()
        scale = 1000 / self.config.timesteps if self.config.rescale_timesteps else 1
        raw = super().forward(x, timestep * scale, label)
        prediction = raw[:, :3]
        x0, eps = self._estimates(x, timestep, prediction)
        aux = {"x0": x0, "eps": eps, "prediction": prediction}
        if self.config.learn_sigma:
            aux["variance"] = raw[:, 3:]
        return GeneratorOutput(image=(x0 + 1) / 2, aux=aux)

    def _estimates(self, x: Tensor, t: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.prediction == "eps":
            return S.predict_x0_from_eps(self.schedule, x, t, prediction), prediction
        if self.config.prediction == "x0":
            return prediction, S.predict_eps_from_x0(self.schedule, x, t, prediction)
        return (
            S.predict_x0_from_v(self.schedule, x, t, prediction),
            S.predict_eps_from_v(self.schedule, x, t, prediction),
        )
