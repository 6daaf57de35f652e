"""The stages of a generator with ID blocks: stem, halvings, ID blocks, doublings, head.

SimSwap (arXiv:2106.06340, Fig. 2) chains them; the CVAE of Facke (arXiv:2206.11203, Sec. 2.2) puts
its latent between halvings and ID blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import ConfigError
from facke_core.nn.id_blocks import IDBlock, Padding
from facke_core.nn.normalize import Normalize

Output = Literal["tanh", "bn-tanh", "imagenet", "residual"]


def check_stages(image_size: int, channels: Sequence[int], *, patch: int, skips: int) -> None:
    """Whether an image of this size can pass these stages.

    Raises:
        ConfigError: the size is not a multiple of what they divide by, or there are fewer stages
            than ``skips``.
    """
    factor = patch * 2 ** (len(channels) - 1)
    if image_size % factor:
        raise ConfigError(
            f"generator.image_size: {image_size} is not a multiple of {factor}, which "
            f"{len(channels) - 1} halvings and patch {patch} need."
        )
    if not 0 <= skips < len(channels):
        raise ConfigError(
            f"generator.skips: {skips} is not between 0 and {len(channels) - 1}, "
            "the number of decoder stages."
        )


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: Padding = "zeros"
) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by ``stride``."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode=padding)


def conv_block(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: Padding = "zeros"
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        conv(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Halvings(nn.ModuleList):
    """One stride-2 block per step of ``channels``."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(conv_block(a, b, 3, 2) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels[0], H, W) -> itself and the output of each block."""
        features = [x]
        for block in self:
            features.append(block(features[-1]))
        return features


class IDBlocks(nn.ModuleList):
    """``count`` :class:`~facke_core.nn.id_blocks.IDBlock` in a row."""

    def __init__(
        self, count: int, channels: int, identity_dim: int, *, padding: Padding = "reflect"
    ) -> None:
        super().__init__(IDBlock(channels, identity_dim, padding=padding) for _ in range(count))

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        for block in self:
            x = block(x, identity)
        return x


class Doublings(nn.ModuleList):
    """The inverse of :class:`Halvings`: bilinear upsampling and a block, for each step of
    ``channels`` from its end. The first ``skips`` of them also see the encoder's features."""

    def __init__(self, channels: Sequence[int], *, skips: int = 0) -> None:
        steps = itertools.pairwise(reversed(channels))
        super().__init__(
            conv_block(a + (b if i < skips else 0), b, 3) for i, (a, b) in enumerate(steps)
        )
        self.skips = skips

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(B, channels[-1], H, W), features of :class:`Halvings` -> (B, channels[0], ...)."""
        for i, block in enumerate(self):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, features[-2 - i]], dim=1) if i < self.skips else x)
        return x


def head(
    inputs: int, outputs: int, kernel: int, *, padding: Padding, output: Output
) -> nn.Sequential:
    """The last convolution, with what ``output`` puts after it; see :func:`to_image`."""
    last = conv(inputs, outputs, kernel, padding=padding)
    layers: list[nn.Module] = [last]
    if output == "bn-tanh":
        layers.append(nn.BatchNorm2d(outputs))
    elif output == "residual":
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(*layers)


def to_image(y: Tensor, x: Tensor, output: Output, denormalize: Normalize | None = None) -> Tensor:
    """What the head made as an image, (B, 3, H, W) float32.

    Args:
        y: (B, 3, H, W), output of :func:`head`.
        x: (B, 3, H, W) in [0, 1], the network's input; ``residual`` adds to it.
        output: ``tanh`` and ``bn-tanh`` end in [0, 1]; the other two are linear.
        denormalize: the units of ``imagenet``.
    """
    y = y.float()
    if output == "residual":
        return x + y
    return denormalize.inverse(y) if denormalize else (torch.tanh(y) + 1) / 2
