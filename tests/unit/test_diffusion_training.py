"""What a DDPM is trained on: objective, losses, timesteps, recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from facke_core.config import from_dict
from facke_core.data.crops import CropSet
from facke_core.errors import ConfigError, FackeError, UsageError
from facke_core.loading import load
from facke_core.plugins.registry import default_registry
from facke_core.protocols import IdentityEncoder, Method
from facke_core.sampling import SinglePass
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.run import train
from facke_core.training.setup import TrainSettings
from facke_core.training.trainer import Trainer
from facke_core.types import FaceBatch
from facke_diffusion import schedule as S
from facke_diffusion.ddpm import FFHQ_256, DDPMConfig, DDPMGenerator
from facke_diffusion.losses import (
    BoundLoss,
    DenoisingStep,
    NoiseLoss,
    VarianceLoss,
    gaussian_kl,
    grey_log_likelihood,
    min_snr_weight,
)
from facke_diffusion.objective import DenoisingObjective, objective
from facke_diffusion.timesteps import LossSecondMoment, Uniform
from standins import Batches

SIZE = 16
TINY = DDPMConfig(
    image_size=SIZE,
    model_channels=32,
    channel_mult=(1,),
    attention_resolutions=(),
    num_head_channels=32,
    patch=4,
    timesteps=30,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(config: DDPMConfig = TINY) -> DDPMGenerator:
    torch.manual_seed(0)
    model = DDPMGenerator(config)
    nn.init.normal_(cast(nn.Conv2d, model.out[2]).weight, std=0.05)
    return model


def noise_batch(step: int, size: int = 4, pixels: int = SIZE) -> FaceBatch:
    """Batch k from seed k; what is not the target must not matter."""
    target = torch.rand(size, 3, pixels, pixels, generator=rng(step))
    other = torch.full_like(target, torch.nan)
    return FaceBatch(other, target, other[:, 0, 0], torch.ones(size, dtype=torch.bool), other)


def recipe(**changes: Any) -> Recipe:
    data: dict[str, Any] = {
        "method": "ilvr",
        "steps": 2,
        "batch_size": 4,
        "generator": {},
        "identity_encoder": {"name": "none"},
        "alignment": {},
        "loss": {"noise": {"weight": 1}, "variance": {"weight": 1}},
        "ema": 0.5,
    }
    return from_dict(Recipe, data | changes)


NOBODY = cast(IdentityEncoder, None)


def make(settings: Recipe, config: DDPMConfig = TINY, **arguments: Any) -> DenoisingObjective:
    method = Method(generator(config), SinglePass())
    return cast(DenoisingObjective, objective(method, NOBODY, settings, **arguments))


def trainer(settings: Recipe, config: DDPMConfig = TINY, **arguments: Any) -> Trainer:
    batches = Batches(partial(noise_batch, size=settings.batch_size, pixels=config.image_size))
    return Trainer(make(settings, config, **arguments), batches, recipe=settings)


def denoise(
    made: DenoisingObjective, batch: FaceBatch | None = None, seed: int = 0
) -> DenoisingStep:
    step = made.denoise(made.modules, batch or noise_batch(0), rng(seed))
    return cast(DenoisingStep, step)


# -- the objective -------------------------------------------------------------------------------


def test_the_generator_sees_a_noised_target_at_the_timestep_of_training() -> None:
    batch = noise_batch(0)
    step = denoise(make(recipe(), respacing="10"), batch)
    assert len(step.schedule) == 10
    torch.testing.assert_close(step.clean, 2 * batch.target - 1)
    torch.testing.assert_close(
        step.noisy, S.q_sample(step.schedule, step.clean, step.t, step.noise)
    )
    model = cast(DDPMGenerator, step.modules["generator"])
    again = model(step.noisy, timestep=step.schedule.timestep_map[step.t])
    assert torch.equal(again.image, step.output.image)


def test_all_noise_comes_from_the_steps_own_generator() -> None:
    made = make(recipe())
    first = denoise(made)
    torch.manual_seed(99)
    again, other = denoise(made), denoise(made, seed=1)
    assert torch.equal(first.noisy, again.noisy)
    assert torch.equal(first.t, again.t)
    assert not torch.equal(first.noise, other.noise)
    assert not torch.equal(first.noise[0], first.noise[1])
    with pytest.raises(UsageError, match="rng"):
        made.denoise(made.modules, noise_batch(0), None)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_guesses_the_truth_has_no_loss(prediction: Any) -> None:
    config = replace(TINY, prediction=prediction, learn_sigma=False)
    step = denoise(make(recipe(loss={"noise": {"weight": 1}}), config))
    truth = {
        "eps": step.noise,
        "x0": step.clean,
        "v": S.velocity(step.schedule, step.clean, step.t, step.noise),
    }[prediction]
    assert (NoiseLoss()(step) > 0.01).all()
    step.output.aux["prediction"] = truth
    assert not NoiseLoss()(step).any()
    assert not NoiseLoss(min_snr=5)(step).any()


def test_the_variance_term_does_not_touch_the_gradient_of_the_mean() -> None:
    model, made = generator(), make(recipe())
    made.modules["generator"] = model

    def gradient(loss: Callable[[DenoisingStep], Tensor]) -> Tensor:
        model.zero_grad()
        loss(denoise(made)).mean().backward()
        found = cast(nn.Conv2d, model.out[2]).weight.grad
        assert found is not None
        # folded pixels: three colours, then three variances, of each of 4 x 4 pixels
        return found.view(6, 16, *found.shape[1:]).clone()

    noise, variance, bound = gradient(NoiseLoss()), gradient(VarianceLoss()), gradient(BoundLoss())
    assert noise[:3].any()
    assert not noise[3:].any()
    assert not variance[:3].any()
    assert variance[3:].any()
    assert bound[:3].any(), "a bound that is not detached reaches both"
    both = gradient(lambda step: NoiseLoss()(step) + VarianceLoss()(step))
    assert torch.equal(both[:3], noise[:3])


def test_losses_are_one_per_sample_and_follow_the_batch() -> None:
    step = denoise(make(recipe()))
    order = torch.tensor([2, 0, 3, 1])
    aux = {key: value[order] for key, value in step.output.aux.items()}
    turned = replace(
        step,
        output=step.output._replace(aux=aux),
        **{key: getattr(step, key)[order] for key in ("t", "clean", "noise", "noisy", "weight")},
    )
    for loss in (NoiseLoss(min_snr=5), VarianceLoss(rescaled=True), BoundLoss()):
        values = loss(step)
        assert values.shape == (4,)
        assert values.dtype == torch.float32
        torch.testing.assert_close(loss(turned), values[order])


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"loss": {"nose": {"weight": 1}}}, {}, r"names none of noise, variance, bound"),
        (
            {"loss": {"noise": {"weight": 1}, "varience": {"weight": 1}}},
            {},
            "loss.varience: no such term. Did you mean 'variance'",
        ),
        ({}, {"timesteps": "unifrom"}, "'unifrom' does not exist. Did you mean 'uniform'"),
        ({}, {"respacing": 31}, "steps: '31' is not usable"),
    ],
)
def test_wrong_settings_are_refused(
    changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(FackeError, match=message):
        make(recipe(**changes), **arguments)


def test_a_variance_cannot_be_trained_where_none_is_learned() -> None:
    with pytest.raises(ConfigError, match="the network learns no variance"):
        make(recipe(), replace(TINY, learn_sigma=False))
    settings = recipe(loss={"noise": {"weight": 1}})
    values = BoundLoss()(denoise(make(settings, replace(TINY, learn_sigma=False))))
    assert values.isfinite().all(), "the bound takes the fixed variance"


# -- losses --------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_torch_distributions() -> None:
    a, b, c, d = torch.randn(4, 50, generator=rng(), dtype=torch.float64)
    exact = kl_divergence(Normal(a, torch.exp(b / 2)), Normal(c, torch.exp(d / 2)))
    torch.testing.assert_close(gaussian_kl(a, b, c, d), exact)


def test_the_probabilities_of_all_grey_values_sum_to_one() -> None:
    grey = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_var in ((0.1, -6.0), (-1.2, -3.0), (1.0, 0.0)):
        log = grey_log_likelihood(grey, torch.tensor(mean), torch.tensor(log_var))
        assert log.exp().sum().item() == pytest.approx(1, abs=1e-6)
        exact = Normal(mean, math.exp(log_var / 2))
        below, above = (exact.cdf(grey + d) for d in (1 / 255, -1 / 255))
        inner = below - above
        torch.testing.assert_close(log.exp()[1:-1], inner[1:-1], atol=5e-4, rtol=0)


def test_the_true_posterior_costs_nothing() -> None:
    step = denoise(make(recipe()))
    t = torch.full_like(step.t, 7)
    noisy = S.q_sample(step.schedule, step.clean, t, step.noise)
    aux = {"x0": step.clean, "variance": torch.full_like(step.clean, -1)}
    known = replace(step, t=t, noisy=noisy, output=step.output._replace(aux=aux))
    torch.testing.assert_close(VarianceLoss()(known), torch.zeros(4), atol=1e-5, rtol=0)
    aux["variance"] = torch.ones_like(step.clean)
    assert (VarianceLoss()(known) > 1e-4).all()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_weights_by_signal_are_the_same_for_every_guess(prediction: str) -> None:
    """An error of the image by d is one of the noise by ``d sqrt(SNR)``, of the velocity by
    ``d sqrt(SNR + 1)``."""
    schedule, t = S.make_schedule("cosine", 1000), torch.tensor([1, 300, 500, 900])
    abar = schedule.alphas_bar[t]
    snr = abar / (1 - abar)
    error = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    weight = min_snr_weight(schedule, t, 5.0, prediction)
    torch.testing.assert_close(weight * error.float(), snr.clamp_max(5).float())


# -- timesteps -----------------------------------------------------------------------------------


def test_uniform_timesteps_reach_every_step() -> None:
    t, weight = Uniform(6).draw(6000, rng())
    assert (t.bincount(minlength=6) > 850).all()
    assert torch.equal(weight, torch.ones(6000))


def test_timesteps_with_large_losses_are_drawn_more_often_and_weigh_less() -> None:
    sampler = LossSecondMoment(4)
    scale = torch.tensor([1.0, 2.0, 4.0, 1.0])
    for _ in range(9):
        sampler.learn(torch.arange(4), scale)
    assert torch.equal(sampler.probabilities, torch.full((4,), 0.25, dtype=torch.float64))
    sampler.learn(torch.arange(4), scale)
    torch.testing.assert_close(sampler.probabilities.float(), scale / 8, atol=1e-3, rtol=0)
    t, weight = sampler.draw(20_000, rng())
    torch.testing.assert_close(t.bincount(minlength=4) / 20_000, scale / 8, atol=0.02, rtol=0)
    # weighted losses estimate the uniform mean, 2, with almost no variance
    torch.testing.assert_close(weight * scale[t], torch.full((20_000,), 2.0), atol=0.02, rtol=0)
    for _ in range(10):  # only the last ten losses count
        sampler.learn(torch.tensor([2]), torch.ones(1))
    assert sampler.probabilities[2] == pytest.approx(0.2, abs=1e-3)


def test_losses_are_weighted_but_remembered_as_they_are() -> None:
    made = make(recipe(), timesteps="loss-second-moment")
    sampler = cast(LossSecondMoment, made.timesteps)
    sampler.seen.fill_(10)
    sampler.losses.copy_(torch.linspace(0.1, 3, 30)[:, None].expand(-1, 10))
    step = denoise(made)
    assert step.weight.min() < 0.9
    plain = replace(step, weight=torch.ones(4))
    torch.testing.assert_close(NoiseLoss()(step), NoiseLoss()(plain) * step.weight)
    expected = NoiseLoss()(plain) + VarianceLoss()(plain)
    for i in range(4):
        assert (sampler.losses[step.t[i], -4:] == expected[i]).any()


# -- training ------------------------------------------------------------------------------------


def weights(trained: Trainer) -> Mapping[str, Tensor]:
    states = {name: module.state_dict() for name, module in trained.objective.modules.items()}
    states["ema"] = trained.ema.module.state_dict()
    return {f"{m}.{k}": v.clone() for m, state in states.items() for k, v in state.items()}


def read(name: str, *overrides: str) -> Recipe:
    return read_recipe(name, overrides, default_registry())


SMALL_64 = (
    "generator.model_channels=32",
    "generator.channel_mult=[1]",
    "generator.attention_resolutions=[]",
    "generator.num_head_channels=32",
    "generator.patch=8",
    "generator.dropout=0.1",
    "batch_size=2",
    "precision=float32",
    "optimizer.lr=1e-3",
)


def check_resuming(start: Callable[[], Trainer], stop: int, folder: Path) -> Trainer:
    whole, first, second = start(), start(), start()
    reports = list(whole)
    for report in first:
        if report.step == stop:
            break
    first.save(folder)
    torch.manual_seed(123)
    second.resume(folder)
    rest = list(second)
    assert [report.losses for report in rest] == [report.losses for report in reports[stop:]]
    expected = weights(whole)
    for name, value in weights(second).items():
        assert torch.equal(value, expected[name]), name
    return whole


def test_200_steps_of_ddpm_64_are_resumed_bit_for_bit(tmp_path: Path) -> None:
    settings = read("ddpm-64", *SMALL_64, "steps=200")
    config = from_dict(DDPMConfig, settings.generator)
    start = partial(trainer, settings, config, **settings.objective)
    whole = check_resuming(start, 120, tmp_path / "checkpoint")
    assert whole.step == 200


def test_what_the_timesteps_remember_is_resumed_too(tmp_path: Path) -> None:
    settings = read("ddpm-64", *SMALL_64, "steps=60", "generator.timesteps=4")
    config = from_dict(DDPMConfig, settings.generator)
    start = partial(trainer, settings, config, timesteps="loss-second-moment")
    whole = check_resuming(start, 40, tmp_path / "checkpoint")
    learned = cast(LossSecondMoment, cast(DenoisingObjective, whole.objective).timesteps)
    assert learned.probabilities.max() > 1.1 / 4, "the sampler was still warming up"


def test_a_small_network_learns_a_picture() -> None:
    batch = noise_batch(0, pixels=8)
    picture = Batches(lambda step: batch._replace(target=batch.target[:1].expand(4, 3, 8, 8)))
    config = replace(
        TINY,
        image_size=8,
        patch=1,
        timesteps=1000,
        prediction="v",
        schedule="cosine",
        learn_sigma=False,
    )
    settings = recipe(
        steps=100,
        loss={"noise": {"weight": 1, "options": {"min_snr": 5}}},
        optimizer={"lr": 3e-3, "betas": [0.9, 0.99]},
    )
    losses = [
        report.losses["generator.noise"]
        for report in Trainer(make(settings, config), picture, recipe=settings)
    ]
    assert sum(losses[-20:]) < sum(losses[:20]) / 3


def test_the_average_is_what_a_checkpoint_loads_as() -> None:
    trained = trainer(recipe(steps=3))
    list(trained)
    live, average = trained.objective.modules["generator"].state_dict(), trained.ema.module
    assert isinstance(average, DDPMGenerator)
    changed = [key for key, v in average.state_dict().items() if not torch.equal(v, live[key])]
    assert "time_embed.0.weight" in changed
    assert len(average.schedule) == 30


# -- the recipes ---------------------------------------------------------------------------------

ADM = ("ddpm-64", "ddpm-128", "ddpm-256", "ddpm-finetune")


@pytest.mark.parametrize("name", [*ADM, "ddpm-mini"])
def test_a_recipe_trains(name: str) -> None:
    settings = read(name, *SMALL_64, "steps=2")
    config = from_dict(DDPMConfig, settings.generator)
    reports = list(trainer(settings, config, **settings.objective))
    for report in reports:
        assert report.losses.keys() == {f"generator.{term}" for term in settings.loss}
        assert all(map(math.isfinite, report.losses.values()))


@pytest.mark.parametrize("name", ADM)
def test_a_recipe_is_guided_diffusion_at_its_size(name: str) -> None:
    settings = read(name)
    config = from_dict(DDPMConfig, settings.generator)
    assert config == replace(FFHQ_256, image_size=config.image_size, schedule=config.schedule)
    assert settings.alignment["size"] == config.image_size
    assert settings.data.composite == settings.data.colour_jitter == 0


def test_the_fine_tuning_is_that_of_facke() -> None:
    settings = read("ddpm-finetune")
    assert from_dict(DDPMConfig, settings.generator) == FFHQ_256
    assert settings.steps * settings.batch_size == pytest.approx(1_108_511, abs=8)
    assert settings.objective == {"timesteps": "uniform", "respacing": "100"}
    assert settings.loss["variance"].options["rescaled"] is False
    assert (settings.optimizer.lr, settings.optimizer.betas) == (1e-4, (0.9, 0.999))
    for rate in ("1e-4", "5e-5", "1e-5", "5e-6"):
        assert rate in settings.sources["optimizer.lr"]
    assert read("ddpm-finetune", "objective.respacing=").objective["respacing"] == ""


def test_the_bundled_shape_fits_into_sixteen_megabytes() -> None:
    with torch.device("meta"):
        model = DDPMGenerator(from_dict(DDPMConfig, read("ddpm-mini").generator))
    assert 2 * sum(p.numel() for p in model.parameters()) < 15.5e6


def save_crops(folder: Path, settings: Recipe) -> None:
    size = settings.alignment["size"]
    CropSet(
        images=torch.randint(0, 256, (4, 3, size, size), generator=rng(), dtype=torch.uint8),
        embeddings=F.normalize(torch.randn(4, 2, 128, generator=rng()), dim=-1),
        people=torch.arange(4),
        weights=torch.ones(4),
        info={"identity_encoder": settings.identity_encoder, "alignment": settings.alignment},
    ).save(folder)


def test_arguments_of_the_objective_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for name in ("ddpm-64", "simswap-mini"):
        save_crops(tmp_path / name, read(name))
    wrong = ["objective.respaced=5"]

    def refused(name: str, overrides: list[str]) -> None:
        data, out = tmp_path / name, tmp_path / "run"
        train(TrainSettings(recipe=name, data=data, out=out, overrides=overrides))

    with pytest.raises(ConfigError, match=r"objective.respaced: unknown key.*'respacing'"):
        refused("ddpm-64", [*SMALL_64, *wrong])
    with pytest.raises(ConfigError, match=r"objective of 'simswap' knows: none"):
        refused("simswap-mini", wrong)


def test_weights_do_not_name_an_encoder_that_had_no_part_in_them(tmp_path: Path) -> None:
    overrides = [*SMALL_64, "steps=1"]
    save_crops(tmp_path / "crops", read("ddpm-64", *overrides))
    data, run = tmp_path / "crops", tmp_path / "run"
    train(TrainSettings(recipe="ddpm-64", data=data, out=run, device="cpu", overrides=overrides))
    pipeline = load(tmp_path / "run")
    assert pipeline.identity_encoder is None
