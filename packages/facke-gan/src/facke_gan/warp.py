"""``warp``: the source's own pixels, bent by the face mesh into the target's pose; no network.

:mod:`facke_core.faces.warp` bends the source. What remains is light: the result gets the target's
light and skin tone by the statistics (as in Reinhard et al. 2001) and the low frequencies of
logarithms, is blended in several bands (Burt and Adelson 1983), and leaves eyes, the inside of the
mouth and whatever the source does not show to the target, or to another method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import GeneratorOutput, GeneratorSpec, Method, SwapInputs
from facke_core.delegate import encoders_of, swapped_by
from facke_core.errors import ConfigError, UsageError
from facke_core.faces.areas import lips, openings
from facke_core.faces.smooth import blurred
from facke_core.faces.warp import bend

__all__ = ["WarpSampler"]

LIGHT = 0.11
"""Standard deviation of the low-pass filter that tells light from features, in sides of a crop."""
COLOUR = 0.05
"""The same for colours, which change less within a face."""
LIGHT_LIMIT = 0.7
"""Largest change of a logarithm from place to place."""
LEAST_CONTRAST = 0.5
"""Least share of the source's contrast that stays."""
DARKEST = 0.04
"""What is added to a picture before logarithms are taken."""
PULL = 1.0
"""Share of the shape of the source's face that a result has."""
MISSING = 0.3
"""Least share of a face that the source does not show for another method to be asked; of less, such
as what lies below a fringe, the target's own is sharper."""
BANDS = 4
"""Bands in which source and target are blended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpConfig:
    """The configuration of ``warp``."""

    image_size: int = 512
    """Side of the crops in pixels."""

    def __post_init__(self) -> None:
        if not 64 <= self.image_size <= 1024 or self.image_size % 16:
            raise ConfigError(
                f"generator.image_size: {self.image_size} is not possible. Use a multiple of 16 "
                "from 64 to 1024."
            )


class Warp(nn.Module):
    """A generator without parameters: bends ``source`` onto ``x``, the target."""

    def __init__(self, config: WarpConfig) -> None:
        super().__init__()
        self.spec = GeneratorSpec(
            image_size=config.image_size,
            identity_dim=0,
            conditions=frozenset({"source", "source_mesh", "target_mesh"}),
        )

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        source_mesh: Tensor,
        target_mesh: Tensor,
        *,
        pull: float = PULL,
        eyes: Literal["target", "source"] = "target",
        behind: Callable[[], Tensor] | None = None,
        source_occlusion: Tensor | None = None,
        target_occlusion: Tensor | None = None,
    ) -> GeneratorOutput:
        """Swap crops.

        Args:
            x: targets (B, 3, S, S) in [0, 1].
            source: sources (B, 3, S, S) in [0, 1].
            source_mesh: their meshes (B, 478, 2), in pixels.
            target_mesh: those of the targets.
            pull: share of the shape of the source's face, 0 to 1.
            eyes: whose eyes the result has; the target's keep the gaze.
            behind: makes pictures (B, 3, S, S) for the places that the source does not show; it is
                asked if there are more of them than :data:`MISSING`. Default: the targets.
            source_occlusion: the share (B, 1, M, M) of each pixel of ``source`` that something
                before the face covers; it does not travel.
            target_occlusion: that of the targets, whose light is measured without it.

        Returns:
            The results, computed on the CPU; as ``confidence`` (B, 1, S, S) how much of them is the
            source's, and as ``missing`` (B,) the share of each face that the source does not show.
        """

        # index maps are made on the CPU, in float32, whatever the pictures are
        def plain(value: Tensor) -> Tensor:
            return value.float().cpu()

        def known(value: Tensor | None) -> Tensor | None:
            return None if value is None else plain(value)

        with torch.autocast(x.device.type, enabled=False):
            output = _swapped(
                plain(x),
                plain(source),
                plain(source_mesh),
                plain(target_mesh),
                behind,
                known(source_occlusion),
                known(target_occlusion),
                pull=pull,
                eyes=eyes == "target",
            )
        aux = {name: value.to(x) for name, value in output.aux.items()}
        return GeneratorOutput(output.image.to(x), aux)


def _swapped(
    x: Tensor,
    source: Tensor,
    source_mesh: Tensor,
    target_mesh: Tensor,
    behind: Callable[[], Tensor] | None,
    source_occlusion: Tensor | None,
    target_occlusion: Tensor | None,
    *,
    pull: float,
    eyes: bool,
) -> GeneratorOutput:
    size = x.shape[-1]
    bent = bend(source, source_mesh, target_mesh, size, pull=pull, occlusion=source_occlusion)
    face = (bent.raster.triangle >= 0)[:, None]
    inner = narrowed(face.float(), size // 32)
    unseen = ((bent.confidence < 0.5) * inner).flatten(1).sum(1)
    missing = unseen / inner.flatten(1).sum(1).clamp(min=1)
    # the target, whose features stand where the result's shall
    moved = base = torch.where(face, bent.raster.read(x, target_mesh), x)
    if behind is not None and float(missing.amax()) > MISSING:
        base = torch.lerp(x, behind().float().cpu(), blurred(face.float(), size / 50))
    seen = bent.confidence
    if target_occlusion is not None:  # whose colours are not the face's
        covered = F.interpolate(target_occlusion, (size, size), mode="bilinear")
        seen = seen * (covered < 0.1)
    mouths = torch.stack([lips(mesh, size) for mesh in bent.mesh])
    warped = relit(toned(bent.image, x, face), moved, seen, mouths)
    result = blended(base, warped, bent.confidence)
    keep = torch.stack([openings(mesh, size, eyes=eyes) for mesh in bent.mesh])
    result = torch.lerp(result, moved, blurred(keep, size / 250)).clamp(0, 1)
    return GeneratorOutput(result, {"confidence": bent.confidence, "missing": missing})


def narrowed(mask: Tensor, by: int) -> Tensor:
    """A mask (B, 1, S, S) without what lies within ``by`` pixels of its edge, rows and columns."""
    across = -F.max_pool2d(-mask, (1, 2 * by + 1), 1, (0, by))
    return -F.max_pool2d(-across, (2 * by + 1, 1), 1, (by, 0))


def relit(image: Tensor, target: Tensor, mask: Tensor, lips: Tensor | None = None) -> Tensor:
    """Pictures (B, 3, S, S) in the light and the tone of ``target``, inside the mask (B, 1, S, S).

    In logarithms, where light and skin are sums: first the medians and, where it is less, the
    contrast of the target's face; then its low frequencies, those of its colours less low than
    those of its lightness, within :data:`LIGHT_LIMIT`; then the medians of the lips (B, 1, S, S),
    which are lighter than dark skin and darker than light skin.
    """
    size, face = image.shape[-1], mask > 0.5
    inside = face.to(image.dtype)
    theirs = _logarithms(target)
    each = zip(_logarithms(image), theirs, face[:, 0], strict=True)
    ours = torch.stack([_same_tone(own, wanted, skin) for own, wanted, skin in each])
    light, colour = (
        blurred((theirs - ours) * inside, share * size)
        / blurred(inside, share * size).clamp(min=1e-3)
        for share in (LIGHT, COLOUR)
    )
    change = torch.cat([light[:, :1], colour[:, 1:]], 1).clamp(-LIGHT_LIMIT, LIGHT_LIMIT)
    ours = ours + change
    if lips is None:
        return _from_logarithms(ours)
    mouths = ((lips > 0.5) & face)[:, 0]
    apart = [_between(*each) for each in zip(ours, theirs, mouths, strict=True)]
    shift = torch.stack(apart).clamp(-LIGHT_LIMIT, LIGHT_LIMIT)
    return _from_logarithms(ours + shift * blurred(lips, size / 100))


def _between(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
    """How much larger (3, 1, 1) the medians of one picture (3, S, S) are than those of another, in
    a mask (S, S); 0 where it is empty."""
    if not where.any():
        return ours.new_zeros(3, 1, 1)
    return (theirs[:, where].median(1).values - ours[:, where].median(1).values)[:, None, None]


def _logarithms(image: Tensor) -> Tensor:
    """Lightness and two colours (B, 3, S, S) of pictures: the logarithm of green, and how much more
    those of red and blue are."""
    red, green, blue = (image + DARKEST).log().unbind(1)
    return torch.stack([green, red - green, blue - green], 1)


def _from_logarithms(values: Tensor) -> Tensor:
    green, red, blue = values.unbind(1)
    return (torch.stack([red + green, green, blue + green], 1).exp() - DARKEST).clamp(0, 1)


def _same_tone(ours: Tensor, theirs: Tensor, face: Tensor) -> Tensor:
    """Values (3, S, S) that have, in a face (S, S), the median of ``theirs`` and at most their
    contrast, above the median and below."""
    if not face.any():
        return ours
    steps = ours.new_tensor([0.1, 0.5, 0.9])
    quantiles = []
    for values in (ours, theirs):
        some = values[:, face]
        some = some[:, :: max(1, some.shape[1] // 10_000)]
        quantiles.append(some.quantile(steps, dim=1)[..., None, None])
    (low, middle, high), (below, wanted, above) = quantiles
    shades = (wanted - below) / (middle - low).clamp(min=1e-3)
    lights = (above - wanted) / (high - middle).clamp(min=1e-3)
    ours = ours - middle
    return wanted + ours * torch.where(ours > 0, lights, shades).clamp(LEAST_CONTRAST, 1)


def blended(base: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Blend ``image`` into ``base`` (B, 3, S, S) where the mask (B, 1, S, S) is 1, low frequencies
    over a wide edge and fine ones over a narrow one."""
    result, size = torch.zeros_like(base), base.shape[-2:]
    for band in range(BANDS):
        last = band == BANDS - 1
        low = [F.interpolate(x, scale_factor=0.5, mode="area") for x in (base, image, mask)]
        if last:
            detail = torch.lerp(base, image, mask)
        else:
            up = [F.interpolate(x, base.shape[-2:], mode="bilinear") for x in low[:2]]
            detail = torch.lerp(base - up[0], image - up[1], mask)
        for _ in range(band):
            shape = (detail.shape[-2] * 2, detail.shape[-1] * 2)
            detail = F.interpolate(detail, shape, mode="bilinear")
        result = result + detail
        base, image, mask = low
    assert result.shape[-2:] == size
    return result


def toned(image: Tensor, target: Tensor, face: Tensor) -> Tensor:
    """Take the colours from sources whose target has none in its face (B, 1, S, S)."""
    spread = (target.amax(1, keepdim=True) - target.amin(1, keepdim=True)) * face
    grey = spread.flatten(1).amax(1) < 2 / 255
    return torch.where(grey[:, None, None, None], image.mean(1, keepdim=True), image)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpSampler:
    """The settings of a swap by ``warp``. No noise is drawn.

    Raises:
        ConfigError: a pull outside of [0, 1].
    """

    eyes: Literal["target", "source"] = "target"
    """Whose eyes the result has. The target's keep the gaze; the source's are a little more like
    the source."""
    pull: float = PULL
    """Share of the shape of the source's face that the result has, 0 to 1."""
    fallback: str = "simswap"
    """Method that makes what the source does not show where that is much, as of a head in profile,
    as :func:`facke_core.load` takes it; ``none``: the target's own face stays there."""

    def __post_init__(self) -> None:
        if not 0 <= self.pull <= 1:
            raise ConfigError(f"pull: {self.pull:g} is not in [0, 1].")

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed: the source and both meshes."""
        return frozenset({"source", "source_mesh", "target_mesh"})

    def __call__(
        self, generator: Warp, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        """Swap: the results (B, 3, S, S) in [0, 1].

        Raises:
            UsageError: the detector gives no meshes.
        """
        if inputs.source_mesh is None or inputs.target_mesh is None:
            raise UsageError(
                "warp bends the source by face meshes, and the face detector gave none. Use the "
                "detector mediapipe, on photographs instead of crops."
            )

        def behind() -> Tensor:
            return swapped_by(self.fallback, inputs, rng=rng)

        output = generator(
            inputs.target,
            source=inputs.source,
            source_mesh=inputs.source_mesh,
            target_mesh=inputs.target_mesh,
            pull=self.pull,
            eyes=self.eyes,
            behind=None if self.fallback == "none" else behind,
            source_occlusion=inputs.source_occlusion,
            target_occlusion=inputs.target_occlusion,
        )
        image: Tensor = output.image
        return image

    @property
    def encoders(self) -> list[str | Mapping[str, Any]]:
        """The encoders that results are made to please: that of ``fallback``."""
        return [] if self.fallback == "none" else encoders_of(self.fallback)


def build(config: WarpConfig) -> Method:
    """Build the method."""
    return Method(Warp(config), WarpSampler())
