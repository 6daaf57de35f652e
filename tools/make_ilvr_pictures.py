"""Make the pictures of docs/ilvr.md: the sample portraits swapped by ILVR with different settings.

    ./dev python tools/make_ilvr_pictures.py [--method ilvr] [--folder docs/images]

Each picture has two rows, one per direction of the swap, and the columns say what was changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import load
from facke_core.images.grid import picture_grid
from facke_core.images.io import read_image, write_image
from facke_core.images.provenance import disclosure
from facke_core.pipeline import SwapPipeline
from facke_core.sampling import watched
from facke_core.types import SwapRequest

SIZE = 144
PAPER = {"solver": "ddpm", "steps": 100, "start": 1.0, "variant": "facke"}
"""The protocol of the paper's benchmark but for the factor, which is relative to the image size."""
PICTURES: dict[str, dict[str, Mapping[str, Any]]] = {
    "ilvr-factor": {f"N = {n}": {"factor": n} for n in (4, 8, 16, 32)},
    "ilvr-start": {f"start = {s:g}": {"start": s} for s in (0.4, 0.5, 0.6, 0.8, 1.0)},
    "ilvr-shared": {
        "paper": PAPER | {"variant": "paper"},
        "facke": PAPER,
        "adm": PAPER | {"variant": "adm"},
    },
    "ilvr-identity": {
        "plain": {},
        "guidance = 0.05": {"guidance": 0.05},
        "refine = simswap": {"refine": "simswap"},
    },
}
SHOWN = (1, 20, 40, 60, 80, 100)
"""Steps of the strip."""


def crops(pipeline: SwapPipeline) -> list[Tensor]:
    """The two portraits as the pipeline sees them."""
    photos = [read_image(sample_or_path(f"sample:{who}")).image for who in ("collins", "hopper")]
    return [pipeline.align(photo, pipeline.detect(photo)[0]).crop for photo in photos]


def swapped(pipeline: SwapPipeline, source: Tensor, target: Tensor, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return pipeline.swap_crops(source[None], target[None], rng=rng)[0]


def strip(pipeline: SwapPipeline, source: Tensor, target: Tensor) -> list[Tensor]:
    """The estimates of the result after some of the steps."""
    seen: dict[int, Tensor] = {}
    with watched(lambda done, steps, x0: seen.update({done: x0[0].cpu().float()})):
        swapped(pipeline, source, target)
    return [seen[step] for step in SHOWN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="ilvr")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", help="names of pictures; default: all")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    collins, hopper = crops(load(args.method))
    pairs = ((collins, hopper), (hopper, collins))
    made: dict[str, tuple[list[list[Tensor]], list[str]]] = {}
    for name, columns in PICTURES.items():
        if args.only and name not in args.only:
            continue
        pipelines = [load(args.method, sampler=settings) for settings in columns.values()]
        rows = [[*pair, *(swapped(one, *pair) for one in pipelines)] for pair in pairs]
        made[name] = rows, ["source", "target", *columns]
    if not args.only or "ilvr-trajectory" in args.only:
        slow = load(args.method, sampler=PAPER)
        rows = [[*pair, *strip(slow, *pair)] for pair in pairs]
        made["ilvr-trajectory"] = rows, ["source", "target", *(f"step {n}" for n in SHOWN)]
    request = SwapRequest(method=args.method, weights="", revision="", seed=0)
    for name, (rows, labels) in made.items():
        path = args.folder / f"{name}.jpg"
        picture = picture_grid(rows, size=SIZE, labels=labels)
        write_image(path, picture, xmp=disclosure(request), overwrite=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
