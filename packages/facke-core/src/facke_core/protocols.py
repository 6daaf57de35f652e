"""The five protocols of facke, the face detector's, and a method as generator and sampler.

``forward`` is part of a protocol beside ``__call__``, because ``nn.Module.__call__`` is
``Callable[..., Any]``: a protocol with ``__call__`` alone would accept every module.
``isinstance`` against these only looks for the attributes; the conformance tests are the proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

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

__all__ = ["ExportableGenerator", "SeededSampler", "SteeredSampler"]


@runtime_checkable
class Generator(Protocol):
    """Maps an image, clean or noised, and its conditions to an estimate of the swapped crop.

    ``x`` is (B, 3, S, S), in the range that the method's sampler gives it; the conditions are those
    that ``spec`` names, by keyword.
    """

    @property
    def spec(self) -> GeneratorSpec:
        """Sizes and conditions of the generator."""
        ...

    def forward(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput: ...


@runtime_checkable
class ExportableGenerator(Protocol):
    """A generator with other conditions than ``identity`` that can be exported, and computed by
    other backends: it shows what its inputs look like."""

    def example_inputs(self, x: Tensor, *, rng: torch.Generator) -> Mapping[str, Tensor]:
        """Inputs for ``forward`` by name, one row per picture of ``x`` (B, 3, S, S) in [0, 1]; with
        an ``x`` of their own where ``forward`` takes something else. All noise is from ``rng``.
        """
        ...


@runtime_checkable
class IdentityEncoder(Protocol):
    """Maps crops (B, 3, H, W) in [0, 1], any H and W, to unit embeddings (B, D).

    It is frozen: parameters carry no gradient, ``train()`` changes nothing, and gradients reach the
    input.
    """

    @property
    def spec(self) -> IdentityEncoderSpec:
        """Input and output of the encoder."""
        ...

    def forward(self, face: Tensor) -> Tensor:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, face: Tensor) -> Tensor: ...


@runtime_checkable
class Discriminator(Protocol):
    """Maps images (B, 3, S, S) in [0, 1] to logits and features per scale."""

    @property
    def num_scales(self) -> int:
        """The number of scales, each with its own logits and features."""
        ...

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, image: Tensor) -> DiscriminatorOutput: ...


G_contra = TypeVar("G_contra", bound=Generator, contravariant=True)


@runtime_checkable
class Sampler(Protocol[G_contra]):
    """The inference procedure: from a generator and inputs to results (B, 3, S, S) in [0, 1].

    Noise is drawn from ``rng`` only. A sampler that needs ``rng`` raises
    :class:`~facke_core.errors.UsageError` without it.
    """

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed; they must cover ``generator.spec.conditions``."""
        ...

    def __call__(
        self, generator: G_contra, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor: ...


@runtime_checkable
class SeededSampler(Protocol):
    """A sampler that does not draw by itself, but does for a user who asks for a seed."""

    def seeded(self) -> Sampler[Any]:
        """The sampler that draws noise, for a swap with a seed."""
        ...


@runtime_checkable
class SteeredSampler(Protocol):
    """A sampler whose results are made to please identity encoders, which therefore must not judge
    them."""

    @property
    def encoders(self) -> Sequence[str | Mapping[str, Any]]:
        """The encoders that results are made to please, each in the form that
        :func:`facke_core.load_encoder` takes."""
        ...


@runtime_checkable
class Loss(Protocol):
    """A function of a step with one float32 value per sample, (B,); the trainer averages.

    Noise is drawn from the step's ``rng`` only.
    """

    @property
    def name(self) -> str:
        """The name in logs and reports."""
        ...

    def __call__(self, step: Step) -> Tensor: ...


@runtime_checkable
class FaceDetector(Protocol):
    """Finds the faces in a photo (3, H, W), RGB in [0, 1]; largest first."""

    @property
    def threshold(self) -> float:
        """The lowest score of a face, 0 to 1."""
        ...

    def __call__(self, photo: Tensor) -> list[Face]: ...


class Method(NamedTuple):
    """A built method: a generator and the procedure that infers with it."""

    generator: Generator
    sampler: Sampler[Any]
