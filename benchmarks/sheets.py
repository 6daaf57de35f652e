"""Sheets for the eye: source, target and the result of each method, six pairs a page.

    ./dev python benchmarks/sets.py SETS
    ./dev python benchmarks/sheets.py METHOD [METHOD...] --pairs SETS/eye.csv --out SHEETS
                                      [--seed N] [--size 320] [--quick] [--json FILE]

METHOD is what ``facke_core.load`` takes: ``warp``, ``simswap.mini``, ``hf:org/repo``,
``./folder``; so old weights stand beside new ones. Faces are found and swapped in the photographs,
and the heads are cut out upright, with what is around them. Pages are ``SHEETS/sheet-1.png``,
``sheet-2.png``, ...

``--quick`` draws two pairs; without ``--pairs`` those of ``eye.csv``, and without ``--out`` in a
temporary folder. The JSON has ``sheets``: ``file``, ``pairs`` and ``missing``, the reasons for
cells that stayed white.

The sheets show other people's faces: they are not for the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import arguments, manifest, require, scratch, write_figures
from sets import sets, write

from facke_core import load
from facke_core.figures import FigureStyle, methods_figure
from facke_core.images.io import write_image
from facke_core.images.provenance import disclosure
from facke_core.jobs.pairs import read_pairs
from facke_core.types import SwapRequest

PAIRS = 6
"""Of a page."""


def main() -> None:
    parser = arguments(__doc__, quick="two pairs")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: simswap")
    parser.add_argument("--pairs", type=Path, help="a CSV as facke evaluate takes it")
    parser.add_argument("--out", type=Path, metavar="SHEETS", help="a folder")
    parser.add_argument("--size", type=int, default=320, help="pixels of a face")
    parser.add_argument("--seed", type=int, default=0, help="of methods that draw")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.out is None and not args.quick:
        parser.error("name the folder with --out, or give --quick")
    if args.pairs is None:
        require("manifest.csv")
        args.pairs = write(scratch("sets"), "eye.csv", sets(manifest())["eye.csv"])
    out = args.out or scratch("sheets")
    out.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(args.pairs).first(2 if args.quick else None).pairs
    loaded = {name: load(name, device=args.device) for name in args.methods or ["simswap"]}
    sources = [swapper.source for swapper in loaded.values() if swapper.source]
    request = SwapRequest(
        method=", ".join(source.config.method for source in sources),
        weights=", ".join(source.name for source in sources),
        revision=", ".join(source.revision for source in sources),
        seed=args.seed,
    )
    style, sheets = FigureStyle(size=args.size, seed=args.seed), []
    files = [(pair.source.path, pair.target.path) for pair in pairs]
    for start in range(0, len(files), PAIRS):
        page = [(a, b) for a, b in files[start : start + PAIRS] if a and b]
        figure = methods_figure(loaded, page, style)
        file = out / f"sheet-{start // PAIRS + 1}.png"
        write_image(file, figure.image, xmp=disclosure(request), overwrite=True)
        print(file, flush=True)
        missing = [cell.reason for cell in figure.missing]
        sheets.append({"file": file.name, "pairs": len(page), "missing": missing})
    write_figures(args.json, {"sheets": sheets})


if __name__ == "__main__":
    main()
