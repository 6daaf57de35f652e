"""The U-Net of guided-diffusion (Dhariwal and Nichol, arXiv:2105.05233), "ADM".

Written from a description of layers and constants. The names in the state dict are those of
guided-diffusion, so its public checkpoints fit unchanged; weights of others keep their licences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import CompatibilityError, ConfigError, UsageError, check_ranges
from facke_diffusion.norm import GROUPS, GroupNorm

__all__ = ["UNet", "UNetConfig"]

MULTIPLIERS = {
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    64: (1.0, 2.0, 3.0, 4.0),
}
"""Picture size -> guided-diffusion's ``channel_mult``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The shape of a U-Net. The defaults are guided-diffusion's flags for FFHQ at 256 pixels.

    Raises:
        ConfigError: a setting out of its range, or sizes that do not fit each other.
    """

    image_size: int = 256
    model_channels: int = 128
    """Width; the levels have ``channel_mult`` times as many channels."""
    num_res_blocks: int = 1
    """Number of residual blocks per level on the way down; on the way up there is one more."""
    channel_mult: tuple[float, ...] = ()
    """Multiple of the width per level; each level has half the size of the one before. Empty:
    guided-diffusion's for 512, 256, 128 or 64 pixels."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Sides of the feature maps with self-attention, besides the coarsest one."""
    num_heads: int = 4
    """Number of heads of the attention; means nothing where ``num_head_channels`` is not 0."""
    num_head_channels: int = 64
    """Channels per head; 0: those that ``num_heads`` leaves."""
    resblock_updown: bool = True
    """True: residual blocks change the size; False: convolutions do."""
    use_scale_shift_norm: bool = True
    """True: the timestep scales and shifts normalised features; False: it is added before."""
    learn_sigma: bool = True
    """True: six channels come out instead of three, the second half for the variance."""
    dropout: float = 0.0
    num_classes: int = 0
    """Number of classes of a class-conditional network; 0: it takes no label."""
    new_attention_order: bool = False
    """True: queries, keys and values lie in the weights by kind, then by head; False: by head, then
    by kind."""
    patch: int = 1
    """Side p of the blocks of pixels that the stem sees folded into channels, and the output
    unfolds: the network runs at ``image_size / p``. It is ours, for small and fast models; 1 is
    guided-diffusion."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "generator",
            image_size=(1, 4096),
            model_channels=(1, 4096),
            num_res_blocks=(1, 64),
            channel_mult=(0, 64),
            num_heads=(1, 4096),
            num_head_channels=(0, 4096),
            num_classes=(0, 1_000_000),
            patch=(1, 64),
        )
        if len(self.channel_mult) > 10:
            raise ConfigError(
                f"generator.channel_mult: {len(self.channel_mult)} levels. Give at most 10, each "
                "half as wide as the one before."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"generator.dropout: {self.dropout:g} is not in [0, 1).")
        if self.image_size < 1 or self.image_size % (self.patch * 2 ** (len(self.multipliers) - 1)):
            raise ConfigError(
                f"generator.image_size: {self.image_size} is not a multiple of {self.factor}, "
                f"which {len(self.multipliers)} levels and patch={self.patch} need."
            )
        for width in self.widths:
            if width < 1 or width % GROUPS:
                raise ConfigError(
                    f"generator.channel_mult: a level of {width} channels; group normalisation "
                    f"needs multiples of {GROUPS}. Choose model_channels and channel_mult so."
                )
            if width % (self.num_head_channels or self.num_heads):
                raise ConfigError(
                    f"generator.num_head_channels: {width} channels cannot be divided into heads "
                    f"(num_head_channels={self.num_head_channels}, num_heads={self.num_heads})."
                )
        sides = [self.side // 2**level for level in range(len(self.multipliers))]
        for side in self.attention_resolutions:
            if side not in sides:
                raise ConfigError(
                    f"generator.attention_resolutions: no feature map is {side} pixels wide. The "
                    f"levels are {', '.join(map(str, sides))} pixels wide."
                )

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The multiples of the width per level: ``channel_mult``, or guided-diffusion's for the
        size.

        Raises:
            ConfigError: there is none for this size.
        """
        if self.channel_mult:
            return self.channel_mult
        if self.side not in MULTIPLIERS:
            raise ConfigError(
                f"generator.channel_mult: missing, and {self.side} pixels have no usual one. Give "
                "one number per level, such as [1, 2, 3, 4]."
            )
        return MULTIPLIERS[self.side]

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels per level."""
        return tuple(int(self.model_channels * m) for m in self.multipliers)

    @property
    def side(self) -> int:
        """The width of the finest feature map in cells."""
        return self.image_size // self.patch

    @property
    def factor(self) -> int:
        """The pixels per cell of the coarsest feature map."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


class UNet(nn.Module):
    """The network: a noisy image and its timestep in, a guess about noise or image out."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c = config.model_channels
        self.time_embed = nn.Sequential(nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, 4 * c))
        if config.num_classes:
            self.label_emb = nn.Embedding(config.num_classes, 4 * c)
        coarsest = config.widths[-1]
        stem = nn.Conv2d(3 * config.patch**2, config.widths[0], 3, padding=1)
        self.input_blocks = nn.ModuleList([_Stage(stem), *self._down()])
        self.middle_block = _Stage(
            ResBlock(config, coarsest), Attention(config, coarsest), ResBlock(config, coarsest)
        )
        self.output_blocks = nn.ModuleList(self._up())
        out = (6 if config.learn_sigma else 3) * config.patch**2
        self.out = nn.Sequential(
            GroupNorm(config.widths[0]),
            nn.SiLU(),
            _zero(nn.Conv2d(config.widths[0], out, 3, padding=1)),
        )

    def _down(self) -> Iterator[nn.Module]:
        config = self.config
        channels, last = config.widths[0], len(config.widths) - 1
        for level, width in enumerate(config.widths):
            for _ in range(config.num_res_blocks):
                yield _Stage(ResBlock(config, channels, width), *self._attention(level))
                channels = width
            if level < last:
                yield _Stage(
                    ResBlock(config, width, resample="down")
                    if config.resblock_updown
                    else Downsample(width)
                )

    def _up(self) -> Iterator[nn.Module]:
        config = self.config
        skips = [config.widths[0]]
        for level, width in enumerate(config.widths):
            skips += [width] * (config.num_res_blocks + (level < len(config.widths) - 1))
        channels = config.widths[-1]
        for level, width in reversed(list(enumerate(config.widths))):
            for number in range(config.num_res_blocks + 1):
                layers = [
                    ResBlock(config, channels + skips.pop(), width),
                    *self._attention(level),
                ]
                channels = width
                if level and number == config.num_res_blocks:
                    layers.append(
                        ResBlock(config, width, resample="up")
                        if config.resblock_updown
                        else Upsample(width)
                    )
                yield _Stage(*layers)

    def _attention(self, level: int) -> list[nn.Module]:
        if self.config.side // 2**level not in self.config.attention_resolutions:
            return []
        return [Attention(self.config, self.config.widths[level])]

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        """Guess about noisy images.

        Args:
            x: (B, 3, H, W), noisy, about [-1, 1]; H and W are multiples of ``config.factor``.
            timestep: (B,), as the network was trained with; may be fractional.
            label: (B,) int64, of a class-conditional network.

        Returns:
            The raw output (B, 3 or 6, H, W) in the dtype of ``x``, whatever the network computes
            in.

        Raises:
            CompatibilityError: a size that does not fit.
            UsageError: a label too few or too many.
        """
        self._check(x, label)
        dtype = next(self.time_embed.parameters()).dtype
        embedding = timestep_embedding(timestep, self.config.model_channels).to(dtype)
        emb = self.time_embed(embedding)
        if label is not None:
            emb = emb + self.label_emb(label)
        h = F.pixel_unshuffle(x, self.config.patch).to(dtype)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return F.pixel_shuffle(self.out(h), self.config.patch).to(x.dtype)

    def _check(self, x: Tensor, label: Tensor | None) -> None:
        height, width = x.shape[-2:]
        factor = self.config.factor
        if height % factor or width % factor:
            raise CompatibilityError(
                f"This U-Net got {height}x{width} pixels, but needs multiples of {factor}."
            )
        if (label is None) != (not self.config.num_classes):
            raise UsageError(
                f"This U-Net knows {self.config.num_classes} classes, so it needs "
                f"{'label=(B,) int64' if self.config.num_classes else 'no label'}."
            )


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Embed timesteps: cosines, then sines, of ``t * 10000 ** (-k / half)``, k = 0 ... half - 1.

    Args:
        timestep: (B,), integer or fractional.
        channels: C; half of it, rounded down, are cosines. An odd one ends with a zero.

    Returns:
        (B, C) float32.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[:, None] * torch.exp(-math.log(10000) * index / half)
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, channels % 2))


class _Stage(nn.ModuleList):
    """A row of layers, of which residual blocks see the timestep."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """A residual block of two convolutions with group normalisation before each; the timestep
    enters between them."""

    def __init__(
        self, config: UNetConfig, channels: int, out: int = 0, *, resample: str = ""
    ) -> None:
        super().__init__()
        out = out or channels
        self.resample = resample
        self.scale_shift = config.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(4 * config.model_channels, out * (1 + self.scale_shift))
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            _zero(nn.Conv2d(out, out, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Features (B, C, H, W) and embedded timesteps (B, 4 * model_channels) to features."""
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        x = self._resampled(x)
        added = self.emb_layers(emb)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = added.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + added)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0) if self.resample == "up" else x


class Attention(nn.Module):
    """A residual block of self-attention over all positions."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        per_head = config.num_head_channels
        self.heads = channels // per_head if per_head else config.num_heads
        self.by_kind = config.new_attention_order
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        b, c, *sides = x.shape
        h = _per_position(self.qkv, self.norm(x).flatten(2).transpose(1, 2))
        if self.by_kind:
            q, k, v = h.view(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = h.view(b, -1, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + _per_position(self.proj_out, h).transpose(1, 2).reshape(b, c, *sides)


def _per_position(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution of kernel 1 to (B, positions, C): features that lie in memory as those of
    channels-last images do."""
    weight, bias = conv.parameters()
    return F.linear(x, weight[..., 0], bias)


class Downsample(nn.Module):
    """A convolution of stride 2, which halves the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C, H/2, W/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """A doubling of the size by repeated pixels, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0))


def _zero(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
