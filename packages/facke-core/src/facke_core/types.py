"""The values that cross boundaries between core, plugins and users.

Tensors travel in NamedTuples, because Accelerate's and torch's tree walkers follow tuples and
mappings but skip dataclasses; settings travel in frozen dataclasses. No import of torch happens
here at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from facke_core.faces.templates import Alignment

__all__ = [
    "AlignedFace",
    "DiscriminatorOutput",
    "Face",
    "FaceBatch",
    "GeneratorOutput",
    "GeneratorSpec",
    "IdentityEncoderSpec",
    "Step",
    "SwapInputs",
    "SwapRequest",
]


class FaceBatch(NamedTuple):
    """What a training step sees. All images are RGB in [0, 1]."""

    source: Tensor
    """(B, 3, S, S): gives the identity."""
    target: Tensor
    """(B, 3, S, S): gives pose, expression, light and background."""
    identity: Tensor
    """(B, D), unit norm: the encoder's embedding of ``source``."""
    same_identity: Tensor
    """(B,), bool: the result is known, namely ``reference``."""
    reference: Tensor
    """(B, 3, S, S): the known result where ``same_identity`` holds; elsewhere the target.

    In the original systems this is always the target; composite pairs (docs/adr/0001) put the
    untouched photograph here.
    """


class SwapInputs(NamedTuple):
    """What a sampler sees: the first three fields of :class:`FaceBatch`."""

    source: Tensor
    target: Tensor
    identity: Tensor
    alignment: Alignment | None = None
    """How the crops are framed, for samplers that look at faces themselves; None: not known."""


class GeneratorOutput(NamedTuple):
    """What a generator returns."""

    image: Tensor
    """(B, 3, S, S) in [0, 1]: the result, or the estimate of it from a noisy state."""
    aux: dict[str, Tensor]
    """What the method's own losses read, e.g. ``mu``, ``log_var``, ``eps``."""


class DiscriminatorOutput(NamedTuple):
    """What a discriminator returns."""

    logits: list[Tensor]
    """Per scale (B, 1, h, w), unbounded."""
    features: list[list[Tensor]]
    """Per scale, shallow to deep, without the logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """What a generator needs and makes."""

    image_size: int
    """S in pixels."""
    identity_dim: int
    """D, the length of the identities that the method takes: as the condition ``identity``, or for
    its sampler to make another condition of. 0: none."""
    conditions: frozenset[str]
    """Keyword names that ``forward`` takes: ``{"identity"}``, ``{"timestep"}``, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEncoderSpec:
    """What an identity encoder expects and returns."""

    name: str
    embedding_dim: int
    input_size: tuple[int, int]
    """(height, width) of the network's own input; crops of other sizes are resized inside."""
    template: str
    """Name of the alignment template it was trained on (:mod:`facke_core.faces.align`)."""
    license: str = ""
    """SPDX identifier of the weights' licence."""


class Face(NamedTuple):
    """One detected face, in pixels of the photo."""

    box: Tensor
    """(4,) float32, x0 y0 x1 y1."""
    landmarks: Tensor
    """(5, 2) float32, xy: eyes, nose, mouth corners; image-left first."""
    score: float
    mesh: Tensor | None = None
    """(478, 2) float32, xy, where the detector gives MediaPipe's face mesh."""


class AlignedFace(NamedTuple):
    """A face brought to a template."""

    crop: Tensor
    """(3, S, S) float32 in [0, 1]."""
    matrix: Tensor
    """(2, 3) float32: photo pixels -> crop pixels."""
    face: Face


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRequest:
    """What was asked for; read by the ``facke_result`` hooks."""

    method: str
    weights: str
    revision: str
    seed: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "torch float32"
    """What computed the generator, and in what."""


@dataclass
class Step:
    """What one phase computed; losses read it.

    The discriminator's verdicts are computed on first use, so a phase whose adversarial terms are
    not active yet does not pay for them.
    """

    batch: FaceBatch
    output: GeneratorOutput
    modules: Mapping[str, nn.Module]
    rng: torch.Generator | None = None

    @cached_property
    def fake(self) -> DiscriminatorOutput:
        """The discriminator on the result."""
        return self.modules["discriminator"](self.output.image)

    @cached_property
    def real(self) -> DiscriminatorOutput:
        """The discriminator on the reference."""
        return self.modules["discriminator"](self.batch.reference)
