"""A healthy method, encoder, detector, metric, discriminator and loss, each a few lines long, and
what is planted in them for ``test_mutants.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facke_core.errors import UsageError
from facke_core.losses.terms import GanLoss, IdentityLoss, ReconstructionLoss
from facke_core.objective import LossTerm
from facke_core.plugins.hookspecs import hookimpl
from facke_core.plugins.registry import Registry
from facke_core.plugins.specs import DetectorSpec, EncoderSpec, MethodSpec, MetricSpec
from facke_core.protocols import Method
from facke_core.sampling import SinglePass
from facke_core.testing.fakes import TinyDiscriminator, TinyEncoder, TinyGenerator
from facke_core.training.swapping import SwapObjective, generate
from facke_core.types import Step, SwapInputs


@dataclass(frozen=True, kw_only=True)
class Config:
    image_size: int = 32
    identity_dim: int = 8


class Generator(TinyGenerator):
    """Healthy, and built of its config."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.image_size, config.identity_dim)
        self.config = config


@dataclass(frozen=True, kw_only=True)
class NoisySampler:
    """Adds a little noise to the target."""

    noise: float = 0.05

    @property
    def supplies(self) -> frozenset[str]:
        return frozenset({"identity"})

    def draws(self, like: Tensor, rng: torch.Generator | None) -> Tensor:
        if rng is None:
            raise UsageError("This sampler needs rng=torch.Generator(...).")
        return torch.randn(like.shape, generator=rng, dtype=like.dtype)

    def __call__(
        self, generator: Any, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Any:
        x = inputs.target + self.noise * self.draws(inputs.target, rng)
        return generator(x, identity=inputs.identity).image.clamp(0, 1)


class Discriminator(TinyDiscriminator):
    """Healthy."""


class Encoder(TinyEncoder):
    """Healthy."""


class Detector:
    """MediaPipe's, whose answers a defect changes."""

    threshold = 0.6

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, photo: Tensor) -> Any:
        return self.inner(photo)


@dataclass(frozen=True)
class Metric:
    """Mean absolute difference of swap(x, x) and x."""

    name: str = "healthy"
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str] = frozenset({"self"})

    def __call__(self, pairs: Any) -> Any:
        return (pairs.reconstruction - pairs.source).double().abs().mean((1, 2, 3))


class Loss:
    """Mean squared difference to the reference."""

    name = "healthy"

    def __call__(self, step: Step) -> Any:
        return (step.output.image.float() - step.batch.reference).square().mean((1, 2, 3))


def objective(method: Method, encoder: Any, **changes: Any) -> Any:
    """Generator and discriminator phase."""
    modules: dict[str, Any] = {
        "generator": method.generator,
        "identity_encoder": encoder,
        "discriminator": Discriminator(),
    }
    settings: dict[str, Any] = {
        "generator_terms": [
            LossTerm(IdentityLoss(), 1.0),
            LossTerm(ReconstructionLoss(), 1.0, where="same_identity"),
            LossTerm(GanLoss(name="gan"), 1.0),
        ],
        "discriminator_terms": [LossTerm(GanLoss(name="real")), LossTerm(GanLoss(name="fake"))],
        "forward": generate,
    }
    return SwapObjective(modules, **{**settings, **changes})


# -- the plugin ----------------------------------------------------------------------------------

GENERATORS: dict[str, type[Generator]] = {}
SAMPLERS: dict[str, Any] = {}
CONFIGS: dict[str, Any] = {}
METRICS: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    """Targets such as ``defects:build_NAME``."""
    kind, _, mutant = name.partition("_")
    if kind == "build":
        return lambda config: Method(
            GENERATORS.get(mutant, Generator)(config), SAMPLERS.get(mutant, SinglePass())
        )
    if kind == "config":
        return CONFIGS.get(mutant, Config)
    if kind == "metric":
        return METRICS.get(mutant, Metric)
    raise AttributeError(name)


class Plugin:
    """One of each."""

    def __init__(self, mutant: str, changes: dict[str, Any]) -> None:
        self.mutant, self.changes = mutant, changes

    @hookimpl
    def facke_methods(self) -> list[MethodSpec]:
        spec = MethodSpec(
            name="healthy",
            summary="a small healthy method",
            config=f"defects:config_{self.mutant}",
            build=f"defects:build_{self.mutant}",
            default_config={"image_size": 32},
            license="CC0-1.0",
        )
        return [replace(spec, **self.changes)]

    @hookimpl
    def facke_identity_encoders(self) -> list[EncoderSpec]:
        return [
            EncoderSpec(name="healthy", summary="a small healthy encoder", build="defects:Encoder")
        ]

    @hookimpl
    def facke_face_detectors(self) -> list[DetectorSpec]:
        return [
            DetectorSpec(
                name="healthy", summary="a small healthy detector", build="defects:Detector"
            )
        ]

    @hookimpl
    def facke_metrics(self) -> list[MetricSpec]:
        return [
            MetricSpec(
                name="healthy",
                summary="a small healthy metric",
                build=f"defects:metric_{self.mutant}",
                higher_is_better=False,
            )
        ]


def registry(mutant: str = "none", **changes: Any) -> Registry:
    """One with this plugin alone; ``changes`` of its method's spec."""
    made = Registry()
    made.register(Plugin(mutant, changes), "defects")
    return made
