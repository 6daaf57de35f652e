"""``facke evaluate`` on the London set, with a judge that no model of facke was trained with.

    ./dev python benchmarks/evaluate_london.py [WEIGHTS ...] [--limit N] [--out DIR] [--resume]
                                               [--batch-size N] [--engine ray]
                                               [--html FILE] [--protocol facke2022]
                                               [--quick] [--json FILE]

All 3,540 ordered pairs of the 60 neutral faces, the same as in ``identity_transfer.py`` and in the
same order, so that ``--limit N`` takes a fixed random part. Default: every method with bundled
weights. The recognisers are calibrated on real pairs of the London set (neutral and smiling) and of
ten pictures each of seven people of LFW; ``--no-calibration`` leaves that out.

The pictures and the judge lie in ``$FACKE_SHARED`` (default: ``../shared`` beside the checkout).
Writes ``pairs.csv``, ``real.csv`` and a link to the pictures into ``--out``, beside the rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import arguments, bundled, require
from london import write_inputs
from reid import NAME, registry

from facke_cli.commands.evaluate_run import RunOptions, run
from facke_core import FackeError

QUICK_PEOPLE, QUICK_PAIRS = 4, 12


def main() -> None:
    parser = arguments(__doc__, quick=f"{QUICK_PAIRS} pairs of {QUICK_PEOPLE} people")
    parser.add_argument("weights", nargs="*", help="default: all bundled ones")
    parser.add_argument("--limit", type=int, help="pairs; default: all 3,540")
    parser.add_argument("--out", type=Path, help="keep the rows here; default: nowhere")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--html", type=Path)
    parser.add_argument("--protocol", choices=("default", "facke2022"), default="default")
    parser.add_argument("--metrics", help="some only, with commas between them")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-calibration", action="store_true")
    parser.add_argument("--people", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    require("judges.py", "manifest.csv")
    people = args.people or (QUICK_PEOPLE if args.quick else None)
    names = registry()
    with tempfile.TemporaryDirectory() as temporary:
        pairs, real = write_inputs(args.out or Path(temporary), people)
        options = RunOptions(
            weights=args.weights or bundled(names),
            pairs=pairs,
            limit=args.limit or (QUICK_PAIRS if args.quick else None),
            judge=NAME,
            encoder="dlib-resnet29",
            metrics=args.metrics,
            protocol=args.protocol,
            seed=args.seed,
            device=args.device,
            batch_size=args.batch_size,
            workers=args.workers,
            engine=args.engine,
            out=args.out,
            resume=args.resume,
            calibrate=None if args.no_calibration else real,
            html=args.html,
            json_file=args.json,
        )
        try:
            run(options, registry)
        except FackeError as error:
            sys.exit(f"evaluate_london: {error}")


if __name__ == "__main__":
    main()
