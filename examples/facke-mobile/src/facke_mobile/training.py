"""Distillation: the student learns to make of any pair what a larger method makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from facke_core import FaceBatch, GeneratorOutput, Method, SwapInputs, load
from facke_core.errors import ConfigError
from facke_core.losses.functional import reconstruction_l1
from facke_core.losses.terms import face_weight
from facke_core.training.recipe import terms
from facke_core.training.swapping import SwapObjective
from facke_core.types import Step
from torch import Tensor, nn

if TYPE_CHECKING:
    from facke_core import IdentityEncoder, Recipe

    from facke_mobile.method import MobileGenerator


class Teacher(nn.Module):
    """A method with frozen weights; ``train()`` changes nothing."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.generator = cast("nn.Module", method.generator).eval().requires_grad_(False)
        self.sampler = method.sampler

    def train(self, mode: bool = True) -> Teacher:
        return self

    @torch.no_grad()
    def forward(self, batch: FaceBatch, rng: torch.Generator | None) -> Tensor:
        """(B, 3, S, S) in [0, 1]."""
        inputs = SwapInputs(batch.source, batch.target, batch.identity)
        result: Tensor = self.sampler(self.generator, inputs, rng=rng)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationLoss:
    """Mean absolute difference to the teacher's result; ``edges`` times that of the differences of
    neighbouring pixels, which keeps the student's results sharp. ``focus`` in [0, 1) weighs the
    middle of the face more."""

    edges: float = 1.0
    focus: float = 0.7
    name: str = "distillation"

    def __call__(self, step: Step) -> Tensor:
        image, wanted = step.output.image.float(), step.output.aux["teacher"].float()
        weight = face_weight(image.shape[-1], self.focus).to(image.device)
        loss = reconstruction_l1(image, wanted, weight=weight)
        for dim in (2, 3):
            there = weight.narrow(dim, 1, weight.shape[dim] - 1)
            differences = image.diff(dim=dim), wanted.diff(dim=dim)
            loss = loss + self.edges * reconstruction_l1(*differences, weight=there)
        return loss


TERMS = {"distillation": DistillationLoss}
"""What a recipe can name besides the terms of facke-core."""


def imitate(
    modules: Mapping[str, nn.Module],
    batch: FaceBatch,
    rng: torch.Generator | None,
    made: GeneratorOutput | None = None,
) -> Step:
    """The student's result with its graph, and the teacher's in ``aux``."""
    student = cast("MobileGenerator", modules["generator"])
    image = student(batch.target, kernels=student.injector(batch.identity)).image
    output = GeneratorOutput(image=image, aux={"teacher": modules["teacher"](batch, rng)})
    return Step(batch=batch, output=output, modules=modules, rng=rng)


def objective(
    method: Method, encoder: IdentityEncoder, recipe: Recipe, *, teacher: str = "simswap"
) -> SwapObjective:
    """The objective of a student.

    Args:
        teacher: method, weights folder or Hub reference, as for :func:`facke_core.load`.

    Raises:
        ConfigError: the teacher sees other identities or other crops than the recipe's student.
    """
    pipeline = load(teacher)
    theirs = pipeline.identity_encoder.spec.name if pipeline.identity_encoder else "none"
    if recipe.identity_encoder.get("name") != theirs:
        raise ConfigError(
            f"recipe.identity_encoder: the teacher {teacher!r} knows identities of {theirs}, the "
            f"student would see those of {recipe.identity_encoder.get('name')}. Use the teacher's."
        )
    if recipe.alignment.get("template") != pipeline.alignment.template:
        raise ConfigError(
            f"recipe.alignment.template: the teacher {teacher!r} sees faces framed as "
            f"{pipeline.alignment.template!r}, the student as "
            f"{recipe.alignment.get('template')!r}. Use the teacher's."
        )
    modules = {
        "generator": cast("nn.Module", method.generator),
        "identity_encoder": cast("nn.Module", encoder),
        "teacher": Teacher(pipeline.method),
    }
    return SwapObjective(modules, generator_terms=terms(recipe.loss, TERMS), forward=imitate)
