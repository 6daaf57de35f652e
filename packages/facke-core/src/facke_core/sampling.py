"""Inference: in one pass, as GANs and autoencoders do, or in steps that somebody may watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facke_core.errors import CompatibilityError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from facke_core.protocols import Generator, IdentityEncoder, Sampler
    from facke_core.types import SwapInputs

__all__ = ["OnStep", "check_compatible", "report_step", "watched"]

OnStep = Callable[[int, int, "Tensor"], None]
"""A function of steps done, steps in all, and the results (B, 3, S, S) in [0, 1] as far as they are
known."""

_on_step: ContextVar[OnStep | None] = ContextVar("on_step", default=None)


@dataclass(frozen=True, slots=True)
class SinglePass:
    """A sampler that calls the generator once, on the target crops, as GANs and autoencoders are
    used. It draws no noise and leaves ``rng`` alone::

        Method(generator, SinglePass())
    """

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed: ``{"identity"}``."""
        return frozenset({"identity"})

    def __call__(
        self, generator: Generator, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """Return the results (B, 3, S, S), clamped to [0, 1]; the generator gets ``identity`` where
        its ``spec`` names that condition."""
        takes_identity = "identity" in generator.spec.conditions
        conditions = {"identity": inputs.identity} if takes_identity else {}
        return generator(inputs.target, **conditions).image.clamp(0, 1)


@contextmanager
def watched(on_step: OnStep) -> Iterator[None]:
    """Have ``on_step`` called after each step of a sampler that takes several, in this context."""
    token = _on_step.set(on_step)
    try:
        yield
    finally:
        _on_step.reset(token)


def report_step(done: int, steps: int, estimate: Callable[[], Tensor]) -> None:
    """Tell who watches that a step is done; a sampler of several steps calls it after each.

    Args:
        done: steps done, from 1.
        steps: steps in all.
        estimate: makes the result as far as it is known, (B, 3, S, S) in [0, 1]; called only where
            somebody watches.
    """
    on_step = _on_step.get()
    if on_step is not None:
        on_step(done, steps, estimate())


def check_compatible(
    generator: Generator, sampler: Sampler[Any], encoder: IdentityEncoder | None = None
) -> None:
    """Refuse parts of a pipeline that do not fit together.

    Raises:
        CompatibilityError: the sampler does not supply a condition that the generator takes, or
            the encoder's embeddings have another length, or an encoder is missing.
    """
    spec = generator.spec
    missing = spec.conditions - sampler.supplies
    if missing:
        raise CompatibilityError(
            f"{type(generator).__name__} takes the conditions {_listed(spec.conditions)}, but "
            f"{type(sampler).__name__} supplies {_listed(sampler.supplies)}: {_listed(missing)} "
            "is missing. Take a sampler that supplies it."
        )
    if not spec.identity_dim:
        return
    if encoder is None:
        raise CompatibilityError(
            f"{type(generator).__name__} takes identities of {spec.identity_dim} numbers, but no "
            "identity encoder was given. Give the one it was trained with."
        )
    if encoder.spec.embedding_dim != spec.identity_dim:
        raise CompatibilityError(
            f"{type(generator).__name__} takes identities of {spec.identity_dim} numbers, but the "
            f"encoder {encoder.spec.name!r} gives {encoder.spec.embedding_dim}. "
            "Give the encoder it was trained with."
        )


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
