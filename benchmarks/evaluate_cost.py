"""What an evaluation costs: seconds per stage, and the share of the identity encoders.

    ./dev python benchmarks/evaluate_cost.py [--weights simswap] [--quick] [--json FILE]

All London pairs (3,540) end to end: reading, detection, alignment, swap, paste-back, detection in
the result, the encoder of the training, the judge, and every metric. Seconds are summed over the
threads; ``wall`` is what one waits. ``encoder_share`` is that of all embeddings, of pictures and of
results. ``--quick`` begins no further batch after 30 s.

The pictures and the judge lie in ``$FACKE_SHARED`` (default: ``../shared`` beside the checkout).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import arguments, require, write_figures
from london import write_inputs
from reid import NAME, registry

from facke_core.evaluation.clock import encoder_share
from facke_core.evaluation.runner import EvaluationSpec

QUICK_SECONDS = 30
QUICK_PEOPLE = 12
"""All different pictures are encoded before the first pair."""
BATCH = 8


def cost(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures."""
    pairs_file, _ = write_inputs(folder, QUICK_PEOPLE if args.quick else None)
    spec = EvaluationSpec(
        weights=args.weights,
        pairs=str(pairs_file),
        limit=args.pairs,
        judge=NAME,
        encoder="dlib-resnet29",
        device=args.device,
    )
    evaluator, pairs = spec.evaluator(registry()), spec.pair_set()
    evaluator.workers = args.workers or evaluator.workers
    done, started = 0, time.monotonic()
    with evaluator.session(pairs) as session:
        while done < len(pairs):
            if args.quick and time.monotonic() - started > QUICK_SECONDS:
                break
            part = range(done, min(done + BATCH, len(pairs)))
            session.rows(part, batch_size=BATCH)
            done = part.stop
            if sys.stderr.isatty():
                print(f"\r{done}/{len(pairs)} pairs", end="", file=sys.stderr, flush=True)
        seconds = session.clock.seconds()
    return {
        "pairs": done,
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "encoder_share": round(encoder_share(seconds), 4),
        "wall": round(time.monotonic() - started, 1),
        "workers": evaluator.workers,
        "device": str(evaluator.pipeline.device),
        "weights": evaluator.name,
        "judge": NAME,
    }


def main() -> None:
    parser = arguments(__doc__, quick=f"{QUICK_PEOPLE} people, and no further batch after 30 s")
    parser.add_argument("--weights", default="simswap")
    parser.add_argument("--pairs", type=int, help="default: all")
    parser.add_argument("--workers", type=int, help="threads; default: one per core")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    require("judges.py", "manifest.csv")
    with tempfile.TemporaryDirectory() as folder:
        found = cost(args, Path(folder))
    total = sum(found["seconds"].values())
    for stage, value in found["seconds"].items():
        print(f"{stage:9} {value:8.1f} s {value / total:6.1%}")
    for key, value in found.items():
        if key != "seconds":
            print(f"{key:14} {value}")
    write_figures(args.json, found)


if __name__ == "__main__":
    main()
