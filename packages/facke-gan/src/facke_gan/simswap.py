"""SimSwap: the generators of SimSwap (Chen et al., ACM MM 2020, arXiv:2106.06340) and of Facke
(arXiv:2206.11203, Sec. 2.1), as one configurable network.

Written from a description of layers and constants; the original code (CC BY-NC 4.0) is not used.
Weights converted from the original systems stay under their own, non-commercial licences.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import ConfigError
from facke_core.methods import Method
from facke_core.nn.id_blocks import IDBlock, Padding
from facke_core.nn.normalize import Normalize
from facke_core.sampling import SinglePass
from facke_core.types import GeneratorOutput, GeneratorSpec

if TYPE_CHECKING:
    from facke_core.protocols import IdentityEncoder
    from facke_core.training.recipe import Recipe
    from facke_core.training.step import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSwapConfig:
    """Shape of a SimSwap generator. The defaults are the official 224 px network."""

    image_size: int = 224
    identity_dim: int = 512
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """After the stem, then after each halving; the last one is the width of the ID blocks."""
    num_id_blocks: int = 9
    stem_kernel: int = 7
    padding: Padding = "reflect"
    """Of stem, ID blocks and head; zeros are faster."""
    patch: int = 1
    """The stem sees pixels folded p x p into channels, and the head unfolds them (1: pixels)."""
    skips: int = 0
    """How many of the decoder's stages, deepest first, also see the encoder's features of their
    size. 0 as in all originals: with SimSwap's own losses a skip lets the target's identity pass.
    """
    normalization: Literal["imagenet", "none"] = "none"
    """What the network does to its [0, 1] input."""
    output: Literal["tanh", "bn-tanh", "imagenet", "residual"] = "tanh"
    """``tanh``: (tanh + 1) / 2. ``bn-tanh``: with a BatchNorm before it (Facke). ``imagenet``: a
    linear output in ImageNet-normalised units (official ``fix``), brought back to [0, 1].
    ``residual``: the (veiled) target plus a linear output that starts at zero; like skips, for
    training with composites only (docs/adr/0001)."""
    veil: float = 0.0
    """Blur of the inner face of the target before the network sees it: standard deviation as a
    share of the image size. The target's fine features, which carry its identity, are then not
    there to be copied; pose, expression and light remain (docs/adr/0001)."""

    def __post_init__(self) -> None:
        factor = self.patch * 2 ** (len(self.channels) - 1)
        if self.image_size % factor:
            raise ConfigError(
                f"generator.image_size: {self.image_size} is not a multiple of {factor}, which "
                f"{len(self.channels) - 1} halvings and patch {self.patch} need."
            )
        if not 0 <= self.skips < len(self.channels):
            raise ConfigError(
                f"generator.skips: {self.skips} is not between 0 and {len(self.channels) - 1}, "
                "the number of decoder stages."
            )


def _conv(
    cin: int, cout: int, kernel: int, stride: int = 1, padding: Padding = "zeros"
) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, padding_mode=padding)


class Veil(nn.Module):
    """Blurs what a crop in the SimSwap frontal template shows inside an ellipse from the brows to
    the chin, with a soft edge. ``amount``: standard deviation over image size."""

    CENTRE = (0.5, 0.64)
    RADII = (0.29, 0.37)
    EDGE = 0.1

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        sigma = self.amount * size
        reach = round(3 * sigma)
        taps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-taps.square() / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
        padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
        axis = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5) / size
        dx = (axis - self.CENTRE[0]) / self.RADII[0]
        dy = (axis - self.CENTRE[1]) / self.RADII[1]
        radius = (dx.square()[None, :] + dy.square()[:, None]).sqrt()
        return torch.lerp(x, blurred, ((1 + self.EDGE - radius) / (2 * self.EDGE)).clamp(0, 1))


class SimSwapGenerator(nn.Module):
    """Target crop and source identity in, swapped crop out.

    Stem, halvings, ID blocks at the coarsest scale, doublings, head. ``forward`` takes the target
    (B, 3, S, S) in [0, 1] and ``identity`` (B, D) and returns ``image`` in [0, 1] (for the linear
    outputs not clamped). Any S that the halvings divide is accepted.
    """

    def __init__(self, config: SimSwapConfig) -> None:
        super().__init__()
        self.config = config
        c, pixels = config.channels, 3 * config.patch**2
        self.veil = Veil(config.veil) if config.veil else nn.Identity()
        self.normalize = Normalize() if config.normalization == "imagenet" else nn.Identity()
        self.stem = nn.Sequential(
            _conv(pixels, c[0], config.stem_kernel, padding=config.padding),
            nn.BatchNorm2d(c[0]),
            nn.ReLU(),
        )
        self.down = nn.ModuleList(
            nn.Sequential(_conv(a, b, 3, 2), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(c)
        )
        self.id_blocks = nn.ModuleList(
            IDBlock(c[-1], config.identity_dim, padding=config.padding)
            for _ in range(config.num_id_blocks)
        )
        wide = list(c[:0:-1])
        self.up = nn.ModuleList(
            nn.Sequential(
                _conv(a + (b if i < config.skips else 0), b, 3), nn.BatchNorm2d(b), nn.ReLU()
            )
            for i, (a, b) in enumerate(zip(wide, c[-2::-1], strict=True))
        )
        last = _conv(c[0], pixels, config.stem_kernel, padding=config.padding)
        head: list[nn.Module] = [last]
        if config.output == "bn-tanh":
            head.append(nn.BatchNorm2d(pixels))
        elif config.output == "residual":
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.head = nn.Sequential(*head)
        self.denormalize = Normalize() if config.output == "imagenet" else None

    @property
    def spec(self) -> GeneratorSpec:
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=self.config.identity_dim,
            conditions=frozenset({"identity"}),
        )

    def forward(self, x: Tensor, *, identity: Tensor) -> GeneratorOutput:
        x = self.veil(x)
        h = self.stem(F.pixel_unshuffle(self.normalize(x), self.config.patch))
        encoded = [h]
        for down in self.down:
            encoded.append(h := down(h))
        for block in self.id_blocks:
            h = block(h, identity)
        for i, up in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = up(torch.cat([h, encoded[-2 - i]], dim=1) if i < self.config.skips else h)
        y = F.pixel_shuffle(self.head(h), self.config.patch).float()
        if self.config.output == "residual":
            image = x + y
        else:
            image = self.denormalize.inverse(y) if self.denormalize else (torch.tanh(y) + 1) / 2
        return GeneratorOutput(image=image, aux={})


FACKE_224 = SimSwapConfig(normalization="imagenet", output="bn-tanh")
OFFICIAL_224 = SimSwapConfig()
OFFICIAL_224_FIX = SimSwapConfig(normalization="imagenet", output="imagenet")
OFFICIAL_DEEP_FIX = SimSwapConfig(
    channels=(64, 128, 256, 512, 512), normalization="imagenet", output="imagenet"
)
OFFICIAL_512 = SimSwapConfig(image_size=512, channels=(32, 64, 128, 256, 512))


def build(config: SimSwapConfig) -> Method:
    """A SimSwap generator with fresh weights and its one-pass sampler."""
    return Method(generator=SimSwapGenerator(config), sampler=SinglePass())


def objective(method: Method, encoder: IdentityEncoder, recipe: Recipe) -> Objective:
    """SimSwap's objective: a patch discriminator and the generator, with the recipe's terms."""
    from facke_core.nn.discriminators import MultiScalePatchDiscriminator
    from facke_core.training.recipe import terms
    from facke_core.training.swapping import SwapObjective

    modules: dict[str, Any] = {"generator": method.generator, "identity_encoder": encoder}
    if recipe.discriminator_loss:
        modules["discriminator"] = MultiScalePatchDiscriminator(**recipe.discriminator)
    return SwapObjective(
        modules,
        generator_terms=terms(recipe.loss),
        discriminator_terms=terms(recipe.discriminator_loss),
        discriminator_every=recipe.discriminator_every,
    )
