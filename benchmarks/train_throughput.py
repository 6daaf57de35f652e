"""How fast ``simswap-224`` trains here, against the same networks trained as the originals do.

    ./dev python benchmarks/train_throughput.py [--batch 4] [--steps 6] [--threads N]
                                                [--device cpu] [--quick] [--json FILE]

Both train in this process in turns, on the same pictures, with the same batch size and the same
weights to begin with. Their first step sees the same batch, and the losses are printed side by
side: it is the same training.

* ``facke``: :class:`~facke_core.training.trainer.Trainer` with the recipe ``simswap-224`` as it is
  (bfloat16, channels_last), from a crop set.
* ``originals``: a plain loop in the way of Facke's code (e5141fe): eager, float32, contiguous. Each
  item opens its source and its target twice, once for the picture and once for the identity, whose
  vector lies in a ``.npy`` file per picture. One forward pass of the generator and four of each
  discriminator (fake, real, gradient penalty, fake for the generator) make both losses; then comes
  Adam for the generator, then for the discriminators. What the generator's backward pass leaves in
  the discriminators is thrown away. ``--recompute`` also computes the real features of the feature
  matching in a fifth pass, instead of taking them from that of the discriminators' loss.

TFLOP are counted: convolutions and matrix products as they run. The peak is that of a bfloat16
matrix product, measured first. Processor time is disturbed less by other programs than wall time.

On a CPU one thread computes, since several measure something else as soon as other programs run:
the threads of a bfloat16 convolution's backward pass wait for each other in a busy loop, and one
whose core is taken makes that pass up to 40 times as long, most of all under
``OMP_WAIT_POLICY=PASSIVE``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, write_figures
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch.utils.flop_counter import flop_registry

from facke_cli.samples import sample_or_path
from facke_core import default_registry, load_encoder
from facke_core.config import from_dict
from facke_core.data.batches import SwapBatches
from facke_core.data.crops import CropSet
from facke_core.environment import resolve_device
from facke_core.nn.normalize import IMAGENET_STD
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.trainer import Trainer, make_accelerator
from facke_core.types import FaceBatch
from facke_gan.simswap import SimSwapConfig, build, objective

RECIPE = "simswap-224"
PEOPLE, PICTURES = 6, 6
LATENTS = "latent-ID"
PARTS = ("data", "generator", "discriminator", "optimisers", "rest")


class Flops(TorchDispatchMode):
    """Counts convolutions and matrix products, those of gradients of gradients included.

    ``FlopCounterMode`` follows the modules as well, and fails at ``autograd.grad``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class Clock:
    """Which part of a step takes the time, where it is on; a GPU is waited for at each mark.

    data: until the generator runs. generator, discriminator: their phases up to the optimiser.
    """

    def __init__(self, device: torch.device, *generators: nn.Module) -> None:
        self.cuda, self.on = device.type == "cuda", False
        self.seconds: dict[str, float] = {}
        for generator in generators:
            generator.register_forward_pre_hook(lambda *_: self.mark("data"))
        register_optimizer_step_pre_hook(lambda *_: self.mark(next(self._phases)))
        register_optimizer_step_post_hook(lambda *_: self.mark("optimisers"))
        self._phases = cycle(("generator", "discriminator"))
        self._last = 0.0

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def mark(self, part: str) -> None:
        """What happened since the last mark was ``part``."""
        if self.on:
            now = self.now()
            self.seconds[part] += now - self._last
            self._last = now

    def take_apart(self, steps: Iterator[Any], count: int) -> dict[str, float]:
        """The share of each part in ``count`` steps."""
        self.on, self.seconds = True, defaultdict(float)
        for _ in range(count):
            self._last = self.now()
            next(steps)
            self.mark("rest")
        self.on = False
        whole = sum(self.seconds.values())
        return {part: round(self.seconds[part] / whole, 3) for part in PARTS}


def write_pictures(folder: Path, size: int) -> None:
    """``folder/PERSON/N.jpg``: crops of the sample portraits, in other colours for each person."""
    rng = np.random.default_rng(0)
    names = ("sample:collins", "sample:hopper")
    portraits = [Image.open(sample_or_path(name)).convert("RGB") for name in names]
    for person in range(PEOPLE):
        (folder / f"{person:03d}").mkdir()
        photo, tint = portraits[person % 2], rng.uniform(0.6, 1.0, 3)
        for number in range(PICTURES):
            side = min(photo.size) * rng.uniform(0.5, 0.9)
            x, y = (rng.uniform(0, length - side) for length in photo.size)
            crop = photo.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
            pixels = (np.asarray(crop) * tint).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{person:03d}" / f"{number}.jpg", quality=95)


def read_picture(path: Path) -> Tensor:
    """(3, S, S) in [0, 1]."""
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


class OriginalPictures(Dataset[tuple[Tensor, Tensor, Tensor, bool]]):
    """Item i has picture i as its source. The target is the same picture (intra-ID) or one of
    another person (inter-ID), in turns of ``batch`` items."""

    def __init__(self, root: Path, batch: int) -> None:
        self.root, self.batch, self.seen = root, batch, 0
        self.paths = sorted(root.glob("*/*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor, bool]:
        same = self.seen // self.batch % 2 == 0
        self.seen += 1
        source, identity = read_picture(self.paths[i]), self.identity(i)
        if same:
            return source, source, identity, True
        others = [j for j, p in enumerate(self.paths) if p.parent != self.paths[i].parent]
        j = others[int(torch.randint(len(others), ()))]
        target, _ = read_picture(self.paths[j]), self.identity(j)
        return source, target, identity, False

    def identity(self, i: int) -> Tensor:
        """The vector of picture i, (D,). The picture is opened for it, though it is there."""
        read_picture(self.paths[i])
        return torch.from_numpy(np.load(self.latent(i)))

    def latent(self, i: int) -> Path:
        return self.root / LATENTS / self.paths[i].parent.name / f"{i}.npy"


class OriginalTraining:
    """The step of Facke's code."""

    def __init__(
        self, modules: Mapping[str, nn.Module], recipe: Recipe, device: torch.device, clock: Clock
    ) -> None:
        self.modules = {
            name: module.to(device=device, memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
            for name, module in modules.items()
        }
        self.recipe, self.device, self.clock = recipe, device, clock
        self.recompute = False
        self.std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
        self.adam = {
            name: torch.optim.Adam(
                modules[name].parameters(), lr=recipe.optimizer.lr, betas=recipe.optimizer.betas
            )
            for name in ("generator", "discriminator")
        }

    def run(self, loader: DataLoader[Any]) -> Iterator[None]:
        for source, target, identity, same in loader:
            self.step(FaceBatch(source, target, identity, same, target))
            yield

    def step(self, batch: FaceBatch) -> dict[str, Tensor]:
        """The unweighted terms."""
        batch = batch.each(lambda x: x.to(self.device))
        terms = self.terms(batch)
        losses = self.recipe.loss, self.recipe.discriminator_loss
        for (name, adam), loss in zip(self.adam.items(), losses, strict=True):
            adam.zero_grad()
            total = [term.weight * terms[f"{name}.{key}"] for key, term in loss.items()]
            torch.autograd.backward(torch.stack(total).sum())
            adam.step()
        return {name: value.detach() for name, value in terms.items()}

    def terms(self, batch: FaceBatch) -> dict[str, Tensor]:
        judge, target = self.modules["discriminator"], batch.target
        result = self.modules["generator"](target, identity=batch.identity).image
        self.clock.mark("generator")
        fake, real = judge(result.detach()), judge(target)
        penalty = self.penalty(target, result.detach())
        self.clock.mark("discriminator")
        seen = judge(result)
        known = judge(target) if self.recompute else real
        matching = [
            (a.detach() - b).abs().mean()
            for reals, fakes in zip(known.features, seen.features, strict=True)
            for a, b in zip(reals[1:], fakes[1:], strict=True)
        ]
        found = self.modules["identity_encoder"](result)
        cosine = F.cosine_similarity(found, batch.identity)
        difference = ((result - target) / self.std).abs().mean()
        return {
            "generator.gan": torch.stack([-x.mean() for x in seen.logits]).mean(),
            "generator.feature-matching": torch.stack(matching).sum() / len(seen.logits),
            "generator.identity": (1 - cosine).mean(),
            "generator.reconstruction": difference * batch.same_identity[0],
            "discriminator.fake": torch.stack([F.relu(1 + x).mean() for x in fake.logits]).mean(),
            "discriminator.real": torch.stack([F.relu(1 - x).mean() for x in real.logits]).mean(),
            "discriminator.gradient-penalty": penalty,
        }

    def penalty(self, target: Tensor, result: Tensor) -> Tensor:
        judge: Any = self.modules["discriminator"]
        penalties = []
        inputs = zip(judge.scale_inputs(target), judge.scale_inputs(result), strict=True)
        for net, (x, f) in zip(judge.scales, inputs, strict=True):
            alpha = torch.rand(len(x), 1, 1, 1, device=self.device)
            between = (alpha * x + (1 - alpha) * f).requires_grad_()
            (slope,) = torch.autograd.grad(net(between)[-1].sum(), between, create_graph=True)
            penalties.append((slope.flatten(1).norm(dim=1) - 1).square().mean())
        return torch.stack(penalties).sum()


def crop_set(pictures: OriginalPictures, encoder: nn.Module, recipe: Recipe, folder: Path) -> None:
    """The pictures as a crop set in ``folder``, and their vectors where the originals look."""
    images = torch.stack([read_picture(path) for path in pictures.paths])
    with torch.inference_mode():
        vectors = torch.stack([encoder(images), encoder(images.flip(-1))], dim=1)
    for i, vector in enumerate(vectors[:, 0]):
        pictures.latent(i).parent.mkdir(parents=True, exist_ok=True)
        np.save(pictures.latent(i), vector.numpy())
    people = [int(path.parent.name) for path in pictures.paths]
    CropSet(
        images=(images * 255).round().byte(),
        embeddings=vectors.clone(),
        people=torch.tensor(people),
        weights=torch.ones(len(people)),
        info={"name": "samples", "alignment": dict(recipe.alignment)},
    ).save(folder)


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a bfloat16 matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device).bfloat16()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        repeats = 20 if device.type == "cuda" else 3
        for _ in range(repeats):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / repeats)
    return 2 * n**3 / best


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The report, as it is written to ``--json``."""
    device = resolve_device(args.device)
    cuda = device.type == "cuda"
    if args.threads and not cuda:
        torch.set_num_threads(args.threads)
    batch = args.batch or (32 if cuda else 1 if args.quick else 4)
    turns = args.steps or (1 if args.quick else 6)
    block = 10 if cuda else 1
    peak = matrix_peak(device)
    overrides = [f"batch_size={batch}", *args.set]
    recipe = read_recipe(RECIPE, overrides, default_registry())
    encoder: Any = load_encoder(recipe.identity_encoder)
    torch.manual_seed(0)
    objectives = objective(build(from_dict(SimSwapConfig, recipe.generator)), encoder, recipe)
    modules = deepcopy(dict(objectives.modules))

    photos = folder / "pictures"
    photos.mkdir()
    write_pictures(photos, recipe.alignment["size"])
    pictures = OriginalPictures(photos, batch)
    crop_set(pictures, encoder, recipe, folder / "crops")
    workers = args.workers if args.workers is not None else 8 * cuda
    endless = RandomSampler(pictures, replacement=True, num_samples=10**9)
    loader = DataLoader(pictures, batch_size=batch, sampler=endless, num_workers=workers)

    crops = SwapBatches(
        CropSet.load(folder / "crops"), batch_size=batch, config=recipe.data, seed=recipe.seed
    )
    accelerator = make_accelerator(recipe, device)
    trainer = Trainer(objectives, crops, recipe=recipe, accelerator=accelerator, workers=workers)
    clock = Clock(device, modules["generator"], objectives.modules["generator"])
    originals = OriginalTraining(modules, recipe, device, clock)
    originals.recompute = args.recompute

    ours = iter(trainer)
    with Flops() as our_flops:
        our_losses = dict(next(ours).losses)
    with Flops() as their_flops:
        terms = originals.step(crops.read(0))
    flops = {"facke": our_flops.total, "originals": their_flops.total}
    steps: dict[str, Iterator[Any]] = {"facke": ours, "originals": originals.run(loader)}
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for turn in range(-1 if cuda else 0, turns):
        for name, iterator in steps.items():
            begun, used = clock.now(), time.process_time()
            for _ in range(block):
                next(iterator)
            if turn >= 0:  # a GPU's first block chooses kernels
                wall[name].append((clock.now() - begun) / block)
                cpu[name].append((time.process_time() - used) / block)

    def side(name: str) -> dict[str, Any]:
        seconds = statistics.median(wall[name])
        return {
            "step_s": round(seconds, 4),
            "step_cpu_s": round(statistics.median(cpu[name]), 4),
            "images_per_s": round(batch / seconds, 4),
            "all_steps_s": [round(value, 4) for value in wall[name]],
            "shares": clock.take_apart(steps[name], min(turns, 2)),
            "tflop_per_step": round(flops[name] / 1e12, 4),
            "tflop_per_s": round(flops[name] / seconds / 1e12, 4),
            "share_of_peak": round(flops[name] / seconds / peak, 4),
        }

    sides = {name: side(name) for name in steps}
    return {
        "recipe": RECIPE,
        "set": args.set,
        "batch": batch,
        "turns": turns,
        "steps_per_turn": block,
        "device": torch.cuda.get_device_name(device) if cuda else cpu_model(),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "load": [round(value, 2) for value in os.getloadavg()],
        "torch": torch.__version__,
        "tf32": bool(cuda and torch.backends.cudnn.allow_tf32),
        "recompute": args.recompute,
        "peak_bf16_tflop_per_s": round(peak / 1e12, 4),
        "sides": sides,
        "images_per_s": sides["facke"]["images_per_s"],
        "baseline_images_per_s": sides["originals"]["images_per_s"],
        "peak_share": sides["facke"]["share_of_peak"],
        "ratio": round(sides["originals"]["step_s"] / sides["facke"]["step_s"], 3),
        "ratio_cpu": round(sides["originals"]["step_cpu_s"] / sides["facke"]["step_cpu_s"], 3),
        "first_step": {
            name: {"facke": round(our_losses[name], 5), "originals": round(value.item(), 5)}
            for name, value in terms.items()
        },
    }


def cpu_model() -> str:
    """What the processor is called, and which bfloat16 instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = [
        name for name in ("avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()
    ]
    return ", ".join([fields.get("model name", platform.processor()), *flags])


def show(report: dict[str, Any]) -> None:
    print(f"{report['recipe']}, batch {report['batch']}, {report['device']}")
    print(
        f"torch {report['torch']}, {report['threads']} threads, {report['workers']} workers, "
        f"load {report['load'][0]}, bfloat16 peak {report['peak_bf16_tflop_per_s']:.2f} TFLOP/s"
        + (", float32 convolutions in TF32" if report["tf32"] else "")
    )
    rows = [
        ("step, median, s", "step_s", "{:.3f}"),
        ("  processor, s", "step_cpu_s", "{:.3f}"),
        ("images/s", "images_per_s", "{:.3f}"),
        ("TFLOP per step", "tflop_per_step", "{:.2f}"),
        ("TFLOP/s", "tflop_per_s", "{:.3f}"),
        ("share of the peak", "share_of_peak", "{:.1%}"),
    ]
    sides = report["sides"]
    print(f"\n{'':32}" + "".join(f"{name:>12}" for name in sides))
    for label, key, form in rows:
        print(f"{label:32}" + "".join(f"{form.format(s[key]):>12}" for s in sides.values()))
    for part in PARTS:
        print(f"  {part:30}" + "".join(f"{s['shares'][part]:>12.1%}" for s in sides.values()))
    print("losses of the first step")
    for name, values in report["first_step"].items():
        print(f"  {name:30}" + "".join(f"{values[side]:>12.4f}" for side in sides))
    print(f"\n{report['ratio']:.2f}x images/s, {report['ratio_cpu']:.2f}x in processor time")


def main() -> None:
    parser = arguments(__doc__, quick="one turn, with a batch of 1 on a CPU")
    parser.add_argument("--batch", type=int, help="samples per step (default: CPU 4, CUDA 32)")
    parser.add_argument("--steps", type=int, help="turns (default: 6): one step each, CUDA ten")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; 0: torch's choice")
    parser.add_argument("--workers", type=int, help="that load for each (default: CPU 0, CUDA 8)")
    parser.add_argument(
        "--recompute", action="store_true", help="real features in a pass of their own"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    show(report)
    write_figures(args.json, report)


if __name__ == "__main__":
    main()
