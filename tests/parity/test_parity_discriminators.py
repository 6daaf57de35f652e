"""Facke's patch discriminators: features, logits and statistics of both scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixture import assert_close, filled, load
from torch import Tensor

from facke_core.nn.discriminators import MultiScalePatchDiscriminator, PatchDiscriminator
from facke_core.nn.normalize import Normalize
from facke_gan.convert import from_discriminators

Fixture = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def fixture(shared: Path) -> Fixture:
    return load("facke_discriminators", shared)


@pytest.fixture(scope="module")
def state(fixture: Fixture) -> dict[str, Tensor]:
    return from_discriminators(filled(fixture[1], "D1"), filled(fixture[1], "D2"))


@pytest.fixture
def model(state: dict[str, Tensor]) -> MultiScalePatchDiscriminator:
    model = MultiScalePatchDiscriminator()
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def layers(model: MultiScalePatchDiscriminator, normalised: Tensor) -> list[list[Tensor]]:
    out = model(Normalize().inverse(normalised))
    return [[*f, x] for f, x in zip(out.features, out.logits, strict=True)]


def test_every_layer_in_eval_mode(model: MultiScalePatchDiscriminator, fixture: Fixture) -> None:
    tensors, _ = fixture
    for d, scale in enumerate(layers(model, tensors["x"]), start=1):
        for i, actual in enumerate(scale):
            expected = tensors[f"eval.D{d}.{i}"]
            assert_close(actual[:, : expected.shape[1]], expected, atol=2e-5, rel_l2=5e-6)


def test_logits_and_statistics_at_224(
    model: MultiScalePatchDiscriminator, fixture: Fixture
) -> None:
    tensors, meta = fixture
    with torch.no_grad():
        out = model(tensors["x224_u8"].float() / 255)
    for d in (1, 2):
        assert_close(out.logits[d - 1], tensors[f"eval224.D{d}.logits"], atol=2e-5, rel_l2=5e-6)
        for i, feature in enumerate(out.features[d - 1]):
            stats = meta["stats"][f"eval224.D{d}.{i}"]
            assert list(feature.shape) == stats["shape"]
            assert feature.double().norm().item() == pytest.approx(stats["l2"], rel=5e-6)
            first = feature.flatten()[:8].tolist()
            assert first == pytest.approx(stats["first8"], abs=2e-5)


def test_halving_of_an_odd_size(model: MultiScalePatchDiscriminator, fixture: Fixture) -> None:
    tensors, _ = fixture
    halved = model.scale_inputs(Normalize().inverse(tensors["pool_odd_x"]))[1]
    assert_close(halved, tensors["pool_odd_out"], atol=2e-5, rel_l2=5e-6)


def test_train_mode_features_and_running_statistics(
    model: MultiScalePatchDiscriminator, fixture: Fixture
) -> None:
    tensors, _ = fixture
    for d, scale in enumerate(layers(model.train(), tensors["train_x"]), start=1):
        for i in (3, 4, 5):
            assert_close(scale[i], tensors[f"train.D{d}.{i}"], atol=1e-4, rel_l2=1e-5)
    after = {k: v for k, v in tensors.items() if k.startswith("train_after.D1.")}
    assert after
    for key, expected in after.items():
        actual = model.state_dict()[key.replace("train_after.D1.", "scales.0.")]
        assert_close(actual, expected, atol=1e-4, rel_l2=1e-5)


def test_sigmoid_variant(fixture: Fixture) -> None:
    tensors, meta = fixture
    net = PatchDiscriminator(sigmoid=True).eval()
    net.load_state_dict(filled(meta, "D1"))
    with torch.no_grad():
        assert_close(net(tensors["x"])[-1], tensors["eval.D1.sigmoid_logits"], atol=2e-5)


def test_official_patch_discriminators_have_the_same_names(shared: Path) -> None:
    _, meta = load("manifest_simswap_official_discriminator", shared)
    with torch.device("meta"):
        ours = PatchDiscriminator().state_dict()
    assert {e["key"]: e["shape"] for e in meta["state_dict"]} == {
        key: list(value.shape) for key, value in ours.items()
    }
