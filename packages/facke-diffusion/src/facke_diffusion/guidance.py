"""Identity guidance: each estimate of the image takes a step towards the source's identity.

A state that begins with noise holds next to nothing of the source (``sqrt(abar_T)`` is 0.006), so
ILVR alone hardly swaps. Here the gradient of a frozen recogniser is added to the estimate, before
the next state is made of it; the network then draws what fits (He et al., "Manifold Preserving
Guided Diffusion", arXiv:2311.16424). The gradient passes through the recogniser alone, not through
the U-Net: a step costs one more pass of the recogniser forwards and one back.

It gains identity in the eyes of this recogniser first, and of others less; too large a weight
draws patterns that please it and nobody else. Judge with another one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from facke_core import Alignment, IdentityEncoder, SwapInputs, load_encoder
from facke_core.faces.reframe import retemplate

__all__: list[str] = []


class IdentityGuide:
    """Moves estimates towards the identities of ``inputs.source``.

    Args:
        encoder: name of the recogniser, as :func:`facke_core.load_encoder` takes it.
        inputs: its ``source`` is embedded. Its ``alignment`` tells the recogniser how the crops are
            framed; without it they are taken to be framed as it wants.
        weight: root mean square of a step at full noise, in units of the range [-1, 1]. It shrinks
            with the noise, by ``sqrt(1 - abar)``, so that the network has the last word.

    Raises:
        UnknownNameError: no such encoder.
        UnavailableError: it cannot be used here.
    """

    def __init__(self, encoder: str, inputs: SwapInputs, *, weight: float) -> None:
        self.encoder = _encoder(encoder, str(inputs.source.device))
        self.alignment, self.weight = inputs.alignment, weight
        with torch.no_grad():
            self.identity = embed(self.encoder, inputs.source.float(), self.alignment)

    def __call__(self, x0: Tensor, *, abar: float) -> Tensor:
        """Move an estimate: ``x0 + weight sqrt(1 - abar) g / rms(g)``, g the gradient of the
        cosine.

        Args:
            x0: the estimate (B, 3, S, S), about [-1, 1].
            abar: the ``abar`` of the level it was made at.

        Returns:
            The moved estimate, not clamped.
        """
        gradient = identity_gradient(self.encoder, x0, self.identity, self.alignment)
        size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-20)
        return x0 + self.weight * (1 - abar) ** 0.5 * gradient / size


def embed(encoder: IdentityEncoder, crops: Tensor, alignment: Alignment | None) -> Tensor:
    """The identities (B, D) of crops (B, 3, S, S) in [0, 1]; gradients reach the crops."""
    if alignment is not None:
        crops = retemplate(crops, alignment, encoder.spec.template, encoder.spec.input_size)
    return encoder(crops)


def identity_gradient(
    encoder: IdentityEncoder, x0: Tensor, identity: Tensor, alignment: Alignment | None
) -> Tensor:
    """The gradient of ``cos(E(x0), identity)`` with respect to ``x0`` (B, 3, S, S), row by row.

    It is computed within ``torch.inference_mode``, too.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image = x0.clone().requires_grad_()
        cosine = embed(encoder, (image + 1) / 2, alignment) * identity.clone()
        (gradient,) = torch.autograd.grad(cosine.sum(), image)
    return gradient


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # parameters that were made there could not be differentiated through
def _encoder(name: str, device: str) -> IdentityEncoder:
    return load_encoder(name, device=device)
