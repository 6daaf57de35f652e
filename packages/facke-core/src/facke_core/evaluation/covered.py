"""Targets with things before their faces, swapped like any other.

Five things are drawn before the face of a target, one at a time and always the same: glasses, hair,
a hand, a mask and a microphone (:mod:`facke_core.data.occluders`). Each such photo is swapped as a
user's would be: the pipeline looks for what covers the face, and pastes. Only the face is not
searched for again: what is measured is what a swap does to the things, not to the detector.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from facke_core.data.canvas import noise
from facke_core.data.occluders import Occluder, draw
from facke_core.evaluation.appearance import around
from facke_core.evaluation.metrics import Covered
from facke_core.evaluation.pictures import Loaded, unpacked
from facke_core.faces.align import invert_affine, transform_points, warp
from facke_core.pipeline import SwapPipeline

__all__: list[str] = []

THINGS = {"glasses": 4, "hair": 2, "hand": 5, "mask": 4, "thing": 6}
"""The things by the kind of drawing, each with its seed: dark rims, a black fringe, fingers on a
cheek, a blue mask, a microphone."""
SIZE = 384
"""Side in pixels of the drawings."""
ROOM = 2.0
"""Side of what a drawing shows, in sides of the face."""


def covered(
    pipeline: SwapPipeline, target: Loaded, swap: Callable[[Loaded], Tensor]
) -> Covered | None:
    """Draw the things before the face of a target, and swap; None where that has no mesh.

    Args:
        pipeline: finds what covers the face, and pastes.
        target: a photograph.
        swap: a function of the photograph with a thing in it, which returns the result crop
            (3, S, S).
    """
    face = target.aligned.face
    if face.mesh is None:
        return None
    photo = unpacked(target.photo)
    here = around(face, photo)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for kind, seed in THINGS.items():
        thing = drawn(face.mesh, photo, kind, seed)
        image = thing.over(photo)
        aligned = pipeline.align(image, face)
        hidden = pipeline.occlusion(image, [aligned])
        taker = Loaded(image, aligned, None if hidden is None else hidden[0])
        result = pipeline.paste(image, swap(taker), aligned, occlusion=taker.occlusion).image
        parts.append((here.of(image), here.of(result), here.of(thing.alpha) * here.inside))
    return Covered(*(torch.stack(part) for part in zip(*parts, strict=True)))


def drawn(mesh: Tensor, photo: Tensor, kind: str, seed: int) -> Occluder:
    """A thing before the face with this mesh (478, 2) of a photo (3, H, W), as large as that."""
    low, high = mesh.amin(0), mesh.amax(0)
    side = ROOM * float((high - low).max())
    scale = SIZE / side
    corner = (low + high) / 2 - side / 2
    # pixel areas, not centres, are what resizing aligns
    shift = (scale - 1) / 2 - scale * corner[:, None]
    there = torch.cat([scale * torch.eye(2), shift], 1)[None]
    points = transform_points(there, mesh[None].float())[0]
    thing = draw(points, SIZE, random.Random(seed), _skin, kind=kind)
    # what is transparent has no colour, and no light is taken beyond the drawing
    layers = torch.cat([thing.colour * thing.alpha, thing.alpha, thing.extent, 1 - thing.shade])
    size = (photo.shape[1], photo.shape[2])
    layers = warp(layers[None], invert_affine(there), size, border="zeros")[0].clamp(0, 1)
    colour, alpha, extent, dark = layers.split([3, 1, 1, 1])
    return Occluder((colour / alpha.clamp(min=1e-3)).clamp(0, 1), alpha, extent, 1 - dark)


def _skin(rng: random.Random) -> Image.Image:
    """Skin of some tone."""
    depth = rng.random()
    tone = tuple(round(v * (1 - depth) + w * depth) for v, w in zip(_LIGHT, _DARK, strict=True))
    coarse = noise((12, 12), 18, rng).resize((192, 192), Image.Resampling.BICUBIC)
    grain = Image.blend(coarse, noise((192, 192), 8, rng), 0.4)
    return Image.merge(
        "RGB", [grain.point([max(0, min(255, c + v - 128)) for v in range(256)]) for c in tone]
    )


_LIGHT, _DARK = (232, 190, 166), (92, 58, 44)
