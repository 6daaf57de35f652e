"""The loss equations against the original systems, on fixed features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixture import filled, load
from torch import Tensor

from facke_core.losses import functional as L
from facke_core.nn.discriminators import PatchDiscriminator
from facke_core.types import DiscriminatorOutput

MODES: dict[str, L.GanMode] = {
    "hinge": "hinge",
    "ls": "least-squares",
    "original": "original",
}
FEATURES: dict[str, L.FeatureLayers] = {"w": "w", "o": "o", "w*": "w-bar"}

Fixture = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def losses(shared: Path) -> Fixture:
    return load("losses", shared)


def outputs(tensors: dict[str, Tensor], which: str) -> DiscriminatorOutput:
    layers = [[tensors[f"feat.{which}.D{d}.{i}"] for i in range(6)] for d in (1, 2)]
    return DiscriminatorOutput([x[-1] for x in layers], [x[:-1] for x in layers])


def agrees(value: Tensor, expected: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(value.mean(), expected.squeeze(), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", MODES)
def test_gan_losses(losses: Fixture, name: str) -> None:
    tensors, _ = losses
    real, fake, mode = outputs(tensors, "real"), outputs(tensors, "fake"), MODES[name]
    agrees(L.gan_real(real.logits, mode), tensors[f"out.gan.{name}.D_real"])
    agrees(L.gan_fake(fake.logits, mode), tensors[f"out.gan.{name}.D_fake"])
    agrees(L.gan_generator(fake.logits, mode), tensors[f"out.gan.{name}.G"])
    agrees(L.gan_real(real.logits[:1], mode), tensors[f"out.gan.{name}.single.D_real"])


@pytest.mark.parametrize("name", FEATURES)
def test_feature_matching(losses: Fixture, name: str) -> None:
    tensors, _ = losses
    real, fake = outputs(tensors, "real"), outputs(tensors, "fake")
    value = L.feature_matching(real.features, fake.features, FEATURES[name])
    agrees(value, tensors[f"out.fm.{name}"])


def test_identity_and_reconstruction(losses: Fixture) -> None:
    tensors, _ = losses
    agrees(L.identity_loss(tensors["id.a"], tensors["id.b"]), tensors["out.id"])
    agrees(L.reconstruction_l1(tensors["rec.a"], tensors["rec.b"]), tensors["out.rec_l1"])


def test_kl_divergence(losses: Fixture) -> None:
    tensors, _ = losses
    value = L.kl_divergence(tensors["kl.mu"], tensors["kl.log_var"])
    agrees(2.5e-4 * value, tensors["out.kl.mean_w0.00025"])
    agrees(2.5e-3 * value, tensors["out.kl.trainer_term(lambda_KL*lambda_KL_out)"])


class OneScale(PatchDiscriminator):
    """The original's discriminator on an image as it is, seen as a list of one scale."""

    num_scales = 1

    def forward(self, image: Tensor) -> DiscriminatorOutput:  # type: ignore[override]
        *features, logits = super().forward(image)
        return DiscriminatorOutput([logits], [features])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradient_penalty(losses: Fixture, mode: str) -> None:
    tensors, meta = losses
    model = OneScale()
    model.load_state_dict(filled(meta, "gpD"))
    model.train(mode == "train")
    real, fake, alpha = (tensors[f"gp.{name}"] for name in ("real", "fake", "alpha"))
    value = L.gradient_penalty(model, real, fake, alpha=[alpha])
    agrees(value, tensors[f"out.gp.{mode}"], rtol=1e-4)
