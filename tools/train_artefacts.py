"""Trains the network of the metric ``artefacts``; writes evaluation/artefacts.safetensors.

    ./dev facke prepare PHOTOS DATASET --manifest PACK.csv
    ./dev python benchmarks/sets.py SETS --dataset DATASET
    ./dev python tools/train_artefacts.py DATASET --without SETS/people.txt --out runs/artefacts

DATASET holds ordinary portraits of 128 pixels in the SimSwap frontal template. The network tells
them from composites, drawn anew in each step (data/composite.py), and from swaps by two methods,
which are made once and kept in --out; others are for the test alone. Each fake is seen beside
the portrait that it was made of, and both lose sharpness, colours and quality of JPEG alike, so
nothing but the swap tells them apart. One person in 20 is held out, and the figures at the end are
theirs; --without names people whose pictures will be measured.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from train_occlusion import held_out, part

from facke_core import SwapPipeline, load
from facke_core.data.batches import BatchConfig, SwapBatches
from facke_core.data.crops import CropSet
from facke_core.evaluation.statistics import verification_auc
from facke_core.faces.templates import template_points
from facke_core.images.io import resize, to_pil
from facke_core.nn.artefacts import ArtefactNet
from facke_core.types import AlignedFace, Face
from facke_core.weights.tensors import to_bytes

WEIGHTS = Path(__file__).resolve().parent.parent / "packages/facke-core/src/facke_core/evaluation"
SWAPS = {"simswap": 160, "cvae-gan": 160}
"""Method -> how many swaps are made of it for the training."""
HELD_OUT = {"simswap": 80, "cvae-gan": 80, "warp": 40, "ilvr": 24}
"""The same of people who are held out; the network never sees one by the last two methods."""
HALF = 8
"""Composites of a step, and swaps; each with the portrait that it was made of."""


def face_of(crops: CropSet, row: int, size: int) -> AlignedFace:
    """A crop as a face of a photograph that shows nothing else, enlarged to a size."""
    crop = crops.images[torch.tensor([row])].float() / 255
    assert crops.mesh is not None
    mesh, was = crops.mesh[row].float(), crop.shape[-1]
    if was != size:
        mesh = (mesh + 0.5) * (size / was) - 0.5
        crop = resize(crop, (size, size)).clamp(0, 1)
    box = torch.cat([mesh.amin(0), mesh.amax(0)])
    points = template_points("simswap_frontal", size).float()
    return AlignedFace(crop[0], torch.eye(2, 3), Face(box, points, 1.0, mesh=mesh))


def swap(swapper: SwapPipeline, crops: CropSet, pairs: list[tuple[int, int]], seed: int) -> Tensor:
    """Pictures (B, 3, 128, 128) uint8 of pairs (source, target) of rows, pasted into the target."""
    size = swapper.alignment.size
    sources = [face_of(crops, a, size) for a, _ in pairs]
    targets = [face_of(crops, b, size) for _, b in pairs]
    identity = crops.embeddings[[a for a, _ in pairs], 0]
    if swapper.identity_encoder is None:
        identity = identity[:, :0]
    rng = torch.Generator().manual_seed(seed)
    made = swapper.sample(swapper.inputs(sources, targets, identity), rng=rng)
    pictures = []
    for result, target in zip(made, targets, strict=True):
        image = swapper.paste(target.crop, result, target).image[None]
        small = image if size == 128 else resize(image, (128, 128))
        pictures.append((small[0].clamp(0, 1) * 255).round().byte())
    return torch.stack(pictures)


def swaps(file: Path, crops: CropSet, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Fakes (N, 3, 128, 128) uint8 by method, and the rows (N,) of their targets: made, or read."""
    if file.is_file():
        return load_file(file)
    found: dict[str, Tensor] = {}
    for method, n in counts.items():
        rng = torch.Generator().manual_seed(len(method))
        target = torch.randperm(len(crops), generator=rng).repeat(n // len(crops) + 1)[:n]
        source = torch.randint(len(crops), (n,), generator=rng)
        with load(method) as swapper:
            made = []
            for part_of in torch.arange(n).split(8):
                pairs = list(zip(source[part_of].tolist(), target[part_of].tolist(), strict=True))
                made.append(swap(swapper, crops, pairs, int(part_of[0])))
        found |= {method: torch.cat(made), f"{method} rows": target}
        print(method, n, flush=True)
    save_file(found, file)
    return found


def worn(a: Tensor, b: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Portraits and fakes (B, 3, S, S), made worse alike: size, blur, noise, light, JPEG."""
    size, n = a.shape[-1], len(a)
    draw = torch.rand(n, 9, generator=rng)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + 0.08 * (2 * draw[:, 0] - 1)
    theta[:, :, 2] = 0.04 * (2 * draw[:, 1:3] - 1)
    grid = F.affine_grid(theta, list(a.shape), align_corners=False)
    noise = torch.randn(a.shape, generator=rng) * (0.04 * draw[:, 3, None, None, None] ** 2)
    both = []
    for x in (a, b):
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = x * (0.75 + 0.5 * draw[:, 4, None, None, None])
        rows = []
        for picture, noisy, (*_, small, soft, grey, jpeg) in zip(
            x, noise, draw.tolist(), strict=True
        ):
            if small < 0.5:
                side = int(40 + 2 * small * 88)
                picture = F.interpolate(picture[None], (side, side), mode="area")
                mode = "bicubic" if soft < 0.5 else "bilinear"
                picture = F.interpolate(picture, (size, size), mode=mode)[0]
            picture = (picture + noisy).clamp(0, 1)
            if grey < 0.15:
                picture = picture.mean(0, keepdim=True).expand(3, -1, -1)
            rows.append(compressed(picture, int(30 + jpeg * 100)) if jpeg < 0.65 else picture)
        both.append(torch.stack(rows))
    return both[0], both[1]


def compressed(picture: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    to_pil(picture).save(stream, "JPEG", quality=quality)
    pixels = bytearray(Image.open(stream).convert("RGB").tobytes())
    size = picture.shape[-1]
    return torch.frombuffer(pixels, dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255


def train(
    crops: CropSet, fakes: Mapping[str, Tensor], *, seconds: float, steps: int
) -> ArtefactNet:
    torch.manual_seed(0)
    net = ArtefactNet()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    drawn = SwapBatches(crops, batch_size=HALF, config=config(), seed=1)
    rng, methods = torch.Generator().manual_seed(2), list(SWAPS)
    started, mean = time.monotonic(), 0.0
    for step in range(steps):
        batch = drawn.read(step)
        real, fake = [batch.reference], [batch.target]
        for method in methods:
            index = torch.randint(len(fakes[method]), (HALF // len(methods),), generator=rng)
            flip = bool(torch.rand((), generator=rng) < 0.5)
            pair = [crops.images[fakes[f"{method} rows"][index]], fakes[method][index]]
            x, y = (p.float().div(255).flip(-1) if flip else p.float().div(255) for p in pair)
            real.append(x)
            fake.append(y)
        pictures = torch.cat(worn(torch.cat(real), torch.cat(fake), rng))
        label = torch.arange(len(pictures)).ge(len(pictures) // 2).float()
        loss = F.binary_cross_entropy_with_logits(net(pictures), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += (float(loss.detach()) - mean) / min(step + 1, 100)
        if step % 50 == 49:
            print(json.dumps({"step": step + 1, "loss": round(mean, 4)}), flush=True)
        if time.monotonic() - started > seconds:
            raise SystemExit(f"Not done after {seconds} s. Take fewer --steps.")
    return net.eval()


@torch.inference_mode()
def judged(net: ArtefactNet, crops: CropSet, fakes: Mapping[str, Tensor]) -> dict[str, float]:
    """The area under the curve of each kind of fake against the portraits that they were made of,
    as they are and worn."""
    drawn = SwapBatches(crops, batch_size=64, config=config(), seed=991)
    batches = [drawn.read(step) for step in range(3)]
    kinds = {"composite": [torch.cat([getattr(b, side) for b in batches])
                           for side in ("reference", "target")]}  # fmt: skip
    for method in HELD_OUT:
        rows = fakes[f"{method} rows"]
        kinds[method] = [crops.images[rows].float() / 255, fakes[method].float() / 255]
    found = {}
    for kind, (real, fake) in kinds.items():
        rng = torch.Generator().manual_seed(5)
        for name, (a, b) in (("", (real, fake)), (" worn", worn(real, fake, rng))):
            area = verification_auc(net(b).tolist(), net(a).tolist())
            found[kind + name] = round(area or 0.0, 4)
    return found


def config() -> BatchConfig:
    return BatchConfig(composite=1.0, intra=0.0, colour_jitter=0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", type=Path, help="a file of people, one a line")
    parser.add_argument("--steps", type=int, default=500, help="of 32 crops")
    parser.add_argument("--seconds", type=float, default=1800, help="at most")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    crops = CropSet.load(args.data)
    out = held_out(crops)
    unwanted = set(args.without.read_text("utf-8").split("\n")) if args.without else set[str]()
    named = torch.tensor([name in unwanted for name in crops.info["people"]])[crops.people]
    used, others = part(crops, ~out & ~named), part(crops, out & ~named)
    test = swaps(args.out / "held-out.safetensors", others, HELD_OUT)
    fakes = swaps(args.out / "swaps.safetensors", used, SWAPS)
    net = train(used, fakes, seconds=args.seconds, steps=args.steps)
    print(
        json.dumps({"people": len(set(others.people.tolist())), "auc": judged(net, others, test)})
    )
    tensors = {
        name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()
    }
    file = WEIGHTS / "artefacts.safetensors"
    file.write_bytes(to_bytes(tensors, {"license": "Apache-2.0"}))
    print(f"evaluation/artefacts.py: DIGEST = {hashlib.sha256(file.read_bytes()).hexdigest()!r}")


if __name__ == "__main__":
    main()
