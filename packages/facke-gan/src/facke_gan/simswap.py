"""SimSwap: the generators of SimSwap (Chen et al., ACM MM 2020, arXiv:2106.06340) and of Facke
(arXiv:2206.11203, Sec. 2.1), as one configurable network.

Written from a description of layers and constants; the original code (CC BY-NC 4.0) is not used.
Weights converted from the original systems stay under their own, non-commercial licences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import GeneratorOutput, GeneratorSpec, Method, SinglePass
from facke_core.nn.normalize import Normalize
from facke_core.nn.stages import (
    Doublings,
    Halvings,
    IDBlocks,
    StagesConfig,
    conv_block,
    head,
    to_image,
)
from facke_core.nn.veil import Veil

if TYPE_CHECKING:
    from facke_core import IdentityEncoder, Objective, Recipe

__all__ = [
    "FACKE_224",
    "OFFICIAL_224",
    "OFFICIAL_224_FIX",
    "OFFICIAL_512",
    "OFFICIAL_DEEP_FIX",
    "SimSwapConfig",
    "SimSwapGenerator",
    "build",
    "objective",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSwapConfig(StagesConfig):
    """The shape of a SimSwap generator. The defaults are those of the official 224 px network."""


class SimSwapGenerator(nn.Module):
    """A generator with the target's crop and the source's identity in, the swapped crop out.

    It consists of stem, halvings, ID blocks at the coarsest scale, doublings and head (SimSwap,
    Fig. 2).
    """

    def __init__(self, config: SimSwapConfig) -> None:
        super().__init__()
        self.config = config
        c, pixels = config.channels, 3 * config.patch**2
        self.veil = Veil(config.veil) if config.veil else nn.Identity()
        self.normalize = Normalize() if config.normalization == "imagenet" else nn.Identity()
        self.stem = conv_block(pixels, c[0], config.stem_kernel, padding=config.padding)
        self.down = Halvings(c)
        self.id_blocks = IDBlocks(
            config.num_id_blocks, c[-1], config.identity_dim, padding=config.padding
        )
        self.up = Doublings(c, skips=config.skips)
        self.head = head(
            c[0], pixels, config.stem_kernel, padding=config.padding, output=config.output
        )
        self.denormalize = Normalize() if config.output == "imagenet" else None

    @property
    def spec(self) -> GeneratorSpec:
        """The sizes of the configuration; the one condition is ``identity``."""
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=self.config.identity_dim,
            conditions=frozenset({"identity"}),
        )

    def forward(self, x: Tensor, *, identity: Tensor) -> GeneratorOutput:
        """Swap crops.

        Args:
            x: targets (B, 3, S, S) in [0, 1], of any S that the halvings divide.
            identity: (B, D).

        Returns:
            ``image`` (B, 3, S, S) float32 in [0, 1], for the linear outputs not clamped.
        """
        x = self.veil(x)
        features = self.down(self.stem(F.pixel_unshuffle(self.normalize(x), self.config.patch)))
        h = self.up(self.id_blocks(features[-1], identity), features)
        y = F.pixel_shuffle(self.head(h), self.config.patch)
        image = to_image(y, x, self.config.output, self.denormalize)
        return GeneratorOutput(image=image, aux={})


FACKE_224 = SimSwapConfig(normalization="imagenet", output="bn-tanh")
"""The network of Facke's SimSwap."""
OFFICIAL_224 = SimSwapConfig()
"""The network of the official SimSwap at 224 px."""
OFFICIAL_224_FIX = SimSwapConfig(normalization="imagenet", output="imagenet")
"""The network of the official SimSwap's later ``train.py``."""
OFFICIAL_DEEP_FIX = SimSwapConfig(
    channels=(64, 128, 256, 512, 512), normalization="imagenet", output="imagenet"
)
"""The network of ``train.py`` with one more halving."""
OFFICIAL_512 = SimSwapConfig(image_size=512, channels=(32, 64, 128, 256, 512))
"""The network of the official SimSwap at 512 px."""


def build(config: SimSwapConfig) -> Method:
    """Make a SimSwap generator with fresh weights and its one-pass sampler."""
    return Method(generator=SimSwapGenerator(config), sampler=SinglePass())


def objective(method: Method, encoder: IdentityEncoder, recipe: Recipe) -> Objective:
    """Make SimSwap's objective: the generator and a discriminator, with the recipe's terms.

    ``recipe.discriminator`` names its ``kind``: ``patch`` (the default) or ``projected``; what else
    is in it are the arguments of that class.

    Raises:
        ConfigError: an unknown kind or argument of the discriminator, or an unknown term.
    """
    from facke_gan.objectives import adversarial

    return adversarial(method, encoder, recipe)
