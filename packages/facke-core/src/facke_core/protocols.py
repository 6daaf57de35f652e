"""The five protocols of facke, the face detector's, and a method as generator and sampler.

Nothing needs to be inherited; a class of any origin that has these members will do.
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
    """A network that maps an image, clean or noised, and conditions to an estimate of the swap.

    ``x`` is (B, 3, S, S), in the range that the method's sampler gives it; the conditions are those
    that ``spec`` names, by keyword, each with B rows. This one copies its input::

        class Copy(nn.Module):
            spec = GeneratorSpec(image_size=128, identity_dim=0, conditions=frozenset())

            def forward(self, x: Tensor) -> GeneratorOutput:
                return GeneratorOutput(image=x, aux={})
    """

    @property
    def spec(self) -> GeneratorSpec:
        """Sizes and conditions of the generator."""
        ...

    def forward(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput:
        """Estimate the results (B, 3, S, S), on the device of ``x``."""
        ...


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
    """A network that maps crops (B, 3, H, W), RGB in [0, 1], to unit embeddings (B, D).

    Two crops show one person where the cosine of their embeddings is high. Crops of any H and W are
    taken, aligned to the template that ``spec`` names; the encoder resizes and normalises them
    itself. It is frozen: parameters carry no gradient, ``train()`` changes nothing, and gradients
    reach the input.
    """

    @property
    def spec(self) -> IdentityEncoderSpec:
        """Input and output of the encoder."""
        ...

    def forward(self, face: Tensor) -> Tensor:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, face: Tensor) -> Tensor:
        """Embed crops (B, 3, H, W): (B, D), unit norm, on the device of the encoder."""
        ...


@runtime_checkable
class Discriminator(Protocol):
    """A network that maps images (B, 3, S, S), RGB in [0, 1], to logits and features per scale."""

    @property
    def num_scales(self) -> int:
        """The number of scales, each with its own logits and features."""
        ...

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Compute what ``__call__`` returns."""
        ...

    def __call__(self, image: Tensor) -> DiscriminatorOutput:
        """Judge images, with gradients to them and to the parameters."""
        ...


G_contra = TypeVar("G_contra", bound=Generator, contravariant=True)


@runtime_checkable
class Sampler(Protocol[G_contra]):
    """The inference procedure: from a generator and inputs to results (B, 3, S, S) in [0, 1].

    It calls the generator once (:class:`~facke_core.sampling.SinglePass`) or step by step, and
    brings images to the generator's range and back. A frozen dataclass makes its fields settings:
    ``load(..., sampler={"steps": 25})``. Noise is drawn from ``rng`` only, so one seed gives one
    result. A sampler that needs ``rng`` raises :class:`~facke_core.errors.UsageError` without it.
    """

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed; they must cover ``generator.spec.conditions``."""
        ...

    def __call__(
        self, generator: G_contra, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """Swap: the results (B, 3, S, S), RGB in [0, 1]."""
        ...


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

    What it reads is in the :class:`~facke_core.types.Step`: the batch, the generator's output, the
    modules. Noise is drawn from the step's ``rng`` only. This one is an L1 reconstruction::

        class L1:
            name = "l1"

            def __call__(self, step: Step) -> Tensor:
                return (step.output.image - step.batch.reference).abs().flatten(1).mean(1)
    """

    @property
    def name(self) -> str:
        """The name in logs and reports."""
        ...

    def __call__(self, step: Step) -> Tensor:
        """Compute the values (B,), with gradients to the output."""
        ...


@runtime_checkable
class FaceDetector(Protocol):
    """A detector that finds the faces in a photo (3, H, W), RGB in [0, 1].

    Its largest face comes first; the list is empty where there is none. Landmarks are five points
    in the order of :class:`~facke_core.types.Face`.

    It need not be made for several threads: a pipeline calls its own once at a time. If it holds
    more than memory, it has ``close()``, after which a call opens it again.
    """

    @property
    def threshold(self) -> float:
        """The lowest score of a face, 0 to 1."""
        ...

    def __call__(self, photo: Tensor) -> list[Face]:
        """Find the faces whose score is at least :attr:`threshold`, largest first."""
        ...


@runtime_checkable
class GroupDetector(FaceDetector, Protocol):
    """A detector that stops at the first faces it finds when it is called, and can look on."""

    def all_faces(self, photo: Tensor) -> list[Face]:
        """The faces of a photo, largest first, small ones beside large ones too, at any cost. Those
        that a call finds are among them, unchanged."""
        ...


class Method(NamedTuple):
    """A built method: a generator and the procedure that infers with it, as a plugin's ``build``
    returns them::

        Method(generator, SinglePass())
    """

    generator: Generator
    """The network, with fresh weights until some are loaded."""
    sampler: Sampler[Any]
    """The inference; it supplies every condition that the generator takes."""
