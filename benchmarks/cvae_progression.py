"""The progression of Facke's Fig. 3 from our own small models, and two choices that it leaves open.

    ./dev python benchmarks/cvae_progression.py DATASET RUNS [--steps 600] [--jobs 2] [--choices]

DATASET is made by ``facke prepare PHOTOS DATASET --size 128``. Each model is a recipe of facke-vae
with a smaller network, trained by ``facke train`` into a folder of RUNS; a run that is finished is
not trained again. Then one table, and one picture of the two sample portraits with each other's
identity (``--picture``).

* ``a``, recipe ``cvae-1d``: a vector as latent blurs (Fig. 3a).
* ``b``, recipe ``cvae``: a map as latent, without identity loss, returns the target (Fig. 3b).
* ``c``, recipe ``cvae-id``: the identity loss alone pastes features on it (Fig. 3c).
* ``d``, recipe ``cvae-gan``: with a discriminator (Fig. 3d), and the identity weight of the
  original's script, 10.

``c`` and ``d`` begin with the weights of ``b``. ``--choices`` trains ``b`` with the noise of the
code (uniform) and with the text's MSE as well; ``b`` itself has the text's Gaussian and the code's
L1.

Columns: ``gain``, ``top1``, ``landmark_shift`` and ``self_psnr`` as in identity_transfer.py, on
crops of the London set (needs ``$FACKE_SHARED``; left out without it); ``detail``: energy of the
Laplacian of swap(x, x) as a share of that of x, 1 for a result as sharp as the photograph.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from identity_transfer import Judge, measure, people_of
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import load
from facke_core.images.grid import picture_grid
from facke_core.images.io import read_image, write_image
from facke_core.images.provenance import disclosure
from facke_core.types import SwapRequest
from facke_core.weights.checkpoints import complete, name

if TYPE_CHECKING:
    from facke_core.pipeline import SwapPipeline

SMALL = (
    "batch_size=16",
    "alignment.size=128",
    "generator.image_size=128",
    "generator.patch=2",
    "generator.channels=[48,96,192,192]",
    "generator.num_id_blocks=4",
    "generator.stem_kernel=3",
    "generator.padding=zeros",
    "generator.condition=vector",
    "generator.heads=linear",
    "generator.noise=gaussian",
    "generator.log_var_range=[-12,8]",
    "ema=0.995",
    "log_every=50",
    "save_every=200",
)
NARROW = ("discriminator.width=24", "discriminator.num_scales=1")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a": ("cvae-1d", (*SMALL, "generator.channels=[48,96,192,192,192]")),
    "b": ("cvae", SMALL),
    "c": ("cvae-id", SMALL),
    "d": ("cvae-gan", (*SMALL, *NARROW, "loss.identity.weight=10")),
}
BEGIN_WITH = {"c": "b", "d": "b"}
CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "uniform": ("cvae", (*SMALL, "generator.noise=uniform")),
    "mse": ("cvae", (*SMALL, "loss.reconstruction.options.distance=l2")),
}
TITLES = {"a": "1-D latent", "b": "2-D latent", "c": "+ identity loss", "d": "+ discriminator"}


def train(run: str, args: argparse.Namespace) -> None:
    """Train one model with ``facke train``, or finish it."""
    recipe, overrides = (RUNS | CHOICES)[run]
    folder = args.runs / run
    there = complete(folder) if folder.is_dir() else []
    if there and there[-1].name == name(args.steps):
        return
    facke = Path(sys.executable).with_name("facke")
    command = [str(facke), "train", recipe, "--data", str(args.data)]
    command += ["--out", str(folder), "--device", args.device, *(["--resume"] if there else [])]
    if run in BEGIN_WITH and not there:
        command += ["--init", str((args.runs / BEGIN_WITH[run]).absolute())]
    for override in (*overrides, f"steps={args.steps}"):
        command += ["--set", override]
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    args.runs.mkdir(parents=True, exist_ok=True)
    with open(args.runs / f"{run}.txt", "a", encoding="utf-8") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{run}: {' '.join(command)} ended with {done.returncode}; see {log.name}.")


def detail(pipeline: SwapPipeline, crops: Tensor) -> float:
    """Energy of the Laplacian of swap(x, x), as a share of that of x."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)

    def energy(x: Tensor) -> float:
        return float(F.conv2d(x, kernel, groups=3).square().mean())

    return energy(pipeline.swap_crops(crops, crops)) / energy(crops)


def sample_crops(pipeline: SwapPipeline) -> list[Tensor]:
    """The two sample portraits as the pipeline's crops."""
    photos = [read_image(sample_or_path(f"sample:{who}")).image for who in ("collins", "hopper")]
    return [pipeline.align(photo, pipeline.detect(photo)[0]).crop for photo in photos]


def judged(pipeline: SwapPipeline, people: Any, judge: Judge, pairs: int) -> dict[str, Any]:
    def swap(source: Tensor, target: Tensor, identity: Tensor) -> Tensor:
        return pipeline.swap_crops(source, target, identity=identity)

    return measure(swap, people, judge, limit=pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--jobs", type=int, default=2, help="models that train at the same time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--choices", action="store_true", help="two more models")
    parser.add_argument("--pairs", type=int, default=400, help="of the London set")
    parser.add_argument("--picture", type=Path, default=Path("cvae-progression.png"))
    args = parser.parse_args()
    runs = [*RUNS, *(CHOICES if args.choices else ())]
    for wave in ([r for r in runs if r not in BEGIN_WITH], list(BEGIN_WITH)):
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda run: train(run, args), wave))

    shared = Path(os.environ.get("FACKE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    judge = Judge(shared) if (shared / "faces" / "judges.py").is_file() else None
    pipelines = {run: load(args.runs / run) for run in runs}
    first = pipelines["a"]
    people = people_of(first, shared, judge, crops=True) if judge else []
    crops = sample_crops(first)
    faces = torch.stack([p.face.crop for p in people] or crops)
    columns = ("gain", "top1", "landmark_shift", "self_psnr")
    print("| run | recipe |", " | ".join((*columns, "detail")), "|")
    print("|" + " --- |" * (3 + len(columns)))
    for run, pipeline in pipelines.items():
        row = judged(pipeline, people, judge, args.pairs) if judge else {}
        row["detail"] = detail(pipeline, faces)
        shown = [row.get(key) for key in (*columns, "detail")]
        values = ["-" if value is None else f"{value:.3f}" for value in shown]
        print(f"| {run} | {(RUNS | CHOICES)[run][0]} |", " | ".join(values), "|", flush=True)

    rows = []
    for source, target in ((crops[0], crops[1]), (crops[1], crops[0])):
        swapped = [pipelines[run].swap_crops(source[None], target[None])[0] for run in RUNS]
        rows.append([source, target, *swapped])
    picture = picture_grid(rows, size=160, labels=["source", "target", *TITLES.values()])
    request = SwapRequest(method="cvae", weights="", revision="", seed=None)
    write_image(args.picture, picture, xmp=disclosure(request), overwrite=True)


if __name__ == "__main__":
    main()
