"""The method ``pyramid``: the source's face, bent to the target's landmarks, in the target's light.

The source is warped by a thin-plate spline (Bookstein 1989) that takes its landmarks to the
target's, and blended in a Laplacian pyramid (Burt and Adelson 1983): each band through a mask as
soft as the band is coarse, the coarsest band from the target alone. No weights.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from facke_core import AlignedFace, Face, GeneratorOutput, GeneratorSpec, Method, SwapInputs
from facke_core.building import make_detector
from facke_core.errors import ConfigError
from facke_core.faces.mesh import POINTS
from facke_core.faces.paste import face_mask
from facke_core.faces.templates import template_points
from torch import Tensor, nn

if TYPE_CHECKING:
    from facke_core import FaceDetector

STIFFNESS = 1e-3
"""How much the spline may miss the landmarks, which are noisy, to bend less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidConfig:
    """What ``config.json`` says of the generator."""

    image_size: int = 256
    levels: int = 5
    """Bands that come from both pictures; what is left, ``image_size / 2**levels`` pixels wide, is
    the target's light and colour."""

    def __post_init__(self) -> None:
        if self.levels < 1 or self.image_size % 2**self.levels or self.image_size < 1:
            raise ConfigError(
                f"generator.levels: image_size={self.image_size} cannot be halved {self.levels} "
                "times. Use fewer levels, or a multiple of 2**levels."
            )


class PyramidGenerator(nn.Module):
    """The face of ``donor`` (B, 3, S, S) in [0, 1] blended into the target.

    ``mask`` (B, 1, S, S) in [0, 1] is the share of the donor.
    """

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def spec(self) -> GeneratorSpec:
        """It takes no identity."""
        return GeneratorSpec(
            image_size=self.config.image_size,
            identity_dim=0,
            conditions=frozenset({"donor", "mask"}),
        )

    def bands(self, x: Tensor) -> list[Tensor]:
        """What each halving takes away, fine to coarse, then what is left."""
        found = []
        for _ in range(self.config.levels):
            small = _halved(x)
            found.append(x - _doubled(small))
            x = small
        return [*found, x]

    def forward(self, x: Tensor, *, donor: Tensor, mask: Tensor) -> GeneratorOutput:
        """Targets (B, 3, S, S) in [0, 1] -> results; a little beyond [0, 1] at strong edges."""
        *ours, image = self.bands(x)
        shares = [mask]
        for _ in ours[1:]:
            shares.append(_halved(shares[-1]))
        theirs = self.bands(donor)[:-1]
        for own, other, share in zip(ours[::-1], theirs[::-1], shares[::-1], strict=True):
            image = _doubled(image) + torch.lerp(own, other, share)
        return GeneratorOutput(image=image, aux={})


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidSampler:
    """Finds the landmarks, warps the source and blends. Its fields are the settings of ``--set``.

    ``landmarks=template`` takes those that both crops were aligned by, and so warps nothing; it is
    also what happens where the detector sees no face in a crop.
    """

    strength: float = 1.0
    """From 0, the target as it is, to 1."""
    landmarks: Literal["detect", "template"] = "detect"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength: {self.strength:g} is not in 0 to 1.")

    @property
    def supplies(self) -> frozenset[str]:
        """``{"donor", "mask"}``."""
        return frozenset({"donor", "mask"})

    def __call__(
        self,
        generator: PyramidGenerator,
        inputs: SwapInputs,
        *,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1]. Not random: ``rng`` is left alone.

        Raises:
            UnavailableError: ``landmarks=detect`` without a face detector.
        """
        donors, masks = [], []
        for source, target in zip(inputs.source, inputs.target, strict=True):
            ours, theirs = self._faces(target, source, inputs)
            donors.append(bent(source, _points(theirs, ours), _points(ours, theirs)))
            still = torch.eye(3)[:2]
            masks.append(face_mask(AlignedFace(target, still, ours), target.shape[-1]))
        donor, mask = torch.stack(donors), torch.stack(masks).to(inputs.target)
        image = generator(inputs.target, donor=donor, mask=mask).image
        return torch.lerp(inputs.target, image, self.strength).clamp(0, 1)

    def _faces(self, target: Tensor, source: Tensor, inputs: SwapInputs) -> tuple[Face, Face]:
        found = []
        if self.landmarks == "detect":
            found = [face for crop in (target, source) for face in _detector()(crop.float())[:1]]
        if len(found) == 2:
            return found[0], found[1]
        name = inputs.alignment.template if inputs.alignment else "ffhq"
        points = template_points(name, target.shape[-1]).float()
        face = Face(torch.cat([points.amin(0), points.amax(0)]), points, 1.0)
        return face, face


def build(config: PyramidConfig) -> Method:
    """The generator and its sampler."""
    return Method(generator=PyramidGenerator(config), sampler=PyramidSampler())


def bent(image: Tensor, places: Tensor, goals: Tensor) -> Tensor:
    """``image`` (3, S, S) with its ``places`` (N, 2) moved to ``goals`` (N, 2), in pixels.

    The corners and the middles of the edges stay where they are.
    """
    size = image.shape[-1]
    axis = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ticks = torch.tensor([0.0, (size - 1) / 2, size - 1], dtype=torch.float64)
    frame = torch.cartesian_prod(ticks, ticks)[[0, 1, 2, 3, 5, 6, 7, 8]]
    goals, places = (torch.cat([points.double().cpu(), frame]) for points in (goals, places))
    grid = thin_plate(goals / size, places / size, torch.stack([x, y], -1).view(-1, 2) / size)
    grid = (2 * grid * size / (size - 1) - 1).view(1, size, size, 2).to(image)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=True)[0]


def thin_plate(knots: Tensor, values: Tensor, places: Tensor) -> Tensor:
    """The spline through ``values`` (N, 2) at ``knots`` (N, 2), at ``places`` (M, 2): (M, 2)."""
    n = len(knots)
    system = torch.zeros(n + 3, n + 3, dtype=torch.float64)
    system[:n, :n] = _bump(knots, knots) + STIFFNESS * torch.eye(n, dtype=torch.float64)
    system[:n, n:] = _affine(knots)
    system[n:, :n] = _affine(knots).T
    weights = torch.linalg.solve(system, F.pad(values, (0, 0, 0, 3)))
    return _bump(places, knots) @ weights[:n] + _affine(places) @ weights[n:]


def _bump(a: Tensor, b: Tensor) -> Tensor:
    """``r^2 log r^2`` of all distances."""
    squared = (a[:, None] - b).square().sum(-1)
    return squared * squared.clamp_min(1e-12).log()


def _affine(points: Tensor) -> Tensor:
    return F.pad(points, (1, 0), value=1.0)


def _points(face: Face, other: Face) -> Tensor:
    """Many points where both have a mesh, else five."""
    if face.mesh is None or other.mesh is None:
        return face.landmarks
    return face.mesh[list(POINTS)]


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


@functools.cache
def _detector() -> FaceDetector:
    return make_detector()
