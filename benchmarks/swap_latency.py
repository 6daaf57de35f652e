"""How long one swap takes, stage by stage, and as a command.

    ./dev python benchmarks/swap_latency.py [--quick] [--json FILE] [--device cpu] [--method M]
                                            [--backend auto]

Swaps one photo's face by ``facke_core.load(...)`` on the two sample portraits.

* ``seconds``: the median over the repeats of detect, align, encode, generate, paste and total, with
  everything loaded; ``load`` is the time that loading took, ``first`` that of the first swap (which
  also builds the detector); ``process`` that of a whole ``facke swap`` process, and
  ``process_cpu`` what it used of the processors, which other programs disturb less.
* ``photo``: width and height of the target in pixels.
* ``device``: what the networks ran on. ``backend``: what computed the generator.
* ``outside``: of a photo of 1920 x 1080 pixels with one face of about 300, seconds of everything
  but the generator: decode, detect, align, occlusion, encode, paste, encode PNG.
* ``whole``: seconds of a swap into that photo, from two files to a result in memory.
* ``bend``: seconds in which ``facke_core.faces.warp.bend`` bends one face of 256 pixels.
* ``paste``: the same face in photos of several sizes: seconds of ``paste``, of the ``copy`` of the
  photo that is part of it, and of the difference, ``face``, which does not grow with the photo.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import arguments, write_figures

from facke_cli.samples import sample_or_path

if TYPE_CHECKING:
    from torch import Tensor

    from facke_core import SwapPipeline

SIZES = ((540, 960), (1080, 1920), (2160, 3840))
"""Height and width."""
SOURCE, TARGET = "sample:collins", "sample:hopper"
COMMAND = "from facke_cli.main import run; run()"


def measure(
    *, method: str, device: str, backend: str, repeats: int, processes: int
) -> dict[str, Any]:
    """The report, as it is written to ``--json``."""
    process = [_process(method, device) for _ in range(processes)]

    started = time.perf_counter()
    import torch

    from facke_core import load

    imported = time.perf_counter()
    pipeline = load(method, device=device, backend=backend)
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
        "backend": str(pipeline.choice),
        "outside": outside(pipeline, repeats),
        "whole": whole(pipeline, repeats),
        "bend": bending(repeats),
        "paste": [of_paste(pipeline, size, repeats) for size in SIZES],
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def photo_of(height: int, width: int) -> Tensor:
    """A photo (3, H, W) that shows the source at the same place and size whatever H and W are, in
    clouds of noise, which are about as hard to compress as a photo."""
    import torch

    from facke_core.images.io import read_image, resize

    portrait = read_image(sample_or_path(SOURCE)).image
    photo, rng = portrait.mean((1, 2))[:, None, None], torch.Generator().manual_seed(0)
    for cell, amount in ((64, 0.1), (8, 0.03), (1, 0.01)):
        noise = torch.randn(1, 3, height // cell, width // cell, generator=rng)
        photo = photo + amount * resize(noise, (height, width))[0]
    photo[:, 10 : 10 + portrait.shape[1], 20 : 20 + portrait.shape[2]] = portrait
    return photo.clamp(0, 1)


def outside(pipeline: SwapPipeline, repeats: int) -> dict[str, float]:
    """Seconds of what a swap does beside the generator, for a photo of 1920 x 1080."""
    from facke_core.images.io import read_image, write_image

    photo = photo_of(1080, 1920)
    face = pipeline.detect(photo)[0]
    aligned = pipeline.align(photo, face)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        write_image(file, photo)
        return {
            "decode": median(lambda: read_image(file), repeats),
            "detect": median(lambda: pipeline.detect(photo), repeats),
            "align": median(lambda: pipeline.align(photo, face), repeats),
            "occlusion": median(lambda: pipeline.occlusion(photo, [aligned]), repeats),
            "encode": median(lambda: pipeline.encode(aligned.crop[None]), repeats),
            "paste": median(lambda: pipeline.paste(photo, aligned.crop, aligned), repeats),
            "encode PNG": median(lambda: write_image(file, photo, overwrite=True), repeats),
        }


def whole(pipeline: SwapPipeline, repeats: int) -> float:
    """Seconds of a whole swap into a photo of 1920 x 1080, the files read each time."""
    from facke_core.images.io import write_image

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        write_image(file, photo_of(1080, 1920))
        return median(lambda: pipeline(sample_or_path(TARGET), file, seed=0), repeats)


def bending(repeats: int) -> float:
    """Seconds of bending one face of 256 pixels onto another."""
    import torch

    from facke_core import Alignment
    from facke_core.faces.align import align, transform_points
    from facke_core.faces.detect import build_mediapipe
    from facke_core.faces.warp import bend
    from facke_core.images.io import read_image

    detector, crops, meshes = build_mediapipe(), [], []
    for name in (SOURCE, TARGET):
        photo = read_image(sample_or_path(name)).image
        seen = align(photo, detector(photo)[0], Alignment(template="ffhq", size=256))
        assert seen.face.mesh is not None
        crops.append(seen.crop[None])
        meshes.append(transform_points(seen.matrix[None], seen.face.mesh[None, :, :2]))
    with torch.inference_mode():
        return median(lambda: bend(crops[0], meshes[0], meshes[1], 256, pull=0.5), repeats)


def of_paste(pipeline: SwapPipeline, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Seconds of pasting one face into a photo of (height, width)."""
    photo = photo_of(*size)
    aligned = pipeline.align(photo, pipeline.detect(photo_of(*SIZES[0]))[0])
    pasted = median(lambda: pipeline.paste(photo, aligned.crop, aligned), repeats)
    copied = median(photo.clone, repeats)
    return {
        "photo": [size[1], size[0]],
        "paste": pasted,
        "copy": copied,
        "face": round(pasted - copied, 4),
    }


def median(run: Callable[[], object], repeats: int) -> float:
    """Seconds of a call, warmed up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 4)


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
    parser = arguments(__doc__, quick="fewer repeats")
    parser.add_argument("--method", default="simswap")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="torch")
    args = parser.parse_args()

    repeats, processes = (5, 1) if args.quick else (20, 3)
    report = measure(
        method=args.method,
        device=args.device,
        backend=args.backend,
        repeats=repeats,
        processes=processes,
    )
    width, height = report["photo"]
    print(f"{report['method']}, photo {width} x {height}, {report['device']}, {report['backend']}")
    for stage, value in report["seconds"].items():
        print(f"{stage:>11}  {value:8.4f} s")
    print("outside the generator, photo 1920 x 1080")
    for stage, value in report["outside"].items():
        print(f"{stage:>11}  {value:8.4f} s")
    print(f"{'whole':>11}  {report['whole']:8.4f} s")
    print(f"a face of 256 pixels is bent in {report['bend']:.4f} s")
    print(f"{'photo':>11}  {'paste':>8}    {'copy':>8}    {'face':>8}")
    for row in report["paste"]:
        size = "x".join(map(str, row["photo"]))
        print(f"{size:>11}  {row['paste']:8.4f} s  {row['copy']:8.4f} s  {row['face']:8.4f} s")
    write_figures(args.json, report)


if __name__ == "__main__":
    main()
