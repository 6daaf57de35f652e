"""What the fast settings of ILVR cost and keep, against the protocol of the paper.

    ./dev python benchmarks/ilvr_speed.py [--quick] [--json FILE] [--weights REF] [--rows NAME ...]

The same 32 pairs of the London set are swapped with each of the settings in ``ROWS``, by the whole
pipeline, and judged as in ``identity_transfer.py``. ``target`` is the untouched target.

* ``network_calls``: of the U-Net, per swap. ``seconds``: per swap, of generating alone, in batches
  of ``--batch-size``.
* ``gain``, ``landmark_shift``: as in ``identity_transfer.py``.
* ``low_frequency_error``: mean ``|phi_32(result) - phi_32(target)|`` over the pixels of the crops,
  which are in [0, 1].
* ``frechet``: Frechet distance from the crops of the photographs of all people, of features of our
  own encoder: means and deviations of the 64 channels in the middle of ``dlib-resnet29``, which
  tell textures. For 32 pictures it is biased; only the rows of one run can be compared.
* ``unet_step_ratio``: seconds of one call of the U-Net as the originals compute it (float32,
  contiguous, no fused operations), over seconds of the same call here.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

import torch
import torch.nn.functional as F
from common import arguments, require, write_figures
from identity_transfer import JUDGE
from judging import HalfPictures, measure
from london import write_inputs
from reid import Judge, judge
from torch import Tensor, nn

from facke_core import load
from facke_core.building import load_encoder
from facke_core.config import updated
from facke_core.evaluation.clock import STAGES
from facke_core.evaluation.statistics import frechet_distance
from facke_core.identity.dlib_resnet import DlibEncoder
from facke_core.jobs.pairs import PairSet, read_pairs
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock
from facke_core.types import SwapInputs
from facke_diffusion.ddpm import DDPMGenerator
from facke_diffusion.ilvr import ILVRSampler
from facke_diffusion.low_pass import low_pass
from facke_diffusion.unet import Attention, Downsample, ResBlock, Upsample, timestep_embedding

PAIRS, QUICK_PAIRS, QUICK_PEOPLE = 32, 4, 12
BAND = 32
"""N of the low-frequency error: that of the paper."""
PAPER = {"solver": "ddpm", "steps": 100, "start": 1.0, "factor": 32, "until": 20}
ROWS: dict[str, Mapping[str, Any]] = {
    "paper": PAPER | {"variant": "paper"},
    "paper, as coded": PAPER | {"variant": "facke"},
    "default": {},
    "ddim": {"solver": "ddim"},
    "start=1": {"start": 1.0},
    "guided": {"guidance": 0.05},
    "refine": {"refine": "simswap"},
}
"""Setting -> what differs from the sampler that comes with the weights."""


# -- the originals' way ----------------------------------------------------------------------------


class OriginalWay(nn.Module):
    """The U-Net of a generator as the originals compute it: eager, float32, contiguous features,
    SiLU as ``x * sigmoid(x)``, attention as two sums with a softmax between."""

    def __init__(self, generator: DDPMGenerator) -> None:
        super().__init__()
        self.unet = copy.deepcopy(generator).float().to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """(B, 3, S, S) and (B,) -> the raw output, as ``UNet.forward``."""
        unet, config = self.unet, self.unet.config
        first, _, last = unet.time_embed
        emb = last(silu(first(timestep_embedding(timestep, config.model_channels))))
        h = F.pixel_unshuffle(x, config.patch)
        skips = []
        for block in unet.input_blocks:
            h = through(block, h, emb)
            skips.append(h)
        h = through(unet.middle_block, h, emb)
        for block in unet.output_blocks:
            h = through(block, torch.cat([h, skips.pop()], dim=1), emb)
        norm, _, conv = unet.out
        return F.pixel_shuffle(conv(silu(group_norm(norm, h))), config.patch)


def through(layers: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in layers.children():
        if isinstance(layer, ResBlock):
            h = residual(layer, h, emb)
        elif isinstance(layer, Attention):
            h = attention(layer, h)
        elif isinstance(layer, Upsample):
            h = layer.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
        else:
            h = (layer.op if isinstance(layer, Downsample) else layer)(h)
    return h


def residual(block: ResBlock, x: Tensor, emb: Tensor) -> Tensor:
    def resample(h: Tensor) -> Tensor:
        if block.resample == "down":
            return F.avg_pool2d(h, kernel_size=2, stride=2)
        return F.interpolate(h, scale_factor=2, mode="nearest") if block.resample == "up" else h

    norm, _, conv = block.in_layers
    h, x = conv(resample(silu(group_norm(norm, x)))), resample(x)
    added = block.emb_layers[1](silu(emb))[..., None, None]
    norm, _, dropout, conv = block.out_layers
    if block.scale_shift:
        scale, shift = torch.chunk(added, 2, dim=1)
        h = group_norm(norm, h) * (1 + scale) + shift
    else:
        h = group_norm(norm, h + added)
    return block.skip_connection(x) + conv(dropout(silu(h)))


def attention(block: Attention, x: Tensor) -> Tensor:
    b, c, *sides = x.shape
    flat = x.reshape(b, c, -1)
    qkv, width = block.qkv(group_norm(block.norm, flat)), c // block.heads
    if block.by_kind:
        parts = qkv.chunk(3, dim=1)
        q, k, v = (part.reshape(b * block.heads, width, -1) for part in parts)
    else:
        q, k, v = qkv.reshape(b * block.heads, 3 * width, -1).split(width, dim=1)
    scale = 1 / math.sqrt(math.sqrt(width))
    weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
    return (flat + block.proj_out(h)).reshape(b, c, *sides)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def group_norm(norm: nn.Module, x: Tensor) -> Tensor:
    norm = cast(nn.GroupNorm, norm)
    y = F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return y.type(x.dtype)


@torch.inference_mode()
def unet_step(
    generator: DDPMGenerator, device: torch.device, *, batch: int, turns: int, compiled: bool
) -> dict[str, Any]:
    """Seconds of one call each way, in turns; medians."""
    theirs = OriginalWay(generator).to(device).eval()
    reference = copy.deepcopy(theirs.unet)
    ours = copy.deepcopy(generator)
    size = generator.config.image_size
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    timestep = torch.full((batch,), len(generator.schedule) // 2, device=device)
    scale = 1000 / len(generator.schedule) if generator.config.rescale_timesteps else 1
    raw = theirs(x, timestep * scale)
    expected = reference(x, timestep=timestep).aux["prediction"]
    error = float((raw[:, :3] - expected).norm() / expected.norm())
    if error > 1e-3:
        raise SystemExit(f"The originals' way computes something else: relative error {error:.3g}.")
    if compiled:
        ours.compile()
    calls: dict[str, Callable[[], object]] = {
        "original_s": lambda: theirs(x, timestep * scale),
        "facke_s": lambda: ours(x, timestep=timestep),
    }
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-3, turns):
        for name, call in calls.items():
            begun, used = now(device), time.process_time()
            call()
            if turn >= 0:
                wall[name].append(now(device) - begun)
                cpu[name].append(time.process_time() - used)
    seconds, busy = (
        {name: statistics.median(values) for name, values in some.items()} for some in (wall, cpu)
    )
    return {
        "batch": batch,
        **{name: round(value, 5) for name, value in seconds.items()},
        "ratio": round(seconds["original_s"] / seconds["facke_s"], 3),
        "ratio_cpu": round(busy["original_s"] / busy["facke_s"], 3),
        "dtype": str(next(ours.parameters()).dtype).removeprefix("torch."),
        "compiled": compiled,
        "same": error,
    }


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# -- the settings ----------------------------------------------------------------------------------


class Watcher:
    """Swaps crops with one sampler, and keeps what they tell."""

    def __init__(self, pipeline: SwapPipeline, sampler: ILVRSampler | None) -> None:
        self.pipeline, self.sampler = pipeline, sampler
        self.rng = torch.Generator().manual_seed(0)
        self.seconds, self.calls, self.batches = 0.0, 0, 0
        self.results: list[Tensor] = []
        self.errors: list[Tensor] = []

    def __call__(self, inputs: SwapInputs) -> Tensor:
        begun = now(self.pipeline.device)
        result = self._swap(inputs)
        self.seconds += now(self.pipeline.device) - begun
        self.batches += 1
        self.results.append(result.cpu())
        self.errors.append(low_pass(result - inputs.target, BAND).abs().mean((1, 2, 3)).cpu())
        return result

    def _swap(self, inputs: SwapInputs) -> Tensor:
        if self.sampler is None:
            return inputs.target
        generator = cast(nn.Module, self.pipeline.method.generator)
        with_counter = generator.register_forward_hook(self._count)
        try:
            return self.pipeline.sample(inputs, rng=self.rng, sampler=self.sampler)
        finally:
            with_counter.remove()

    def _count(self, *_: object) -> None:
        self.calls += 1


class Texture:
    """Features of crops: (B, 3, S, S) -> (B, 128)."""

    def __init__(self, template: str) -> None:
        encoder = load_encoder({"name": "dlib-resnet29", "crop_template": template})
        self.encoder = cast(DlibEncoder, encoder)

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        network: Any = self.encoder.network
        parts = []
        for some in crops.split(8):
            chips = self.encoder.chip(some) * (255 / 256) - network.mean
            h = F.max_pool2d(F.relu(network.stem(chips)), 3, 2)
            for block in network.blocks[:7]:
                h = block(h)
            parts.append(torch.cat([h.mean((2, 3)), h.std((2, 3))], dim=1))
        return torch.cat(parts)


def row(
    name: str,
    pipeline: SwapPipeline,
    sampler: ILVRSampler | None,
    pairs: PairSet,
    pictures: HalfPictures,
    judge: Judge,
    texture: Texture,
    *,
    limit: int,
    batch_size: int,
) -> dict[str, Any]:
    """One row of the table."""
    watcher = Watcher(pipeline, sampler)
    real = torch.stack([pictures.load(person).aligned.crop for person in sorted(pairs.sources)])
    if sampler is not None:  # loads encoders and other methods, and compiles
        one = SwapInputs(real[:1], real[:1], pipeline.encode(real[:1]))
        Watcher(pipeline, sampler)(one)
    report, _ = measure(
        pipeline,
        pairs,
        judge,
        swap_crops=watcher,
        pictures=pictures,
        limit=limit,
        batch_size=batch_size,
    )
    features = [texture(crops).numpy() for crops in (torch.cat(watcher.results), real)]
    return {
        "setting": name,
        "network_calls": watcher.calls // max(1, watcher.batches),
        "seconds": round(watcher.seconds / report["pairs"], 4),
        **{key: report[key] for key in ("gain", "top1", "landmark_shift", "undetected")},
        "low_frequency_error": round(float(torch.cat(watcher.errors).mean()), 5),
        "frechet": round(frechet_distance(*features), 5),
    }


def bench(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    pipeline = load(args.weights, device=args.device, dtype=dtype_of(args))
    sampler, generator = pipeline.method.sampler, pipeline.method.generator
    if not isinstance(sampler, ILVRSampler) or not isinstance(generator, DDPMGenerator):
        raise SystemExit(f"{args.weights} are no weights for ILVR.")
    step = unet_step(
        generator,
        pipeline.device,
        batch=args.step_batch,
        turns=3 if args.quick else 15,
        compiled=args.compile,
    )
    pairs = read_pairs(write_inputs(folder, QUICK_PEOPLE if args.quick else None, matrix=0)[0])
    pictures, eyes = HalfPictures(pipeline, StageClock(STAGES)), judge()
    texture = Texture(pipeline.alignment.template)
    extra = {"compile": True} if args.compile else {}
    settings: dict[str, ILVRSampler | None] = {"target": None}
    settings |= {
        name: updated(sampler, {**changes, **extra})
        for name, changes in ROWS.items()
        if not args.rows or name in args.rows
    }
    rows = []
    for name, one in settings.items():
        rows.append(
            row(
                name,
                pipeline,
                one,
                pairs,
                pictures,
                eyes,
                texture,
                limit=args.pairs or (QUICK_PAIRS if args.quick else PAIRS),
                batch_size=args.batch_size,
            )
        )
        show(rows[-1:], head=len(rows) == 1)
    return {
        "rows": rows,
        "unet_step_ratio": step["ratio"],
        "unet_step": step,
        "default": {key: getattr(sampler, key) for key in sampler.__dataclass_fields__},
        "pairs": args.pairs or (QUICK_PAIRS if args.quick else PAIRS),
        "people": len(pairs.sources),
        "judge": JUDGE,
        "weights": pipeline.source.name if pipeline.source else "",
        "device": (
            torch.cuda.get_device_name(pipeline.device)
            if pipeline.device.type == "cuda"
            else f"cpu, {torch.get_num_threads()} threads"
        ),
        "dtype": step["dtype"],
        "torch": torch.__version__,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    return getattr(torch, args.dtype)


def show(rows: list[dict[str, Any]], *, head: bool) -> None:
    if head:
        print("  ".join(f"{key:>19}" if i else f"{key:16}" for i, key in enumerate(rows[0])))
    for values in rows:
        cells = (
            f"{value:>19}" if i else f"{value:16}"
            for i, value in enumerate("-" if v is None else v for v in values.values())
        )
        print("  ".join(cells), flush=True)


def main() -> None:
    parser = arguments(__doc__, quick="fewer pairs and people")
    parser.add_argument("--weights", default="ilvr", help="ilvr, ilvr.TAG, hf:org/repo or ./folder")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME", help="default: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the U-Net"
    )
    parser.add_argument("--compile", action="store_true", help="the U-Net here; not the originals'")
    parser.add_argument("--pairs", type=int, help=f"default: {PAIRS}")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs at a time")
    parser.add_argument("--step-batch", type=int, default=8, help="of the comparison of U-Nets")
    args = parser.parse_args()
    require("judges.py", "manifest.csv")
    with tempfile.TemporaryDirectory() as folder:
        report = bench(args, Path(folder))
    step = report["unet_step"]
    print(
        f"\n{report['device']}, {report['dtype']}; U-Net, batch {step['batch']}: "
        f"{step['original_s']:.4f} s the originals' way, {step['facke_s']:.4f} s here, "
        f"{step['ratio']:.2f}x, {step['ratio_cpu']:.2f}x in processor time"
    )
    write_figures(args.json, report)


if __name__ == "__main__":
    main()
