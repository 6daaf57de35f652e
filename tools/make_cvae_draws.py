"""Make the picture of docs/autoencoders.md that shows draws from the latent of a CVAE.

    ./dev python tools/make_cvae_draws.py [--method cvae-gan] [--output docs/images/cvae-draws.jpg]

Two rows, one per direction of the swap of the sample portraits: the mean of the latent, then draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make_ilvr_pictures import SIZE, crops, swapped

from facke_core import load
from facke_core.images.grid import picture_grid
from facke_core.images.io import write_image
from facke_core.images.provenance import disclosure
from facke_core.types import SwapRequest

TEMPERATURES, SEEDS = (1, 3), range(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="cvae-gan")
    parser.add_argument("--output", type=Path, default=Path("docs/images/cvae-draws.jpg"))
    args = parser.parse_args()
    collins, hopper = crops(load(args.method))
    drawn = [(t, seed) for t in TEMPERATURES for seed in SEEDS]
    columns = [load(args.method)] + [
        load(args.method, sampler={"temperature": float(t)}) for t, _ in drawn
    ]
    seeds = [0, *(seed for _, seed in drawn)]
    rows = [
        [swapped(one, *pair, seed=seed) for one, seed in zip(columns, seeds, strict=True)]
        for pair in ((collins, hopper), (hopper, collins))
    ]
    labels = ["mean", *(f"T = {t}, seed {seed}" for t, seed in drawn)]
    request = SwapRequest(method=args.method, weights="", revision="", seed=0)
    picture = picture_grid(rows, size=SIZE, labels=labels)
    write_image(args.output, picture, xmp=disclosure(request), overwrite=True)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
