"""The official projected discriminator, and the losses that its training script makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixture import assert_close, filled, load
from torch import Tensor

from facke_core import default_registry
from facke_core.training.recipe import read_recipe, terms
from facke_core.types import DiscriminatorOutput, FaceBatch, GeneratorOutput, Step
from facke_gan.convert import from_official_projected

pytest.importorskip("timm")

Results = tuple[dict[str, Tensor], dict[str, Any], DiscriminatorOutput, DiscriminatorOutput]


@pytest.fixture(scope="module")
def results(shared: Path) -> Results:
    from facke_gan.projected import ProjectedDiscriminator

    tensors, meta = load("simswap_projected_discriminator", shared)
    model = ProjectedDiscriminator().eval()
    model.load_state_dict(from_official_projected(filled(meta)))
    with torch.no_grad():
        return tensors, meta, *(model(tensors[k].float() / 255) for k in ("x_u8", "y_u8"))


def flat(logits: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) for x in logits], dim=1)


def test_logits(results: Results) -> None:
    tensors, _, x, y = results
    assert_close(flat(x.logits), tensors["logits"], atol=2e-5, rel_l2=1e-5)
    assert_close(flat(y.logits), tensors["logits_y"], atol=2e-5, rel_l2=1e-5)


def test_backbone_features(results: Results) -> None:
    tensors, meta, x, y = results
    assert_close(x.features[3][0], tensors["feat3"], atol=2e-5, rel_l2=1e-5)
    assert_close(y.features[3][0], tensors["feat3_y"], atol=2e-5, rel_l2=1e-5)
    for i, (feature,) in enumerate(x.features):
        stats = meta["stats"][f"backbone.{i}"]
        assert list(feature.shape) == stats["shape"]
        assert feature.double().norm().item() == pytest.approx(stats["l2"], rel=1e-5)


def test_losses_as_the_training_script_composes_them(results: Results) -> None:
    """x is the result and y the target, judged by the terms of the recipe."""
    tensors, _, fake, real = results
    recipe = read_recipe("simswap-projected", [], default_registry())
    image = torch.zeros(1, 3, 1, 1)
    batch = FaceBatch(image, image, image, torch.tensor([True]), image)
    step = Step(batch=batch, output=GeneratorOutput(image, {}), modules={})
    step.fake, step.real = fake, real
    found = {t.loss.name: t for t in terms({**recipe.loss, **recipe.discriminator_loss})}
    expected = {
        "real": ("loss_D_real", 1),
        "fake": ("loss_D_gen", 1),
        "gan": ("loss_G_main", 1),
        "feature-matching": ("loss_feat_match", 10),
    }
    assert found.keys() - {"identity", "reconstruction"} == expected.keys()
    for name, (key, weight) in expected.items():
        torch.testing.assert_close(found[name].mean(step), tensors[key], rtol=1e-5, atol=2e-5)
        assert found[name].weight == weight
