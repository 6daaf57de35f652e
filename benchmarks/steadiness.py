"""How steady swapped faces are in clips, with and without the filter of their points.

    ./dev python benchmarks/steadiness.py [--quick] [--json FILE] [--methods NAME ...]

Clips are made of one photograph, sample:hopper, under the noise of a sensor: ``still`` repeats it,
``sway`` moves it to and fro by a fifth of the face's width, once a second. Jitter and flicker are
those of ``facke evaluate video``: of the clip (before) and of what the swap made of it (after).

* ``points``: the root mean square error of the points of the mesh by which the face is swapped,
  against those found without noise, in % of the width of the face.
* ``lag``: how many frames the points are behind; only ``sway`` can tell.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

import torch
from common import arguments, write_figures
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import load
from facke_core.evaluation.steadiness import steadiness
from facke_core.faces.align import warp
from facke_core.images.io import read_image, resize
from facke_core.pipeline import SwapPipeline
from facke_core.types import Face
from facke_core.video.frames import Frame
from facke_core.video.people import followed
from facke_core.video.steady import REACH, steady

FRAMES, QUICK = 51, 26
NOISE = 0.02
"""Standard deviation of the noise, of 1."""
HEIGHT = 360


def ways(face: Face, frames: int) -> dict[str, list[float]]:
    """How far the picture is moved to the right in each frame, in pixels."""
    width = float(face.box[2] - face.box[0])
    sway = [0.2 * width * math.sin(2 * math.pi * i / 25) for i in range(frames)]
    return {"still": [0.0] * frames, "sway": sway}


def moved(photo: Tensor, way: float) -> Tensor:
    matrix = torch.tensor([[[1.0, 0, way], [0, 1, 0]]])
    size = (photo.shape[1], photo.shape[2])
    return photo if way == 0 else warp(photo[None], matrix, size, mode="bicubic")[0].clamp(0, 1)


def clip(photo: Tensor, way: Sequence[float]) -> Iterator[Frame]:
    rng = torch.Generator().manual_seed(0)
    for index, step in enumerate(way):
        noisy = moved(photo, step) + NOISE * torch.randn(photo.shape, generator=rng)
        yield Frame(index, index / 25, (noisy.clamp(0, 1) * 255).round() / 255)


def points(swapper: SwapPipeline, photo: Tensor, way: Sequence[float]) -> dict[str, Any]:
    """Errors of the points, as they are found and as they are filtered."""
    true = swapper.detect(photo)[0].mesh
    assert true is not None
    width = float(true[:, 0].max() - true[:, 0].min())
    faces = [swapper.detect(frame.image)[0] for frame in clip(photo, way)]
    meshes = {"without": [face.mesh for face in faces], "with": []}
    for i in range(len(faces)):
        near = range(max(i - REACH, 0), min(i + REACH + 1, len(faces)))
        meshes["with"].append(steady({j - i: faces[j] for j in near}).mesh)
    speed = torch.gradient(torch.tensor(way))[0]
    figures = {}
    for name, each in meshes.items():
        error = torch.stack([x for x in each if x is not None]) - true
        error[..., 0] -= torch.tensor(way)[:, None]
        error = error[REACH:-REACH] - error[REACH:-REACH].mean(0)  # the mesh has its own opinion
        inner = speed[REACH:-REACH]
        lag = -float((error[..., 0].mean(1) * inner).sum() / inner.square().sum().clamp(min=1e-9))
        rms = float(error.square().sum(2).mean().sqrt())
        figures[name] = {"points": 100 * rms / width, "lag": lag if any(way) else None}
    return figures


def swaps(swapper: SwapPipeline, photo: Tensor, way: Sequence[float]) -> dict[str, Any]:
    """Jitter and flicker of results."""
    players = swapper.players(str(sample_or_path("sample:collins")))
    figures = {}
    for name, is_on in (("without", False), ("with", True)):
        change = followed(swapper, players, steadily=is_on)
        made = [
            Frame(each.index, each.index / 25, (each.image * 255).round() / 255)
            for each in change(clip(photo, way))
        ]
        figures[name] = asdict(steadiness(clip(photo, way), iter(made), swapper.detect))
    return figures


def main(options: argparse.Namespace) -> None:
    photo = read_image(sample_or_path("sample:hopper")).image
    width = round(photo.shape[2] * HEIGHT / photo.shape[1])
    photo = resize(photo[None], (HEIGHT, width))[0]
    figures: dict[str, Any] = {}
    print(f"{'':24}{'points, %':>10}{'lag':>8}{'jitter, %':>20}{'flicker':>20}")
    for method in options.methods:
        with load(method) as swapper:
            (face, *_) = swapper.detect(photo)
            for kind, way in ways(face, QUICK if options.quick else FRAMES).items():
                if options.quick and kind != "still":
                    continue
                one, two = points(swapper, photo, way), swaps(swapper, photo, way)
                for name in ("without", "with"):
                    row = {**one[name], **two[name]}
                    figures[f"{method}, {kind}, {name}"] = row
                    lag = "-" if row["lag"] is None else f"{row['lag']:.2f}"
                    jitter, flicker = (
                        f"{row[f'{key}_before']:.3f} -> {row[key]:.3f}"
                        for key in ("jitter", "flicker")
                    )
                    print(
                        f"{f'{method} {kind} {name}':24}{row['points']:10.3f}{lag:>8}"
                        f"{jitter:>20}{flicker:>20}"
                    )
    write_figures(options.json, figures)


if __name__ == "__main__":
    parser = arguments(__doc__, quick="fewer frames, which stand still")
    parser.add_argument("--methods", nargs="+", default=["simswap"], metavar="NAME")
    main(parser.parse_args())
