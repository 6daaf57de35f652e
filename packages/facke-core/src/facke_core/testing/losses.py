"""The contract of a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facke_core.protocols import Loss
from facke_core.testing.assertions import (
    doing,
    largest_change,
    leaves_alone,
    leaves_randomness_alone,
    require,
    rng,
    rows,
)
from facke_core.testing.fakes import TinyEncoder, face_batch, faces
from facke_core.types import GeneratorOutput, Step

__all__: list[str] = []


def value_of(loss: Loss, step: Step) -> Tensor:
    """The values (B,) of a loss, checked to be one finite number per sample.

    Raises:
        AssertionError: they are not.
    """
    name = getattr(loss, "name", type(loss).__name__)
    with doing(f"The loss {name!r} fails. Correct its __call__."):
        values = loss(step)
    count = len(step.batch.target)
    require(
        isinstance(values, Tensor) and values.shape == (count,),
        f"The loss {name!r} gives the shape {tuple(getattr(values, 'shape', ()))}, not ({count},): "
        "one value per sample. Average over everything but the batch; masking, weighting and the "
        "mean over samples are the trainer's.",
    )
    require(
        values.is_floating_point() and bool(values.isfinite().all()),
        f"The loss {name!r} has values that are not finite floats. Guard divisions, logarithms "
        "and square roots.",
    )
    return values


def permuted(step: Step, order: Tensor) -> Step:
    """The step with its samples in the order of the indices ``order`` (B,)."""
    count = len(step.batch.target)

    def move(value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(move(part) for part in value))
        if isinstance(value, dict) and all(isinstance(part, Tensor) for part in value.values()):
            return {name: move(part) for name, part in value.items()}
        return rows(value, order, count)

    fields = {f.name: move(getattr(step, f.name)) for f in dataclasses.fields(step)}
    return type(step)(**fields)


def check_permutes(loss: Loss, step: Step) -> None:
    """Check that the values of a loss move with the samples of a step of 4.

    A loss that draws noise is only checked to repeat, because its noise goes by place.

    Raises:
        AssertionError: they do not.
    """
    order = torch.tensor([2, 0, 3, 1])
    count = len(step.batch.target)
    require(count == 4, "This check needs steps of 4 samples: make_step(4).")
    seeded = dataclasses.replace(step, rng=rng(1))
    values = value_of(loss, seeded)
    require(seeded.rng is not None, "The step lost its rng.")
    if seeded.rng is not None and not torch.equal(seeded.rng.get_state(), rng(1).get_state()):
        order = torch.arange(4)
    again = value_of(loss, dataclasses.replace(permuted(step, order), rng=rng(1)))
    scale = max(1.0, float(values.detach().abs().max()))
    require(
        largest_change(again.detach(), values.detach()[order]) <= 1e-4 * scale,
        f"The loss {loss.name!r} does not move with the samples: in another order they get other "
        "values. Compute each value from its own row.",
    )


class LossConformance:
    """Everything that :class:`~facke_core.protocols.Loss` promises.

    Override :meth:`make`, and :meth:`make_step` where the loss reads more than images.
    """

    trains = "generator"
    """Name of the module that the loss is for: gradients have to reach the result (``generator``),
    or the parameters of another module of the step."""
    size = 64
    """Side of the images in pixels."""

    def make(self) -> Loss:
        """The loss under test."""
        raise NotImplementedError(f"{type(self).__name__} must override make().")

    def make_modules(self) -> Mapping[str, nn.Module]:
        """The modules that the loss may ask, by name, in evaluation mode."""
        from facke_core.nn.discriminators import MultiScalePatchDiscriminator

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            discriminator = MultiScalePatchDiscriminator(width=4, num_scales=1).eval()
        return {"discriminator": discriminator, "identity_encoder": TinyEncoder()}

    def make_aux(self, count: int) -> dict[str, Tensor]:
        """The tensors that the generator gives beside the image, such as ``mu``, by name."""
        return {}

    def make_step(self, count: int = 4) -> Step:
        """A step that the loss reads: drawn faces, with every other sample of one person."""
        modules = self.make_modules()
        batch = face_batch(count, self.size, modules.get("identity_encoder"))
        image = faces(count, self.size, seed=9).requires_grad_()
        output = GeneratorOutput(image, self.make_aux(count))
        return Step(batch=batch, output=output, modules=modules, rng=rng())

    def test_it_is_a_loss_with_a_name(self) -> None:
        """Logs and reports name losses; recipes and resumed trainings find them by name."""
        loss = self.make()
        require(
            isinstance(loss, Loss) and isinstance(loss.name, str) and loss.name,
            "The loss has no name, or is not callable. Give it the attribute name.",
        )

    def test_it_gives_one_finite_value_per_sample(self) -> None:
        """A loss that averages by itself cannot be masked, and its mean depends on the batch size:
        Facke's published table is off by that factor."""
        value_of(self.make(), self.make_step())
        value_of(self.make(), self.make_step(1))

    def test_it_permutes_with_the_batch(self) -> None:
        """A loss that mixes up rows teaches one face with the picture of another."""
        check_permutes(self.make(), self.make_step())

    def test_gradients_reach_what_it_trains(self) -> None:
        """A detached loss trains nothing, and nothing says so."""
        step = self.make_step()
        total = value_of(self.make(), step).sum()
        goal = [step.output.image, *step.output.aux.values()]
        if self.trains != "generator":
            goal = list(step.modules[self.trains].parameters())
        goal = [tensor for tensor in goal if tensor.requires_grad]
        require(
            total.requires_grad,
            f"The loss {self.make().name!r} has no gradient. Remove detach(), no_grad and item().",
        )
        gradients = torch.autograd.grad(total, goal, allow_unused=True)
        reached = [
            gradient for gradient in gradients if gradient is not None and bool(gradient.any())
        ]
        require(
            reached and all(bool(gradient.isfinite().all()) for gradient in reached),
            f"No finite gradient of the loss {self.make().name!r} reaches the {self.trains}. Look "
            "for detach(), rounding, comparisons and square roots of 0.",
        )

    def test_a_perfect_result_has_a_finite_gradient(self) -> None:
        """sqrt(0) and norm() have an infinite slope: one perfect sample makes the weights NaN."""
        step = self.make_step()
        perfect = step.batch.target.clone().requires_grad_()
        batch = step.batch._replace(reference=step.batch.target.clone())
        output = GeneratorOutput(perfect, step.output.aux)
        values = value_of(
            self.make(), dataclasses.replace(step, batch=batch, output=output, rng=rng())
        )
        if not values.requires_grad:
            return
        (gradient,) = torch.autograd.grad(values.sum(), perfect, allow_unused=True)
        require(
            gradient is None or bool(gradient.isfinite().all()),
            f"For a perfect result the gradient of {self.make().name!r} is not finite. Add an "
            "epsilon inside of the square root, or use squares.",
        )

    def test_it_leaves_its_inputs_alone(self) -> None:
        """Other losses read the same step."""
        step = self.make_step()
        with leaves_alone("The loss", [*step.batch, step.output.image, *step.output.aux.values()]):
            value_of(self.make(), step)

    def test_noise_comes_from_rng_alone(self) -> None:
        """A resumed training is another training where losses use global randomness."""
        step = self.make_step()
        with leaves_randomness_alone("The loss"):
            first = value_of(self.make(), dataclasses.replace(step, rng=rng(4)))
        second = value_of(self.make(), dataclasses.replace(step, rng=rng(4)))
        require(
            torch.equal(first, second),
            "The loss does not repeat with the same rng. Draw with generator=step.rng, and keep no "
            "state between calls.",
        )

    def test_it_is_computed_in_float32(self) -> None:
        """A mean of bfloat16 numbers has two digits: training stalls."""
        step = self.make_step()
        half = GeneratorOutput(
            step.output.image.detach().bfloat16().requires_grad_(), step.output.aux
        )
        with torch.autocast("cpu", torch.bfloat16):
            values = value_of(self.make(), dataclasses.replace(step, output=half, rng=rng()))
        require(
            values.dtype in (torch.float32, torch.float64),
            f"For a bfloat16 image the loss is {values.dtype}. Convert with .float() first.",
        )
