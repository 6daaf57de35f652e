"""One training step of Facke's SimSwap: every loss term, gradients and BatchNorm statistics.

Networks, terms and weights are those of the recipe ``simswap-224`` and its variants. The step of
Facke's CVAE-GAN that the same fixture records is compared in ``test_parity_cvae.py``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fixture import assert_close, encoder_of_step, filled, load
from torch import Tensor

from facke_core import default_registry
from facke_core.config import from_dict
from facke_core.losses import functional
from facke_core.nn.normalize import Normalize
from facke_core.objective import Objective
from facke_core.training.recipe import Recipe, TermConfig, read_recipe, terms
from facke_core.training.trainer import Trainer
from facke_core.types import FaceBatch, Step
from facke_gan.convert import from_discriminators, from_facke
from facke_gan.simswap import SimSwapConfig, build, objective
from standins import Batches

RECIPES = {
    "w": "simswap-224",
    "o": "simswap-224-ofm",
    "w*": "simswap-224-wbfm",
    "none": "simswap-224-nfm",
}
"""Facke's ``feat_mode`` -> recipe."""
TERMS = {
    "G_GAN": "gan",
    "G_FM": "feature-matching",
    "G_ID": "identity",
    "G_rec": "reconstruction",
    "D_fake": "fake",
    "D_real": "real",
    "D_GP": "gradient-penalty",
}
"""Facke's name -> ours, in the order in which Facke computes them."""
SETTINGS = ("generator.identity_dim=512", "batch_size=2", "precision=float32", "ema=0", "steps=1")
"""Facke's encoder, and this fixture."""
RTOL = {"D_GP": 2e-3}


def recipe_of(name: str) -> Recipe:
    return read_recipe(name, SETTINGS, default_registry())


def weighted(configs: Mapping[str, TermConfig], step: Step) -> dict[str, Tensor]:
    """Facke's name -> weight x mean, as the trainer adds them up."""
    found = {term.loss.name: term for term in terms(configs)}
    return {
        theirs: found[ours].weight_at(0) * found[ours].mean(step)
        for theirs, ours in TERMS.items()
        if ours in found
    }


class Run(NamedTuple):
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    result: Tensor
    terms: Mapping[str, Mapping[str, float]]
    """``feat_mode`` -> term -> weight x mean."""
    gradients: Mapping[str, Mapping[str, Tensor]]
    """``same=1``, ``same=0``, ``D1`` -> upstream name -> gradient."""
    statistics: Mapping[str, Tensor]


def objective_of(recipe: Recipe, meta: Mapping[str, Any], shared: Path) -> Objective:
    """Networks and terms of the recipe, with the weights of the fixture."""
    method = build(from_dict(SimSwapConfig, recipe.generator))
    made = objective(method, encoder_of_step(meta, shared), recipe)
    made.modules["generator"].load_state_dict(from_facke(filled(meta, "G")))
    state = from_discriminators(filled(meta, "D1"), filled(meta, "D2"))
    made.modules["discriminator"].load_state_dict(state)
    for module in made.modules.values():
        module.train()
    return made


def batch_of(tensors: Mapping[str, Tensor]) -> FaceBatch:
    to_rgb = Normalize().inverse
    source, target = to_rgb(tensors["img_source"]), to_rgb(tensors["img_target"])
    same = torch.ones(len(target), dtype=torch.bool)
    return FaceBatch(source, target, tensors["latent_ID"], same, target)


Fixture = tuple[Mapping[str, Tensor], Mapping[str, Any]]


@pytest.fixture(scope="module")
def fixture(shared: Path) -> Iterator[Fixture]:
    """The recorded step; the gradient penalty takes the recorded random numbers."""
    tensors, meta = load("train_step", shared)
    alpha = [tensors["alpha_D1"], tensors["alpha_D2"]]
    with pytest.MonkeyPatch.context() as patch:
        given = partial(functional.gradient_penalty, alpha=alpha)
        patch.setattr(functional, "gradient_penalty", given)
        yield tensors, meta


@pytest.fixture(scope="module")
def run(fixture: Fixture, shared: Path) -> Iterator[Run]:
    tensors, meta = fixture
    recipes = {mode: recipe_of(name) for mode, name in RECIPES.items()}
    weak = recipes["w"]
    modules = objective_of(weak, meta, shared).modules
    generator, discriminator = modules["generator"], modules["discriminator"]
    batch = batch_of(tensors)
    output = generator(batch.target, identity=batch.identity)
    detached = output._replace(image=output.image.detach())
    # The discriminator sees fake, real, interpolations, and the fake again, as in the original.
    judge = Step(batch=batch, output=detached, modules=modules)
    judged = weighted(weak.discriminator_loss, judge)
    step = Step(batch=batch, output=output, modules=modules)
    step.real = judge.real
    generated = {mode: weighted(recipe.loss, step) for mode, recipe in recipes.items()}

    losses = judged | generated["w"]
    swapped = losses["G_GAN"] + losses["G_ID"] + losses["G_FM"]
    ours = dict(generator.named_parameters())
    names: Any = from_facke({e["key"]: e["key"] for e in meta["state_dict"]["G"]})
    theirs = {key: name for name, key in names.items() if name in ours}
    wanted = [k for k in theirs if k in meta["values"]["simswap.fm=w.grad_norm_G.same=1"]]
    gradients: dict[str, dict[str, Tensor]] = {}
    for label, loss in (("same=1", swapped + losses["G_rec"]), ("same=0", swapped)):
        found = torch.autograd.grad(loss, [ours[theirs[k]] for k in wanted], retain_graph=True)
        gradients[label] = dict(zip(wanted, found, strict=True))
    (losses["D_fake"] + losses["D_real"] + losses["D_GP"]).backward()
    first = discriminator.get_submodule("scales.0")
    gradients["D1"] = {name: p.grad for name, p in first.named_parameters() if p.grad is not None}

    yield Run(
        tensors=tensors,
        values=meta["values"],
        result=Normalize()(detached.image),
        terms={
            mode: {name: loss.item() for name, loss in (judged | found).items()}
            for mode, found in generated.items()
        },
        gradients=gradients,
        statistics={
            "D1.down2.1.running_mean": first.get_buffer("down2.1.running_mean"),
            "G.conv2.2.running_mean": generator.get_buffer("head.1.running_mean"),
        },
    )
    gc.collect()


def test_result(run: Run) -> None:
    assert_close(run.result, run.tensors["simswap.img_fake_norm"], atol=5e-3, rel_l2=1e-4)


@pytest.mark.parametrize("name", ["D_real", "D_fake", "D_GP", "G_GAN", "G_ID", "G_rec"])
def test_loss_term(run: Run, name: str) -> None:
    expected = run.values["simswap.fm=w"][name]
    assert run.terms["w"][name] == pytest.approx(expected, rel=RTOL.get(name, 1e-4))


@pytest.mark.parametrize("mode", ["w", "o", "w*"])
def test_feature_matching_term(run: Run, mode: str) -> None:
    expected = run.values[f"simswap.fm={mode}"]["G_FM"]
    assert run.terms[mode]["G_FM"] == pytest.approx(expected, rel=1e-4)


def test_without_feature_matching(run: Run) -> None:
    assert run.values["simswap.fm=none"]["G_FM"] == 0
    assert run.terms["none"].keys() == run.terms["w"].keys() - {"G_FM"}


@pytest.mark.parametrize("same", [0, 1])
def test_sum_of_the_generator(run: Run, same: int) -> None:
    total = sum(run.terms["w"][name] for name in ("G_GAN", "G_ID", "G_FM"))
    total += same * run.terms["w"]["G_rec"]
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


def test_the_trainer_logs_these_terms(fixture: Fixture, shared: Path) -> None:
    tensors, meta = fixture
    recipe = recipe_of("simswap-224")
    made = objective_of(recipe, meta, shared)
    batch = batch_of(tensors)
    trainer = Trainer(made, Batches(lambda step: batch), recipe=recipe)
    (report,) = trainer
    configs = {"generator": recipe.loss, "discriminator": recipe.discriminator_loss}
    logged = {
        theirs: config[ours].weight * report.losses[f"{trained}.{ours}"]
        for trained, config in configs.items()
        for theirs, ours in TERMS.items()
        if ours in config
    }
    expected = meta["values"]["simswap.fm=w"]
    assert len(report.losses) == len(expected)
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=RTOL.get(name, 1e-4)), name
