"""DDPM, DDIM and DPM-Solver++ against what is known in closed form for Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from facke_core.errors import ConfigError
from facke_diffusion.schedule import Schedule, make_schedule, q_sample, respaced
from facke_diffusion.solvers import ddim_sigma, ddim_step, ddpm_step, dpmpp_step, levels

MEAN, DEVIATION = 0.3, 0.5
FULL = make_schedule("linear", 1000)


def noise(seed: int = 0, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=rng, dtype=torch.float64)


def spread(abar: float) -> float:
    """Standard deviation of ``x_t`` where x0 is N(MEAN, DEVIATION^2)."""
    return math.sqrt(abar * DEVIATION**2 + 1 - abar)


def best_guess(schedule: Schedule, x_t: Tensor, i: int) -> Tensor:
    """E[x0 | x_t]: what a perfect network would say."""
    abar = float(schedule.alphas_bar[i])
    gain = math.sqrt(abar) * DEVIATION**2 / spread(abar) ** 2
    return MEAN + gain * (x_t - math.sqrt(abar) * MEAN)


def solve(step: Callable[..., Tensor], steps: int) -> tuple[Tensor, Tensor]:
    """(solution, exact solution) of the differential equation, from noise to the clean image.

    The exact one keeps each pixel at its quantile of the spreading Gaussian.
    """
    schedule = levels(FULL, steps, 1.0, even=False)
    z = noise()
    x = math.sqrt(schedule.alphas_bar[-1]) * MEAN + spread(float(schedule.alphas_bar[-1])) * z
    previous = None
    for i in range(steps - 1, -1, -1):
        x0 = best_guess(schedule, x, i)
        more = {"previous": previous} if step is dpmpp_step else {}
        x, previous = step(schedule, x, x0, i, **more), x0
    return x, MEAN + DEVIATION * z


@pytest.mark.parametrize("step", [ddim_step, dpmpp_step])
def test_many_steps_solve_the_equation(step: Callable[..., Tensor]) -> None:
    solution, exact = solve(step, 500)
    torch.testing.assert_close(solution, exact, atol=0.01, rtol=0)


def test_the_error_falls_with_the_order_of_the_solver() -> None:
    def error(step: Callable[..., Tensor], steps: int) -> float:
        solution, exact = solve(step, steps)
        return float((solution - exact).norm() / exact.norm())

    for steps in (20, 40, 80):
        assert 0.4 < error(ddim_step, 2 * steps) / error(ddim_step, steps) < 0.6
        assert error(dpmpp_step, 2 * steps) / error(dpmpp_step, steps) < 0.3
    assert error(dpmpp_step, 10) < 0.4 * error(ddim_step, 10)


@pytest.mark.parametrize("start", [0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 45, 100, 333, 900, 1000])
@pytest.mark.parametrize("even", [True, False])
def test_levels_ascend_up_to_the_start(steps: int, start: float, even: bool) -> None:
    chosen = levels(FULL, steps, start, even=even)
    timesteps = chosen.timestep_map.tolist()
    assert timesteps == sorted(set(timesteps))
    assert len(timesteps) == max(1, round(start * steps))
    torch.testing.assert_close(chosen.alphas_bar, FULL.alphas_bar[timesteps])
    if even:
        assert timesteps == respaced(FULL, steps).timestep_map[: len(timesteps)].tolist()
    else:
        assert timesteps[-1] == round(start * 1000) - 1
        assert sum(t < timesteps[-1] / 2 for t in timesteps) >= len(timesteps) // 2


def test_more_levels_than_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps: 1001 are more than the 1000 timesteps"):
        levels(FULL, 1001, 0.5, even=False)


@pytest.mark.parametrize("i", [0, 1, 9])
def test_a_perfect_estimate_leads_to_the_same_noise_one_level_below(i: int) -> None:
    schedule = respaced(FULL, 10)
    x0, eps = noise(1), noise(2)
    t = torch.full((2,), i)
    x_t = q_sample(schedule, x0, t, eps)
    expected = q_sample(schedule, x0, t - 1, eps) if i else x0
    torch.testing.assert_close(ddim_step(schedule, x_t, x0, i), expected)
    torch.testing.assert_close(dpmpp_step(schedule, x_t, x0, i), expected)
    if i < 9:
        again = dpmpp_step(schedule, x_t, x0, i, previous=x0)
        torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("i", [1, 5, 9])
def test_noisy_ddim_is_the_posterior_of_ddpm(i: int) -> None:
    schedule = respaced(FULL, 10)
    x_t, x0, z = noise(1), noise(2), noise(3)
    lower = torch.full_like(x_t, -1.0)  # the learned variance at its lower end: the posterior's
    torch.testing.assert_close(
        ddim_step(schedule, x_t, x0, i, eta=1.0, noise=z),
        ddpm_step(schedule, x_t, x0, i, variance=lower, noise=z),
    )
    assert ddim_sigma(schedule, i, 0.0) == 0


def test_ddpm_without_a_learned_variance_adds_beta() -> None:
    schedule = respaced(FULL, 10)
    x_t, x0, z = noise(1), noise(2), noise(3)
    added = ddpm_step(schedule, x_t, x0, 5, noise=z) - ddpm_step(schedule, x_t, x0, 5)
    torch.testing.assert_close(added, z * schedule.betas[5].sqrt())


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_noisy_solvers_keep_the_spread_of_the_data(solver: str) -> None:
    schedule = respaced(FULL, 200)
    x = noise(0, count=200)
    for i in range(199, -1, -1):
        x0, z = best_guess(schedule, x, i), noise(i, count=200) if i else None
        if solver == "ddpm":
            x = ddpm_step(schedule, x, x0, i, noise=z)
        else:
            x = ddim_step(schedule, x, x0, i, eta=1.0 if i else 0.0, noise=z)
    assert abs(float(x.mean()) - MEAN) < 0.01
    assert abs(float(x.std()) - DEVIATION) < 0.03


def test_all_solvers_end_with_the_estimate_itself() -> None:
    x_t, x0 = noise(1), noise(2)
    for step in (ddpm_step, ddim_step, dpmpp_step):
        torch.testing.assert_close(step(FULL, x_t, x0, 0), x0)
