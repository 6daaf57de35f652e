"""The five protocols of facke, and the face detector's.

``forward`` is part of a protocol beside ``__call__``, because ``nn.Module.__call__`` is
``Callable[..., Any]``: a protocol with ``__call__`` alone would accept every module.
``isinstance`` against these only looks for the attributes; the conformance tests are the proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from facke_core.types import (
        DiscriminatorOutput,
        Face,
        GeneratorOutput,
        GeneratorSpec,
        IdentityEncoderSpec,
        Step,
        SwapInputs,
    )

__all__ = [
    "Discriminator",
    "FaceDetector",
    "Generator",
    "IdentityEncoder",
    "Loss",
    "Sampler",
    "SeededSampler",
    "SteeredSampler",
]


@runtime_checkable
class Generator(Protocol):
    """Maps an image, clean or noised, and its conditions to an estimate of the swapped crop."""

    @property
    def spec(self) -> GeneratorSpec: ...
    def forward(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput: ...
    def __call__(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput: ...


@runtime_checkable
class IdentityEncoder(Protocol):
    """Maps crops (B, 3, H, W) in [0, 1], any H and W, to unit embeddings (B, D).

    Frozen: parameters carry no gradient, ``train()`` changes nothing, gradients reach the input.
    """

    @property
    def spec(self) -> IdentityEncoderSpec: ...
    def forward(self, face: Tensor) -> Tensor: ...
    def __call__(self, face: Tensor) -> Tensor: ...


@runtime_checkable
class Discriminator(Protocol):
    """Maps images (B, 3, S, S) in [0, 1] to logits and features per scale."""

    @property
    def num_scales(self) -> int: ...
    def forward(self, image: Tensor) -> DiscriminatorOutput: ...
    def __call__(self, image: Tensor) -> DiscriminatorOutput: ...


G_contra = TypeVar("G_contra", bound=Generator, contravariant=True)


@runtime_checkable
class Sampler(Protocol[G_contra]):
    """The inference procedure: returns (B, 3, S, S) in [0, 1]; draws noise from ``rng`` only."""

    @property
    def supplies(self) -> frozenset[str]:
        """Conditions that it can feed; must cover ``generator.spec.conditions``."""
        ...

    def __call__(
        self, generator: G_contra, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor: ...


@runtime_checkable
class SeededSampler(Protocol):
    """A sampler that does not draw by itself, but does for a user who asks for a seed."""

    def seeded(self) -> Sampler[Any]:
        """The sampler for a swap with a seed."""
        ...


@runtime_checkable
class SteeredSampler(Protocol):
    """A sampler whose results are made to please identity encoders, which therefore must not judge
    them."""

    @property
    def encoders(self) -> Sequence[str | Mapping[str, Any]]:
        """As for :func:`facke_core.load_encoder`."""
        ...


@runtime_checkable
class Loss(Protocol):
    """One float32 value per sample, (B,)."""

    @property
    def name(self) -> str: ...
    def __call__(self, step: Step) -> Tensor: ...


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces in a photo (3, H, W), RGB in [0, 1]; largest first."""

    @property
    def threshold(self) -> float: ...
    def __call__(self, photo: Tensor) -> list[Face]: ...
