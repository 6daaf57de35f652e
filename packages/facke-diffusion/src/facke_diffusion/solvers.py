"""Solvers: steps from one noise level to the one below it, between two projections of ILVR.

``i`` is an index into ``schedule``, the same for all rows; one step leads from level i to level
i - 1, and from level 0 to the clean image. ``x_t`` and ``x0`` are (B, 3, S, S), ``x0`` the estimate
at ``x_t``. The coefficients are computed in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facke_core.errors import ConfigError
from facke_diffusion.schedule import (
    Schedule,
    learned_log_variance,
    posterior_mean,
    respaced,
    subsequence,
)

__all__ = ["ddim_step", "ddpm_step", "dpmpp_step"]


def levels(schedule: Schedule, steps: int, start: float, *, even: bool) -> Schedule:
    """Choose the levels to take, ``round(start * steps)`` of them and at least one.

    Args:
        schedule: that of the training, T timesteps.
        steps: number of levels of a whole process.
        start: the beginning, as a share of T.
        even: True: the lowest of ``steps`` levels that are spread evenly from timestep 0 to T - 1,
            as in guided-diffusion. False: up to ``start * T``, denser towards 0, where the image
            changes most (quadratic, as Song et al., arXiv:2010.02502, App. D.2, but without
            repeating a timestep). Deterministic solvers make a fraction of the error with these.

    Raises:
        ConfigError: ``steps`` is above T.
    """
    timesteps, calls = len(schedule), max(1, round(start * steps))
    if steps > timesteps:
        raise ConfigError(
            f"steps: {steps} are more than the {timesteps} timesteps that the network was trained "
            f"with. Use a number from 1 to {timesteps}."
        )
    if even:
        whole = respaced(schedule, steps)
        return subsequence(schedule, whole.timestep_map[:calls].tolist())
    top = max(round(start * timesteps), calls) - 1
    return subsequence(
        schedule, [max(k, round(top * ((k + 1) / calls) ** 2)) for k in range(calls)]
    )


def ddpm_step(
    schedule: Schedule,
    x_t: Tensor,
    x0: Tensor,
    i: int,
    *,
    variance: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """One step of the reverse process, ``x' ~ p(x_{t-1} | x_t) = N(mean(x_t, x0), sigma^2)`` (Ho et
    al., arXiv:2006.11239, Alg. 2).

    Args:
        schedule: the steps that are taken.
        x_t: the state.
        x0: the estimate.
        i: its level.
        variance: the network's output for sigma, as
            :func:`~facke_diffusion.schedule.learned_log_variance` reads it; None: sigma^2 is beta.
        noise: (B, 3, S, S) from N(0, 1); None: the mean. Level 0 needs none.
    """
    t = _level(i, x_t)
    mean = posterior_mean(schedule, x0, x_t, t)
    if noise is None:
        return mean
    if variance is None:
        log_variance = schedule.at("large_log_variance", t, x_t)
    else:
        log_variance = learned_log_variance(schedule, variance, t)
    return mean + torch.exp(log_variance / 2) * noise


def ddim_sigma(schedule: Schedule, i: int, eta: float) -> float:
    """The deviation of the noise that DDIM adds: 0 for ``eta`` 0, that of the posterior for 1 (Song
    et al., arXiv:2010.02502, Eq. (16))."""
    here, below = _abar(schedule, i), _abar(schedule, i - 1)
    return eta * math.sqrt((1 - below) / (1 - here) * (1 - here / below))


def ddim_step(
    schedule: Schedule,
    x_t: Tensor,
    x0: Tensor,
    i: int,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One step of DDIM (Song et al., arXiv:2010.02502, Eq. (12)).

    ``x' = sqrt(abar') x0 + sqrt(1 - abar' - sigma^2) eps + sigma noise``, where ``eps`` is the
    noise that makes ``x_t`` of ``x0``.

    Args:
        schedule: the steps that are taken.
        x_t: the state.
        x0: the estimate.
        i: its level.
        eta: 0 is deterministic, 1 as noisy as a DDPM.
        noise: (B, 3, S, S) from N(0, 1); needed where ``eta`` is above 0 and ``i`` too.
    """
    here, below = _abar(schedule, i), _abar(schedule, i - 1)
    sigma = ddim_sigma(schedule, i, eta)
    eps = (x_t - math.sqrt(here) * x0) / math.sqrt(1 - here)
    x = math.sqrt(below) * x0 + math.sqrt(max(0.0, 1 - below - sigma**2)) * eps
    return x if noise is None else x + sigma * noise


def dpmpp_step(
    schedule: Schedule, x_t: Tensor, x0: Tensor, i: int, *, previous: Tensor | None = None
) -> Tensor:
    """One step of DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, Alg. 2).

    ``x' = (sigma' / sigma) x_t - alpha' (exp(-h) - 1) D``, where ``D`` continues the estimates in a
    straight line over ``lambda = log(alpha / sigma)``, and ``h`` is the length of the step there.

    Args:
        schedule: the steps that are taken.
        x_t: the state.
        x0: the estimate.
        i: its level.
        previous: the estimate at level i + 1; None in the first step, which is of first order, as
            is the last one: it returns ``x0``.
    """
    if i == 0:
        return x0
    here, below = _abar(schedule, i), _abar(schedule, i - 1)
    h = _log_snr(below) - _log_snr(here)
    direction = x0
    if previous is not None:
        r = (_log_snr(here) - _log_snr(_abar(schedule, i + 1))) / h
        direction = x0 + (x0 - previous) / (2 * r)
    return math.sqrt((1 - below) / (1 - here)) * x_t - math.sqrt(below) * math.expm1(-h) * direction


def _abar(schedule: Schedule, i: int) -> float:
    return float(schedule.alphas_bar[i]) if i >= 0 else 1.0


def _log_snr(abar: float) -> float:
    """The half log-SNR ``lambda = log(alpha / sigma)``."""
    return 0.5 * math.log(abar / (1 - abar))


def _level(i: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), i, dtype=torch.int64, device=x.device)
