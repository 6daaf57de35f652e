"""The stages of a generator with ID blocks: stem, halvings, ID blocks, doublings, head.

SimSwap (arXiv:2106.06340, Fig. 2) chains them; the CVAE of Facke (arXiv:2206.11203, Sec. 2.2) puts
its latent between halvings and ID blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import MAX_SIDE, ConfigError, check_ranges
from facke_core.nn.id_blocks import IDBlock, Padding
from facke_core.nn.normalize import Normalize

__all__ = [
    "Doublings",
    "Halvings",
    "IDBlocks",
    "Output",
    "StagesConfig",
    "conv",
    "conv_block",
    "head",
    "to_image",
]

Output = Literal["tanh", "bn-tanh", "imagenet", "residual"]
"""The form of the last layer; :attr:`StagesConfig.output` says what each does."""


MAX_WIDTH, MAX_BLOCKS, MAX_LEVELS = 8192, 256, 10
"""Largest number of channels, of ID blocks, and of scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesConfig:
    """The settings that generators out of these stages share. The defaults are those of the
    official SimSwap at 224 px.

    Raises:
        ConfigError: a number out of its range, the halvings do not divide the image size, or there
            are fewer decoder stages than skips.
    """

    image_size: int = 224
    identity_dim: int = 512
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Widths after the stem and after each halving; the last one is that of the ID blocks, and of
    a spatial latent."""
    num_id_blocks: int = 9
    stem_kernel: int = 7
    padding: Padding = "reflect"
    """Padding of the convolutions in stem, ID blocks and head; zeros are faster."""
    patch: int = 1
    """Side p of the blocks of pixels that the stem sees folded into channels, and that the head
    unfolds; 1: single pixels."""
    skips: int = 0
    """Number of the decoder's stages, deepest first, that also see the encoder's features of their
    size. All originals have 0: without composites (docs/adr/0001) a skip lets the target's
    identity pass."""
    normalization: Literal["imagenet", "none"] = "none"
    """Normalisation of the input in [0, 1] by the network."""
    output: Output = "tanh"
    """The last layer. ``tanh``: (tanh + 1) / 2. ``bn-tanh``: with a BatchNorm before it (Facke).
    ``imagenet``: a linear output in ImageNet-normalised units (official ``fix``), brought back to
    [0, 1]. ``residual``: the (veiled) target plus a linear output that starts at zero; like skips,
    for training with composites only (docs/adr/0001)."""
    veil: float = 0.0
    """Blur of the inner face of the target before the network sees it: standard deviation as a
    share of the image size. The target's fine features, which carry its identity, are then not
    there to be copied; pose, expression and light remain (docs/adr/0001)."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "generator",
            image_size=(1, MAX_SIDE),
            identity_dim=(1, MAX_WIDTH),
            channels=(1, MAX_WIDTH),
            num_id_blocks=(0, MAX_BLOCKS),
            stem_kernel=(1, 31),
            patch=(1, 64),
            veil=(0, 1),
        )
        if not 1 <= len(self.channels) <= MAX_LEVELS:
            raise ConfigError(
                f"generator.channels: {len(self.channels)} widths. Give 1 to {MAX_LEVELS}: one for "
                "the stem and one for each halving."
            )
        halvings = len(self.channels) - 1
        if self.image_size % self.factor:
            raise ConfigError(
                f"generator.image_size: {self.image_size} is not a multiple of {self.factor}, "
                f"which {halvings} halvings and patch {self.patch} need."
            )
        if not self.stem_kernel % 2:
            raise ConfigError(f"generator.stem_kernel: {self.stem_kernel} is even. Use an odd one.")
        finest, coarsest = self.image_size // self.patch, self.image_size // self.factor
        if self.padding == "reflect" and (coarsest < 2 or finest <= self.stem_kernel // 2):
            raise ConfigError(
                f"generator.image_size: {self.image_size} leaves {coarsest} cells at the coarsest "
                "scale, too few to reflect. Use fewer halvings, or padding=zeros."
            )
        if not 0 <= self.skips <= halvings:
            raise ConfigError(
                f"generator.skips: {self.skips} is not between 0 and {halvings}, the number of "
                "decoder stages."
            )

    @property
    def factor(self) -> int:
        """Pixels per cell of the coarsest scale."""
        return self.patch * 2 ** (len(self.channels) - 1)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: Padding = "zeros"
) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by ``stride``."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode=padding)


def conv_block(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: Padding = "zeros"
) -> nn.Sequential:
    """A convolution as of :func:`conv`, batch normalisation and ReLU."""
    return nn.Sequential(
        conv(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Halvings(nn.ModuleList):
    """The encoder's blocks: one convolution with stride 2 per step of ``channels``."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(conv_block(a, b, 3, 2) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input (B, channels[0], H, W), then the output of each block, half as large."""
        features = [x]
        for block in self:
            features.append(block(features[-1]))
        return features


class IDBlocks(nn.ModuleList):
    """A row of ``count`` :class:`~facke_core.nn.id_blocks.IDBlock`."""

    def __init__(
        self, count: int, channels: int, identity_dim: int, *, padding: Padding = "reflect"
    ) -> None:
        super().__init__(IDBlock(channels, identity_dim, padding=padding) for _ in range(count))

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Put identities (B, D) into features (B, C, H, W), whose shape stays."""
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
        """Enlarge ``x`` (B, channels[-1], h, w) to (B, channels[0], H, W); ``features`` are what
        :class:`Halvings` returned."""
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
    """Turn the output of the head into an image (B, 3, H, W) float32.

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
