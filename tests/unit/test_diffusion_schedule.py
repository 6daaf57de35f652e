"""Noise schedules, respacing and the equations that use them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from facke_core.errors import ConfigError, FackeError
from facke_diffusion import schedule as S

KINDS: tuple[S.Kind, ...] = ("linear", "cosine")
each_kind = pytest.mark.parametrize("kind", KINDS)
T = torch.tensor([0, 1, 250, 998])


def images(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(len(T), 3, 4, 4, generator=rng, dtype=dtype)


# -- tables --------------------------------------------------------------------------------------


def test_the_linear_schedule_keeps_its_noise_for_any_number_of_steps() -> None:
    thousand, few = S.betas("linear", 1000), S.betas("linear", 250)
    torch.testing.assert_close(thousand[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))
    torch.testing.assert_close(few[[0, -1]], 4 * thousand[[0, -1]])
    assert torch.equal(few.diff() > 0, torch.ones(249, dtype=torch.bool))


def test_the_cosine_schedule_follows_the_squared_cosine() -> None:
    abar = S.make_schedule("cosine", 1000).alphas_bar

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for i in (0, 99, 500, 990):
        assert abar[i].item() == pytest.approx(f((i + 1) / 1000) / f(0), rel=1e-9)
    assert S.betas("cosine", 1000).max() == 0.999


@each_kind
def test_tables_are_float64_on_the_cpu_wherever_they_are_made(kind: S.Kind) -> None:
    with torch.device("meta"):
        schedule = S.respaced(S.make_schedule(kind, 1000), 10)
    for name in ("betas", "alphas_bar", "posterior_variance", "log_betas", "large_log_variance"):
        table = getattr(schedule, name)
        assert (table.device.type, table.dtype, len(table)) == ("cpu", torch.float64, 10)
        assert table.isfinite().all()
    assert torch.equal(copy.deepcopy(schedule).betas, schedule.betas)


def test_the_variance_of_the_last_step_is_not_infinitely_small() -> None:
    schedule = S.make_schedule("linear", 100)
    assert schedule.posterior_variance[0] == 0
    log = schedule.posterior_log_variance_clipped
    assert log[0] == log[1] == schedule.posterior_variance[1].log()
    assert schedule.large_log_variance[0] == log[1]
    assert torch.equal(schedule.large_log_variance[1:], schedule.betas[1:].log())
    assert S.respaced(schedule, 1).posterior_log_variance_clipped.isfinite().all()


@pytest.mark.parametrize(("kind", "timesteps"), [("linear", 0), ("linear", 20), ("cosine", -1)])
def test_too_few_timesteps_are_refused(kind: S.Kind, timesteps: int) -> None:
    with pytest.raises(ConfigError, match=f"timesteps: {timesteps}"):
        S.make_schedule(kind, timesteps)
    with pytest.raises(FackeError, match="sigmoid"):
        S.betas("sigmoid", 10)  # type: ignore[arg-type]


# -- respacing -----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("spec", [7, "100", "ddim50", "5,0010,3", 1, 1000, ""])
def test_a_respaced_schedule_has_the_same_noise_at_each_kept_step(
    kind: S.Kind, spec: int | str
) -> None:
    whole = S.make_schedule(kind, 1000)
    schedule = S.respaced(whole, spec)
    kept = schedule.timestep_map
    assert (kept.diff() > 0).all()
    torch.testing.assert_close(schedule.alphas_bar, whole.alphas_bar[kept], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (4, [0, 333, 666, 999]),
        ("ddim4", [0, 250, 500, 750]),
        ("2,1", [0, 499, 500]),
        ("1,1,1", [0, 334, 667]),
    ],
)
def test_which_steps_are_kept(spec: int | str, kept: list[int]) -> None:
    assert S.respaced(S.make_schedule("linear", 1000), spec).timestep_map.tolist() == kept


def test_respacing_twice_still_tells_the_index_of_training() -> None:
    twice = S.respaced(S.respaced(S.make_schedule("linear", 1000), 100), 4)
    assert twice.timestep_map.tolist() == [0, 333, 666, 999]


@pytest.mark.parametrize(
    "spec", [0, -5, 1001, "501,1", "ddim", "ddim7777", "ddim300", "ten", "1,,"]
)
def test_impossible_steps_are_refused(spec: int | str) -> None:
    with pytest.raises(ConfigError, match="steps: "):
        S.respaced(S.make_schedule("linear", 1000), spec)


# -- equations -----------------------------------------------------------------------------------


@each_kind
def test_the_equations_undo_each_other_in_float64(kind: S.Kind) -> None:
    schedule, x0, eps = S.make_schedule(kind, 1000), images(0), images(1)
    x_t, v = S.q_sample(schedule, x0, T, eps), S.velocity(schedule, x0, T, eps)
    for found, expected in (
        (S.predict_x0_from_eps(schedule, x_t, T, eps), x0),
        (S.predict_x0_from_v(schedule, x_t, T, v), x0),
        (S.predict_eps_from_x0(schedule, x_t, T, x0), eps),
        (S.predict_eps_from_v(schedule, x_t, T, v), eps),
    ):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@each_kind
def test_forward_noise_is_what_many_small_steps_add(kind: S.Kind) -> None:
    schedule = S.make_schedule(kind, 100)
    mean, variance = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for beta in schedule.betas[:60]:
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
    x0, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1).double()
    t = torch.tensor([59])
    torch.testing.assert_close(S.q_sample(schedule, x0, t, zero).squeeze(), mean)
    torch.testing.assert_close(S.q_sample(schedule, zero, t, x0).squeeze().square(), variance)


def test_the_posterior_is_that_of_bayes() -> None:
    """The product of two Gaussians over x_{t-1}: the prior q(x_{t-1} | x0) and the likelihood
    q(x_t | x_{t-1})."""
    schedule, t = S.make_schedule("linear", 1000), torch.tensor([400])
    x0, x_t = images(0)[:1], images(1)[:1]
    beta, prev = schedule.betas[400], schedule.alphas_bar[399]
    precision = 1 / (1 - prev) + (1 - beta) / beta
    mean = (prev.sqrt() * x0 / (1 - prev) + (1 - beta).sqrt() * x_t / beta) / precision
    torch.testing.assert_close(schedule.posterior_variance[400], 1 / precision)
    torch.testing.assert_close(S.posterior_mean(schedule, x0, x_t, t), mean)


def test_a_learned_variance_lies_between_the_smallest_and_the_largest() -> None:
    schedule = S.make_schedule("linear", 1000)
    ends = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    found = S.learned_log_variance(schedule, ends, torch.full((3,), 500)).flatten()
    low, high = schedule.posterior_log_variance_clipped[500], schedule.betas[500].log()
    torch.testing.assert_close(found, torch.stack([low, (low + high) / 2, high]))


def test_coefficients_are_rounded_once_and_keep_half_precision_out() -> None:
    schedule, x = S.make_schedule("linear", 1000), images(0, torch.float32)
    at = schedule.at("sqrt_alphas_bar", T, x)
    assert at.shape == (4, 1, 1, 1)
    assert torch.equal(at.flatten(), schedule.sqrt_alphas_bar[T].float())
    assert schedule.at("sqrt_alphas_bar", T, x.double()).dtype == torch.float64
    assert S.q_sample(schedule, x.bfloat16(), T, x.bfloat16()).dtype == torch.float32
