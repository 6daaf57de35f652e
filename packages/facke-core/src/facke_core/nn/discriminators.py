"""Patch discriminators at several scales.

Paper: pix2pixHD, arXiv:1711.11585, as used by SimSwap (arXiv:2106.06340) and Facke
(arXiv:2206.11203). The state-dict names of :class:`PatchDiscriminator` are those of Facke's and
the official SimSwap's patch discriminators.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facke_core.errors import CompatibilityError, UsageError, check_choice
from facke_core.nn.normalize import Normalize
from facke_core.types import DiscriminatorOutput

__all__ = ["MultiScalePatchDiscriminator", "PatchDiscriminator"]

Norm = Literal["batch", "spectral", "none"]
"""The normalisation of a patch discriminator's layers."""
Normalization = Literal["imagenet", "none"]
"""The normalisation of a discriminator's input, an image in [0, 1]."""
MIN_SIZE = 48
"""The side in pixels below which a patch discriminator has no patch left."""

MAX_SCALES, MAX_WIDTH = 5, 256
"""Largest number of scales, and of channels of the first layer."""


class PatchDiscriminator(nn.Module):
    """A discriminator of six 4x4 convolutions, whose output pixels judge patches of 142 x 142
    pixels.

    Args:
        in_channels: channels of the input.
        width: channels of the first layer; then 2, 4, 8 and 8 times as many.
        sigmoid: end with a sigmoid, as the originals do in their ``original`` GAN mode (whose loss
            then applies another one).
        norm: ``"batch"`` (original) after all but the first and last convolution, ``"spectral"``
            on every convolution instead, or ``"none"``.

    Raises:
        UsageError: there is no such norm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        *,
        sigmoid: bool = False,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_choice("Norm", norm, get_args(Norm))

        def conv(inputs: int, outputs: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)
            return spectral_norm(layer) if norm == "spectral" else layer

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            middle = nn.BatchNorm2d(outputs) if norm == "batch" else nn.Identity()
            return nn.Sequential(conv(inputs, outputs, stride), middle, nn.LeakyReLU(0.2))

        self.down1 = nn.Sequential(conv(in_channels, width, 2), nn.LeakyReLU(0.2))
        self.down2 = block(width, 2 * width, 2)
        self.down3 = block(2 * width, 4 * width, 2)
        self.down4 = block(4 * width, 8 * width, 2)
        self.conv1 = block(8 * width, 8 * width, 1)
        self.conv2 = nn.Sequential(conv(8 * width, 1, 1))
        if sigmoid:
            self.conv2.append(nn.Sigmoid())

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of each layer for ``x`` (B, in_channels, H, W); the last one is the patch
        logits (B, 1, H/16 - 2, W/16 - 2).

        Raises:
            CompatibilityError: H or W is below 48 pixels.
        """
        if min(x.shape[-2:]) < MIN_SIZE:
            raise CompatibilityError(
                f"A patch discriminator got {x.shape[-2]}x{x.shape[-1]} pixels, but needs at "
                f"least {MIN_SIZE}x{MIN_SIZE}. Every further scale halves the image: use larger "
                "crops or fewer scales."
            )
        outputs = []
        for layer in (self.down1, self.down2, self.down3, self.down4, self.conv1, self.conv2):
            x = layer(x)
            outputs.append(x)
        return outputs


class MultiScalePatchDiscriminator(nn.Module):
    """A :class:`PatchDiscriminator` on the image and on each of its halvings.

    Args:
        num_scales: number of independent networks; the k-th sees the image halved k times.
        width: channels of each network's first layer.
        normalization: what is done to the image in [0, 1] first: ``"imagenet"`` (original) or
            ``"none"``.
        norm: as :class:`PatchDiscriminator` takes it.
        sigmoid: as :class:`PatchDiscriminator` takes it.

    Raises:
        UsageError: a number of scales or channels out of range, or no such norm or normalisation.
    """

    def __init__(
        self,
        *,
        num_scales: int = 2,
        width: int = 64,
        normalization: Normalization = "imagenet",
        norm: Norm = "batch",
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        check_choice("Normalization", normalization, get_args(Normalization))
        if not 1 <= num_scales <= MAX_SCALES or not 1 <= width <= MAX_WIDTH:
            raise UsageError(
                f"num_scales is {num_scales} and width {width}, but a discriminator needs 1 to "
                f"{MAX_SCALES} scales and 1 to {MAX_WIDTH} channels. The originals use 2 and 64."
            )
        self.normalize = Normalize() if normalization == "imagenet" else nn.Identity()
        self.scales = nn.ModuleList(
            PatchDiscriminator(width=width, sigmoid=sigmoid, norm=norm) for _ in range(num_scales)
        )

    @property
    def num_scales(self) -> int:
        """The number of independent networks."""
        return len(self.scales)

    def scale_inputs(self, image: Tensor) -> list[Tensor]:
        """The normalised images at each scale, for images (B, 3, S, S) in [0, 1].

        Halving is a mean over 3 x 3 pixels with stride 2, in which padding does not count.
        """
        inputs = [self.normalize(image)]
        while len(inputs) < self.num_scales:
            inputs.append(F.avg_pool2d(inputs[-1], 3, stride=2, padding=1, count_include_pad=False))
        return inputs

    def score(self, scale: int, x: Tensor) -> Tensor:
        """The logits (B, 1, h, w) of one scale for its entry ``x`` of :meth:`scale_inputs`."""
        return self.scales[scale](x)[-1]

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Logits and five features per scale, for images (B, 3, S, S) in [0, 1].

        Raises:
            CompatibilityError: the smallest scale is below 48 pixels.
        """
        outputs = [net(x) for net, x in zip(self.scales, self.scale_inputs(image), strict=True)]
        return DiscriminatorOutput(
            logits=[layers[-1] for layers in outputs], features=[layers[:-1] for layers in outputs]
        )
