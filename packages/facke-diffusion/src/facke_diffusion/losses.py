"""Loss terms of a denoiser: the guess, and the learned variance.

They read a :class:`DenoisingStep`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from facke_core import Loss
from facke_core.types import Step
from facke_diffusion import schedule as S

if TYPE_CHECKING:
    from facke_diffusion.ddpm import DDPMGenerator

__all__ = ["BoundLoss", "NoiseLoss", "VarianceLoss", "gaussian_kl", "min_snr_weight"]


@dataclass(kw_only=True)
class DenoisingStep(Step):
    """The outcome of the denoising phase, with what the generator was not told."""

    schedule: S.Schedule
    """Schedule of the steps that are trained on."""
    t: Tensor
    """Indices (B,) int64 into the schedule."""
    weight: Tensor
    """Factors (B,) of the losses below, because not all ``t`` are as likely."""
    clean: Tensor
    """Targets (B, 3, S, S) in [-1, 1]."""
    noise: Tensor
    """Noise (B, 3, S, S) that was added, from N(0, 1)."""
    noisy: Tensor
    """States (B, 3, S, S) that the generator saw."""


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """The divergence ``KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2)))`` in nats, per
    element."""
    return 0.5 * (
        log_var2
        - log_var1
        + torch.exp(log_var1 - log_var2)
        + (mean1 - mean2).square() * torch.exp(-log_var2)
        - 1
    )


def grey_log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """The log-probability in nats of the grey values ``x`` (multiples of 1/127.5 from -1 to 1)
    under a Gaussian that is cut into 256 bins, the outer ones open (Ho et al., Eq. (13)); per
    element.

    The cumulative distribution is its tanh approximation, as in the original.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inverse = torch.exp(-0.5 * log_var)
    below = cdf((x - mean + 1 / 255) * inverse)
    above = cdf((x - mean - 1 / 255) * inverse)
    inside = torch.where(x > 0.999, 1 - above, below - above)
    return torch.where(x < -0.999, below, inside).clamp_min(1e-12).log()


def variational_bound(
    schedule: S.Schedule, *, clean: Tensor, noisy: Tensor, t: Tensor, x0: Tensor, log_var: Tensor
) -> Tensor:
    """A step's share of the bound on the likelihood, in bits per dimension, (B,): the divergence of
    the true posterior of step ``t`` from the estimated one, or at t = 0 the negative log-likelihood
    of the grey values (Ho et al., Eq. (5); Nichol and Dhariwal, Eq. (4)).

    Args:
        schedule: the steps.
        clean: the true image (B, 3, S, S) in [-1, 1].
        noisy: its state at ``t``.
        t: (B,) int64.
        x0: the estimate of ``clean``.
        log_var: log-variance of the estimated step, (B, 3, S, S) or (B, 1, 1, 1).
    """
    true = S.posterior_mean(schedule, clean, noisy, t)
    mean = S.posterior_mean(schedule, x0, noisy, t)
    true_log_var = schedule.at("posterior_log_variance_clipped", t, noisy)
    divergence = gaussian_kl(true, true_log_var, mean, log_var)
    likelihood = grey_log_likelihood(clean, mean, log_var)
    nats = torch.where((t == 0).view(-1, 1, 1, 1), -likelihood, divergence)
    return nats.flatten(1).mean(dim=1) / math.log(2)


def min_snr_weight(schedule: S.Schedule, t: Tensor, gamma: float, prediction: str) -> Tensor:
    """The factor (B,) of the squared error of a guess with which the error of the image counts
    ``min(SNR, gamma)``, SNR = ``abar / (1 - abar)`` (Hang et al., arXiv:2303.09556).

    Args:
        schedule: the steps.
        t: (B,) int64.
        gamma: largest weight of the image's error; 5 in the paper.
        prediction: ``eps``, ``x0`` or ``v``: the quantity that is guessed.
    """
    abar = schedule.alphas_bar[t.cpu()]
    snr = abar / (1 - abar)
    divisor = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return (snr.clamp_max(gamma) / divisor).float().to(t.device)


class DenoisingLoss(ABC):
    """A term that reads a :class:`DenoisingStep`."""

    def __call__(self, step: Step) -> Tensor:
        """The loss (B,), weighted by ``step.weight``."""
        denoising = cast(DenoisingStep, step)
        return self.values(denoising) * denoising.weight

    @abstractmethod
    def values(self, step: DenoisingStep) -> Tensor:
        """The loss (B,), not weighted."""


@dataclass(frozen=True, kw_only=True)
class NoiseLoss(DenoisingLoss):
    """The mean squared error of what the network guesses: noise, image or velocity (Ho et al.,
    Eq. (14)).

    ``min_snr`` above 0 is the gamma of :func:`min_snr_weight`; 0 weighs all timesteps alike, as the
    original.
    """

    min_snr: float = 0.0
    name: str = "noise"

    def values(self, step: DenoisingStep) -> Tensor:
        """The mean squared errors (B,), with the factor of ``min_snr``."""
        prediction = cast("DDPMGenerator", step.modules["generator"]).config.prediction
        truth = step.clean if prediction == "x0" else step.noise
        if prediction == "v":
            truth = S.velocity(step.schedule, step.clean, step.t, step.noise)
        values = (step.output.aux["prediction"] - truth).square().flatten(1).mean(dim=1)
        if self.min_snr:
            values = values * min_snr_weight(step.schedule, step.t, self.min_snr, prediction)
        return values


@dataclass(frozen=True, kw_only=True)
class VarianceLoss(DenoisingLoss):
    """The bound of :func:`variational_bound` as a function of the learned variance alone: the
    estimated image is held fixed (Nichol and Dhariwal, Sec. 3.1).

    ``rescaled`` multiplies it by T / 1000, T the number of steps trained on; with a weight of 1
    that is guided-diffusion's ``rescale_learned_sigmas``.
    """

    rescaled: bool = False
    name: str = "variance"

    def values(self, step: DenoisingStep) -> Tensor:
        """The shares (B,) of the bound, in bits per dimension."""
        values = _bound(step, step.output.aux["x0"].detach())
        return values * (len(step.schedule) / 1000) if self.rescaled else values


@dataclass(frozen=True, kw_only=True)
class BoundLoss(DenoisingLoss):
    """The bound of :func:`variational_bound` times T, which estimates the whole bound:
    guided-diffusion's ``use_kl``. It takes the place of the noise and variance terms."""

    name: str = "bound"

    def values(self, step: DenoisingStep) -> Tensor:
        """The estimates (B,) of the whole bound, in bits per dimension."""
        return _bound(step, step.output.aux["x0"]) * len(step.schedule)


def _bound(step: DenoisingStep, x0: Tensor) -> Tensor:
    learned = step.output.aux.get("variance")
    if learned is None:
        log_var = step.schedule.at("large_log_variance", step.t, step.noisy)
    else:
        log_var = S.learned_log_variance(step.schedule, learned, step.t)
    return variational_bound(
        step.schedule, clean=step.clean, noisy=step.noisy, t=step.t, x0=x0, log_var=log_var
    )


TERMS: dict[str, Callable[..., Loss]] = {
    "noise": NoiseLoss,
    "variance": VarianceLoss,
    "bound": BoundLoss,
}
"""The terms that a recipe of a DDPM can name, beside those of facke-core."""
