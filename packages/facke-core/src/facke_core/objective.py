"""Objectives: named modules, and phases with weighted loss terms, from a method to the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from facke_core.protocols import Loss
from facke_core.types import FaceBatch, GeneratorOutput, Step

__all__ = ["Forward", "Phase", "StepReport"]


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term of a phase: ``weight`` times the mean of ``loss`` over some or all samples.

    The weight rises linearly from 0 before step ``start`` to its full value ``ramp`` steps later;
    the loss is not computed before ``start``.
    """

    loss: Loss
    weight: float = 1.0
    """The factor at full strength."""
    where: str | None = None
    """Name of the mask of :class:`~facke_core.types.FaceBatch` whose samples count, such as
    ``same_identity``; None: all of them."""
    start: int = 0
    """The first step, counted from 0, at which the term counts."""
    ramp: int = 0
    """Steps from then until the weight is full; 0: it is at once."""

    def weight_at(self, step: int) -> float:
        """The weight at a step, counted from 0."""
        if step < self.start:
            return 0.0
        return self.weight * min(1.0, (step - self.start + 1) / (self.ramp + 1))

    def mean(self, step: Step, *, count: float | None = None) -> Tensor:
        """The unweighted mean of the loss, a float32 scalar; 0 where no sample qualifies.

        Args:
            step: a batch, or a part of one, and what was computed from it.
            count: the samples of ``where`` to divide by; default: those of this batch. If each part
                is given their number per part, on average over all parts of all processes, then the
                mean over the parts is that over the whole batch.
        """
        values = self.loss(step).float()
        if self.where is None:
            return values.mean()
        chosen = getattr(step.batch, self.where).to(values.dtype)
        return (values * chosen).sum() / (chosen.sum().clamp_min(1) if count is None else count)


class Forward(Protocol):
    """The computation of a phase: from modules and a batch to a :class:`~facke_core.types.Step`.

    ``rng`` is the only source of randomness. ``made`` is the generator's output of an earlier phase
    of the same step, without a graph, or None: a discriminator can judge it instead of making
    another one.
    """

    def __call__(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step: ...


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimiser step: the module it trains, its computation, and the terms it minimises."""

    trains: str
    """Name of the module in :attr:`Objective.modules`."""
    forward: Forward
    terms: Sequence[LossTerm]
    every: int = 1
    """Number n of steps of which the phase takes part in one: those that n divides, from 0."""

    def active_at(self, step: int) -> bool:
        """Tell whether it is the phase's turn and any of its terms has a weight."""
        return step % self.every == 0 and any(term.weight_at(step) for term in self.terms)


@runtime_checkable
class Objective(Protocol):
    """A method as the trainer sees it: named modules, and the phases of a step that train them.

    :class:`facke_core.training.swapping.SwapObjective` is one for generators of one pass, with or
    without a discriminator.
    """

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Name -> module; ``generator`` is the one whose moving average is saved as weights."""
        ...

    @property
    def phases(self) -> Sequence[Phase]:
        """The phases of a step, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """The figures of one training step."""

    step: int
    """Steps finished, this one included."""
    images: int
    """Images seen so far, by all processes."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Unweighted mean per term over the whole batch, ``"generator.identity"``."""
    seconds: float = 0.0
    """Wall time of this step."""
    batch: int = 0
    """Images of this step, of all processes."""

    @property
    def images_per_second(self) -> float:
        """Images per second of all processes together, in this step."""
        return self.batch / self.seconds if self.seconds else 0.0
