"""Facke's CVAE: its networks, and every term of one training step of the CVAE-GAN."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fixture import assert_close, encoder_of_step, filled, load, uniform
from torch import Tensor, nn

from facke_core.losses.functional import gradient_penalty
from facke_core.losses.terms import GanLoss, IdentityLoss, ReconstructionLoss
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.nn.normalize import Normalize
from facke_core.types import FaceBatch, GeneratorOutput, Step
from facke_gan.convert import from_discriminators
from facke_vae.convert import from_facke
from facke_vae.cvae import FACKE_224, CVAEGenerator
from facke_vae.losses import KLLoss

PARTS = ("M1", "E", "M2", "D")


def network(size: int, weights: Callable[[str], dict[str, Tensor]]) -> CVAEGenerator:
    with torch.device("meta"):
        model = CVAEGenerator(replace(FACKE_224, image_size=size))
    model.load_state_dict(from_facke({part: weights(part) for part in PARTS}), assign=True)
    model.normalize = Normalize()  # its constants are no part of the state dict
    return model


class Run(NamedTuple):
    """What a forward pass made, by the names of the fixtures."""

    merged: Tensor
    mu: Tensor
    log_var: Tensor
    latent: Tensor
    injected: Tensor
    out: Tensor


@torch.no_grad()
def run(model: CVAEGenerator, x: Tensor, identity: Tensor, eps: Tensor) -> Run:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: seen.update({name: args[0] if name == "merged" else out})

    hooks = [
        model.stem.register_forward_hook(keep("merged")),
        model.id_blocks.register_forward_hook(keep("injected")),
    ]
    image, aux = model(x, identity=identity, eps=eps)
    for hook in hooks:
        hook.remove()
    return Run(seen["merged"], aux["mu"], aux["log_var"], aux["z"], seen["injected"], image)


@pytest.fixture(scope="module", params=["eval", "train"])
def small(request: pytest.FixtureRequest, shared: Path) -> Iterator[tuple[str, Run, Any]]:
    tensors, meta = load("facke_cvae64", shared)
    model = network(64, lambda part: filled(meta, part)).train(request.param == "train")
    x = Normalize().inverse(tensors["x"])
    yield request.param, run(model, x, tensors["id"], tensors["eps"]), tensors
    del model
    gc.collect()


def test_every_stage_of_the_network_in_eval_and_train_mode(
    small: tuple[str, Run, Mapping[str, Tensor]],
) -> None:
    mode, ours, tensors = small
    recorded = [name for name in Run._fields if f"{mode}.{name}" in tensors]
    assert {"mu", "log_var", "injected", "out"}.issubset(recorded)
    for name in recorded:
        expected = tensors[f"{mode}.{name}"]
        tolerance = 1e-4 if mode == "eval" else 3e-4
        assert_close(getattr(ours, name)[: len(expected)], expected, atol=tolerance, rel_l2=2e-5)


@pytest.mark.parametrize("small", ["eval"], indirect=True)
def test_reparameterisation(small: tuple[str, Run, Mapping[str, Tensor]]) -> None:
    _, ours, tensors = small
    expected = tensors["reparam_check"]
    assert_close(ours.latent[:1, : expected.shape[1]], expected, atol=1e-5)


def test_the_network_at_224_pixels(shared: Path) -> None:
    tensors, meta = load("facke_cvae224", shared)
    model = network(224, lambda part: filled(meta, part)).eval()
    eps = uniform(meta["seed"], "input:cvae224:eps", (1, 512, 28, 28))
    ours = run(model, tensors["x_u8"].float() / 255, tensors["id"], eps)
    assert sum(p.numel() for p in model.parameters()) == 25_840_640 + 6_285_376 + 51_932_160 + (
        1_559_049
    )
    del model
    gc.collect()
    assert_close(ours.out, tensors["out"], atol=1e-4, rel_l2=1e-5)
    assert_close(ours.merged[:, 3], tensors["id_map"], atol=1e-4, rel_l2=1e-5)
    for name in Run._fields:
        flat, stats = getattr(ours, name).flatten(), meta["stats"][name]
        assert list(getattr(ours, name).shape) == stats["shape"]
        assert flat[:8].tolist() == pytest.approx(stats["first8"], abs=1e-4)
        middle = flat[len(flat) // 2 :][:8]
        assert middle.tolist() == pytest.approx(stats["mid8"], abs=1e-4)
        assert flat.double().norm().item() == pytest.approx(stats["l2"], rel=1e-5)
        assert flat.double().mean().item() == pytest.approx(stats["mean"], abs=1e-5)


def test_divergence_of_the_original(shared: Path) -> None:
    tensors, _ = load("losses", shared)
    aux = {"mu": tensors["kl.mu"], "log_var": tensors["kl.log_var"]}
    value = KLLoss()(Step(None, GeneratorOutput(torch.zeros(()), aux), {})).mean()  # type: ignore[arg-type]
    expected = tensors["out.kl.mean_w0.00025"].squeeze()
    torch.testing.assert_close(2.5e-4 * value, expected, rtol=1e-5, atol=0)
    positions = 2.5e-4 * value - tensors["kl.map_w0.00025"].mean()
    assert positions.abs() < 1e-7


class TrainStep(NamedTuple):
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    image: Tensor
    terms: Mapping[str, Mapping[str, float]]
    """``same=True``, ``same=False`` -> upstream name -> value."""
    gradients: Mapping[str, Tensor]


@pytest.fixture(scope="module")
def step(shared: Path) -> Iterator[TrainStep]:
    tensors, meta = load("train_step", shared)
    weight = meta["lambdas"]
    discriminator = MultiScalePatchDiscriminator()
    discriminator.load_state_dict(from_discriminators(filled(meta, "D1"), filled(meta, "D2")))
    generator = network(96, lambda part: filled(meta, f"cvae.{part}"))
    modules: dict[str, nn.Module] = {
        "generator": generator.train(),
        "discriminator": discriminator.train(),
        "identity_encoder": encoder_of_step(meta, shared),
    }
    eps = uniform(meta["seed"], "input:step:eps", (2, 512, 12, 12))
    target = Normalize().inverse(tensors["img_target"])
    output = generator(target, identity=tensors["latent_ID"], eps=eps)

    terms: dict[str, dict[str, float]] = {}
    inter = weight["lambda_rec_swap"] / weight["lambda_rec"]
    total = torch.zeros(())
    for same in (True, False):
        batch = FaceBatch(target, target, tensors["latent_ID"], torch.full((2,), same), target)
        judged = output._replace(image=output.image.detach())
        judge = Step(batch=batch, output=judged, modules=modules)
        made = Step(batch=batch, output=output, modules=modules)
        alpha = [tensors["alpha_D1"], tensors["alpha_D2"]]
        reconstruction = ReconstructionLoss(units="imagenet", inter=inter)(made)
        losses = {
            "D_fake": GanLoss(name="fake")(judge).mean(),
            "D_real": GanLoss(name="real")(judge).mean(),
            "D_GP": weight["lambda_GP"]
            * gradient_penalty(discriminator, target, judged.image, alpha=alpha).mean(),
            "G_GAN": GanLoss(name="gan")(made).mean(),
            "G_ID": weight["lambda_id"] * IdentityLoss()(made).mean(),
            "G_KL": weight["lambda_KL"] * weight["lambda_KL_out"] * KLLoss()(made).mean(),
            "G_Rec": weight["lambda_rec"] * reconstruction.mean(),
        }
        terms[f"same={same}"] = {name: loss.item() for name, loss in losses.items()}
        if same:
            total = sum((v for k, v in losses.items() if k.startswith("G_")), total)
    terms["same=True"]["loss_G"] = total.item()
    total.backward()
    yield TrainStep(
        tensors=tensors,
        values=meta["values"],
        image=Normalize()(output.image.detach()),
        terms=terms,
        gradients={name: p.grad for name, p in generator.named_parameters() if p.grad is not None},
    )
    del generator, discriminator, modules, output
    gc.collect()


def test_result_of_the_training_step(step: TrainStep) -> None:
    assert_close(step.image, step.tensors["cvae.fake_norm"], atol=5e-3)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name", ["G_Rec", "G_KL", "G_ID", "G_GAN", "D_real", "D_fake", "D_GP"])
def test_loss_term_of_the_training_step(step: TrainStep, name: str, same: bool) -> None:
    expected = step.values[f"cvae.same={same}"][name]
    assert step.terms[f"same={same}"][name] == pytest.approx(
        expected, rel=2e-3 if name == "D_GP" else 1e-3
    )


def test_sum_of_the_generator(step: TrainStep) -> None:
    expected = step.values["cvae.loss_G.same=True"]
    assert step.terms["same=True"]["loss_G"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("M1.emb.0.bias", "condition.paint.0.bias"), ("E.mu.0.bias", "mu.0.bias")],
)
def test_a_bias_before_a_batch_norm_gets_no_gradient(
    step: TrainStep, theirs: str, ours: str
) -> None:
    expected = step.tensors[f"cvae.grad.{theirs}"]
    assert_close(step.gradients[ours][: len(expected)], expected, atol=1e-4)
