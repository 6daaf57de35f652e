"""The progression of Facke's Fig. 3 from our own small models, and two choices that it leaves open.

    ./dev python benchmarks/cvae_progression.py DATASET RUNS [--steps 600] [--jobs 2] [--choices]
                                                [--picture FILE] [--quick] [--json FILE]

DATASET is made by ``facke prepare PHOTOS DATASET --size 128``. Each model is a recipe of facke-vae
with a smaller network, trained by ``facke train`` into a folder of RUNS; a run that is finished is
not trained again. Then one table, and one picture of the two sample portraits with each other's
identity, in a temporary folder unless ``--picture`` says where. ``--quick`` trains two steps on
noise, in temporary folders, where no DATASET and RUNS are named.

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
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from common import arguments, missing, scratch, write_figures
from judging import measure
from london import write_inputs
from noise import noise_set
from reid import Judge, judge
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import load
from facke_core.config import to_dict
from facke_core.data.crops import CropSet
from facke_core.images.grid import picture_grid
from facke_core.images.io import read_image, write_image
from facke_core.images.provenance import disclosure
from facke_core.jobs.pairs import PairSet, SwapPair, read_pairs
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
COLUMNS = ("gain", "top1", "landmark_shift", "self_psnr")
QUICK = ("batch_size=2",)
QUICK_STEPS, QUICK_PEOPLE, QUICK_PAIRS = 2, 6, 4
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
    for override in (*overrides, *(QUICK if args.quick else ()), f"steps={args.steps}"):
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


def crops_of(pipeline: SwapPipeline, pairs: PairSet) -> PairSet:
    """The same pairs of the crops that a pipeline makes of their photographs."""
    people = sorted(pairs.sources)
    photos = [read_image(person.path).image for person in people if person.path]
    crops = torch.stack([pipeline.align(x, pipeline.detect(x)[0]).crop for x in photos])
    dataset = CropSet(
        images=(crops * 255).round().byte(),
        embeddings=torch.zeros(len(people), 2, 0),
        people=torch.arange(len(people)),
        weights=torch.ones(len(people)),
        info={"name": "london", "alignment": to_dict(pipeline.alignment)},
    )
    rows = {one.key: one._replace(path=None, row=row) for row, one in enumerate(people)}
    swapped = [SwapPair(rows[pair.source.key], rows[pair.target.key]) for pair in pairs.pairs]
    return PairSet(pairs=swapped, name="london", crops=dataset)


def measured(runs: list[str], args: argparse.Namespace) -> tuple[list[dict[str, Any]], Tensor]:
    """The rows of the table, and the picture."""
    pipelines = {run: load(args.runs / run) for run in runs}
    crops, london = sample_crops(pipelines["a"]), None
    faces, eyes = torch.stack(crops), None
    if not missing("judges.py", "manifest.csv"):
        with tempfile.TemporaryDirectory() as folder:
            people = QUICK_PEOPLE if args.quick else None
            photos = read_pairs(write_inputs(Path(folder), people)[0])
            london, eyes = crops_of(pipelines["a"], photos), judge()
        assert isinstance(london.crops, CropSet)
        faces = london.crops.images[torch.arange(len(london.crops))].float() / 255
    rows = []
    for run, pipeline in pipelines.items():
        row: dict[str, Any] = {"run": run, "recipe": (RUNS | CHOICES)[run][0]}
        row |= judged(pipeline, london, eyes, args.pairs) if london and eyes else {}
        row["detail"] = round(detail(pipeline, faces), 5)
        rows.append(row)
        show(row, head=len(rows) == 1)
    cells = []
    for source, target in ((crops[0], crops[1]), (crops[1], crops[0])):
        swapped = [pipelines[run].swap_crops(source[None], target[None])[0] for run in RUNS]
        cells.append([source, target, *swapped])
    return rows, picture_grid(cells, size=160, labels=["source", "target", *TITLES.values()])


def judged(pipeline: SwapPipeline, pairs: PairSet, eyes: Judge, limit: int) -> dict[str, Any]:
    report, _ = measure(pipeline, pairs, eyes, limit=limit, own=sorted(pairs.sources))
    return {key: report[key] for key in COLUMNS}


def show(row: dict[str, Any], *, head: bool) -> None:
    if head:
        print("| run | recipe |", " | ".join((*COLUMNS, "detail")), "|")
        print("|" + " --- |" * (3 + len(COLUMNS)))
    values = [row.get(key) for key in (*COLUMNS, "detail")]
    shown = ["-" if value is None else f"{value:.3f}" for value in values]
    print(f"| {row['run']} | {row['recipe']} |", " | ".join(shown), "|", flush=True)


def main() -> None:
    parser = arguments(__doc__, quick="two steps on noise")
    parser.add_argument("data", type=Path, nargs="?", help="needed without --quick")
    parser.add_argument("runs", type=Path, nargs="?", help="needed without --quick")
    parser.add_argument("--steps", type=int, help="default: 600")
    parser.add_argument("--jobs", type=int, default=2, help="models that train at the same time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--choices", action="store_true", help="two more models")
    parser.add_argument("--pairs", type=int, help="of the London set; default: 400")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write it here")
    args = parser.parse_args()
    if args.runs is None and not args.quick:
        parser.error("name DATASET and RUNS, or give --quick")
    args.steps = args.steps or (QUICK_STEPS if args.quick else 600)
    args.pairs = args.pairs or (QUICK_PAIRS if args.quick else 400)
    runs = [*RUNS, *(CHOICES if args.choices else ())]
    with tempfile.TemporaryDirectory() as folder:
        args.data = args.data or noise_set(Path(folder) / "noise", size=128)
        args.runs = args.runs or Path(folder) / "runs"
        for wave in ([r for r in runs if r not in BEGIN_WITH], list(BEGIN_WITH)):
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(lambda run: train(run, args), wave))
        rows, drawn = measured(runs, args)
    picture = args.picture or scratch("cvae") / "cvae-progression.png"
    request = SwapRequest(method="cvae", weights="", revision="", seed=None)
    write_image(picture, drawn, xmp=disclosure(request), overwrite=True)
    about = {"steps": args.steps, "pairs": args.pairs, "picture": str(picture)}
    write_figures(args.json, {"rows": rows, **about})


if __name__ == "__main__":
    main()
