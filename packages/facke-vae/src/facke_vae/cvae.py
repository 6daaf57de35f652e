"""CVAE: the conditional variational autoencoders of Facke (arXiv:2206.11203, Sec. 2.2), as one
configurable network; CVAE-GAN trains the same one.

Written from a description of layers and constants; the original code is not used. Weights converted
from the original system stay under their own licences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import GeneratorOutput, GeneratorSpec, Method, SwapInputs
from facke_core.errors import CompatibilityError, ConfigError, UsageError, check_ranges
from facke_core.nn.normalize import Normalize
from facke_core.nn.stages import (
    Doublings,
    Halvings,
    IDBlocks,
    Output,
    StagesConfig,
    conv,
    conv_block,
    head,
    to_image,
)
from facke_core.nn.veil import Veil

__all__ = ["FACKE_224", "CVAEConfig", "CVAEGenerator", "LatentSampler", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CVAEConfig(StagesConfig):
    """The shape of a CVAE. The defaults are Facke's network with a size-free condition and the
    latent of the text; :data:`FACKE_224` is the code's.

    Raises:
        ConfigError: ``log_var_range`` is empty, a number is out of its range, or the sizes do not
            fit (:class:`StagesConfig`).
    """

    normalization: Literal["imagenet", "none"] = "imagenet"
    output: Output = "bn-tanh"
    condition: Literal["vector", "linear-map"] = "vector"
    """Form in which the encoder sees the identity. ``linear-map``: a linear layer and BatchNorm
    paint it as a fourth image channel; binds the network to one size (the original). ``vector``: a
    linear layer adds it to the stem's output, which equals concatenating it to every pixel (Sohn et
    al., NeurIPS 2015; Bao et al., arXiv:1703.10155). Any size, any batch, and D x 64 instead of D x
    H x W weights."""
    latent: Literal["spatial", "vector"] = "spatial"
    """Form of the latent. ``spatial``: a map at the coarsest scale (Sec. 2.2.3). ``vector``: linear
    layers make it ``latent_dim`` numbers (Sec. 2.2.2), which blurs and binds the network to one
    size."""
    latent_dim: int = 512
    """Length of a ``vector`` latent."""
    noise: Literal["gaussian", "uniform"] = "gaussian"
    """Noise eps of the reparameterisation ``z = mu + eps * exp(log_var / 2)``: from N(0, 1) as in
    the text, or from U[0, 1) as in the code."""
    heads: Literal["linear", "bn-relu"] = "linear"
    """Layers that make mu and log_var; ``bn-relu`` ends in BatchNorm and ReLU, which keep both at
    or above 0 (the code)."""
    log_var_range: tuple[float, float] = (-30.0, 10.0)
    """Range to which log_var is clamped, so that no weights can overflow the latent."""

    def __post_init__(self) -> None:
        StagesConfig.__post_init__(self)  # slots: no super()
        check_ranges(self, "generator", latent_dim=(1, 65_536))
        low, high = self.log_var_range
        if not low < high:
            raise ConfigError(f"generator.log_var_range: {low:g} is not below {high:g}.")

    @property
    def bound(self) -> bool:
        """True where linear layers bind the network to ``image_size``."""
        return self.condition == "linear-map" or self.latent == "vector"


class IdentityMap(nn.Module):
    """Paints an identity as one channel of an image of a fixed size (Facke's Merge_Image)."""

    def __init__(self, identity_dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.paint = nn.Sequential(
            nn.Linear(identity_dim, size**2), nn.BatchNorm1d(size**2), nn.ReLU()
        )

    def forward(self, identity: Tensor) -> Tensor:
        """The images (B, 1, S, S) of identities (B, D).

        Raises:
            CompatibilityError: a batch of one in training.
        """
        if self.training and len(identity) < 2:
            raise CompatibilityError(
                "condition='linear-map' cannot learn from a batch of 1: its BatchNorm compares "
                "the samples of a batch. Use a larger batch, or condition='vector'."
            )
        return self.paint(identity).unflatten(1, (1, self.size, self.size))


class CVAEGenerator(nn.Module):
    """A generator with the target's crop and the source's identity in, the swapped crop out,
    through a random latent.

    Stem and halvings see target and identity; two heads give mean ``mu`` and log-variance
    ``log_var`` of the latent; ID blocks put the identity into ``z``; doublings and head draw it.
    """

    def __init__(self, config: CVAEConfig) -> None:
        super().__init__()
        self.config = config
        c, pixels = config.channels, config.patch**2
        painted = config.condition == "linear-map"
        self.veil = Veil(config.veil) if config.veil else nn.Identity()
        self.normalize = Normalize() if config.normalization == "imagenet" else nn.Identity()
        self.condition = (
            IdentityMap(config.identity_dim, config.image_size)
            if painted
            else nn.Linear(config.identity_dim, c[0])
        )
        self.stem = conv_block(
            (4 if painted else 3) * pixels, c[0], config.stem_kernel, padding=config.padding
        )
        self.down = Halvings(c)
        self.mu, self.log_var = self._head(), self._head()
        if config.latent == "vector":
            self.unflatten = nn.Linear(config.latent_dim, self._cells())
        self.id_blocks = IDBlocks(
            config.num_id_blocks, c[-1], config.identity_dim, padding=config.padding
        )
        self.up = Doublings(c, skips=config.skips)
        self.head = head(
            c[0], 3 * pixels, config.stem_kernel, padding=config.padding, output=config.output
        )
        self.denormalize = Normalize() if config.output == "imagenet" else None

    def _cells(self) -> int:
        return self.config.channels[-1] * (self.config.image_size // self.config.factor) ** 2

    def _head(self) -> nn.Sequential:
        config, width = self.config, self.config.channels[-1]
        spatial = config.latent == "spatial"
        first = conv(width, width, 3) if spatial else nn.Linear(self._cells(), config.latent_dim)
        if config.heads == "linear":
            return nn.Sequential(first)
        norm = nn.BatchNorm2d(width) if spatial else nn.BatchNorm1d(config.latent_dim)
        return nn.Sequential(first, norm, nn.ReLU())

    @property
    def spec(self) -> GeneratorSpec:
        """The sizes of the configuration; the one condition is ``identity``."""
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=self.config.identity_dim,
            conditions=frozenset({"identity"}),
        )

    def noise(self, x: Tensor, rng: torch.Generator | None, *, temperature: float = 1.0) -> Tensor:
        """Draw the ``eps`` of targets ``x`` (B, 3, H, W): float32 on the device of ``x``, shaped
        like the latent.

        Args:
            x: gives the shape.
            rng: the only source of randomness; one on the CPU gives the same on every device.
            temperature: scales the deviation of eps from its mean; 0 draws the mean.

        Raises:
            UsageError: no ``rng``.
        """
        if rng is None:
            raise UsageError("Drawing from the latent needs rng=torch.Generator(...).")
        *_, h, w = x.shape
        factor = self.config.factor
        latent: tuple[int, ...] = (self.config.latent_dim,)
        if self.config.latent == "spatial":
            latent = (self.config.channels[-1], h // factor, w // factor)
        draw = torch.randn if self.config.noise == "gaussian" else torch.rand
        eps = draw((len(x), *latent), generator=rng, device=rng.device)
        return torch.lerp(torch.full_like(eps, self._mean_noise), eps, temperature).to(x.device)

    @property
    def _mean_noise(self) -> float:
        return 0.0 if self.config.noise == "gaussian" else 0.5

    def forward(self, x: Tensor, *, identity: Tensor, eps: Tensor | None = None) -> GeneratorOutput:
        """Swap crops.

        Args:
            x: targets (B, 3, H, W) in [0, 1]. Any size that the halvings divide, or
                ``image_size`` where the condition or the latent binds it.
            identity: (B, D).
            eps: noise shaped like the latent, from :meth:`noise`; default: its mean, so that ``z``
                is the mean of the latent (``mu`` for Gaussian noise).

        Returns:
            ``image``, in [0, 1] (for the linear outputs not clamped), and ``mu``, ``log_var`` and
            ``z`` in float32: (B, C, H/factor, W/factor) or (B, latent_dim).

        Raises:
            CompatibilityError: a size that does not fit.
        """
        self._check(x)
        x = self.veil(x)
        features = self.down(self._stem(x, identity))
        h = features[-1]
        mu, log_var = self._posterior(h)
        if eps is not None and eps.shape != mu.shape:
            raise CompatibilityError(
                f"eps has the shape {tuple(eps.shape)}, the latent {tuple(mu.shape)}. Take eps "
                "from CVAEGenerator.noise."
            )
        z = mu + (self._mean_noise if eps is None else eps) * torch.exp(log_var / 2)
        decoded = z.to(h.dtype)
        if self.config.latent == "vector":
            decoded = self.unflatten(decoded).view_as(h)
        y = self.head(self.up(self.id_blocks(decoded, identity), features))
        y = F.pixel_shuffle(y, self.config.patch)
        image = to_image(y, x, self.config.output, self.denormalize)
        return GeneratorOutput(image=image, aux={"mu": mu, "log_var": log_var, "z": z})

    def _stem(self, x: Tensor, identity: Tensor) -> Tensor:
        x, seen = self.normalize(x), self.condition(identity)
        if self.config.condition == "linear-map":
            return self.stem(F.pixel_unshuffle(torch.cat([x, seen], dim=1), self.config.patch))
        first, *rest = self.stem
        x = first(F.pixel_unshuffle(x, self.config.patch)) + seen[..., None, None]
        for layer in rest:
            x = layer(x)
        return x

    def _posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The mean ``mu`` and the clamped ``log_var`` of the latent, in float32."""
        if self.config.latent == "vector":
            h = h.flatten(1)
        mu, log_var = self.mu(h).float(), self.log_var(h).float()
        return mu, log_var.clamp(*self.config.log_var_range)

    def _check(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        size, factor = self.config.image_size, self.config.factor
        if self.config.bound and (height, width) != (size, size):
            raise CompatibilityError(
                f"This CVAE got {height}x{width} pixels, but its linear layers bind it to "
                f"{size}x{size}. Resize the crop, or train with condition='vector' and "
                "latent='spatial'."
            )
        if height % factor or width % factor:
            raise CompatibilityError(
                f"This CVAE got {height}x{width} pixels, but needs multiples of {factor}."
            )


FACKE_224 = CVAEConfig(
    condition="linear-map", noise="uniform", heads="bn-relu", log_var_range=(-30.0, 20.0)
)
"""The network of Facke's CVAE and CVAE-GAN, whose weights it takes. Its log_var is not clamped;
above 20 it would be here."""


@dataclass(frozen=True, slots=True)
class LatentSampler:
    """A sampler that calls the generator once, on the target crops. Without a temperature, or at 0,
    the latent is its mean and ``rng`` is left alone; above, each sample draws its own.

    Raises:
        ConfigError: a temperature below 0 or not finite.
    """

    temperature: float | None = None
    """Scale of the noise: 1 draws as in training, 0.7 nearer to the mean, 0 does not draw. None
    does not draw either, unless the user asks for a seed: then it is 1."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature: {self.temperature:g} is not a number from 0. Use 0 for the mean of "
                "the latent, 1 for draws as in training."
            )

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed: ``{"identity", "eps"}``."""
        return frozenset({"identity", "eps"})

    def seeded(self) -> LatentSampler:
        """The sampler that draws, for somebody who asks for a seed."""
        return LatentSampler(temperature=1.0) if self.temperature is None else self

    def __call__(
        self,
        generator: CVAEGenerator,
        inputs: SwapInputs,
        *,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1].

        Raises:
            UsageError: a temperature above 0 without ``rng``.
        """
        eps = None
        if self.temperature:
            eps = generator.noise(inputs.target, rng, temperature=self.temperature)
        return generator(inputs.target, identity=inputs.identity, eps=eps).image.clamp(0, 1)


def build(config: CVAEConfig) -> Method:
    """Make a CVAE with fresh weights and its sampler."""
    return Method(generator=CVAEGenerator(config), sampler=LatentSampler())
