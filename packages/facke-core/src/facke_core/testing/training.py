"""The contract of a method's objective with the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from facke_core.objective import Objective, Phase
from facke_core.protocols import Method
from facke_core.testing.assertions import (
    change,
    doing,
    leaves_randomness_alone,
    own_randomness,
    require,
    rng,
)
from facke_core.testing.fakes import TinyEncoder, face_batch
from facke_core.testing.losses import check_permutes, value_of
from facke_core.types import FaceBatch, GeneratorOutput, Step

__all__: list[str] = []


class Bench(NamedTuple):
    """An objective with everything that a training step needs."""

    objective: Objective
    batch: FaceBatch
    method: Method
    trainable: dict[str, list[nn.Parameter]]
    """Name of a module -> its parameters that take gradients."""


class TrainingChecks:
    """Checks of a method's objective; skipped for methods that have none."""

    training_count = 4
    """Number of samples in a batch."""

    def make_objective(self, method: Method, encoder: Any) -> Objective | None:
        """The objective, or None for a method that cannot be trained."""
        raise NotImplementedError

    def make_trainable(self) -> Method:
        """A method with fresh weights, in training mode."""
        raise NotImplementedError

    def bench(self) -> Bench:
        """A new bench, from one seed."""
        with own_randomness(12):
            method = self.make_trainable()
            spec = method.generator.spec
            encoder = TinyEncoder(spec.identity_dim or 8)
            with doing("The objective cannot be built. Correct the target MethodSpec.objective."):
                objective = self.make_objective(method, encoder)
        if objective is None:
            pytest.skip("the method has no objective")
        batch = face_batch(
            self.training_count, spec.image_size, encoder if spec.identity_dim else None
        )
        trainable = {
            name: [p for p in module.parameters() if p.requires_grad]
            for name, module in objective.modules.items()
        }
        return Bench(objective, batch, method, trainable)

    # -- checks ----------------------------------------------------------------------------------

    def test_the_objective_fits_the_trainer(self) -> None:
        """The trainer keeps an average of ``modules["generator"]`` and saves that: another module
        there would be trained and thrown away."""
        bench = self.bench()
        modules, phases = bench.objective.modules, bench.objective.phases
        require(phases, "The objective has no phases. Add at least one facke_core Phase.")
        trained: object = modules.get("generator")
        require(
            trained is bench.method.generator,
            "objective.modules['generator'] is not the generator of the method that was given. "
            "Pass method.generator on.",
        )
        for phase in phases:
            require(
                phase.trains in modules,
                f"A phase trains {phase.trains!r}, which is not in objective.modules. Add it.",
            )
            require(
                phase.terms and any(term.weight_at(10**9) for term in phase.terms),
                f"The phase of {phase.trains!r} has no term with a weight. Remove it, or add one.",
            )

    def test_losses_are_one_finite_value_per_sample(self) -> None:
        """Masks such as same_identity and means over the batch only work on values per sample."""
        bench = self.bench()
        made = None
        for phase in bench.objective.phases:
            step = _run(bench, phase, made)
            made = _made(step)
            for term in phase.terms:
                value_of(term.loss, step)

    def test_losses_permute_with_the_batch(self) -> None:
        """A loss that mixes up rows teaches one face with the picture of another."""
        bench = self.bench()
        for module in bench.objective.modules.values():
            module.eval()
        made = None
        for phase in bench.objective.phases:
            step = _run(bench, phase, made)
            made = _made(step)
            for term in phase.terms:
                check_permutes(term.loss, step)

    def test_every_trained_parameter_gets_a_gradient(self) -> None:
        """A parameter without a gradient costs memory and never learns; usually a layer was built
        and then forgotten in forward, or something was detached."""
        bench = self.bench()
        made = None
        for phase in bench.objective.phases:
            step = _run(bench, phase, made)
            made = _made(step)
            _backward(phase, step)
            module = bench.objective.modules[phase.trains]
            trained = {id(p) for p in bench.trainable[phase.trains]}
            dead = [
                name
                for name, p in module.named_parameters()
                if id(p) in trained and (p.grad is None or not bool(p.grad.any()))
            ]
            require(
                not dead,
                f"No gradient reaches {_some(dead)} of the {phase.trains}. Use these parameters, "
                "remove them, or freeze them with requires_grad_(False).",
            )
            broken = [name for name, p in module.named_parameters() if not _finite(p.grad)]
            require(
                not broken,
                f"The gradient of {_some(broken)} of the {phase.trains} is not finite. Look for "
                "square roots of 0 and exponentials without a bound.",
            )
            _clear(bench)

    def test_a_phase_updates_only_its_module(self) -> None:
        """A generator step that also moves the discriminator, or the identity encoder, cheats: the
        losses fall and the faces get worse."""
        bench = self.bench()
        made = None
        for phase in bench.objective.phases:
            before = _parameters(bench.objective.modules)
            optimizer = torch.optim.Adam(bench.trainable[phase.trains], lr=1e-3)
            step = _run(bench, phase, made)
            made = _made(step)
            _backward(phase, step)
            optimizer.step()
            after = _parameters(bench.objective.modules)
            moved = {
                name
                for name, tensors in after.items()
                if any(not torch.equal(a, b) for a, b in zip(tensors, before[name], strict=True))
            }
            others = sorted(moved - {phase.trains})
            require(
                not others,
                f"The phase that trains {phase.trains!r} also changes {_some(others)}. Give each "
                "module its own phase, share no parameters, and write into none in forward.",
            )
            require(
                phase.trains in moved,
                f"The phase that trains {phase.trains!r} does not change it. Check its terms.",
            )
            _clear(bench)

    def test_training_noise_comes_from_rng_alone(self) -> None:
        """A resumed training repeats the uninterrupted one only if all noise follows the step's
        rng (layers such as Dropout aside, which the trainer seeds)."""
        bench = self.bench()
        for module in bench.objective.modules.values():
            module.eval()
        for phase in bench.objective.phases:
            with leaves_randomness_alone(f"The phase of {phase.trains!r}"):
                first = _forward(bench, phase, None).output.image
            with own_randomness(5):
                second = _forward(bench, phase, None).output.image
            require(
                change(first.detach(), second.detach()) == 0,
                f"The phase of {phase.trains!r} does not repeat with the same rng. Draw with "
                "generator=rng, and keep no state between steps.",
            )


def _run(bench: Bench, phase: Phase, made: GeneratorOutput | None) -> Step:
    """The phase's forward with seeded global randomness, as the trainer has it."""
    with own_randomness(4):
        return _forward(bench, phase, made)


def _forward(bench: Bench, phase: Phase, made: GeneratorOutput | None) -> Step:
    """The phase's forward, with gradients where the trainer has them."""
    for name, parameters in bench.trainable.items():
        for parameter in parameters:
            parameter.requires_grad_(name == phase.trains)
    for parameter in bench.trainable[phase.trains]:  # also where modules share parameters
        parameter.requires_grad_(True)
    with doing(f"The phase of {phase.trains!r} fails. Correct its forward."):
        step = phase.forward(bench.objective.modules, bench.batch, rng(3), made)
    require(
        isinstance(step, Step),
        f"The phase of {phase.trains!r} returns a {type(step).__name__}. Return a "
        "facke_core.types.Step.",
    )
    return dataclasses.replace(step, rng=rng(3))


def _backward(phase: Phase, step: Step) -> None:
    total: Tensor = torch.zeros(())
    for number, term in enumerate(phase.terms):
        if weight := term.weight_at(10**9):
            values = term.loss(step).float()
            if term.where is not None:
                values = values * getattr(step.batch, term.where)
            # uneven, so that a real and a fake sample cannot cancel exactly
            uneven = torch.linspace(0.5, 1.5 + number, len(values))
            total = total + weight * (values * uneven).mean()
    require(
        total.requires_grad,
        f"The losses of the phase of {phase.trains!r} have no gradient. Look for no_grad, "
        "detach() and item().",
    )
    torch.autograd.backward(total)


def _made(step: Step) -> GeneratorOutput:
    aux = {name: value.detach() for name, value in step.output.aux.items()}
    return GeneratorOutput(step.output.image.detach(), aux)


def _clear(bench: Bench) -> None:
    for module in bench.objective.modules.values():
        module.zero_grad(set_to_none=True)


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    return {
        name: [p.detach().clone() for p in module.parameters()] for name, module in modules.items()
    }


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
