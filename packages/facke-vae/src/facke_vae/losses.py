"""Loss terms of the variational autoencoders: the divergence of the latent, and the feature terms
of CVAE-GAN (Bao et al., ICCV 2017, arXiv:1703.10155)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor

from facke_core import Loss
from facke_core.losses.functional import kl_divergence
from facke_core.types import Step
from facke_vae.classifier import IdentityClassifier, classification_loss

__all__ = ["ClassFeatureMatching", "KLLoss", "MeanFeatureMatching"]


def free_bits_divergence(mu: Tensor, log_var: Tensor, free_bits: float) -> Tensor:
    """The divergence (B,) of :func:`~facke_core.losses.functional.kl_divergence` with ``free_bits``
    nats per channel that cost nothing more: its mean over the batch is the sum over the channels of
    ``max(free_bits, mean KL)`` (Kingma et al., arXiv:1606.04934).

    Args:
        mu: (B, C, ...).
        log_var: like ``mu``.
        free_bits: nats; a channel whose mean over the batch is below them gets no gradient.
    """
    b, c = mu.shape[:2]
    parts = (x.reshape(b * c, 1, -1) for x in (mu, log_var))
    per_channel = kl_divergence(*parts).view(b, c)
    paid = per_channel.detach().mean(dim=0) > free_bits
    return per_channel.where(paid, per_channel.new_tensor(free_bits)).sum(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KLLoss:
    """The divergence ``KL(N(mu, exp(log_var)) || N(0, 1))`` of the latent in nats: sum over
    channels, mean over positions (Facke, Eq. (4)). For uniform noise it is the same expression, as
    in the original."""

    free_bits: float = 0.0
    """Nats per channel below which the divergence is left alone; 0: none."""
    name: str = "kl"

    def __call__(self, step: Step) -> Tensor:
        mu, log_var = step.output.aux["mu"], step.output.aux["log_var"]
        if self.free_bits:
            return free_bits_divergence(mu, log_var, self.free_bits)
        return kl_divergence(mu, log_var)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanFeatureMatching:
    """The distance of mean features ``1/2 ||mean f_D(real) - mean f_D(fake)||^2`` over the batch
    (L_GD of Bao et al.), where f_D is the discriminator's deepest feature, averaged over its
    positions; mean over the scales.

    It is one number for the batch, given to every sample.
    """

    name: str = "mean-features"

    def __call__(self, step: Step) -> Tensor:
        with torch.no_grad():
            real = [layers[-1].float().mean(dim=(0, 2, 3)) for layers in step.real.features]
        fake = [layers[-1].float().mean(dim=(0, 2, 3)) for layers in step.fake.features]
        scales = [(r - f).square().sum() / 2 for r, f in zip(real, fake, strict=True)]
        return torch.stack(scales).mean().expand(len(step.output.image))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFeatureMatching:
    """The distance ``1/2 ||f_C(real) - f_C(fake)||^2`` of the classifier's features f_C.

    ``real`` is the ``source``, the batch's picture of that person: L_GC of Bao et al., whose mean
    over the pictures of a person is over this one here, as identities are vectors and rarely occur
    twice. Or it is the ``reference``: the classifier's part of their L_G, for
    ``where="same_identity"``.
    """

    real: Literal["source", "reference"]
    name: str = "class-features"

    def __call__(self, step: Step) -> Tensor:
        classifier = cast(IdentityClassifier, step.modules["classifier"])
        with torch.no_grad():
            real = classifier.features(getattr(step.batch, self.real)).float()
        fake = classifier.features(step.output.image).float()
        return (real - fake).square().sum(dim=1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationLoss:
    """The classifier's loss: the cross-entropy of real pictures, the sources
    (:func:`~facke_vae.classifier.classification_loss`)."""

    name: str = "identity"

    def __call__(self, step: Step) -> Tensor:
        batch = step.batch
        logits = step.modules["classifier"](batch.source, batch.identity)
        return classification_loss(logits, batch.identity)


TERMS: dict[str, Callable[..., Loss]] = {
    "kl": KLLoss,
    "mean-features": MeanFeatureMatching,
    "class-mean": partial(ClassFeatureMatching, real="source", name="class-mean"),
    "class-pair": partial(ClassFeatureMatching, real="reference", name="class-pair"),
}
"""The terms that a recipe of these methods can name, beside those of facke-core."""
