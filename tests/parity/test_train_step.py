"""One training step of Facke's SimSwap: every loss term, gradients and BatchNorm statistics.

The same fixture records a step of Facke's CVAE-GAN (``cvae.*``); those values are not tested here,
as the generator that they belong to is not part of facke-gan.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fixture import assert_close, fill, filled, load
from torch import Tensor, nn

from facke_core.identity.crops import NORMALIZE, CropEncoder
from facke_core.identity.iresnet import arcface_network
from facke_core.losses import terms as T
from facke_core.losses.functional import FeatureLayers, gradient_penalty
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.nn.normalize import Normalize
from facke_core.training.step import Step
from facke_core.types import FaceBatch, IdentityEncoderSpec
from facke_gan.convert import from_discriminators, from_facke
from facke_gan.simswap import FACKE_224, SimSwapGenerator

FEATURES: dict[str, FeatureLayers] = {"w": "w", "o": "o", "w*": "w-bar", "none": "n"}
RTOL = {"D_GP": 2e-3}


class Run(NamedTuple):
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    result: Tensor
    terms: Mapping[str, float]
    feature_matching: Mapping[str, float]
    gradients: Mapping[str, Mapping[str, Tensor]]
    """``same=1``, ``same=0``, ``D1`` -> upstream name -> gradient."""
    statistics: Mapping[str, Tensor]


def arcface_weights(meta: Mapping[str, Any], shared: Path) -> dict[str, Tensor]:
    """Of the step's identity network, a shallower one than in the fixture that lists its tensors:
    the first two blocks of each layer."""
    _, deep = load("arcface_se_ir101", shared)
    deeper = re.compile(r"layer\d\.([2-9]|\d\d)\.")
    entries = [e for e in deep["state_dict"] if not deeper.match(e["key"])]
    return fill(meta["seed"], meta["fill_prefix"]["arc"], entries)


def modules_of(meta: Mapping[str, Any], arcface: dict[str, Tensor]) -> dict[str, nn.Module]:
    generator, discriminator = SimSwapGenerator(FACKE_224), MultiScalePatchDiscriminator()
    generator.load_state_dict(from_facke(filled(meta, "G")))
    discriminator.load_state_dict(from_discriminators(filled(meta, "D1"), filled(meta, "D2")))
    spec = IdentityEncoderSpec(name="a", embedding_dim=512, input_size=(112, 112), template="")
    encoder = CropEncoder(
        arcface_network(arcface),
        spec,
        template="arcface",
        normalize=NORMALIZE["imagenet"],
        resize="nearest",
    )
    modules = {
        "generator": generator,
        "discriminator": discriminator,
        "identity_encoder": encoder,
    }
    return {name: module.train() for name, module in modules.items()}


@pytest.fixture(scope="module")
def run(shared: Path) -> Iterator[Run]:
    tensors, meta = load("train_step", shared)
    weight = meta["lambdas"]
    modules = modules_of(meta, arcface_weights(meta, shared))
    generator, discriminator = modules["generator"], modules["discriminator"]
    to_rgb = Normalize().inverse
    source, target = to_rgb(tensors["img_source"]), to_rgb(tensors["img_target"])
    same = torch.ones(len(target), dtype=torch.bool)
    batch = FaceBatch(source, target, tensors["latent_ID"], same, target)

    output = generator(target, identity=batch.identity)
    detached = output._replace(image=output.image.detach())
    # The discriminator sees fake, real, interpolations, and the fake again, as in the original.
    judge = Step(batch=batch, output=detached, modules=modules)
    losses: dict[str, Tensor] = {}
    losses["D_fake"] = T.GanLoss(name="fake")(judge).mean()
    losses["D_real"] = T.GanLoss(name="real")(judge).mean()
    alpha = [tensors["alpha_D1"], tensors["alpha_D2"]]
    penalty = gradient_penalty(discriminator, target, detached.image, alpha=alpha)
    losses["D_GP"] = weight["lambda_GP"] * penalty.mean()

    step = Step(batch=batch, output=output, modules=modules)
    step.real = judge.real
    losses["G_GAN"] = T.GanLoss(name="gan")(step).mean()
    losses["G_ID"] = weight["lambda_id"] * T.IdentityLoss()(step).mean()
    rebuilt = T.ReconstructionLoss(units="imagenet")(step).mean()
    losses["G_rec"] = weight["lambda_rec"] * rebuilt
    matching = {
        name: weight["lambda_FM"] * T.FeatureMatchingLoss(layers=layers)(step).mean()
        for name, layers in FEATURES.items()
    }

    swapped = losses["G_GAN"] + losses["G_ID"] + matching["w"]
    ours = dict(generator.named_parameters())
    names = from_facke({e["key"]: e["key"] for e in meta["state_dict"]["G"]})
    theirs = {key: name for name, key in names.items() if name in ours}
    wanted = [k for k in theirs if k in meta["values"]["simswap.fm=w.grad_norm_G.same=1"]]
    gradients = {}
    for label, loss in (("same=1", swapped + losses["G_rec"]), ("same=0", swapped)):
        found = torch.autograd.grad(loss, [ours[theirs[k]] for k in wanted], retain_graph=True)
        gradients[label] = dict(zip(wanted, found, strict=True))
    (losses["D_fake"] + losses["D_real"] + losses["D_GP"]).backward()
    first = discriminator.scales[0]
    gradients["D1"] = {name: p.grad for name, p in first.named_parameters()}

    yield Run(
        tensors=tensors,
        values=meta["values"],
        result=Normalize()(detached.image),
        terms={name: loss.item() for name, loss in losses.items()},
        feature_matching={name: loss.item() for name, loss in matching.items()},
        gradients=gradients,
        statistics={
            "D1.down2.1.running_mean": first.down2[1].running_mean,
            "G.conv2.2.running_mean": generator.head[1].running_mean,
        },
    )
    gc.collect()


def test_result(run: Run) -> None:
    assert_close(run.result, run.tensors["simswap.img_fake_norm"], atol=5e-3, rel_l2=1e-4)


@pytest.mark.parametrize("name", ["D_real", "D_fake", "D_GP", "G_GAN", "G_ID", "G_rec"])
def test_loss_term(run: Run, name: str) -> None:
    expected = run.values["simswap.fm=w"][name]
    assert run.terms[name] == pytest.approx(expected, rel=RTOL.get(name, 1e-4))


@pytest.mark.parametrize("name", FEATURES)
def test_feature_matching_term(run: Run, name: str) -> None:
    expected = run.values[f"simswap.fm={name}"]["G_FM"]
    assert run.feature_matching[name] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("same", [0, 1])
def test_sum_of_the_generator(run: Run, same: int) -> None:
    total = sum(run.terms[name] for name in ("G_GAN", "G_ID")) + run.feature_matching["w"]
    total += same * run.terms["G_rec"]
    assert total == pytest.approx(run.values[f"simswap.fm=w.loss_G.same={same}"], rel=1e-4)


@pytest.mark.parametrize("same", [0, 1])
def test_gradients_of_the_generator(run: Run, same: int) -> None:
    gradients = run.gradients[f"same={same}"]
    norms = run.values[f"simswap.fm=w.grad_norm_G.same={same}"]
    assert {k: g.norm().item() for k, g in gradients.items()} == pytest.approx(norms, rel=1e-2)
    for key in ("conv1.1.weight", "ID_blocks.0.adain1.linear.bias"):
        expected = run.tensors[f"simswap.grad.same={same}.{key}"]
        assert_close(gradients[key][: len(expected)], expected, rel_l2=2e-2)


def test_gradients_of_the_discriminator(run: Run) -> None:
    gradients, norms = run.gradients["D1"], run.values["simswap.grad_norm_D1"]
    found = {key: gradients[key].norm().item() for key in norms}
    assert found == pytest.approx(norms, rel=1e-2)
    expected = run.tensors["simswap.grad.D1.down1.0.weight"]
    assert_close(gradients["down1.0.weight"][: len(expected)], expected, rel_l2=2e-2)


def test_batch_norm_statistics_after_the_step(run: Run) -> None:
    for key, actual in run.statistics.items():
        assert_close(actual, run.tensors[f"simswap.after.{key}"], atol=1e-4, rel_l2=1e-4)
