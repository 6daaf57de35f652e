"""How much of the source's identity arrives, and how much of the target's face moves.

    ./dev python benchmarks/identity_transfer.py [--method simswap cvae-gan ...] [--quick]
                                                 [--pairs N] [--json FILE] [--picture FILE]
                                                 [--reference]

Every person of the London set (neutral faces, 60 people, 3,540 ordered pairs) is put on every
other, by the whole pipeline: detection, alignment, generation, paste-back. The results are judged
by a recogniser that no model of facke is conditioned on or trained with, and by the judge's own
face detector (reid.py, judging.py).

With ``--reference`` the judge compares with another photograph of the source, smiling, and looks
for the source among these photographs of the 60 people.

* ``gain``: mean cos(result, source) minus mean cos(target, source); facke's metric ``id-gain``.
* ``top1``: share of results whose nearest of the 60 people is the source; ``retrieval-top1``.
* ``landmark_shift``: mean distance of the five points from the target's, in percent of the
  target's eye distance.
* ``self_psnr``: PSNR in dB of swap(x, x) against x inside of the aligned crop, mean over people;
  ``psnr``. ``--quick`` takes every third person.
* ``picture``: some of the results, as a face matrix; in a temporary folder, unless ``--picture``
  says where.

The pictures and the judge lie in ``$FACKE_SHARED`` (default: ``../shared`` beside the checkout).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import arguments, require, scratch, write_figures
from judging import HalfPictures, measure
from london import write_inputs
from reid import Judge, judge
from torch import Tensor

from facke_cli.console import progress
from facke_core import load
from facke_core.evaluation.clock import STAGES
from facke_core.evaluation.pictures import PictureStore, unpacked
from facke_core.images.grid import face_matrix
from facke_core.images.io import write_image
from facke_core.images.provenance import disclosure
from facke_core.jobs.pairs import PictureRef, SwapPair, read_pairs
from facke_core.results import StageClock
from facke_core.types import SwapRequest

QUICK, QUICK_PEOPLE, QUICK_SECONDS = 120, 20, 38
"""Pairs of ``--quick``, people of its ``self_psnr``, and when it begins no further batch."""
JUDGE = "reid_0095"


def draw(shown: dict[SwapPair, Tensor], pictures: PictureStore) -> Tensor:
    """The face matrix of some results."""
    of_pair = {pair[:2]: photo for pair, photo in shown.items()}
    sources, targets = (sorted({pair[k] for pair in of_pair}) for k in (0, 1))

    def photos(people: list[PictureRef]) -> list[Tensor]:
        return [unpacked(pictures.load(person).photo) for person in people]

    def names(people: list[PictureRef]) -> list[str]:
        return [person.identity.rpartition("/")[2] for person in people]

    return face_matrix(
        photos(sources),
        photos(targets),
        [[of_pair.get((source, target)) for target in targets] for source in sources],
        size=224,
        source_labels=names(sources),
        target_labels=names(targets),
    )


def judged(name: str, args: argparse.Namespace, folder: Path, judge: Judge) -> dict[str, Any]:
    """What the benchmark says of one method or of one set of weights; draws its picture."""
    started, matrix = time.monotonic(), 3 if args.quick else 6
    pipeline = load(name, device=args.device)
    pairs = read_pairs(write_inputs(folder, matrix=matrix, reference=args.reference)[0])
    people = sorted(pairs.sources)
    pictures = HalfPictures(pipeline, StageClock(STAGES))
    with progress() as show:
        report, shown = measure(
            pipeline,
            pairs,
            judge,
            pictures=pictures,
            limit=args.pairs or (QUICK if args.quick else None),
            seconds=QUICK_SECONDS - (time.monotonic() - started) if args.quick else None,
            batch_size=args.batch_size,
            keep=matrix**2,
            own=people[:: max(1, len(people) // QUICK_PEOPLE)] if args.quick else people,
            on_progress=show,
        )
    source = pipeline.source
    request = SwapRequest(
        method=source.config.method if source else name,
        weights=source.name if source else "",
        revision=source.revision if source else "",
        seed=0,
    )
    picture = args.picture or scratch("identity") / f"identity_transfer-{request.method}.png"
    write_image(picture, draw(shown, pictures), xmp=disclosure(request), overwrite=True)
    return report | {
        "judge": JUDGE,
        "reference": "smiling" if args.reference else "",
        "picture": str(picture),
        "method": request.method,
        "weights": request.weights,
        "revision": request.revision,
    }


def main() -> None:
    parser = arguments(__doc__, quick="120 pairs, or fewer where they take too long")
    parser.add_argument("--method", nargs="+", default=["simswap"], help="registered methods")
    parser.add_argument("--weights", help="a tag of the method, hf:org/repo, or ./folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--pairs", type=int, help="the first of a fixed shuffle; default: all")
    parser.add_argument(
        "--reference", action="store_true", help="compare with a smiling photograph of the source"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="of one method")
    args = parser.parse_args()
    if len(args.method) > 1 and (args.weights or args.picture):
        parser.error("--weights and --picture belong to one method")
    require("judges.py", "manifest.csv")
    names = args.method
    if args.weights:
        path_like = args.weights.startswith(("hf:", ".", "/"))
        names = [args.weights if path_like else f"{names[0]}.{args.weights}"]
    reports = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            reports.append(judged(name, args, Path(folder), judge()))
    for key in reports[0]:
        print(f"{key:15}", *(f"{report[key]!s:28}" for report in reports))
    write_figures(args.json, reports if len(reports) > 1 else reports[0])


if __name__ == "__main__":
    main()
