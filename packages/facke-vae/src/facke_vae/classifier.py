"""The classifier C of CVAE-GAN (Bao et al., ICCV 2017, arXiv:1703.10155), for people who
are given by a vector instead of a number."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.nn.normalize import Normalize

__all__ = ["IdentityClassifier"]


class IdentityClassifier(nn.Module):
    """A classifier of faces by person: strided convolutions, a mean over the positions, and a
    linear layer.

    Bao et al. have one output, with a weight vector of its own, for each of their people. Here the
    condition is an identity vector, and that vector itself is the class's weight: the logit of
    identity c is ``scale * cos(C(x), c)``, and the classes are the identities of a batch. No list
    of people is needed, and people of the training set are no special ones.

    Args:
        identity_dim: D.
        width: channels of the first layer; then 2, 4, 8 and 8 times as many.
        scale: factor of the cosines.
    """

    def __init__(self, identity_dim: int, *, width: int = 32, scale: float = 16.0) -> None:
        super().__init__()
        self.scale = scale
        self.normalize = Normalize()
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(1, b), nn.LeakyReLU(0.2))
                for a, b in itertools.pairwise(channels)
            )
        )
        self.linear = nn.Linear(channels[-1], identity_dim)

    def features(self, image: Tensor) -> Tensor:
        """The features f_C (B, 8 * width) of images (B, 3, H, W) in [0, 1]."""
        return self.layers(self.normalize(image)).mean(dim=(2, 3))

    def forward(self, image: Tensor, identities: Tensor) -> Tensor:
        """The logits (B, N) float32 of images (B, 3, H, W) in [0, 1] for unit identities (N, D)."""
        guess = self.linear(self.features(image)).float()
        return self.scale * F.normalize(guess, dim=1) @ identities.float().T


def classification_loss(logits: Tensor, identity: Tensor) -> Tensor:
    """The cross-entropy ``-log P(identity_i | image_i)`` (B,) among the identities of the batch
    (L_C of the paper).

    Rows with the same identity, that is, the same picture, count as one class.

    Args:
        logits: (B, B) float32.
        identity: (B, D), unit norm.
    """
    same = identity.float() @ identity.float().T > 0.999
    same |= torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    log_p = logits.log_softmax(dim=1)
    return -log_p.masked_fill(~same, float("-inf")).logsumexp(dim=1)
