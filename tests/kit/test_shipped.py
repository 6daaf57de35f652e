"""Everything that facke ships passes its own conformance kit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import facke_diffusion.plugin
import facke_gan.plugin
import facke_vae.plugin
from facke_core.losses.terms import TERMS
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.plugins.registry import default_registry
from facke_core.protocols import Loss
from facke_core.sampling import SinglePass
from facke_core.testing import (
    DetectorConformance,
    DiscriminatorConformance,
    EncoderConformance,
    LossConformance,
    MethodConformance,
    MetricConformance,
    SamplerConformance,
)
from facke_core.types import GeneratorOutput, Step
from facke_diffusion import ddpm, ilvr
from facke_diffusion.ilvr import ILVRSampler
from facke_diffusion.losses import TERMS as DIFFUSION_TERMS
from facke_diffusion.objective import DenoisingObjective
from facke_gan import simswap
from facke_gan.projected import ProjectedDiscriminator
from facke_vae import cvae
from facke_vae.classifier import IdentityClassifier
from facke_vae.cvae import LatentSampler
from facke_vae.losses import TERMS as VAE_TERMS

REGISTRY = default_registry()


def suite(base: type[Any], **attributes: Any) -> type[Any]:
    """A class of tests, as an author would write it."""
    return type(base.__name__, (base,), attributes)


def checks(base: type[Any]) -> list[str]:
    return [name for name in dir(base) if name.startswith("test_")]


def each_check(base: type[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("check", checks(base))


# -- methods -------------------------------------------------------------------------------------

MORE: dict[str, list[dict[str, Any]]] = {
    "simswap": [{"patch": 2, "skips": 1, "output": "imagenet"}],
    "cvae": [
        {"condition": "linear-map", "noise": "uniform", "heads": "bn-relu"},
        {"latent": "vector", "latent_dim": 6},
    ],
}
PLUGINS: tuple[Any, ...] = (facke_gan.plugin, facke_vae.plugin, facke_diffusion.plugin)
METHODS: dict[str, list[dict[str, Any]]] = {
    name: [small, *({**small, "tiny": {**small["tiny"], **tiny}} for tiny in MORE.get(name, []))]
    for plugin in PLUGINS
    for name, small in plugin.CONFORMANCE.items()
}
METHODS["cvae-gan"].append({**METHODS["cvae-gan"][0], "recipe": "cvae-gan-c"})
METHODS["ilvr"].append(
    {
        **METHODS["ilvr"][0],
        "settings": {"steps": 4, "start": 1.0, "factor": 4, "solver": "ddpm", "until": 1},
    }
)
"""How each method is made small; after the first time with its more unusual parts."""


def test_no_method_is_forgotten() -> None:
    official = {"facke-gan", "facke-vae", "facke-diffusion"}
    ours = {name for name, owner in REGISTRY.methods.owners.items() if owner in official}
    assert ours == set(METHODS)


@each_check(MethodConformance)
@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, one) for name, several in METHODS.items() for one in several],
    ids=[f"{name}-{i}" for name, several in METHODS.items() for i in range(len(several))],
)
def test_a_method(name: str, settings: dict[str, Any], check: str) -> None:
    getattr(suite(MethodConformance, method=name, **settings)(), check)()


# -- samplers ------------------------------------------------------------------------------------

GAN = simswap.SimSwapConfig(image_size=32, identity_dim=8, channels=(4, 8), num_id_blocks=1)
VAE = cvae.CVAEConfig(image_size=32, identity_dim=8, channels=(4, 8), num_id_blocks=1)
DDPM = ddpm.DDPMConfig(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 1),
    attention_resolutions=(),
    num_head_channels=32,
)
FAST = ILVRSampler(steps=6, factor=4)
SAMPLERS: dict[str, Callable[[], Any]] = {
    "one pass": lambda: simswap.build(GAN)._replace(sampler=SinglePass()),
    "draw of the latent": lambda: cvae.build(VAE)._replace(sampler=LatentSampler(temperature=0.7)),
    "ilvr of facke": lambda: ilvr.build(DDPM)._replace(
        sampler=replace(FAST, variant="facke", start=1.0, solver="ddpm")
    ),
    "noisy ddim": lambda: ilvr.build(DDPM)._replace(sampler=replace(FAST, solver="ddim", eta=1.0)),
}


@each_check(SamplerConformance)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler(name: str, check: str) -> None:
    getattr(suite(SamplerConformance, make=lambda self: SAMPLERS[name]())(), check)()


# -- encoders, detectors, metrics ------------------------------------------------------------------


@each_check(EncoderConformance)
def test_the_default_encoder(check: str) -> None:
    """The others need files first: tests/unit/test_encoders.py."""
    getattr(suite(EncoderConformance, encoder="dlib-resnet29")(), check)()


@each_check(DetectorConformance)
@pytest.mark.parametrize("name", REGISTRY.detectors)
def test_a_detector(name: str, check: str) -> None:
    getattr(suite(DetectorConformance, detector=name, make=_detector)(), check)()


_detectors: dict[str, Any] = {}


def _detector(self: DetectorConformance) -> Any:
    """Built once: MediaPipe's graphs take a second to start."""
    if self.detector not in _detectors:
        _detectors[self.detector] = DetectorConformance.make(self)
    return _detectors[self.detector]


@each_check(MetricConformance)
@pytest.mark.parametrize("name", REGISTRY.metrics)
def test_a_metric(name: str, check: str) -> None:
    # the first two are best at 1; the kit's faces are drawn, and artefacts knows photographs
    best = name not in ("sharpness", "flicker", "artefacts")
    getattr(suite(MetricConformance, metric=name, perfect_is_best=best)(), check)()


# -- discriminators ------------------------------------------------------------------------------

DISCRIMINATORS: dict[str, tuple[int, Callable[[], nn.Module]]] = {  # (pixels, build)
    "patch": (96, partial(MultiScalePatchDiscriminator, width=4)),
    "spectral": (96, partial(MultiScalePatchDiscriminator, width=4, norm="spectral")),
    "projected": (128, cache(ProjectedDiscriminator)),  # half a second
}


@each_check(DiscriminatorConformance)
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminator(name: str, check: str) -> None:
    size, build = DISCRIMINATORS[name]
    getattr(suite(DiscriminatorConformance, size=size, make=lambda self: build())(), check)()


# -- losses --------------------------------------------------------------------------------------


class OfImages(LossConformance):
    """With a latent and a classifier, for the losses of the autoencoders."""

    def make_modules(self) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            classifier = IdentityClassifier(8, width=4).eval()
        return {**super().make_modules(), "classifier": classifier}

    def make_aux(self, count: int) -> dict[str, Tensor]:
        noise = torch.Generator().manual_seed(1)
        shape = (count, 4, 2, 2)
        return {
            name: torch.randn(shape, generator=noise).requires_grad_() for name in ("mu", "log_var")
        }


class OfNoise(LossConformance):
    """What the phase of a denoiser computes."""

    size = 32

    def make_step(self, count: int = 4) -> Step:
        torch.manual_seed(0)
        method = ilvr.build(DDPM)
        for parameter in method.generator.parameters():  # type: ignore[attr-defined]
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        objective = DenoisingObjective(method.generator, [])  # type: ignore[arg-type]
        batch = LossConformance.make_step(self, count).batch
        step = objective.denoise(objective.modules, batch, torch.Generator().manual_seed(1))
        aux = {name: one.detach().requires_grad_() for name, one in step.output.aux.items()}
        image = step.output.image.detach().requires_grad_()
        return replace(step, output=GeneratorOutput(image, aux))


LOSSES: dict[str, tuple[type[LossConformance], Callable[..., Loss], str]] = {
    **{name: (OfImages, build, "generator") for name, build in {**TERMS, **VAE_TERMS}.items()},
    **{
        name: (OfImages, TERMS[name], "discriminator")
        for name in ("real", "fake", "gradient-penalty", "relativistic-critic", "r1")
    },
    **{
        f"diffusion {name}": (OfNoise, build, "generator")
        for name, build in DIFFUSION_TERMS.items()
    },
}


@each_check(LossConformance)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss(name: str, check: str) -> None:
    base, build, trains = LOSSES[name]
    getattr(suite(base, make=lambda self: build(), trains=trains)(), check)()
