"""Templates: the places of a face's five points in a crop; and how a method wants its crops.

Coordinates and the order of points are those of :mod:`facke_core.faces.align`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facke_core.errors import MAX_SIDE, UnknownNameError, UsageError, did_you_mean

__all__ = ["TEMPLATES", "TEMPLATE_SETS", "Template", "template_points"]

Size = int | tuple[int, int]
"""Side of a square crop, or (height, width)."""


@dataclass(frozen=True, slots=True)
class Template:
    """The places of the five points of a face in a crop."""

    points: tuple[tuple[float, float], ...]
    """Places (x, y) in pixels of a crop of ``size``."""
    size: tuple[int, int]
    """Height and width at which ``points`` hold."""


_SIMSWAP = {
    "simswap_left_profile": (
        (51.642, 50.115),
        (57.617, 49.990),
        (35.740, 69.007),
        (51.157, 89.050),
        (57.025, 89.702),
    ),
    "simswap_left": (
        (45.031, 50.118),
        (65.568, 50.872),
        (39.677, 68.111),
        (45.177, 86.190),
        (64.246, 86.758),
    ),
    "simswap_frontal": (
        (39.730, 51.138),
        (72.270, 51.138),
        (56.000, 68.493),
        (42.463, 87.010),
        (69.537, 87.010),
    ),
    "simswap_right": (
        (46.845, 50.872),
        (67.382, 50.118),
        (72.737, 68.111),
        (48.167, 86.758),
        (67.236, 86.190),
    ),
    "simswap_right_profile": (
        (54.796, 49.990),
        (60.771, 50.115),
        (76.673, 69.007),
        (55.388, 89.702),
        (61.257, 89.050),
    ),
}


_ARCFACE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


_FFHQ = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)


TEMPLATES: dict[str, Template] = {
    **{name: Template(points, (112, 112)) for name, points in _SIMSWAP.items()},
    "ffhq": Template(_FFHQ, (512, 512)),
    "arcface": Template(_ARCFACE, (112, 112)),
    # insightface's looser framing, used for crop sizes that are multiples of 128
    "arcface_128": Template(tuple((x + 8.0, y) for x, y in _ARCFACE), (128, 128)),
    # eyes, nose and mouth corners in the chip of dlib's get_face_chip(size=150, padding=0.25): the
    # mean over 673 faces of YuNet's and MediaPipe's points, which agree to 2 px (nose: 4 px), made
    # symmetric; dlib itself aligns by the eye corners and the base of the nose
    "dlib_150": Template(
        ((47.13, 45.23), (100.87, 45.23), (74.00, 79.90), (50.30, 101.54), (97.70, 101.54)),
        (150, 150),
    ),
    "sphereface": Template(tuple((x - 8.0, y) for x, y in _ARCFACE), (112, 96)),
    # the same stretched to a square, as face-reidentification-retail-0095 has it
    "sphereface_128": Template(
        tuple(((x - 8.0) * 128 / 96, y * 128 / 112) for x, y in _ARCFACE), (128, 128)
    ),
}
"""Name -> template at its native size."""


TEMPLATE_SETS: dict[str, tuple[str, ...]] = {"simswap": tuple(_SIMSWAP)}
"""Name -> templates for several poses, of which the best fitting one is taken for each face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The framing in which a method wants its crops; the ``alignment`` part of ``config.json``::

        Alignment(template="ffhq", size=256)

    Raises:
        UnknownNameError: no template or set has this name.
        UsageError: a size below 1 or above 4096, or an unknown border.
    """

    template: str
    """A name of :data:`TEMPLATES` or :data:`TEMPLATE_SETS`."""
    size: int
    """Side S of the crops in pixels, from 1."""
    border: str = "reflection"
    """Pixels beyond the photo: ``reflection``, ``border`` (replicated) or ``zeros`` (black, as the
    original systems have it)."""
    antialias: bool = True
    """Average pixels before a face is reduced by 2 or more. The original systems do not."""

    def __post_init__(self) -> None:
        templates_of(self.template)
        if not 1 <= self.size <= MAX_SIDE:
            raise UsageError(
                f"Alignment size {self.size} is not possible: give pixels from 1 to {MAX_SIDE}, "
                "e.g. 224."
            )
        if self.border not in ("reflection", "border", "zeros"):
            raise UsageError(
                f"Alignment border {self.border!r} is unknown: use reflection, border or zeros."
            )


def templates_of(name: str) -> tuple[str, ...]:
    """The names of the templates that ``name`` stands for: its own, or those of a set.

    Raises:
        UnknownNameError: no template or set has this name.
    """
    if name in TEMPLATES:
        return (name,)
    if name in TEMPLATE_SETS:
        return TEMPLATE_SETS[name]
    known = [*TEMPLATES, *TEMPLATE_SETS]
    raise UnknownNameError(
        f"Unknown alignment template {name!r}.{did_you_mean(name, known)} "
        f"Known: {', '.join(sorted(known))}."
    )


def frontal(name: str) -> str:
    """The name of the frontal template of a set, which is its middle one; a template's own name.

    Raises:
        UnknownNameError: no template or set has this name.
    """
    names = templates_of(name)
    return names[len(names) // 2]


def height_width(size: Size) -> tuple[int, int]:
    """Height and width of a crop in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def template_points(name: str, size: Size) -> Tensor:
    """The five points (5, 2) of a template in pixels of a crop of ``size``, float64.

    The native frame is scaled to fit and centred, which for equal aspect ratios is the plain
    scaling ``size / native`` of the original systems. A template set counts as its frontal one.

    Raises:
        UnknownNameError: no template or set has this name.
    """
    template = TEMPLATES[frontal(name)]
    (height, width), (native_h, native_w) = height_width(size), template.size
    scale = min(height / native_h, width / native_w)
    margin = torch.tensor([width - scale * native_w, height - scale * native_h]) / 2
    return torch.tensor(template.points, dtype=torch.float64) * scale + margin.double()
