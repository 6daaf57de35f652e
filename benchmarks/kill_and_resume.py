"""Kill a training with SIGKILL at random moments, resume it each time, and compare every bit.

    ./dev python benchmarks/kill_and_resume.py [--kills 20] [--steps 200] [--processes 1]
                                               [--data CROPSET] [--quick] [--json FILE]

A training is run once without interruption and once killed again and again. Both have to end with
the same bits in every tensor of the last checkpoint (weights, discriminator, average, optimisers),
and each step has to be in the log once, with the same losses. Exit code 1 if they differ.

* ``kills``: how often it was killed. ``processes``: that trained together. ``steps``: of each.
* ``identical``: whether tensors and log are; ``tensors``: how many were compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from common import arguments, write_figures
from noise import ENCODER, SIZE, alignment, noise_set
from safetensors.torch import load_file

from facke_core.config import write_json
from facke_core.weights import checkpoints


def tiny_recipe(path: Path, steps: int) -> Path:
    """simswap-mini with a small network, at a save every few steps."""
    write_json(
        path,
        {
            "base": "simswap-mini",
            "steps": steps,
            "generator": {"image_size": SIZE, "channels": [16, 32, 48], "num_id_blocks": 2},
            "discriminator": {"width": 8},
            "identity_encoder": ENCODER,
            "alignment": alignment(),
            "data": {"grouping": True, "schedule": "alternate"},
            "loss": {"gan": {"start": 5, "ramp": 5}, "feature-matching": {"start": 5}},
            "discriminator_loss": {"real": {"start": 2}, "fake": {"start": 2}},
            "probe": {"every": max(2, steps // 5), "faces": 2},
            "log_every": 1,
            "save_every": max(2, steps // 40),
        },
    )
    return path


def command(recipe: Path, data: Path, out: Path, processes: int) -> list[str]:
    train = ["train", str(recipe), "--data", str(data), "--out", str(out), "--device", "cpu"]
    folder = Path(sys.executable).parent
    if processes == 1:
        return [str(folder / "facke"), *train]
    launch = ["--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return [str(folder / "torchrun"), *launch, str(folder / "facke"), *train]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and all that it started, at once."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()


def until_logging(process: subprocess.Popen[bytes], out: Path) -> float:
    """Wait until the training writes its log; the seconds it took."""
    log = out / "log.jsonl"
    began, before = time.perf_counter(), log.stat().st_mtime_ns if log.is_file() else 0
    while process.poll() is None:
        if log.is_file() and log.stat().st_mtime_ns != before:
            break
        time.sleep(0.02)
    return time.perf_counter() - began


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def digests(run: Path) -> dict[str, str]:
    """Of every tensor of the last checkpoint. (Files also tell how fast the training was.)"""
    last = checkpoints.complete(run)[-1]
    return {
        f"{file.stem}.{name}": hashlib.sha256(
            tensor.reshape(-1).view(torch.uint8).numpy()
        ).hexdigest()
        for file in sorted(last.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def main() -> int:
    parser = arguments(__doc__, quick="one kill, 12 steps")
    parser.add_argument("--kills", type=int, help="default: 20")
    parser.add_argument("--steps", type=int, help="default: 200")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="64 px crop set; default: noise")
    args = parser.parse_args()
    kills = args.kills if args.kills is not None else 1 if args.quick else 20
    steps = args.steps or (12 if args.quick else 200)
    rng = random.Random(args.seed)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = args.data or noise_set(folder / "crops")
        recipe = tiny_recipe(folder / "tiny.json", steps)
        whole, parts = folder / "whole", folder / "parts"

        process = start(command(recipe, data, whole, args.processes), folder / "whole.log")
        begin = until_logging(process, whole)
        began = time.perf_counter()
        if process.wait():
            print((folder / "whole.log").read_text(errors="replace")[-2000:], file=sys.stderr)
            return 1
        duration = time.perf_counter() - began
        print(f"uninterrupted: {begin:.1f} s until the first step, then {duration:.1f} s")

        killed = 0
        while True:
            resume = ["--resume"] if checkpoints.complete(parts) else []
            words = [*command(recipe, data, parts, args.processes), *resume]
            process = start(words, folder / "parts.log")
            if killed == kills:
                status = process.wait()
                break
            try:
                if rng.random() < 0.2:  # while it starts
                    moment = rng.uniform(0, begin)
                else:
                    moment = rng.uniform(0, min(0.7, 1.8 / kills) * duration)
                    until_logging(process, parts)
                status = process.wait(moment)
                break
            except subprocess.TimeoutExpired:
                kill(process)
                killed += 1
                at = [p.name for p in sorted((parts / checkpoints.FOLDER).glob("*"))]
                print(f"kill {killed}; on disk: {' '.join(at) or 'nothing'}", flush=True)
        if status:
            print((folder / "parts.log").read_text(errors="replace")[-2000:], file=sys.stderr)
            return 1
        tensors = digests(whole)
        equal, logged = tensors == digests(parts), losses(whole) == losses(parts)
        print(
            f"{steps} steps, {args.processes} process(es), {killed} kills: "
            f"{len(tensors)} tensors {'identical' if equal else 'DIFFERENT'}, "
            f"log {'identical' if logged else 'DIFFERENT'}"
        )
        figures = {
            "kills": killed,
            "identical": equal and logged,
            "processes": args.processes,
            "steps": steps,
            "tensors": len(tensors),
        }
        write_figures(args.json, figures)
        return 0 if equal and logged else 1


if __name__ == "__main__":
    raise SystemExit(main())
