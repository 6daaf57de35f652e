"""The CVAE as a network, its sampler, its losses and its objectives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from facke_core.config import from_dict, to_dict
from facke_core.errors import CompatibilityError, ConfigError, UsageError, WeightsError
from facke_core.faces.templates import Alignment
from facke_core.losses.functional import kl_divergence as our_kl
from facke_core.losses.terms import ReconstructionLoss
from facke_core.objective import Objective
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import default_registry
from facke_core.protocols import Generator, Method
from facke_core.sampling import check_compatible
from facke_core.testing import TinyEncoder
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.trainer import Trainer
from facke_core.types import DiscriminatorOutput, FaceBatch, GeneratorOutput, Step, SwapInputs
from facke_vae.classifier import IdentityClassifier, classification_loss
from facke_vae.convert import from_facke
from facke_vae.cvae import FACKE_224, CVAEConfig, CVAEGenerator, LatentSampler, build
from facke_vae.losses import (
    ClassFeatureMatching,
    KLLoss,
    MeanFeatureMatching,
    free_bits_divergence,
)
from facke_vae.objective import objective
from standins import Batches, Function

SIZE = 48
TINY = CVAEConfig(
    image_size=SIZE, identity_dim=8, channels=(4, 8, 8), num_id_blocks=1, stem_kernel=3
)
ORIGINAL = replace(TINY, condition="linear-map", noise="uniform", heads="bn-relu")
VECTOR = replace(TINY, latent="vector", latent_dim=6)
CONFIGS = {
    "default": TINY,
    "original": ORIGINAL,
    "vector latent": VECTOR,
    "vector latent, original": replace(ORIGINAL, latent="vector", latent_dim=6),
    "patch and skips": replace(TINY, patch=2, skips=1, output="residual", veil=0.03),
    "linear output": replace(TINY, output="imagenet", normalization="none"),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(config: CVAEConfig = TINY, seed: int = 0) -> CVAEGenerator:
    """With statistics as after some training, and an output layer that is not zero."""
    torch.manual_seed(seed)
    model = CVAEGenerator(config)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.startswith("head.0"):
                value.normal_(std=0.3)
            elif name.endswith("running_var"):
                value.uniform_(0.2, 0.4)
    return model.eval()


def images(count: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=rng(seed))


def identities(count: int = 2, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 8, generator=rng(seed)), dim=1)


def inputs(count: int = 2) -> SwapInputs:
    return SwapInputs(images(count, seed=5), images(count), identities(count))


def batch(count: int = 4, same: bool | None = None) -> FaceBatch:
    flags = torch.arange(count) % 2 == 0 if same is None else torch.full((count,), same)
    target = images(count)
    return FaceBatch(images(count, seed=5), target, identities(count), flags, target)


@each_config
@torch.no_grad()
def test_it_is_a_generator_whose_target_identity_and_noise_all_matter(config: CVAEConfig) -> None:
    model: Generator = generator(config)
    assert isinstance(model, Generator)
    assert (model.spec.image_size, model.spec.identity_dim) == (SIZE, 8)
    x, eps = images(), cast(CVAEGenerator, model).noise(images(), rng())
    out = model(x, identity=identities(), eps=eps).image
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    for other in (
        model(images(seed=1), identity=identities(), eps=eps),
        model(x, identity=identities(seed=1), eps=eps),
        model(x, identity=identities(), eps=-eps),
    ):
        assert (out - other.image).abs().mean() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, CONFIGS["patch and skips"]])
@pytest.mark.parametrize("size", [(24, 24), (40, 64)])
def test_the_size_free_condition_takes_any_size(config: CVAEConfig, size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    model = generator(config)
    out = model(x, identity=identities(1), eps=model.noise(x, rng()))
    assert out.image.shape[-2:] == size


@pytest.mark.parametrize("config", [ORIGINAL, VECTOR], ids=["linear-map", "vector latent"])
def test_linear_layers_refuse_another_size_by_name(config: CVAEConfig) -> None:
    with pytest.raises(CompatibilityError, match=r"24x24 pixels.*bind it to 48x48"):
        generator(config)(images(size=24), identity=identities())


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="multiples of 4"):
        generator()(images(size=50), identity=identities())


@torch.no_grad()
def test_the_vector_condition_equals_an_identity_concatenated_to_every_pixel() -> None:
    """In a convolution with reflected borders, whose taps for the new channels add up to the
    linear layer's weight."""
    model, x, identity = generator(), images(), identities()
    stem, linear = cast(nn.Conv2d, model.stem[0]), cast(nn.Linear, model.condition)
    wide = nn.Conv2d(3 + 8, 4, 3, padding=1, padding_mode="reflect")
    wide.weight[:, :3], wide.weight[:, 3:] = stem.weight, linear.weight[..., None, None] / 9
    wide.bias.copy_(stem.bias + linear.bias)  # type: ignore[operator, union-attr]
    everywhere = identity[..., None, None].expand(-1, -1, SIZE, SIZE)
    expected = model.stem[2](model.stem[1](wide(torch.cat([model.normalize(x), everywhere], 1))))
    torch.testing.assert_close(model._stem(x, identity), expected, atol=1e-5, rtol=1e-5)


def test_one_sample_cannot_train_the_identity_map() -> None:
    with pytest.raises(CompatibilityError, match=r"batch of 1.*condition='vector'"):
        generator(ORIGINAL).train()(images(1), identity=identities(1))


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"eps has the shape \(2, 8, 1, 1\)"):
        generator()(images(), identity=identities(), eps=torch.zeros(2, 8, 1, 1))


# -- the latent ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_latent_has_the_mean_and_deviation_that_the_posterior_says(noise: Any) -> None:
    model = generator(replace(TINY, noise=noise))
    x, identity = images(1), identities(1)
    draws = torch.cat([model.noise(x.expand(100, -1, -1, -1), rng(k)) for k in range(20)])
    _, aux = model(x, identity=identity)
    z = aux["mu"] + draws * torch.exp(aux["log_var"] / 2)
    mean, deviation = (0.0, 1.0) if noise == "gaussian" else (0.5, 12**-0.5)
    sigma = torch.exp(aux["log_var"][0] / 2)
    assert ((z.mean(0) - aux["mu"][0] - mean * sigma).abs() < 0.2 * sigma).all()
    assert ((z.std(0) / sigma / deviation).log().abs() < 0.15).all()
    torch.testing.assert_close(aux["z"], aux["mu"] + mean * torch.exp(aux["log_var"] / 2))
    if noise == "uniform":
        assert draws.min() >= 0
        assert draws.max() < 1


@torch.no_grad()
def test_heads_of_the_original_keep_mu_and_log_var_above_zero() -> None:
    _, original = generator(ORIGINAL)(images(), identity=identities())
    _, free = generator()(images(), identity=identities())
    for name in ("mu", "log_var"):
        assert original[name].min() >= 0
        assert free[name].min() < 0


@pytest.mark.parametrize("extreme", [-1e30, -1e4, 1e4, 1e30])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("config", [TINY, ORIGINAL, VECTOR], ids=["default", "original", "vector"])
def test_extreme_log_variances_stay_finite(
    config: CVAEConfig, extreme: float, precision: str
) -> None:
    model = generator(config).train()
    model.log_var.append(Function(lambda x: (x * extreme).clamp(-3e38, 3e38)))
    x, identity = images().requires_grad_(), identities()
    if precision == "bfloat16":
        model = model.bfloat16()
        x, identity = x.detach().bfloat16().requires_grad_(), identity.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        out = model(x, identity=identity, eps=model.noise(x, rng()))
        loss = KLLoss()(Step(batch(2), out, {})).mean() + out.image.mean()
    loss.backward()
    assert out.image.isfinite().all()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@each_config
def test_every_parameter_learns_in_bf16(config: CVAEConfig) -> None:
    model = generator(config).train().to(memory_format=torch.channels_last)
    x = images(4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, identity=identities(4), eps=model.noise(x, rng()))
        loss = (
            KLLoss()(Step(batch(), out, {})).mean() + (out.image - images(4, seed=9)).abs().mean()
        )
    loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


# -- the sampler ---------------------------------------------------------------------------------


def test_the_method_fits_together() -> None:
    method = build(TINY)
    check_compatible(method.generator, method.sampler, TinyEncoder())
    assert method.sampler.supplies >= method.generator.spec.conditions


@torch.no_grad()
def test_without_a_temperature_the_latent_is_its_mean_and_no_noise_is_drawn() -> None:
    model, noise = generator(), rng()
    start = noise.get_state()
    out = LatentSampler()(model, inputs(), rng=noise)
    torch.testing.assert_close(
        out, model(inputs().target, identity=inputs().identity).image.clamp(0, 1)
    )
    assert torch.equal(noise.get_state(), start)
    assert torch.equal(out, LatentSampler()(model, inputs()))


@torch.no_grad()
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_seeds_give_draws_that_repeat_and_temperature_spreads_them(noise: Any) -> None:
    model = generator(replace(TINY, noise=noise))
    before = torch.random.get_rng_state()

    def swap(temperature: float, seed: int) -> Tensor:
        return LatentSampler(temperature=temperature)(model, inputs(), rng=rng(seed))

    assert torch.equal(swap(0.7, 1), swap(0.7, 1))
    assert not torch.equal(swap(0.7, 1), swap(0.7, 2))
    mean = swap(0, 1)
    far, near = (swap(1.0, 1) - mean).abs().mean(), (swap(0.1, 1) - mean).abs().mean()
    assert 0 < near < 0.8 * far
    assert torch.equal(torch.random.get_rng_state(), before), "only rng may be drawn from"


def test_asking_for_a_seed_draws_and_is_recorded() -> None:
    pipeline = SwapPipeline(
        Method(generator=generator(), sampler=LatentSampler()),
        identity_encoder=TinyEncoder(),
        detector=cast(Any, None),
        alignment=Alignment(template="ffhq", size=TINY.image_size),
    )
    pictures = images(2)
    swap = partial(pipeline.swap_files, pictures[0], pictures[1])
    mean, draw = swap(), swap(seed=3)
    assert torch.equal(swap().image, mean.image)
    assert torch.equal(swap(seed=3).image, draw.image)
    assert not torch.equal(draw.image, mean.image)
    assert not torch.equal(swap(seed=4).image, draw.image)
    assert draw.request.seed == 3
    assert draw.request.settings == {"temperature": 1.0}
    assert mean.request.seed is None
    fixed = replace(LatentSampler(), temperature=0.0)
    assert fixed.seeded() == fixed, "a temperature that was set is kept"


def test_draws_need_a_generator_and_a_possible_temperature() -> None:
    with pytest.raises(UsageError, match="rng"):
        LatentSampler(temperature=1.0)(generator(), inputs())
    for wrong in (-0.5, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="temperature"):
            LatentSampler(temperature=wrong)


# -- settings and names --------------------------------------------------------------------------


@each_config
def test_settings_survive_json(config: CVAEConfig) -> None:
    assert from_dict(CVAEConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 50}, "50 is not a multiple of 4"),
        ({"skips": 3}, "skips: 3"),
        ({"log_var_range": [2, 1]}, "log_var_range: 2 is not below 1"),
        ({"noise": "normal"}, "noise"),
        ({"latent_size": 6}, "latent_size: unknown key"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(CVAEConfig, to_dict(TINY) | change, where="generator")


def test_converted_names_are_those_of_the_network() -> None:
    def original(ours: str) -> tuple[str, str]:
        part, *rest = ours.split(".")
        match part:
            case "condition":
                return "M1", ".".join(["emb", *rest[1:]])
            case "stem":
                return "E", f"conv1.{int(rest[0]) + 1}.{rest[1]}"
            case "down":
                return "E", ".".join([f"down{int(rest[0]) + 1}", *rest[1:]])
            case "mu" | "log_var":
                return "E", ours
            case "id_blocks":
                inner = ".".join(rest[1:])
                inner = inner.replace("conv1.", "conv1.1.").replace("conv2.", "conv2.1.")
                return "M2", f"ID_blocks.{rest[0]}.{inner}"
            case "up":
                return "D", f"up{int(rest[0]) + 1}.{int(rest[1]) + 1}.{rest[2]}"
            case _:
                return "D", f"conv2.{int(rest[0]) + 1}.{rest[1]}"

    model = generator(ORIGINAL)
    parts: dict[str, dict[str, Tensor]] = {"M1": {}, "E": {}, "M2": {}, "D": {}}
    for name, value in model.state_dict().items():
        part, key = original(name)
        parts[part][key] = value
    generator(ORIGINAL, seed=1).load_state_dict(from_facke(parts), strict=True)


def test_foreign_weights_are_refused_by_name() -> None:
    parts: dict[str, dict[str, Tensor]] = {"M1": {}, "E": {}, "M2": {}, "D": {}}
    with pytest.raises(WeightsError, match=r"E has the unknown name 'layer1\.weight'"):
        from_facke(parts | {"E": {"layer1.weight": torch.zeros(1)}})
    with pytest.raises(WeightsError, match="M1, E, M2, D, but got E"):
        from_facke({"E": {}})


def test_the_original_is_a_named_configuration() -> None:
    assert (FACKE_224.condition, FACKE_224.noise, FACKE_224.heads) == (
        "linear-map",
        "uniform",
        "bn-relu",
    )
    assert (FACKE_224.latent, FACKE_224.output) == ("spatial", "bn-tanh")


# -- losses --------------------------------------------------------------------------------------


def step_of(mu: Tensor | None = None, log_var: Tensor | None = None, **fields: Any) -> Step:
    aux = {} if mu is None or log_var is None else {"mu": mu, "log_var": log_var}
    values = {"batch": batch(), "output": GeneratorOutput(images(4, seed=9), aux), "modules": {}}
    return Step(**{**values, **fields})


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4, 2)])
def test_the_divergence_is_that_of_torch_distributions(shape: tuple[int, ...]) -> None:
    mu = torch.randn(shape, generator=rng(), dtype=torch.float64) * 3
    log_var = torch.randn(shape, generator=rng(1), dtype=torch.float64) * 4
    unit = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    exact = kl_divergence(Normal(mu, torch.exp(log_var / 2)), unit).sum(dim=1)
    value = KLLoss()(step_of(mu, log_var))
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, exact.flatten(1).mean(dim=1) if mu.ndim > 2 else exact)


def test_free_bits_leave_cheap_channels_alone() -> None:
    mu = torch.zeros(4, 3, 2, 2)
    mu[:, 1], mu[:2, 2] = 2.0, 0.5
    mu.requires_grad_()
    log_var = torch.zeros(4, 3, 2, 2)
    values = free_bits_divergence(mu, log_var, 0.1)
    # Channel means: 0, 2 and 0.0625 nats; the last is 0.125 in half of the samples.
    assert values.shape == (4,)
    torch.testing.assert_close(values.mean(), torch.tensor(0.1 + 2.0 + 0.1))
    values.mean().backward()
    assert mu.grad is not None
    assert mu.grad[:, 1].all()
    assert not mu.grad[:, [0, 2]].any()
    torch.testing.assert_close(KLLoss(free_bits=1e-9)(step_of(mu, log_var)), our_kl(mu, log_var))


def test_reconstruction_can_be_squared_and_lighter_between_identities() -> None:
    step = step_of()
    l1 = ReconstructionLoss()(step)
    image, reference = step.output.image, step.batch.reference
    torch.testing.assert_close(
        ReconstructionLoss(distance="l2")(step), (image - reference).square().flatten(1).mean(1)
    )
    expected = l1 * torch.tensor([1, 0.8, 1, 0.8])
    torch.testing.assert_close(ReconstructionLoss(inter=0.8)(step), expected)
    with pytest.raises(UsageError, match="l3"):
        ReconstructionLoss(distance="l3")  # type: ignore[arg-type]


# -- the classifier ------------------------------------------------------------------------------


def test_the_classifier_learns_whose_face_it_is() -> None:
    torch.manual_seed(0)
    model = IdentityClassifier(8, width=4)
    faces, people = images(6), identities(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = classification_loss(model(faces, people), people)
        assert loss.shape == (6,)
        losses.append(loss.mean().item())
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4
    assert (model(faces, people).argmax(dim=1) == torch.arange(6)).all()


def test_rows_with_one_identity_are_one_class() -> None:
    people = identities(1).expand(3, -1)
    logits = torch.randn(3, 3, generator=rng())
    torch.testing.assert_close(classification_loss(logits, people), torch.zeros(3))


def test_features_of_the_classifier_are_compared_with_the_source_or_the_reference() -> None:
    torch.manual_seed(0)
    classifier = IdentityClassifier(8, width=4)
    made = images(4, seed=9).requires_grad_()
    step = step_of(modules={"classifier": classifier}, output=GeneratorOutput(made, {}))
    mean, pair = (ClassFeatureMatching(real=real)(step) for real in ("source", "reference"))
    assert mean.shape == pair.shape == (4,)
    assert not torch.allclose(mean, pair)
    with torch.no_grad():
        f = classifier.features
        expected = (f(step.batch.source) - f(made)).square().sum(dim=1) / 2
    torch.testing.assert_close(mean, expected)
    mean.sum().backward()
    assert made.grad is not None
    assert made.grad.any()


def test_mean_features_see_the_batch_and_not_its_order() -> None:
    one_layer = Function(lambda image: DiscriminatorOutput([image[:, :1]], [[image]]))
    made = images(4, seed=9)
    step = step_of(modules={"discriminator": one_layer}, output=GeneratorOutput(made, {}))
    value = MeanFeatureMatching()(step)
    expected = (made.mean((0, 2, 3)) - images(4).mean((0, 2, 3))).square().sum() / 2
    torch.testing.assert_close(value, expected.expand(4))
    turned = step_of(modules={"discriminator": one_layer}, output=GeneratorOutput(made.flip(0), {}))
    torch.testing.assert_close(MeanFeatureMatching()(turned), value)


# -- the objectives ------------------------------------------------------------------------------


def batch_at(step: int) -> FaceBatch:
    return batch()._replace(source=images(4, seed=step), identity=identities(4, seed=step))


TERMS: dict[str, Any] = {
    "reconstruction": {"weight": 10, "options": {"units": "imagenet", "inter": 0.8}},
    "kl": {"weight": 2.5e-3, "ramp": 2, "options": {"free_bits": 0.01}},
    "identity": {"weight": 1},
}
GAN = {"gan": {"weight": 1}, "mean-features": {"weight": 1e-3}}
CLASSIFIER = {
    "class-mean": {"weight": 1e-3},
    "class-pair": {"weight": 1e-3, "where": "same_identity"},
}
JUDGE = {name: {"weight": 1} for name in ("real", "fake")} | {"gradient-penalty": {"weight": 1e-5}}


def trained(loss: dict[str, Any], judge: dict[str, Any], steps: int = 2) -> tuple[Objective, Any]:
    recipe = from_dict(
        Recipe,
        {
            "method": "cvae-gan",
            "steps": steps,
            "batch_size": 4,
            "generator": {},
            "identity_encoder": {"name": "tiny"},
            "alignment": {},
            "discriminator": {"width": 4, "num_scales": 1} if judge else {},
            "loss": loss,
            "discriminator_loss": judge,
            "ema": 0.5,
        },
    )
    method = Method(generator(TINY), LatentSampler())
    torch.manual_seed(2)
    made = objective(method, TinyEncoder(), recipe)
    return made, list(Trainer(made, Batches(batch_at), recipe=recipe))


@pytest.mark.parametrize(
    ("loss", "judge", "trains"),
    [
        (TERMS, {}, ["generator"]),
        (TERMS | GAN, JUDGE, ["generator", "discriminator"]),
        (TERMS | GAN | CLASSIFIER, JUDGE, ["generator", "discriminator", "classifier"]),
    ],
    ids=["cvae", "cvae-gan", "cvae-gan-c"],
)
def test_each_objective_trains_its_networks(
    loss: dict[str, Any], judge: dict[str, Any], trains: list[str]
) -> None:
    made, reports = trained(loss, judge)
    assert [phase.trains for phase in made.phases] == trains
    for report in reports:
        names = {f"generator.{name}" for name in loss} | {f"discriminator.{name}" for name in judge}
        names |= {"classifier.identity"} if "classifier" in trains else set()
        assert report.losses.keys() == names
        assert all(value == value for value in report.losses.values())
    fresh = trained(loss, judge, steps=1)[0]
    for name in trains:
        before = fresh.modules[name].state_dict()
        changed = [
            key
            for key, value in made.modules[name].named_parameters()
            if not torch.equal(value, before[key])
        ]
        assert changed, name


def test_training_draws_the_latent_from_the_steps_own_noise() -> None:
    made, _ = trained(TERMS, {}, steps=1)
    (phase,) = made.phases
    first, second, again = (
        phase.forward(made.modules, batch(), rng(seed)).output.aux["z"] for seed in (0, 1, 0)
    )
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_discriminator_judges_what_the_generator_phase_made() -> None:
    made, _ = trained(TERMS | GAN, JUDGE, steps=1)
    output = made.phases[0].forward(made.modules, batch(), rng()).output
    judged = made.phases[1].forward(made.modules, batch(), rng(1), output).output
    assert judged.image is output.image


def test_an_unknown_term_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"class-maen.*class-mean"):
        trained({"class-maen": {"weight": 1}}, {})


# -- the recipes ---------------------------------------------------------------------------------

SPEC_4_1: dict[str, dict[str, Any]] = {
    "cvae": {"reconstruction": (1, 1.0), "kl": 2.5e-4},
    "cvae-id": {"reconstruction": (1, 0.5), "kl": 2.5e-4, "identity": 30},
    "cvae-gan": {"reconstruction": (10, 0.8), "kl": 2.5e-3, "identity": 30, "gan": 1},
}
"""Recipe -> term -> weight, of the reconstruction also the factor between identities."""
RECIPES = [*SPEC_4_1, "cvae-1d", "cvae-gan-ig", "cvae-gan-c", "cvae-gan-mini"]


def read(name: str, *overrides: str) -> Recipe:
    return read_recipe(name, overrides, default_registry())


@pytest.mark.parametrize("name", SPEC_4_1)
def test_a_recipe_has_the_weights_of_the_original(name: str) -> None:
    loss = read(name).loss
    found: dict[str, Any] = {term: config.weight for term, config in loss.items()}
    found["reconstruction"] = loss["reconstruction"].weight, loss["reconstruction"].options["inter"]
    assert found == SPEC_4_1[name]
    assert loss["reconstruction"].options["units"] == "imagenet"
    assert bool(read(name).discriminator_loss) is (name == "cvae-gan")


@pytest.mark.parametrize("name", [*SPEC_4_1, "cvae-gan-ig", "cvae-gan-c"])
def test_a_recipe_builds_the_original_but_for_the_encoder(name: str) -> None:
    recipe = read(name, "generator.identity_dim=512")
    assert from_dict(CVAEConfig, recipe.generator) == FACKE_224


def test_the_bundled_shape_is_that_of_simswap_with_a_latent() -> None:
    settings = dict(read("simswap-mini").generator)
    assert settings.items() <= dict(read("cvae-gan-mini").generator).items()
    ours, theirs = read("cvae-gan-mini"), read("simswap-mini")
    for same in ("data", "batch_size", "alignment", "identity_encoder"):
        assert getattr(ours, same) == getattr(theirs, same)


def test_the_one_dimensional_latent_comes_from_seven_by_seven_cells() -> None:
    config = from_dict(CVAEConfig, read("cvae-1d").generator)
    assert (config.latent, config.image_size // config.factor) == ("vector", 7)
    assert read("cvae-1d").loss["reconstruction"].options["distance"] == "l2"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains(name: str) -> None:
    size = 96  # two scales of a patch discriminator need as many
    recipe = read(
        name,
        "steps=1",
        "batch_size=4",
        "precision=float32",
        f"generator.image_size={size}",
        "generator.identity_dim=8",
        "generator.channels=[4,8,8]",
        "generator.num_id_blocks=1",
        *(["discriminator.width=4"] if "gan" in name else []),
    )
    at_once = {term: replace(config, start=0) for term, config in recipe.loss.items()}
    recipe = replace(recipe, loss=at_once)

    source, target = images(4, size, seed=1), images(4, size)
    flags = torch.tensor([True, True, False, False])
    batches = Batches(lambda step: FaceBatch(source, target, identities(4), flags, target))
    method = build(from_dict(CVAEConfig, recipe.generator))
    (report,) = Trainer(objective(method, TinyEncoder(), recipe), batches, recipe=recipe)
    trained_terms = {f"generator.{term}" for term in recipe.loss}
    assert trained_terms <= report.losses.keys()
    assert all(value == value for value in report.losses.values())
