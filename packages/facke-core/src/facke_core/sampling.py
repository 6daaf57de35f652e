"""How a method infers: in one pass, as GANs and autoencoders do, or in a plugin's own loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facke_core.errors import CompatibilityError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from facke_core.protocols import Generator, IdentityEncoder, Sampler
    from facke_core.types import SwapInputs


@dataclass(frozen=True, slots=True)
class SinglePass:
    """One call of the generator on the target crops. Not random: ``rng`` is left alone."""

    @property
    def supplies(self) -> frozenset[str]:
        """``{"identity"}``."""
        return frozenset({"identity"})

    def __call__(
        self, generator: Generator, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1]."""
        takes_identity = "identity" in generator.spec.conditions
        conditions = {"identity": inputs.identity} if takes_identity else {}
        return generator(inputs.target, **conditions).image.clamp(0, 1)


def check_compatible(
    generator: Generator, sampler: Sampler[Any], encoder: IdentityEncoder | None = None
) -> None:
    """Whether the parts of a pipeline fit together.

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
