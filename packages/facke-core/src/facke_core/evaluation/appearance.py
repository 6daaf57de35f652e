"""Metrics of how a swapped face looks in its photo: sharpness, the seam, things before the face.

They look at the finished photo in its own pixels, around the face of the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_lab
from torch import Tensor

from facke_core.evaluation.ciede2000 import difference
from facke_core.evaluation.metrics import PerPair, SwappedPairs
from facke_core.faces.paste import outline
from facke_core.faces.smooth import blurred
from facke_core.types import AlignedFace, Face

__all__: list[str] = []

RING = 0.04
"""Width of the ring around the edge of the mask, in widths of the face."""
ROUNDING = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits."""
FLAT = 1e-6
"""Sharpness of a picture that shows nothing."""


class Around(NamedTuple):
    """The part of a photo around a face."""

    rows: slice
    columns: slice
    inside: Tensor
    """Which pixels (h, w) of it lie inside the outline of the face."""
    width: float
    """Width of the face where it is narrowest, in pixels."""

    def of(self, image: Tensor) -> Tensor:
        """That part (..., h, w) of a picture (..., H, W) as large as the photo."""
        return image[..., self.rows, self.columns]


def around(face: Face, photo: Tensor) -> Around:
    """The part of a photo (3, H, W) around a face, with a pixel beside it where the photo has one;
    it is empty where the face lies beside the photo."""
    height, width = photo.shape[-2:]
    directions, reach = outline(AlignedFace(photo, torch.eye(3)[:2], face), 1.0)
    half, quarter = len(reach) // 2, len(reach) // 4
    right, below, left, above = (float(reach[quarter * i]) for i in range(4))
    rows = slice(max(math.floor(-above) - 1, 0), max(min(math.ceil(below) + 2, height), 0))
    columns = slice(max(math.floor(-left) - 1, 0), max(min(math.ceil(right) + 2, width), 0))
    y, x = torch.arange(height)[rows, None], torch.arange(width)[columns]
    inside = torch.ones(len(y), len(x), dtype=torch.bool)
    for (dx, dy), far in zip(directions.tolist(), reach.tolist(), strict=True):
        inside &= x * dx + y * dy <= far
    return Around(rows, columns, inside, float((reach[:half] + reach[half:]).amin()))


def _faces(pairs: SwappedPairs) -> Iterator[Face]:
    """The faces of the targets in their photos: those that were found, or where they were known to
    be."""
    known = pairs.target_faces or [None] * len(pairs.aligned)
    for face, aligned in zip(known, pairs.aligned, strict=True):
        yield face or aligned.face


# -- sharpness -------------------------------------------------------------------------------------


def sharpness() -> PerPair:
    """The sharpness of the face in the finished photo, of that in the target photo: the mean
    absolute Laplacian of the luma inside the outline of the face.

    1 is like the target, less is blurred, more has details that the target has not, or artefacts.
    """

    def measure(pairs: SwappedPairs) -> Tensor:
        values = []
        for photo, target, face in zip(
            pairs.photos, pairs.target_photos, _faces(pairs), strict=True
        ):
            here = around(face, target)
            own, wanted = (
                _laplacian(here.of(image))[here.inside].mean() for image in (photo, target)
            )
            values.append(float(own / wanted) if float(wanted) > FLAT else math.nan)
        return torch.tensor(values, dtype=torch.float64)

    return PerPair(
        name="sharpness",
        unit="of the target's",
        higher_is_better=True,
        needs=frozenset({"photo"}),
        function=measure,
    )


def _laplacian(image: Tensor) -> Tensor:
    """The absolute Laplacian (h, w) of the luma of a picture (3, h, w)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
    luma = F.pad(image.double().mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(luma, kernel[None, None])[0, 0].abs()


# -- the seam --------------------------------------------------------------------------------------


def seam() -> PerPair:
    """The difference in colour (CIEDE2000) of the finished photo and the target photo, both without
    detail, along the edge of the mask by which the face was pasted.

    The edge is where the face has half of a pixel, around things before the face as well. The mean
    is over a ring :data:`RING` face widths wide; detail is what is finer than half of that. Crops,
    which are not pasted, have no seam.
    """

    def measure(pairs: SwappedPairs) -> Tensor:
        values = []
        for photo, target, share, face in zip(
            pairs.photos, pairs.target_photos, pairs.shares, _faces(pairs), strict=True
        ):
            here = around(face, target)
            reach = RING / 2 * here.width
            ring = _edge(here.of(share) > 0.5, reach) if share is not None else torch.zeros(0)
            if not ring.any():
                values.append(math.nan)
                continue
            plain = blurred(torch.stack([here.of(photo), here.of(target)]).double(), reach)
            own, wanted = rgb_to_lab(plain).movedim(1, -1)
            values.append(float(difference(own, wanted)[ring[0]].mean()))
        return torch.tensor(values, dtype=torch.float64)

    return PerPair(name="seam", unit="dE00", needs=frozenset({"photo"}), function=measure)


def _edge(mask: Tensor, reach: float) -> Tensor:
    """The places (1, h, w) of a mask from which both sides of its edge are within reach."""
    steps = max(round(reach), 1)
    both = torch.cat([mask, ~mask]).float()
    for size in ((2 * steps + 1, 1), (1, 2 * steps + 1)):
        both = F.max_pool2d(both, size, 1, (size[0] // 2, size[1] // 2))
    return both.amin(0, keepdim=True) > 0


# -- things before the face ------------------------------------------------------------------------


def occluders() -> PerPair:
    """The PSNR of things before the face (:mod:`facke_core.evaluation.covered`), in the finished
    photos against the photos with the things in them, where they cover more than half of a pixel.

    The mean over the things, in dB; what rounding to 8 bits does is added to each error, so 58.9 is
    the most.
    """

    def measure(pairs: SwappedPairs) -> Tensor:
        values = []
        for covered in pairs.covered:
            if covered is None:
                values.append(math.nan)
                continue
            where = (covered.share > 0.5).double()
            error = (covered.result - covered.target).double().square().mean(1, keepdim=True)
            mse = (error * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
            values.append(float((-10 * (mse + ROUNDING).log10()).nanmean()))
        return torch.tensor(values, dtype=torch.float64)

    return PerPair(
        name="occluders",
        unit="dB",
        higher_is_better=True,
        needs=frozenset({"covered"}),
        function=measure,
    )
