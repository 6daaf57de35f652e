"""Loss objects: each reads a :class:`~facke_core.types.Step` and returns (B,)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.errors import check_choice, check_ranges
from facke_core.losses import functional as L
from facke_core.protocols import Loss
from facke_core.types import Step

__all__ = [
    "EdgeLoss",
    "FeatureMatchingLoss",
    "GanLoss",
    "GradientPenalty",
    "IdentityLoss",
    "LowPassLoss",
    "R1Penalty",
    "ReconstructionLoss",
    "RelativisticLoss",
    "StructureLoss",
    "face_weight",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityLoss:
    """The identity loss ``1 - cos(E(result), identity)``, E the encoder that conditions the
    generator (:func:`~facke_core.losses.functional.identity_loss`).

    ``augment`` changes the result a little and at random before the encoder looks (shift, zoom,
    brightness, saturation, noise), so that the generator cannot please it with fine patterns that
    no other recogniser sees. ``grey`` shows it the result without colours: a recogniser rewards
    painted colours, and no face is recognised by them.
    """

    augment: float = 0.0
    grey: bool = False
    name: str = "identity"

    def __call__(self, step: Step) -> Tensor:
        image = step.output.image
        if self.grey:
            image = image.mean(dim=1, keepdim=True).expand_as(image)
        if self.augment:
            image = perturb(image, self.augment, step.rng)
        return L.identity_loss(step.modules["identity_encoder"](image), step.batch.identity)


def perturb(image: Tensor, amount: float, rng: torch.Generator | None) -> Tensor:
    """Change each image a little and at random, so that its face stays recognisable.

    Gradients reach ``image``. The result (B, 3, S, S) is not clamped.

    Args:
        image: (B, 3, S, S) in [0, 1].
        amount: 1 means up to 4 % zoom and shift, 0.1 rad of rotation, 20 % gain, any saturation
            down to grey, and noise of 0.04.
        rng: the only source of randomness.
    """
    b = len(image)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        x = torch.rand(b, *shape, generator=rng, device=rng.device if rng else None)
        return (low + (high - low) * x).to(image.device)

    angle = draw(-0.1, 0.1) * amount
    zoom = 1 + draw(-0.04, 0.04) * amount
    shift = draw(-0.04, 0.04, 2) * amount
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrix = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    image = F.grid_sample(
        image.float(), grid, padding_mode="reflection", align_corners=False, mode="bilinear"
    )
    saturation = 1 - amount * draw(0, 1, 1, 1, 1).pow(2)
    image = torch.lerp(image.mean(dim=1, keepdim=True).expand_as(image), image, saturation)
    image = image * (1 + draw(-0.2, 0.2, 1, 1, 1) * amount)
    noise = torch.randn(image.shape, generator=rng, device=rng.device if rng else None)
    return image + noise.to(image.device) * (0.04 * amount * draw(0, 1, 1, 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionLoss:
    """The mean absolute (``l1``) or squared (``l2``) difference between the result and the
    reference, in ``units`` (:func:`~facke_core.losses.functional.reconstruction_l1`).

    ``focus`` in [0, 1) weighs the middle of the face more than the border of the crop, which the
    paste-back throws away: 0 weighs all pixels alike. ``inter`` multiplies the difference where the
    identities differ and the reference is the target, as in Facke's CVAE; without it,
    ``where="same_identity"`` leaves those samples out.
    """

    units: L.Units = "rgb"
    distance: Literal["l1", "l2"] = "l1"
    focus: float = 0.0
    inter: float = 1.0
    name: str = "reconstruction"

    def __post_init__(self) -> None:
        check_choice("Distance", self.distance, ("l1", "l2"))

    def __call__(self, step: Step) -> Tensor:
        image, batch = step.output.image, step.batch
        weight = face_weight(image.shape[-1], self.focus).to(image.device) if self.focus else None
        distance = L.reconstruction_l1 if self.distance == "l1" else L.reconstruction_l2
        values = distance(image, batch.reference, units=self.units, weight=weight)
        return values.where(batch.same_identity, self.inter * values)


def face_weight(size: int, focus: float) -> Tensor:
    """A weight of the pixels of a SimSwap crop, (1, 1, size, size): ``1 - focus`` at its border,
    rising to 1 around the nose."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    bump = torch.exp(-((x - 0.5) ** 2 + (y - 0.6) ** 2) / (2 * 0.22**2))
    return (1 - focus + focus * bump)[None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLoss:
    """The mean absolute difference between the edges of the result and of the reference
    (:func:`~facke_core.losses.functional.edges_l1`): a blurred result has none."""

    name: str = "edges"

    def __call__(self, step: Step) -> Tensor:
        return L.edges_l1(step.output.image, step.batch.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureLoss:
    """One minus the structural similarity of result and reference
    (:func:`~facke_core.losses.functional.structural_difference`)."""

    name: str = "structure"

    def __call__(self, step: Step) -> Tensor:
        return L.structural_difference(step.output.image, step.batch.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowPassLoss:
    """The mean absolute difference between result and *target* after averaging blocks of
    ``factor`` x ``factor`` pixels: light and colour must stay, detail may change."""

    factor: int = 16
    name: str = "low-pass"

    def __call__(self, step: Step) -> Tensor:
        side = step.output.image.shape[-1]
        check_ranges(self, "loss.low-pass.options", factor=(1, side))
        result = F.avg_pool2d(step.output.image.float(), self.factor)
        return L.reconstruction_l1(result, F.avg_pool2d(step.batch.target, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class GanLoss:
    """An adversarial term: what the generator pays for the result (``gan``), or the
    discriminator for the reference (``real``) and for the result (``fake``)."""

    name: Literal["gan", "real", "fake"]
    mode: L.GanMode = "hinge"

    def __call__(self, step: Step) -> Tensor:
        if self.name == "real":
            return L.gan_real(step.real.logits, self.mode)
        equation = L.gan_generator if self.name == "gan" else L.gan_fake
        return equation(step.fake.logits, self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativisticLoss:
    """The relativistic pairing loss: what the generator pays where the reference looks more real
    than the result (``relativistic``), or the discriminator for the reverse
    (``relativistic-critic``, :func:`~facke_core.losses.functional.relativistic`)."""

    name: Literal["relativistic", "relativistic-critic"]

    def __call__(self, step: Step) -> Tensor:
        if self.name == "relativistic":
            with torch.no_grad():
                real = step.real.logits
            return L.relativistic(step.fake.logits, real)
        return L.relativistic(step.real.logits, step.fake.logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class R1Penalty:
    """The penalty of the discriminator's slope at the references
    (:func:`~facke_core.losses.functional.r1_penalty`)."""

    name: str = "r1"

    def __call__(self, step: Step) -> Tensor:
        return L.r1_penalty(step.modules["discriminator"], step.batch.reference)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMatchingLoss:
    """Feature matching between the result and the reference, by default over the layers of
    SimSwap's weak one (:func:`~facke_core.losses.functional.feature_matching`)."""

    layers: L.FeatureLayers = "w"
    name: str = "feature-matching"

    def __call__(self, step: Step) -> Tensor:
        with torch.no_grad():
            real = step.real.features
        return L.feature_matching(real, step.fake.features, self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientPenalty:
    """The gradient penalty of the discriminator between reference and result
    (:func:`~facke_core.losses.functional.gradient_penalty`); draws from the step's ``rng``."""

    name: str = "gradient-penalty"

    def __call__(self, step: Step) -> Tensor:
        discriminator = step.modules["discriminator"]
        return L.gradient_penalty(
            discriminator,  # type: ignore[arg-type]
            step.batch.reference,
            step.output.image,
            rng=step.rng,
        )


TERMS: dict[str, Callable[..., Loss]] = {
    "identity": IdentityLoss,
    "reconstruction": ReconstructionLoss,
    "edges": EdgeLoss,
    "structure": StructureLoss,
    "low-pass": LowPassLoss,
    "gan": partial(GanLoss, name="gan"),
    "feature-matching": FeatureMatchingLoss,
    "real": partial(GanLoss, name="real"),
    "fake": partial(GanLoss, name="fake"),
    "gradient-penalty": GradientPenalty,
    "relativistic": partial(RelativisticLoss, name="relativistic"),
    "relativistic-critic": partial(RelativisticLoss, name="relativistic-critic"),
    "r1": R1Penalty,
}
"""The terms that a recipe can name: name -> what makes the loss of the recipe's arguments."""
