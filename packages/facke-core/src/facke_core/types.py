"""The values that cross boundaries between core, plugins and users.

Tensors travel in NamedTuples, because Accelerate's and torch's tree walkers follow tuples and
mappings but skip dataclasses; settings travel in frozen dataclasses. No import of torch happens
here at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from facke_core.faces.templates import Alignment

__all__ = ["Step"]

Progress = Callable[[str, int, int], None]
"""A function of what is being done, how much of it is done, and how much there is."""


class FaceBatch(NamedTuple):
    """The B samples of a training step. All images are float32 RGB in [0, 1]."""

    source: Tensor
    """Crops (B, 3, S, S) that give the identity."""
    target: Tensor
    """Crops (B, 3, S, S) that give pose, expression, light and background."""
    identity: Tensor
    """Embeddings (B, D) of ``source`` by the identity encoder, unit norm."""
    same_identity: Tensor
    """Mask (B,), bool: True where the result is known, namely ``reference``."""
    reference: Tensor
    """Results (B, 3, S, S) where ``same_identity`` holds; elsewhere the target.

    In the original systems this is always the target; composite pairs (docs/adr/0001) put the
    untouched photograph here.
    """
    source_mesh: Tensor | None = None
    """Points (B, 478, 2) of the face meshes of ``source``, in pixels; None where the data has none.
    """
    target_mesh: Tensor | None = None
    """Points (B, 478, 2) of the face meshes of ``target``, in pixels."""
    occlusion: Tensor | None = None
    """The share (B, 1, S, S) in [0, 1] of each pixel that something drawn before the face covers,
    in ``target`` and ``reference`` alike; None where nothing is drawn."""
    source_occlusion: Tensor | None = None
    """The same of ``source``."""

    def each(self, change: Callable[[Tensor], Tensor]) -> FaceBatch:
        """The batch with every tensor changed by a function; what is None stays None."""
        return FaceBatch(*(value if value is None else change(value) for value in self))  # type: ignore[arg-type]


class SwapInputs(NamedTuple):
    """The B swaps that a sampler is asked for, on the device of the generator. All images are RGB
    in [0, 1]."""

    source: Tensor
    """Crops (B, 3, S, S) that give the identity."""
    target: Tensor
    """Crops (B, 3, S, S) that give pose, expression, light and background."""
    identity: Tensor
    """Embeddings (B, D) of ``source``, unit norm; (B, 0) where the generator takes no identity."""
    alignment: Alignment | None = None
    """Framing of ``source`` and ``target``, for samplers that show them to another network, such as
    an encoder of another template; None: not known."""
    source_mesh: Tensor | None = None
    """Points (B, 478, 2) of the face meshes of ``source``, in pixels of the crops, in float32; None
    where the detector gives none."""
    target_mesh: Tensor | None = None
    """Points (B, 478, 2) of the face meshes of ``target``, in the same way."""
    source_occlusion: Tensor | None = None
    """The share (B, 1, S, S) in [0, 1] of each pixel of ``source`` that something before the face
    covers; None: nobody looked."""
    target_occlusion: Tensor | None = None
    """The same of ``target``."""


class GeneratorOutput(NamedTuple):
    """The output of a generator for B crops, with gradients to its parameters in training."""

    image: Tensor
    """Results (B, 3, S, S) in [0, 1], or estimates of them from a noisy state."""
    aux: dict[str, Tensor]
    """Further tensors by name, for the method's own losses and sampler: ``mu``, ``log_var``,
    ``eps``, ..."""


class DiscriminatorOutput(NamedTuple):
    """The output of a discriminator for B images."""

    logits: list[Tensor]
    """Verdicts per scale, (B, 1, h, w), unbounded: higher means real."""
    features: list[list[Tensor]]
    """Features (B, C, h, w) per scale, shallow to deep, without the logits; for feature matching.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """The shapes and conditions of a generator, as its ``spec``::

    GeneratorSpec(image_size=224, identity_dim=512, conditions=frozenset({"identity"}))
    """

    image_size: int
    """Side S of the crops in pixels."""
    identity_dim: int
    """Length D of the identities that the method takes: as the condition ``identity``, or for its
    sampler to make another condition of. 0: none."""
    conditions: frozenset[str]
    """Keywords that ``forward`` takes: ``{"identity"}``, ``{"timestep"}``, ..."""
    x: str = "RGB in [0, 1]"
    """What the pictures hold that ``forward`` takes, for the metadata of exported graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEncoderSpec:
    """The input and output of an identity encoder, as its ``spec``."""

    name: str
    """Name in messages and reports."""
    embedding_dim: int
    """Length D of the embeddings."""
    input_size: tuple[int, int]
    """Height and width of the network's own input; crops of other sizes are resized inside."""
    template: str
    """Name of the template that the crops it is given are aligned to
    (:mod:`facke_core.faces.templates`). Who has crops of another one brings them to it first
    (:func:`~facke_core.faces.reframe.retemplate`). Empty: crops of any framing are taken as they
    are. The framing that the network itself was trained on is the encoder's own affair."""
    license: str = ""
    """SPDX identifier of the weights' licence."""


class Face(NamedTuple):
    """One detected face. Coordinates are pixels of the photo: x to the right, y down, and the
    centre of the first pixel is (0, 0)."""

    box: Tensor
    """Edges (4,) float32: x0, y0, x1, y1."""
    landmarks: Tensor
    """Points (5, 2) float32, x and y: eyes, nose, mouth corners; of each pair the one first that is
    left in the picture when the head is upright."""
    score: float
    """Certainty of the detector, from its threshold to 1."""
    mesh: Tensor | None = None
    """Points (478, 2) float32 of MediaPipe's face mesh, where the detector gives it."""
    doubts: tuple[str, ...] = ()
    """Why the detector, or the pipeline, would have somebody look at what comes of this face."""

    @property
    def angle(self) -> float:
        """How far the head is turned in the picture, in degrees with the clock, from -180 to 180:
        0 is upright, 180 on its head."""
        (x0, y0), (x1, y1) = self.landmarks[:2].tolist()
        return math.degrees(math.atan2(y1 - y0, x1 - x0))


class AlignedFace(NamedTuple):
    """A face brought to a template, with the map that leads back to the photo."""

    crop: Tensor
    """Crop (3, S, S) float32 in [0, 1]."""
    matrix: Tensor
    """Affine map (2, 3) float32 from (x, y, 1) in photo pixels to (x, y) in crop pixels."""
    face: Face
    """The face in the photo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How a swapped face is put into the photo: the ``blend`` of :func:`facke_core.load`."""

    occlusion: bool = True
    """Leave what lies before the face alone: glasses, hair, hands
    (:mod:`facke_core.faces.occlusion`)."""
    grain: bool = True
    """Give the face the fine detail of the target's skin (:mod:`facke_core.faces.grain`)."""
    color: bool = True
    """Match its colours to the target's (:mod:`facke_core.faces.colour`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRequest:
    """The facts about a swap that results disclose and ``facke_result`` hooks read."""

    method: str
    """Name of the method."""
    weights: str
    """What the weights are called: ``simswap.mini``, ``hf:org/repo``, or the name of a folder,
    never a path. Empty for a method without weights."""
    revision: str
    """Commit of the weights on the Hub, or the first 12 digits of their SHA-256; empty without
    weights."""
    seed: int | None
    """Seed of the noise; None where none was given and nothing was drawn."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the sampler, the defaults included."""
    backend: str = "torch float32"
    """Runtime and number format of the generator."""


@dataclass
class Step:
    """The outcome of one phase of a training step, which losses read.

    The discriminator's verdicts are computed on first use, so a phase whose adversarial terms are
    not active yet does not pay for them.
    """

    batch: FaceBatch
    output: GeneratorOutput
    modules: Mapping[str, nn.Module]
    rng: torch.Generator | None = None

    @cached_property
    def fake(self) -> DiscriminatorOutput:
        """The discriminator's verdict on the result, with gradients to it."""
        return self.modules["discriminator"](self.output.image)

    @cached_property
    def real(self) -> DiscriminatorOutput:
        """The discriminator's verdict on the reference."""
        return self.modules["discriminator"](self.batch.reference)
