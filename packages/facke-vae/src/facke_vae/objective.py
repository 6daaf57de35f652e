"""The objective of a CVAE: without a discriminator (CVAE), with one (CVAE-GAN), and with a
classifier beside it (Bao et al., arXiv:1703.10155)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from facke_core import FaceBatch, GeneratorOutput, LossTerm
from facke_core.objective import Phase
from facke_core.types import Step
from facke_vae.losses import TERMS, ClassFeatureMatching, ClassificationLoss

if TYPE_CHECKING:
    from facke_core import IdentityEncoder, Method, Objective, Recipe
    from facke_vae.cvae import CVAEGenerator

__all__ = ["objective"]


def generate(
    modules: Mapping[str, nn.Module],
    batch: FaceBatch,
    rng: torch.Generator | None,
    made: GeneratorOutput | None = None,
) -> Step:
    """Run the generator phase: a result from a draw of the latent, with its graph."""
    generator = cast("CVAEGenerator", modules["generator"])
    eps = generator.noise(batch.target, rng)
    output = generator(batch.target, identity=batch.identity, eps=eps)
    return Step(batch=batch, output=output, modules=modules, rng=rng)


def classify(
    modules: Mapping[str, nn.Module],
    batch: FaceBatch,
    rng: torch.Generator | None,
    made: GeneratorOutput | None = None,
) -> Step:
    """Run the classifier phase, which sees real pictures only."""
    output = made or GeneratorOutput(image=batch.source, aux={})
    return Step(batch=batch, output=output, modules=modules, rng=rng)


def objective(method: Method, encoder: IdentityEncoder, recipe: Recipe) -> Objective:
    """Make the objective of a CVAE with the recipe's terms: those of facke-core and
    :data:`facke_vae.losses.TERMS`.

    A discriminator takes part if ``recipe.discriminator_loss`` has terms, a classifier if
    ``recipe.loss`` names ``class-mean`` or ``class-pair``.

    Raises:
        ConfigError: an unknown term, or an unknown argument of the discriminator.
    """
    from facke_core.config import arguments
    from facke_core.nn.discriminators import MultiScalePatchDiscriminator
    from facke_core.training.recipe import terms
    from facke_core.training.swapping import SwapObjective
    from facke_vae.classifier import IdentityClassifier

    modules: dict[str, Any] = {"generator": method.generator, "identity_encoder": encoder}
    if recipe.discriminator_loss:
        settings = arguments(
            MultiScalePatchDiscriminator, recipe.discriminator, where="discriminator"
        )
        modules["discriminator"] = MultiScalePatchDiscriminator(**settings)
    generator_terms = terms(recipe.loss, TERMS)
    classified = any(isinstance(term.loss, ClassFeatureMatching) for term in generator_terms)
    if classified:
        modules["classifier"] = IdentityClassifier(encoder.spec.embedding_dim)
    swapping = SwapObjective(
        modules,
        generator_terms=generator_terms,
        discriminator_terms=terms(recipe.discriminator_loss, where="discriminator_loss"),
        discriminator_every=recipe.discriminator_every,
        forward=generate,
    )
    if classified:
        swapping.phases.append(Phase("classifier", classify, (LossTerm(ClassificationLoss()),)))
    return swapping
