"""ILVR: the algorithm, its settings, identity guidance and refinement."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from facke_core import delegate
from facke_core.config import to_dict, updated
from facke_core.errors import (
    CompatibilityError,
    ConfigError,
    FackeError,
    UnknownNameError,
    UsageError,
)
from facke_core.faces.templates import Alignment
from facke_core.pipeline import SwapPipeline
from facke_core.protocols import Method, Sampler, SteeredSampler
from facke_core.sampling import check_compatible, watched
from facke_core.testing import TinyEncoder
from facke_core.types import GeneratorOutput, GeneratorSpec, SwapInputs
from facke_diffusion import guidance, ilvr, refine
from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_diffusion.ilvr import ILVRSampler, build, project, reference_state, start_state
from facke_diffusion.low_pass import low_pass
from facke_diffusion.schedule import make_schedule
from facke_diffusion.solvers import dpmpp_step, levels
from standins import FunctionGenerator, FunctionSampler

SIZE = 32
TINY = DDPMConfig(
    image_size=SIZE,
    model_channels=32,
    channel_mult=(1, 1),
    attention_resolutions=(),
    num_head_channels=32,
)
FAST = ILVRSampler(steps=8, factor=4)
PAPER = ILVRSampler(steps=10, start=1.0, until=2, factor=4, solver="ddpm")
SAMPLERS = {
    "default": FAST,
    "paper": PAPER,
    "facke": replace(PAPER, variant="facke"),
    "adm": replace(PAPER, variant="adm"),
    "ddim": replace(FAST, solver="ddim"),
    "noisy ddim": replace(FAST, solver="ddim", eta=1.0),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=rng(seed))


def inputs(count: int = 2) -> SwapInputs:
    return SwapInputs(images(count, seed=5), images(count), torch.zeros(count, 0))


@pytest.fixture(scope="module")
def network() -> DDPMGenerator:
    """Tiny; with an output layer that is not zero."""
    torch.manual_seed(0)
    model = DDPMGenerator(TINY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any():
                parameter.normal_(std=0.02 if name.startswith("out.") else 0.1)
    return model.eval().requires_grad_(False)


class Gaussian:
    """A perfect network for pixels from N(mean, 0.5^2), independent of each other."""

    def __init__(self, mean: float = 0.0) -> None:
        self.mean = mean
        self.schedule = make_schedule("linear", 1000)
        self.spec = GeneratorSpec(
            image_size=SIZE, identity_dim=0, conditions=frozenset({"timestep"})
        )
        self.timesteps: list[int] = []

    def __call__(self, x: Tensor, *, timestep: Tensor) -> GeneratorOutput:
        self.timesteps.append(int(timestep[0]))
        assert (timestep == timestep[0]).all()
        abar = float(self.schedule.alphas_bar[timestep[0]])
        gain = 0.25 * abar**0.5 / (0.25 * abar + 1 - abar)
        x0 = self.mean + gain * (x - abar**0.5 * self.mean)
        return GeneratorOutput((x0 + 1) / 2, {"x0": x0})

    forward = __call__


# -- the sampler ---------------------------------------------------------------------------------


@each_sampler
def test_it_makes_pictures_that_repeat_with_the_seed(
    network: DDPMGenerator, sampler: ILVRSampler
) -> None:
    assert isinstance(sampler, Sampler)
    before = torch.random.get_rng_state()
    out = sampler(network, inputs(), rng=rng(1))
    assert out.shape == (2, 3, SIZE, SIZE)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, sampler(network, inputs(), rng=rng(1)))
    assert not torch.equal(out, sampler(network, inputs(), rng=rng(2)))
    assert torch.equal(torch.random.get_rng_state(), before), "only rng may be drawn from"


@each_sampler
def test_rows_are_independent_for_the_same_noise(
    monkeypatch: pytest.MonkeyPatch, network: DDPMGenerator, sampler: ILVRSampler
) -> None:
    numbers = {"start": 0, "reverse": 1, "reference": 2}

    def noise(use: str, i: int, like: Tensor, rng: torch.Generator) -> Tensor:
        own = torch.randn(3, *like.shape[1:], generator=globals()["rng"](10 * i + numbers[use]))
        return own[-len(like) :]

    monkeypatch.setattr(ilvr, "_noise", noise)
    three = inputs(3)
    both = sampler(network, three, rng=rng())
    one = sampler(
        network, SwapInputs(three.source[2:], three.target[2:], three.identity[2:]), rng=rng()
    )
    torch.testing.assert_close(both[2:], one, atol=1e-4, rtol=0)


@each_sampler
def test_target_and_where_it_takes_part_the_source_matter(
    network: DDPMGenerator, sampler: ILVRSampler
) -> None:
    out = sampler(network, inputs(), rng=rng())
    other_target = sampler(network, inputs()._replace(target=images(seed=9)), rng=rng())
    other_source = sampler(network, inputs()._replace(source=images(seed=9)), rng=rng())
    assert (out - other_target).abs().mean() > 1e-3
    assert ((out - other_source).abs().mean() > 1e-6) == (sampler.variant != "adm")


def test_the_method_fits_together_and_needs_noise(network: DDPMGenerator) -> None:
    method = build(TINY)
    assert isinstance(method.sampler, ILVRSampler)
    check_compatible(method.generator, method.sampler)
    with pytest.raises(UsageError, match="rng"):
        FAST(network, inputs())


@pytest.mark.parametrize("precision", ["bfloat16", "inference"])
def test_half_precision_and_inference_mode_change_little(
    network: DDPMGenerator, precision: str
) -> None:
    expected = FAST(network, inputs(), rng=rng())
    if precision == "inference":
        with torch.inference_mode():
            assert torch.equal(FAST(network, inputs(), rng=rng()), expected)
        return
    half = DDPMGenerator(TINY)
    half.load_state_dict(network.state_dict())
    out = FAST(half.bfloat16().to(memory_format=torch.channels_last), inputs(), rng=rng())
    assert out.dtype == torch.float32
    assert (out - expected).abs().mean() < 0.02


@pytest.mark.parametrize(("start", "calls"), [(1.0, 10), (0.5, 5), (0.301, 3)])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp"])
def test_start_takes_fewer_levels_and_a_call_of_the_network_for_each(
    start: float, calls: int, solver: Any
) -> None:
    model = Gaussian()
    sampler = ILVRSampler(steps=10, start=start, until=0, factor=4, solver=solver)
    sampler(model, inputs(), rng=rng())  # type: ignore[arg-type]
    assert len(model.timesteps) == calls
    assert model.timesteps == sorted(model.timesteps, reverse=True)
    assert abs(model.timesteps[0] - 1000 * start) < 100


def test_the_smaller_start_the_more_is_left_of_the_source() -> None:
    model = Gaussian()

    def distance(start: float) -> float:
        sampler = ILVRSampler(steps=40, start=start, until=0.01, factor=16)
        out = sampler(model, inputs(), rng=rng())  # type: ignore[arg-type]
        detail = out - low_pass(out, 16) - (inputs().source - low_pass(inputs().source, 16))
        return float(detail.square().mean())

    assert distance(0.05) < 0.5 * distance(0.5) < distance(1.0)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp"])
@pytest.mark.parametrize("variant", ["paper", "facke", "adm"])
def test_low_frequencies_are_those_of_the_target(variant: Any, solver: Any) -> None:
    """For data that could be anything; the level of the reference costs the original little with
    many steps."""
    sampler = ILVRSampler(
        variant=variant, solver=solver, factor=4, until=0, steps=200, start=1.0, clip=False
    )
    out = sampler(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]
    error = low_pass(out - inputs().target, 4).abs().mean()
    assert error < 0.03
    free = replace(sampler, until=150)(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]
    assert low_pass(free - inputs().target, 4).abs().mean() > 3 * error


# -- the equations -------------------------------------------------------------------------------


def test_projection_takes_low_frequencies_of_one_and_high_ones_of_the_other() -> None:
    x, y = images(), images(seed=1)
    out = project(x, y, 8)
    torch.testing.assert_close(out, low_pass(y, 8) + x - low_pass(x, 8), atol=1e-6, rtol=0)
    torch.testing.assert_close(project(x, x, 8), x)


def test_states_are_noised_to_their_level() -> None:
    schedule = levels(make_schedule("linear", 1000), 10, 1.0, even=True)
    x, eps = images(), torch.randn(2, 3, SIZE, SIZE, generator=rng())
    abar = schedule.alphas_bar[4].float()
    expected = abar.sqrt() * x + (1 - abar).sqrt() * eps
    torch.testing.assert_close(start_state(schedule, x, 4, eps), expected)
    torch.testing.assert_close(reference_state(schedule, x, 4, eps), expected)
    assert reference_state(schedule, x, -1, eps) is x


class Record:
    """What a run draws and projects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: ILVRSampler) -> None:
        self.drawn: list[tuple[str, int]] = []
        self.references: list[tuple[int, bool]] = []
        """(level, whether the noise is that of the beginning)."""
        first: list[Tensor] = []

        def noise(use: str, i: int, like: Tensor, rng: torch.Generator) -> Tensor:
            self.drawn.append((use, i))
            drawn = torch.randn(like.shape, generator=rng)
            if use == "start":
                first.append(drawn)
            return drawn

        def reference(schedule: Any, target: Tensor, i: int, eps: Tensor) -> Tensor:
            self.references.append((i, eps is first[0]))
            return reference_state(schedule, target, i, eps)

        monkeypatch.setattr(ilvr, "_noise", noise)
        monkeypatch.setattr(ilvr, "reference_state", reference)
        sampler(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]


def test_the_paper_shares_the_noise_always_and_refers_to_the_level_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Record(monkeypatch, PAPER)
    assert record.references == [(i - 1, True) for i in range(9, 2, -1)]
    assert record.drawn == [("start", 9), *(("reverse", i) for i in range(9, 0, -1))]


def test_the_code_of_facke_shares_it_once_and_refers_to_the_same_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Record(monkeypatch, replace(PAPER, variant="facke"))
    assert record.references == [(i, i == 9) for i in range(9, 2, -1)]
    assert [i for use, i in record.drawn if use == "reference"] == list(range(8, 2, -1))


def test_plain_ilvr_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch, replace(PAPER, variant="adm"))
    assert record.references == [(i, False) for i in range(9, 2, -1)]


def test_the_deterministic_default_draws_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Record(monkeypatch, FAST).drawn == [("start", 3)]


def test_the_second_order_solver_gets_the_estimate_of_the_step_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor | None]] = []

    def step(*args: Any, previous: Tensor | None) -> Tensor:
        seen.append((args[2], previous))
        return dpmpp_step(*args, previous=previous)

    monkeypatch.setattr(ilvr, "dpmpp_step", step)
    FAST(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]
    assert len(seen) == 4
    assert seen[0][1] is None
    for (estimate, _), (_, previous) in pairwise(seen):
        assert previous is estimate


def conditioned(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[int]:
    sampler = ILVRSampler(variant="facke", **settings)
    return [i for i, _ in Record(monkeypatch, sampler).references]


def test_the_papers_settings_condition_79_of_100_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = conditioned(monkeypatch, factor=32, until=20, steps=100, start=1.0, solver="ddpm")
    assert found == list(range(99, 20, -1))


@pytest.mark.parametrize(("until", "least"), [(0.0, 0), (0.2, 4), (0.4, 6), (0.49, 7)])
def test_a_share_is_one_of_the_timesteps(
    monkeypatch: pytest.MonkeyPatch, until: float, least: int
) -> None:
    """The ten levels are 10, 40, 90, 160, 250, 360, 490, 639, 809, 999."""
    found = conditioned(monkeypatch, until=until, steps=10, start=1.0)
    assert found == list(range(9, least - 1, -1))


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0 is below 1"),
        ({"steps": 2.5}, "steps: expected an integer"),
        ({"factor": 12}, "factor: 12 is not a power of two"),
        ({"factor": 1}, "factor: 1 is not a power of two"),
        ({"start": 0}, r"start: 0 is not in \(0, 1\]"),
        ({"start": 1.2}, r"start: 1.2 is not in \(0, 1\]"),
        ({"until": -1}, "until: -1 is not a number from 0"),
        ({"guidance": -0.1}, "guidance: -0.1 is not"),
        ({"eta": 0.5}, "eta: 0.5 has no meaning for solver='dpmpp'"),
        ({"variant": "adm"}, "begins with noise alone, but start=0.5"),
        ({"variant": "adm", "start": 1, "refine": "simswap"}, "refine='simswap'"),
        ({"variant": "ilvr"}, "'paper', 'facke', 'adm'"),
        ({"solver": "euler"}, "'ddpm', 'ddim', 'dpmpp'"),
        ({"range_t": 20}, "range_t: unknown key"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        updated(ILVRSampler(), change, where="sampler")


def test_settings_survive_json() -> None:
    for sampler in SAMPLERS.values():
        assert updated(ILVRSampler(), to_dict(sampler)) == sampler


def test_settings_that_do_not_fit_the_network_are_refused(network: DDPMGenerator) -> None:
    with pytest.raises(ConfigError, match="steps: 1001 are more than the 1000 timesteps"):
        ILVRSampler(steps=1001, factor=4)(network, inputs(), rng=rng())
    for until in (9, 0.5, 0.9):
        with pytest.raises(ConfigError, match="until: no step is conditioned"):
            ILVRSampler(steps=20, start=0.5, until=until)(network, inputs(), rng=rng())
    with pytest.raises(CompatibilityError, match="factor: 64 does not divide the image size 32"):
        replace(FAST, factor=64)(network, inputs(), rng=rng())


def test_a_network_is_compiled_once_and_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[DDPMGenerator] = []
    monkeypatch.setattr(DDPMGenerator, "compile", lambda self: compiled.append(self))
    model = DDPMGenerator(TINY)
    FAST(model, inputs(), rng=rng())
    assert compiled == []
    for _ in range(2):
        replace(FAST, compile=True)(model, inputs(), rng=rng())
    assert compiled == [model]


def test_every_setting_is_documented() -> None:
    source = inspect.getsource(ILVRSampler)
    for name in ILVRSampler.__dataclass_fields__:
        assert f"    {name}: " in source
        assert source.split(f"    {name}: ")[1].split("\n")[1].strip().startswith('"""'), name


# -- progress ------------------------------------------------------------------------------------


def test_who_watches_is_told_of_each_step(network: DDPMGenerator) -> None:
    seen: list[tuple[int, int, Tensor]] = []
    with watched(lambda done, steps, estimate: seen.append((done, steps, estimate))):
        out = FAST(network, inputs(), rng=rng())
    FAST(network, inputs(), rng=rng())
    assert [(done, steps) for done, steps, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for _, _, estimate in seen:
        assert estimate.shape == out.shape
        assert estimate.min() >= 0
        assert estimate.max() <= 1
    assert torch.equal(seen[-1][2], out)


# -- identity guidance ---------------------------------------------------------------------------


def recogniser() -> TinyEncoder:
    """Differentiable, and aware of how crops are framed."""
    return TinyEncoder(6, template="simswap_frontal", size=32)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyEncoder]:
    def load(name: str, *, device: str) -> TinyEncoder:
        assert (name, device) == ("tiny", "cpu")
        return recogniser()  # within inference mode its parameters would be of no use

    monkeypatch.setattr(guidance, "load_encoder", load)
    guidance._encoder.cache_clear()
    yield recogniser()
    guidance._encoder.cache_clear()


@pytest.mark.parametrize("mode", ["no_grad", "inference", "grad"])
def test_guidance_brings_the_identity_of_the_source(
    network: DDPMGenerator, encoder: TinyEncoder, mode: str
) -> None:
    guided = replace(FAST, guidance=0.1, guidance_encoder="tiny")
    wanted = encoder(inputs().source)

    def likeness(sampler: ILVRSampler) -> Tensor:
        context = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
        with context.get(mode, torch.enable_grad)():
            out = sampler(network, inputs(), rng=rng())
        assert not out.requires_grad
        return (encoder(out.clone()) * wanted).sum(1)

    assert (likeness(guided) > likeness(FAST) + 0.05).all()
    assert all(p.grad is None for p in encoder.parameters())


def test_a_guided_step_has_the_documented_size_and_leads_uphill(encoder: TinyEncoder) -> None:
    x0 = images() * 2 - 1
    guide = guidance.IdentityGuide("tiny", inputs(), weight=0.03)
    step = guide(x0, abar=0.36) - x0
    rms = step.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 0.03 * 0.8), rtol=1e-4, atol=0)
    before, after = (encoder((x + 1) / 2) for x in (x0, x0 + step))
    wanted = encoder(inputs().source)
    assert ((after * wanted).sum(1) > (before * wanted).sum(1)).all()
    assert guide(x0, abar=1.0).equal(x0)
    torch.testing.assert_close(guide(x0, abar=0.36)[1:], alone(x0[1:], abar=0.36))


def alone(x0: Tensor, abar: float) -> Tensor:
    source, target, identity = (x[1:] for x in inputs()[:3])
    row = SwapInputs(source, target, identity)
    return guidance.IdentityGuide("tiny", row, weight=0.03)(x0, abar=abar)


def test_the_recogniser_sees_crops_in_its_own_framing(encoder: TinyEncoder) -> None:
    ffhq = Alignment(template="ffhq", size=SIZE)
    crops = images()
    assert torch.equal(guidance.embed(encoder, crops, None), encoder(crops))
    assert torch.equal(
        guidance.embed(encoder, crops, Alignment(template="simswap", size=SIZE)), encoder(crops)
    )
    assert not torch.equal(guidance.embed(encoder, crops, ffhq), encoder(crops))
    gradient = guidance.identity_gradient(encoder, crops * 2 - 1, encoder(images(seed=5)), ffhq)
    assert gradient.any()


def test_an_unknown_recogniser_is_refused_by_name(network: DDPMGenerator) -> None:
    sampler = replace(FAST, guidance=0.1, guidance_encoder="dlib-resnet28")
    with pytest.raises(UnknownNameError, match="dlib-resnet29"):
        sampler(network, inputs(), rng=rng())


# -- refinement ----------------------------------------------------------------------------------


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[SwapPipeline]:
    """What ``refine=darker`` loads: another method, for crops of 16 pixels."""

    def darker(x: Tensor) -> Tensor:
        assert x.shape[-1] == 16
        return x / 2

    pipeline = SwapPipeline(
        Method(
            FunctionGenerator(darker, 16),
            FunctionSampler(lambda generator, inputs, rng: generator(inputs.source).image),
        ),
        identity_encoder=None,
        detector=None,  # type: ignore[arg-type]
        alignment=Alignment(template="simswap_frontal", size=16),
    )
    monkeypatch.setattr(delegate, "located", lambda method: method)
    monkeypatch.setattr(delegate, "load", lambda method, *, device: pipeline)
    delegate.pipeline_of.cache_clear()
    yield pipeline
    delegate.pipeline_of.cache_clear()


@pytest.mark.parametrize("template", ["simswap_frontal", "simswap", None])
def test_refining_puts_the_other_methods_result_in_place_of_both_pictures(
    other: SwapPipeline, template: str | None
) -> None:
    alignment = Alignment(template=template, size=SIZE) if template else None
    given = inputs()._replace(alignment=alignment)
    dark = refine.refined("darker", given)
    assert dark.shape == given.target.shape
    assert abs(float(dark.mean() - given.source.mean() / 2)) < 0.01
    sampler = replace(FAST, refine="darker", until=0, factor=4)
    out = sampler(Gaussian(), given, rng=rng())  # type: ignore[arg-type]
    plain = given._replace(source=dark, target=dark)
    expected = replace(sampler, refine="")(Gaussian(), plain, rng=rng())  # type: ignore[arg-type]
    assert torch.equal(out, expected)


def test_a_method_of_another_framing_cannot_be_refined(other: SwapPipeline) -> None:
    given = inputs()._replace(alignment=Alignment(template="ffhq", size=SIZE))
    with pytest.raises(CompatibilityError, match=r"framed as 'simswap_frontal', this DDPM.*'ffhq'"):
        replace(FAST, refine="darker")(Gaussian(), given, rng=rng())  # type: ignore[arg-type]


def test_a_method_that_refines_itself_is_refused(other: SwapPipeline) -> None:
    sampler = replace(FAST, refine="darker")
    other.method = Method(other.method.generator, sampler)
    with pytest.raises(CompatibilityError, match="refine another method themselves"):
        sampler(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]


def test_an_unknown_method_to_refine_is_refused_by_name() -> None:
    with pytest.raises(FackeError, match="simswap"):
        replace(FAST, refine="simswp")(Gaussian(), inputs(), rng=rng())  # type: ignore[arg-type]


def test_the_encoders_that_steer_are_named_for_the_choice_of_a_judge() -> None:
    assert ILVRSampler().encoders == []
    assert ILVRSampler(guidance=0.05).encoders == ["dlib-resnet29"]
    (encoder,) = ILVRSampler(refine="simswap").encoders
    assert cast(Any, encoder)["name"] == "dlib-resnet29"
    assert isinstance(ILVRSampler(), SteeredSampler)
