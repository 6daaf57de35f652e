"""How long one swap takes, stage by stage, and as a command.

    ./dev python benchmarks/swap_latency.py [--quick] [--json FILE] [--device cpu] [--method M]

Swaps one photo's face by ``facke_core.load(...)`` on the two sample portraits.

* ``seconds``: the median over the repeats of detect, align, encode, generate, paste and total, with
  everything loaded; ``load`` is the time that loading took, ``first`` that of the first swap (which
  also builds the detector); ``process`` that of a whole ``facke swap`` process, and
  ``process_cpu`` what it used of the processors, which other programs disturb less.
* ``photo``: width and height of the target in pixels.
* ``device``: what the networks ran on. ``backend``: what computed them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from facke_cli.samples import sample_or_path

SOURCE, TARGET = "sample:collins", "sample:hopper"
COMMAND = "from facke_cli.main import run; run()"


def measure(*, method: str, device: str, repeats: int, processes: int) -> dict[str, Any]:
    """The report, as it is written to ``--json``."""
    process = [_process(method, device) for _ in range(processes)]

    started = time.perf_counter()
    import torch

    from facke_core import load

    imported = time.perf_counter()
    pipeline = load(method, device=device)
    loaded = time.perf_counter()
    source, target = str(sample_or_path(SOURCE)), str(sample_or_path(TARGET))
    result = pipeline(source, target, seed=0)
    first = time.perf_counter() - loaded
    runs = [pipeline(source, target, seed=0).seconds for _ in range(repeats)]
    seconds = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    seconds |= {
        "import": imported - started,
        "load": loaded - imported,
        "first": first,
        "process": statistics.median(wall for wall, _ in process),
        "process_cpu": statistics.median(cpu for _, cpu in process),
    }
    return {
        "method": method,
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
        "photo": [result.image.shape[-1], result.image.shape[-2]],
        "device": str(pipeline.device),
        "backend": "torch",
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def _process(method: str, device: str) -> tuple[float, float]:
    """Wall and processor time of one ``facke swap``, start of Python included."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.png")
        swap = ["swap", "--method", method, "--device", device, SOURCE, TARGET, "-o", out]
        before, started = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, *swap, "--quiet"], check=True)
        wall, after = time.perf_counter() - started, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="simswap")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, within 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()

    repeats, processes = (5, 1) if args.quick else (20, 3)
    report = measure(method=args.method, device=args.device, repeats=repeats, processes=processes)
    width, height = report["photo"]
    print(f"{report['method']}, photo {width} x {height}, {report['device']}, {report['backend']}")
    for stage, value in report["seconds"].items():
        print(f"{stage:>11}  {value:8.4f} s")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
