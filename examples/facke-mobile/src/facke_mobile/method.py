"""The method ``mobile``: a small network whose convolutions are made anew for every source.

After MobileFaceSwap (Xu et al., AAAI 2022, arXiv:2201.03808): an injector predicts, from the
source's identity, the depthwise kernels and modulations of a student; the student, a ninth of
SimSwap's arithmetic, is distilled from it (:mod:`facke_mobile.training`). Other than there, the
kernels are low-rank in the identity, and normalisation is AdaIN's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from facke_core import GeneratorOutput, GeneratorSpec, Method, SwapInputs
from facke_core.nn.adain import instance_norm
from facke_core.nn.stages import (
    Doublings,
    Halvings,
    StagesConfig,
    conv,
    conv_block,
    head,
    to_image,
)
from facke_core.nn.veil import Veil
from torch import Tensor, nn

TAPS = 9
"""Of a 3 x 3 kernel; gamma and beta of AdaIN follow them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileConfig(StagesConfig):
    """What ``config.json`` says of the generator; ``num_id_blocks`` counts the dynamic blocks."""

    hidden: int = 96
    """Width of the injector, and so the rank of what it says about an identity."""


class DynamicBlock(nn.Module):
    """``x + W ReLU(gamma * IN(k * x) + beta)``: depthwise kernels ``k``, gamma and beta from the
    source, channel mixing ``W`` for all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = conv(channels, channels, 1)

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, 11) -> (B, C, H, W)."""
        taps, gamma, beta = kernels.split([TAPS, 1, 1], dim=2)
        y = instance_norm(dynamic_depthwise(x, taps)) * (1 + gamma[..., None]) + beta[..., None]
        return x + self.mix(F.relu(y))


def dynamic_depthwise(x: Tensor, taps: Tensor) -> Tensor:
    """Each channel of (B, C, H, W) with its own 3 x 3 kernel, (B, C, 9) row by row; zeros outside.

    A product with unfolded patches: a grouped convolution would need a group per sample.
    """
    patches = F.unfold(x, 3, padding=1).unflatten(1, (x.shape[1], TAPS))  # (B, C, 9, H W)
    return torch.einsum("bckn,bck->bcn", patches, taps.to(x.dtype)).unflatten(2, x.shape[2:])


class Injector(nn.Module):
    """From an identity to the kernels of all dynamic blocks."""

    def __init__(self, config: MobileConfig) -> None:
        super().__init__()
        self.shape = (config.num_id_blocks, config.channels[-1], TAPS + 2)
        cells = config.num_id_blocks * config.channels[-1] * (TAPS + 2)
        self.layers = nn.Sequential(
            nn.Linear(config.identity_dim, config.hidden),
            nn.LayerNorm(config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, cells),
        )

    def forward(self, identity: Tensor) -> Tensor:
        """(B, D) -> (B, blocks, C, 11)."""
        return self.layers(identity).unflatten(1, self.shape)


class MobileGenerator(nn.Module):
    """Targets (B, 3, S, S) in [0, 1] and ``kernels`` (B, blocks, C, 11) in, swapped crops out."""

    def __init__(self, config: MobileConfig) -> None:
        super().__init__()
        self.config = config
        c, pixels = config.channels, 3 * config.patch**2
        self.injector = Injector(config)
        self.veil = Veil(config.veil) if config.veil else nn.Identity()
        self.stem = conv_block(pixels, c[0], config.stem_kernel, padding=config.padding)
        self.down = Halvings(c)
        self.blocks = nn.ModuleList(DynamicBlock(c[-1]) for _ in range(config.num_id_blocks))
        self.up = Doublings(c, skips=config.skips)
        self.head = head(
            c[0], pixels, config.stem_kernel, padding=config.padding, output=config.output
        )

    @property
    def spec(self) -> GeneratorSpec:
        """It takes no identity itself: its sampler makes kernels of the identity."""
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=self.config.identity_dim,
            conditions=frozenset({"kernels"}),
        )

    def example_inputs(self, x: Tensor, *, rng: torch.Generator) -> dict[str, Tensor]:
        """Kernels of random identities: what facke exports the student with."""
        identity = torch.randn(len(x), self.config.identity_dim, generator=rng)
        weight = next(self.injector.parameters())
        return {"kernels": self.injector(F.normalize(identity, dim=1).to(weight))}

    def forward(self, x: Tensor, *, kernels: Tensor) -> GeneratorOutput:
        """Results (B, 3, S, S), for ``output=residual`` not clamped to [0, 1]."""
        x = self.veil(x)
        features = self.down(self.stem(F.pixel_unshuffle(x, self.config.patch)))
        h = features[-1]
        for block, own in zip(self.blocks, kernels.unbind(1), strict=True):
            h = block(h, own)
        y = F.pixel_shuffle(self.head(self.up(h, features)), self.config.patch)
        return GeneratorOutput(image=to_image(y, x, self.config.output).to(x.dtype), aux={})


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileSampler:
    """Makes the kernels of the sources and calls the student once. Not random."""

    @property
    def supplies(self) -> frozenset[str]:
        """``{"kernels"}``."""
        return frozenset({"kernels"})

    def __call__(
        self, generator: MobileGenerator, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1]."""
        kernels = generator.injector(inputs.identity)
        return generator(inputs.target, kernels=kernels).image.clamp(0, 1)


def build(config: MobileConfig) -> Method:
    """The student with its injector, and the sampler."""
    return Method(generator=MobileGenerator(config), sampler=MobileSampler())
