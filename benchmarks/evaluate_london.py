"""``facke evaluate`` on the London set, with a judge that no model of facke was trained with.

    ./dev python benchmarks/evaluate_london.py [WEIGHTS ...] [--limit N] [--out DIR] [--resume]
                                               [--batch-size N] [--engine ray]
                                               [--json FILE] [--html FILE] [--protocol facke2022]

All 3,540 ordered pairs of the 60 neutral faces, the same as in ``identity_transfer.py`` and in the
same order, so that ``--limit N`` takes a fixed random part. Default: every method with bundled
weights. The recognisers are calibrated on real pairs of the London set (neutral and smiling) and of
ten pictures each of seven people of LFW; ``--no-calibration`` leaves that out.

The pictures and the judge lie in ``$FACKE_SHARED`` (default: ``../shared`` beside the checkout).
Writes ``pairs.csv``, ``real.csv`` and a link to the pictures into ``--out``, beside the rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from identity_transfer import order
from reid import NAME, available, registry, shared

from facke_cli.commands.evaluate_run import RunOptions, run
from facke_core import Bundled, FackeError, Registry

PICTURES = "pictures"
"""A link to ``$FACKE_SHARED/faces/images``, so that reports name no place outside."""


def manifest(group: str) -> list[dict[str, str]]:
    """The rows of one group of pictures."""
    with open(shared() / "faces" / "manifest.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["group"] == group]


def write_inputs(folder: Path, people: int | None = None) -> tuple[Path, Path]:
    """(pairs.csv, real.csv) in a folder, of the first ``people`` or all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / PICTURES
    if not link.is_symlink():
        link.symlink_to((shared() / "faces" / "images").resolve(), target_is_directory=True)
    neutral = [row for row in manifest("london") if row["path"].endswith("/neutral.jpg")][:people]
    pairs = [
        (*(_linked(neutral[k]) for k in pair), *(neutral[k]["identity"] for k in pair))
        for pair in order(len(neutral), 6)
    ]
    columns = ("source", "target", "source_identity", "target_identity")
    return (
        _write(folder / "pairs.csv", columns, pairs),
        _write(folder / "real.csv", ("a", "b", "same"), _real(people)),
    )


def _linked(row: dict[str, str]) -> str:
    return f"{PICTURES}/{row['path'].removeprefix('images/')}"


def _real(people: int | None) -> list[tuple[str, str, int]]:
    """Pairs of one and of two people, within each of two sets of photographs."""
    pairs = []
    for group in ("london", "lfw10"):
        shown: dict[str, list[str]] = defaultdict(list)
        for row in manifest(group):
            shown[row["identity"]].append(_linked(row))
        chosen = [(who, path) for who in list(shown)[:people] for path in sorted(shown[who])]
        for (who, a), (whom, b) in combinations(chosen, 2):
            # strangers of the London set meet with the same expression only
            if group == "lfw10" or who == whom or Path(a).name == Path(b).name == "neutral.jpg":
                pairs.append((a, b, int(who == whom)))
    return pairs


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def bundled(names: Registry) -> list[str]:
    """The methods that have weights in their own package."""
    return [
        method.name
        for method in names.methods()
        if any(isinstance(where, Bundled) for where in method.weights.values())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="*", help="default: all bundled ones")
    parser.add_argument("--limit", type=int, help="pairs; default: all 3,540")
    parser.add_argument("--out", type=Path, help="keep the rows here; default: nowhere")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json", type=Path)
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
    if reason := available():
        sys.exit(f"The London set cannot be evaluated: {reason}")
    names = registry()
    with tempfile.TemporaryDirectory() as temporary:
        pairs, real = write_inputs(args.out or Path(temporary), args.people)
        options = RunOptions(
            weights=args.weights or bundled(names),
            pairs=pairs,
            limit=args.limit,
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
