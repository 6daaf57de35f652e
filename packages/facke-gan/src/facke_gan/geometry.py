"""What ``fuse`` knows before its network looks: the source, bent onto the target, and where it is
to be trusted."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core import SwapInputs
from facke_core.faces.areas import inside, lips, openings
from facke_core.faces.mesh import OVAL_RING, face_mesh
from facke_core.faces.smooth import blurred
from facke_core.faces.templates import template_points
from facke_core.faces.warp import bend
from facke_gan.warp import PULL, narrowed, relit, toned

__all__: list[str] = []

EDGE = 0.016
"""Width of the soft edge of a face, in sides of the crop."""


class Geometry(NamedTuple):
    """The inputs of the network; all but the first by their names."""

    x: Tensor
    """Targets (B, 3, S, S) in [0, 1], their features where those of the results are to be."""
    warped: Tensor
    """Sources (B, 3, S, S) in [0, 1], bent onto them, in about their light; black where nothing is
    known of the geometry."""
    trust: Tensor
    """Trust (B, 1, S, S) in these, 0 to 1."""
    mask: Tensor
    """The share (B, 1, S, S) of each pixel that is face."""
    keep: Tensor
    """The share (B, 1, S, S) of each pixel that stays the target's."""


T = TypeVar("T", Tensor, Tensor | None)


def _plain(value: T) -> T:
    return value if value is None else value.float().cpu()


@torch.no_grad()
def geometry(inputs: SwapInputs, *, pull: float = PULL, eyes: bool = True) -> Geometry:
    """Bend sources onto targets, on the CPU and in float32; the result is on the targets' device.

    Args:
        inputs: crops, and meshes where the detector gives some.
        pull: share of the shape of the source's face, 0 to 1.
        eyes: keep the target's eyes.
    """
    plain = inputs._replace(
        source=_plain(inputs.source),
        target=_plain(inputs.target),
        source_mesh=_plain(inputs.source_mesh),
        target_mesh=_plain(inputs.target_mesh),
        source_occlusion=_plain(inputs.source_occlusion),
        target_occlusion=_plain(inputs.target_occlusion),
    )
    size = plain.target.shape[-1]
    covered = plain.target.new_zeros(len(plain.target), 1, size, size)
    if plain.target_occlusion is not None:
        covered = F.interpolate(plain.target_occlusion, (size, size), mode="bilinear")
    known = plain.source_mesh is not None and plain.target_mesh is not None
    with torch.autocast("cpu", enabled=False):
        made = _bent(plain, covered, pull, eyes) if known else _unknown(plain, covered)
    return Geometry(*(x.to(inputs.target) for x in made))


def _bent(inputs: SwapInputs, covered: Tensor, pull: float, eyes: bool) -> Geometry:
    x, size = inputs.target, inputs.target.shape[-1]
    assert inputs.source_mesh is not None
    assert inputs.target_mesh is not None
    bent = bend(
        inputs.source,
        inputs.source_mesh,
        inputs.target_mesh,
        size,
        pull=pull,
        occlusion=inputs.source_occlusion,
    )
    face = (bent.raster.triangle >= 0)[:, None]
    moved = torch.where(face, bent.raster.read(x, inputs.target_mesh), x) if pull else x
    mouths = torch.stack([lips(mesh, size) for mesh in bent.mesh])
    seen = bent.confidence * (covered < 0.1)
    warped = relit(toned(bent.image, x, face), moved, seen, mouths)
    open_ = torch.stack([openings(mesh, size, eyes=eyes) for mesh in bent.mesh])
    keep = torch.maximum(blurred(open_, size / 250), covered)
    return Geometry(moved, warped * face, bent.confidence, _edged(face.float()), keep)


def _unknown(inputs: SwapInputs, covered: Tensor) -> Geometry:
    """What is known of crops without meshes: where the mean face is in their template."""
    x, size = inputs.target, inputs.target.shape[-1]
    template = inputs.alignment.template if inputs.alignment else "simswap_frontal"
    outline = inside(_mean_mesh(template, size), (OVAL_RING,), size)
    face = outline.expand(len(x), -1, -1, -1)
    nothing = torch.zeros_like(face)
    return Geometry(x, torch.zeros_like(x), nothing, _edged(face), covered)


def _mean_mesh(template: str, size: int) -> Tensor:
    """The mesh (478, 2) of the mean face, as it lies in crops of a template."""
    eyes = template_points(template, size)[:2].float()
    across = eyes[1] - eyes[0]
    points = face_mesh().points[:, :2].float()
    turn = torch.stack([across, across.flip(0) * torch.tensor([-1.0, 1.0])])
    return points @ turn + eyes.mean(0)


def _edged(face: Tensor) -> Tensor:
    """Masks (B, 1, S, S) of faces, with a soft edge inside their outline."""
    size = face.shape[-1]
    return blurred(narrowed(face, round(EDGE * size)), EDGE * size)


def without(made: Geometry, inputs: SwapInputs, rows: Tensor) -> Geometry:
    """The geometry with nothing known of some rows (B,), bool."""
    size = made.x.shape[-1]
    covered = made.x.new_zeros(len(made.x), 1, size, size)
    if inputs.target_occlusion is not None:
        covered = inputs.target_occlusion.to(covered)
    unknown = _unknown(inputs._replace(target=inputs.target.float().cpu()), covered.float().cpu())
    chosen = rows[:, None, None, None].to(made.x.device)
    return Geometry(*(torch.where(chosen, b.to(a), a) for a, b in zip(made, unknown, strict=True)))
