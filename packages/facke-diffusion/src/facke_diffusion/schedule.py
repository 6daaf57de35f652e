"""Noise schedules of diffusion models: tables in float64, and one function per equation.

``x0`` is the clean image in [-1, 1], ``eps`` the noise, ``x_t`` the state at a timestep, ``abar``
the cumulative product of ``1 - beta`` (Ho et al., arXiv:2006.11239; Nichol and Dhariwal,
arXiv:2102.09672). Images are (B, 3, S, S), and a timestep ``t`` is (B,) int64, an index into *this*
schedule: of a respaced one, the respaced index. Functions compute in float32, or in float64 for
float64 images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from facke_core.errors import ConfigError, check_choice

__all__ = [
    "Schedule",
    "betas",
    "learned_log_variance",
    "make_schedule",
    "posterior_mean",
    "predict_x0_from_eps",
    "predict_x0_from_v",
    "q_sample",
    "velocity",
]

Kind = Literal["linear", "cosine"]


def betas(kind: Kind, timesteps: int) -> Tensor:
    """The variances (T,) float64 that the steps add.

    Args:
        kind: ``linear``: from 1e-4 to 0.02, scaled by ``1000 / T`` (Ho et al.). ``cosine``: so that
            ``abar(t) = cos((t + 0.008) / 1.008 * pi / 2) ** 2``, at most 0.999 each (Nichol and
            Dhariwal, Eq. (17)).
        timesteps: T.

    Raises:
        ConfigError: T is below 1, or so small that a linear variance reaches 1.
        UsageError: there is no such kind.
    """
    check_choice("Schedule", kind, ("linear", "cosine"))
    if timesteps < 1:
        raise ConfigError(f"timesteps: {timesteps} is below 1. The usual number is 1000.")
    if kind == "linear":
        if timesteps <= 20:
            raise ConfigError(
                f"timesteps: {timesteps} is too few for a linear schedule, whose last variance is "
                "20 / timesteps. Train with 1000, and sample with fewer steps."
            )
        first, last = 1e-4 * 1000 / timesteps, 0.02 * 1000 / timesteps
        stride = (last - first) / (timesteps - 1)
        return first + stride * torch.arange(timesteps, dtype=torch.float64, device="cpu")

    def abar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    values = [
        min(0.999, 1 - abar((i + 1) / timesteps) / abar(i / timesteps)) for i in range(timesteps)
    ]
    return torch.tensor(values, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tables of a schedule, each (T,) float64 on the CPU, index 0 the least noise."""

    betas: Tensor
    timestep_map: Tensor
    """Indices (T,) int64 in the schedule that the network was trained with."""
    _placed: dict[tuple[str, torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, repr=False
    )

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_bar(self) -> Tensor:
        """The ``abar`` of each step."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def alphas_bar_prev(self) -> Tensor:
        """The ``abar`` of the step before each; 1 before the first."""
        return torch.cat([self.betas.new_ones(1), self.alphas_bar[:-1]])

    @cached_property
    def sqrt_alphas_bar(self) -> Tensor:
        """The roots ``sqrt(abar)``."""
        return self.alphas_bar.sqrt()

    @cached_property
    def sqrt_one_minus_alphas_bar(self) -> Tensor:
        """The roots ``sqrt(1 - abar)``."""
        return (1 - self.alphas_bar).sqrt()

    @cached_property
    def sqrt_recip_alphas_bar(self) -> Tensor:
        """The roots ``sqrt(1 / abar)``."""
        return (1 / self.alphas_bar).sqrt()

    @cached_property
    def sqrt_recipm1_alphas_bar(self) -> Tensor:
        """The roots ``sqrt(1 / abar - 1)``."""
        return (1 / self.alphas_bar - 1).sqrt()

    @cached_property
    def posterior_variance(self) -> Tensor:
        """The variance of ``q(x_{t-1} | x_t, x0)``: ``beta (1 - abar_prev) / (1 - abar)``, 0 at
        t = 0 (Ho et al., Eq. (7))."""
        return self.betas * (1 - self.alphas_bar_prev) / (1 - self.alphas_bar)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        """The logarithm of :attr:`posterior_variance`, with entry 1 in place of entry 0, which
        would be infinite."""
        return self._without_zero(self.posterior_variance).log()

    @cached_property
    def large_log_variance(self) -> Tensor:
        """The logarithms ``log beta``, with the posterior's entry 1 at t = 0: the ``fixed_large``
        of guided-diffusion, for networks that learn no variance."""
        return torch.cat([self._without_zero(self.posterior_variance)[:1], self.betas[1:]]).log()

    @cached_property
    def log_betas(self) -> Tensor:
        """The logarithms ``log beta``."""
        return self.betas.log()

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """The coefficient of ``x0`` in the mean of ``q(x_{t-1} | x_t, x0)``:
        ``beta sqrt(abar_prev) / (1 - abar)`` (Ho et al., Eq. (7))."""
        return self.betas * self.alphas_bar_prev.sqrt() / (1 - self.alphas_bar)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """The coefficient of ``x_t`` in the mean of ``q(x_{t-1} | x_t, x0)``:
        ``(1 - abar_prev) sqrt(1 - beta) / (1 - abar)`` (Ho et al., Eq. (7))."""
        return (1 - self.alphas_bar_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_bar)

    def _without_zero(self, variance: Tensor) -> Tensor:
        second = variance[1:2] if len(self) > 1 else self.betas
        return torch.cat([second, variance[1:]])

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """The values of the table ``name`` at ``t`` (B,), shaped to multiply ``like`` (B, ...).

        They are cast to float32, or stay float64 where ``like`` is. The table stays on the device
        of ``like`` for later calls.
        """
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        place = (name, like.device, dtype)
        if place not in self._placed:
            self._placed[place] = getattr(self, name).to(dtype).to(like.device)
        values = self._placed[place][t.to(like.device)]
        return values.view(-1, *[1] * (like.ndim - 1))


def make_schedule(kind: Kind, timesteps: int) -> Schedule:
    """Make the schedule that a network is trained with.

    Raises:
        ConfigError: what :func:`betas` refuses.
        UsageError: there is no such kind.
    """
    values = betas(kind, timesteps)
    return Schedule(values, torch.arange(timesteps, device="cpu"))


def respaced(schedule: Schedule, spec: int | str) -> Schedule:
    """Make a schedule of some of the steps, with the same ``abar`` at each of them.

    Args:
        schedule: the full one, T steps.
        spec: the steps. ``100``: that many steps, evenly spaced from the first to the last.
            ``"10,15,20"``: so many in each third. ``"ddim25"``: the steps 0, T / 25, 2 T / 25, ...
            (Song et al., arXiv:2010.02502). ``""``: all.

    Raises:
        ConfigError: not of these forms, or more steps than there are.
    """
    return subsequence(schedule, _kept(len(schedule), str(spec)))


def subsequence(schedule: Schedule, kept: Sequence[int]) -> Schedule:
    """Make a schedule of the timesteps ``kept``, ascending, with the same ``abar`` at each of
    them."""
    index = torch.tensor(kept, device="cpu")
    abar = schedule.alphas_bar[index]
    prev = torch.cat([abar.new_ones(1), abar[:-1]])
    return Schedule(1 - abar / prev, schedule.timestep_map[index])


def _kept(timesteps: int, spec: str) -> list[int]:
    if not spec:
        return list(range(timesteps))
    if spec.startswith("ddim"):
        steps = _count(spec.removeprefix("ddim"), spec, timesteps)
        for stride in range(1, timesteps + 1):
            if len(strided := range(0, timesteps, stride)) == steps:
                return list(strided)
        raise ConfigError(
            f"steps: no whole stride makes {steps} steps of {timesteps}. Use a divisor of "
            f"{timesteps}, or {str(steps)!r} for uneven strides."
        )
    counts = spec.split(",")
    size, extra = divmod(timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for number, text in enumerate(counts):
        length = size + (number < extra)
        count = _count(text, spec, length)
        spacing = (length - 1) / max(1, count - 1)
        kept += [start + round(i * spacing) for i in range(count)]
        start += length
    return kept


def _count(text: str, spec: str, most: int) -> int:
    count = int(text) if text.strip().isdecimal() else 0
    if not 1 <= count <= most:
        raise ConfigError(
            f"steps: {spec!r} is not usable: {text!r} is not a number from 1 to {most}. Use for "
            "example 100, '10,15,20' or 'ddim25'."
        )
    return count


def q_sample(schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The state ``x_t = sqrt(abar) x0 + sqrt(1 - abar) eps`` (Ho et al., Eq. (4))."""
    a, b = schedule.at("sqrt_alphas_bar", t, x0), schedule.at("sqrt_one_minus_alphas_bar", t, x0)
    return a * x0 + b * eps


def predict_x0_from_eps(schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean image ``x0 = sqrt(1 / abar) x_t - sqrt(1 / abar - 1) eps``: :func:`q_sample`,
    solved for x0."""
    a = schedule.at("sqrt_recip_alphas_bar", t, x_t)
    return a * x_t - schedule.at("sqrt_recipm1_alphas_bar", t, x_t) * eps


def predict_eps_from_x0(schedule: Schedule, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """The noise ``eps = (sqrt(1 / abar) x_t - x0) / sqrt(1 / abar - 1)``: :func:`q_sample`, solved
    for eps."""
    a = schedule.at("sqrt_recip_alphas_bar", t, x_t)
    return (a * x_t - x0) / schedule.at("sqrt_recipm1_alphas_bar", t, x_t)


def velocity(schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The velocity ``v = sqrt(abar) eps - sqrt(1 - abar) x0`` (Salimans and Ho,
    arXiv:2202.00512)."""
    a, b = schedule.at("sqrt_alphas_bar", t, x0), schedule.at("sqrt_one_minus_alphas_bar", t, x0)
    return a * eps - b * x0


def predict_x0_from_v(schedule: Schedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The clean image ``x0 = sqrt(abar) x_t - sqrt(1 - abar) v`` of a :func:`velocity`."""
    a, b = schedule.at("sqrt_alphas_bar", t, x_t), schedule.at("sqrt_one_minus_alphas_bar", t, x_t)
    return a * x_t - b * v


def predict_eps_from_v(schedule: Schedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The noise ``eps = sqrt(1 - abar) x_t + sqrt(abar) v`` of a :func:`velocity`."""
    a, b = schedule.at("sqrt_alphas_bar", t, x_t), schedule.at("sqrt_one_minus_alphas_bar", t, x_t)
    return b * x_t + a * v


def posterior_mean(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The mean of ``q(x_{t-1} | x_t, x0)`` (Ho et al., Eq. (7))."""
    a = schedule.at("posterior_mean_coef1", t, x_t)
    return a * x0 + schedule.at("posterior_mean_coef2", t, x_t) * x_t


def learned_log_variance(schedule: Schedule, variance: Tensor, t: Tensor) -> Tensor:
    """The log-variance ``f log beta + (1 - f) log(posterior variance)``, ``f = (variance + 1) /
    2``, per pixel (Nichol and Dhariwal, Eq. (15)).

    Args:
        schedule: the schedule to sample from or to train on.
        variance: (B, 3, S, S), the second half of a network's output, about [-1, 1].
        t: (B,).
    """
    share = (variance + 1) / 2
    low = schedule.at("posterior_log_variance_clipped", t, variance)
    return share * schedule.at("log_betas", t, variance) + (1 - share) * low
