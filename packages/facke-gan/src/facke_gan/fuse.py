"""``fuse``: the source's own pixels, bent into the target's pose, and a network that fits them in.

Bending (:mod:`facke_core.faces.warp`) gives sharp detail and nothing else: the light is that of
another room, and what the source's head hides is missing. A network that looks at both pictures at
a low resolution says three things about every place of the face: how the light changes, how far
the bent pixels are to be trusted, and what is to be seen where they are not::

    face   = alpha * exp(log(warped + d) + light) - d + (1 - alpha) * fill
    result = target + mask * (face - target)

Light is smooth, so it can be told at a low resolution and applied at any (as in HDRNet, Gharbi et
al., arXiv:1707.02880); identity arrives as pixels and as an embedding (as in DreamID,
arXiv:2504.14509), so a few thousand people are enough to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import GeneratorOutput, GeneratorSpec, Method, SwapInputs
from facke_core.errors import ConfigError
from facke_core.faces.smooth import blurred
from facke_core.nn.adain import AdaIN
from facke_gan.geometry import Geometry, geometry
from facke_gan.warp import DARKEST, PULL

if TYPE_CHECKING:
    from facke_core import IdentityEncoder, Objective, Recipe

__all__ = ["FuseConfig", "FuseGenerator", "FuseSampler"]

VEIL = 0.045
"""Standard deviation of the filter that hides the target's face from the network, as a share of the
side of the crop: its light stays, its features go."""
LIGHT = 1.2
"""Largest change of a logarithm."""
TRUST = 8.0
"""Slope of the logit of ``alpha`` in the trust of the geometry, before the network says anything.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseConfig:
    """The shape of a ``fuse`` generator.

    Raises:
        ConfigError: sizes that do not divide each other.
    """

    image_size: int = 512
    """Side of the crops, and of the results, in pixels."""
    network_size: int = 128
    """Side at which the network looks; a part of ``image_size``, and a multiple of 16."""
    identity_dim: int = 128
    """Length of the identity."""
    channels: tuple[int, int, int] = (64, 128, 256)
    """Channels at 1/4, 1/8 and 1/16 of ``network_size``."""
    num_blocks: int = 8
    """Blocks at the coarsest scale, each of which gets the identity."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_blocks <= 64 or min(self.channels) < 1 or max(self.channels) > 4096:
            raise ConfigError(
                f"generator: {self.num_blocks} blocks with the channels {list(self.channels)} are "
                "not possible. Use 1 to 64 blocks and 1 to 4096 channels."
            )
        small = self.network_size
        if not 32 <= small <= self.image_size <= 1024 or small % 16 or self.image_size % small:
            raise ConfigError(
                f"generator: image_size={self.image_size} and network_size={small} do not fit. "
                "Use a multiple of 16 from 32 for the network, and a multiple of that up to 1024 "
                "for the crops."
            )


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Block(nn.Module):
    """A residual block that looks around, takes the statistics of an identity, and thinks about
    each place (ConvNeXt, arXiv:2201.03545, with AdaIN for its normalisation)."""

    def __init__(self, channels: int, identity_dim: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.adain = AdaIN(identity_dim, channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        h = self.adain(self.around(x), identity)
        return x + self.narrow(F.gelu(self.wide(h)))


class FuseGenerator(nn.Module):
    """A generator with the target's crop, the bent source and the source's identity in, and the
    swapped crop out."""

    def __init__(self, config: FuseConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.channels
        self.stem = nn.Sequential(_convolution(9 * 16, a, 1), _convolution(a, a))
        self.down = nn.ModuleList([_convolution(a, b, stride=2), _convolution(b, c, stride=2)])
        self.blocks = nn.ModuleList(
            _Block(c, config.identity_dim) for _ in range(config.num_blocks)
        )
        self.up = nn.ModuleList([_convolution(c + b, b), _convolution(b + a, a)])
        self.last = _convolution(a, a)
        self.head = nn.Conv2d(a, 16 + 16 + 2 + 3, 3, padding=1)
        with torch.no_grad():  # begin with what the geometry says
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()  # type: ignore[union-attr]

    @property
    def spec(self) -> GeneratorSpec:
        """The sizes of the configuration; the conditions are an identity and a geometry."""
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=self.config.identity_dim,
            conditions=frozenset({"identity", "warped", "trust", "mask", "keep"}),
        )

    def forward(
        self,
        x: Tensor,
        *,
        identity: Tensor,
        warped: Tensor,
        trust: Tensor,
        mask: Tensor,
        keep: Tensor,
    ) -> GeneratorOutput:
        """Swap crops.

        Args:
            x: targets (B, 3, S, S) in [0, 1], their features where those of the results are to be.
            identity: (B, D).
            warped: sources (B, 3, S, S) in [0, 1], bent onto the targets.
            trust: how far (B, 1, S, S) the geometry trusts them, 0 to 1.
            mask: the share (B, 1, S, S) of each pixel that is face.
            keep: the share (B, 1, S, S) that stays the target's all the same: eyes, what is seen of
                the inside of the mouth, and what lies before the face.

        Returns:
            The results; as ``alpha`` (B, 1, S, S) how much of them is ``warped``, as ``sure`` the
            trust.
        """
        given = torch.cat([x, warped, trust, mask, keep], 1)
        factor = self.config.image_size // self.config.network_size
        small = F.avg_pool2d(given, factor) if factor > 1 else given
        target, source, sure, face, kept = small.split([3, 3, 1, 1, 1], 1)
        hidden = face * (1 - kept)
        low = blurred(target, VEIL * small.shape[-1]).to(target.dtype)
        seen = torch.cat([torch.lerp(target, low, hidden), source, sure, face, kept], 1)
        maps = self._maps(seen * 2 - 1, identity.to(x.dtype)).to(x.dtype)
        luma, trusted, chroma, light = maps.split([16, 16, 2, 3], 1)
        red, blue = _enlarged(chroma, 4).split(1, 1)
        shades = F.pixel_shuffle(luma, 4)
        fill = low + torch.cat([shades + red, shades, shades + blue], 1)
        alpha = torch.sigmoid(F.pixel_shuffle(trusted, 4) + TRUST * (sure - 0.5))
        alpha, fill = _enlarged(alpha, factor), _enlarged(fill, factor)
        light = LIGHT * torch.tanh(_enlarged(light, 4 * factor))
        lit = ((warped + DARKEST).log() + light).exp() - DARKEST
        image = torch.lerp(x, torch.lerp(fill, lit, alpha), mask * (1 - keep))
        return GeneratorOutput(image.to(x.dtype), {"alpha": alpha, "sure": trust})

    def _maps(self, x: Tensor, identity: Tensor) -> Tensor:
        """What the network says (B, 37, N/4, N/4) of what it sees (B, 9, N, N)."""
        near = self.stem(F.pixel_unshuffle(x, 4))
        middle = self.down[0](near)
        h = self.down[1](middle)
        for block in self.blocks:
            h = block(h, identity)
        for layer, skipped in zip(self.up, (middle, near), strict=True):
            h = layer(torch.cat([_enlarged(h, 2), skipped], 1))
        maps: Tensor = self.head(self.last(h))
        return maps

    def example_inputs(self, x: Tensor, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Conditions of the right shapes for targets (B, 3, S, S)."""

        def draw(*shape: int) -> Tensor:
            return torch.rand(len(x), *shape, generator=rng).to(x)

        size = x.shape[-1]
        made = {name: draw(1, size, size) for name in ("trust", "mask", "keep")}
        identity = F.normalize(draw(self.config.identity_dim) - 0.5, dim=1)
        return {"identity": identity, "warped": draw(3, size, size), **made}


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear") if factor > 1 else x


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseSampler:
    """The settings of a swap by ``fuse``. No noise is drawn.

    Raises:
        ConfigError: a pull outside of [0, 1].
    """

    eyes: Literal["target", "source"] = "target"
    """Whose eyes the result has. The target's keep the gaze; the source's are a little more like
    the source."""
    pull: float = PULL
    """Share of the shape of the source's face that the result has, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.pull <= 1:
            raise ConfigError(f"pull: {self.pull:g} is not in [0, 1].")

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed: the identity and all of the geometry."""
        return frozenset({"identity", *Geometry._fields[1:]})

    def __call__(
        self, generator: FuseGenerator, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """Swap: the results (B, 3, S, S) in [0, 1]. Without meshes the identity alone has to do."""
        x, *bent = geometry(inputs, pull=self.pull, eyes=self.eyes == "target")
        conditions = dict(zip(Geometry._fields[1:], bent, strict=True))
        image: Tensor = generator(x, identity=inputs.identity, **conditions).image
        return image.clamp(0, 1)


def build(config: FuseConfig) -> Method:
    """Make a ``fuse`` generator with fresh weights and its sampler."""
    return Method(FuseGenerator(config), FuseSampler())


def objective(method: Method, encoder: IdentityEncoder, recipe: Recipe) -> Objective:
    """Make the objective: the generator and, if the recipe has terms for one, a discriminator.

    Raises:
        ConfigError: an unknown kind or argument of the discriminator, or an unknown term.
    """
    from facke_gan.fusing import TERMS, Fusing
    from facke_gan.objectives import adversarial

    return adversarial(method, encoder, recipe, forward=Fusing(), terms=TERMS)
