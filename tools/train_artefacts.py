"""Trains the network of the metric ``artefacts``; writes evaluation/artefacts.safetensors.

    ./dev facke prepare PHOTOS DATASET --manifest PACK.csv
    ./dev python benchmarks/sets.py SETS --dataset DATASET
    ./dev python tools/train_artefacts.py DATASET --without SETS/people.txt --out runs/artefacts

DATASET holds ordinary portraits of 128 pixels in the SimSwap frontal template, with meshes. The
network tells them from fakes: composites (data/composite.py) and swaps, which are made once, pasted
into their targets as the pipeline does, and kept in --out. Each fake is seen beside the portrait
that it was made of, and both lose sharpness, light and quality of JPEG alike, so nothing but the
swap tells them apart. One person in 20 is held out, and the figures at the end are theirs;
--without names people whose pictures will be measured.
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
from train_occlusion import held_out

from facke_core import SwapPipeline, load
from facke_core.data.batches import BatchConfig, SwapBatches
from facke_core.data.crops import CropSet
from facke_core.evaluation.statistics import verification_auc
from facke_core.faces.templates import template_points
from facke_core.images.io import resize, to_pil
from facke_core.nn.artefacts import ArtefactNet
from facke_core.types import AlignedFace, Face
from facke_core.weights.tensors import to_bytes
from facke_gan.warp import Warp, WarpConfig

WEIGHTS = Path(__file__).resolve().parent.parent / "packages/facke-core/src/facke_core/evaluation"
FAKES = {"composite": 2400, "simswap": 384, "cvae-gan": 256, "warp": 384}
"""Kind of fake -> how many are made for the training; a step has as many of each."""
HELD_OUT = {"composite": 256, "simswap": 96, "cvae-gan": 96, "warp": 96, "ilvr": 24}
"""The same of people who are held out; the network never sees one by the last method."""
BATCH = 16
"""Fakes of a step, each with the portrait that it was made of."""
Pictures = dict[str, tuple[Tensor, Tensor]]
"""Kind -> portraits and the fakes made of them, (N, 3, 128, 128) uint8."""


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


@torch.inference_mode()
def swap(
    swapper: SwapPipeline, crops: CropSet, source: Tensor, target: Tensor, seed: int, *, warp: bool
) -> Tensor:
    """Pictures (B, 3, 128, 128) uint8 of pairs of rows (B,), pasted into the target: swapped by a
    pipeline, or by ``warp``, in crops as small as the pictures are."""
    size = swapper.alignment.size
    sources = [face_of(crops, row, size) for row in source.tolist()]
    targets = [face_of(crops, row, size) for row in target.tolist()]
    identity = crops.embeddings[source, 0]
    if swapper.identity_encoder is None:
        identity = identity[:, :0]
    inputs = swapper.inputs(sources, targets, identity)
    if warp:
        assert inputs.source_mesh is not None
        assert inputs.target_mesh is not None
        bend = Warp(WarpConfig(image_size=size))
        made = bend(inputs.target, inputs.source, inputs.source_mesh, inputs.target_mesh).image
    else:
        made = swapper.sample(inputs, rng=torch.Generator().manual_seed(seed))
    pictures = []
    for result, face in zip(made, targets, strict=True):
        image = swapper.paste(face.crop, result, face).image[None]
        small = image if size == 128 else resize(image, (128, 128))
        pictures.append((small[0].clamp(0, 1) * 255).round().byte())
    return torch.stack(pictures)


def swaps(method: str, crops: CropSet, n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(len(method))
    target = torch.randperm(len(crops), generator=rng)[:n]
    source = torch.randint(len(crops), (n,), generator=rng)
    warp = method == "warp"
    with load("simswap" if warp else method) as swapper:
        made = [
            swap(swapper, crops, source[at], target[at], int(at[0]), warp=warp)
            for at in torch.arange(n).split(32)
        ]
    return crops.images[target], torch.cat(made)


def composites(crops: CropSet, n: int) -> tuple[Tensor, Tensor]:
    config = BatchConfig(composite=1.0, intra=0.0, colour_jitter=0)
    drawn = SwapBatches(crops, batch_size=32, config=config, seed=1)
    batches = [drawn.read(step) for step in range(n // 32)]
    real, fake = (torch.cat([getattr(b, s) for b in batches]) for s in ("reference", "target"))
    return real.mul(255).round().byte(), fake.mul(255).round().byte()


def fakes(file: Path, crops: CropSet, counts: Mapping[str, int]) -> Pictures:
    """Portraits and fakes by kind: made, or read."""
    found = load_file(file) if file.is_file() else {}
    for kind, n in counts.items():
        if kind not in found:
            real, fake = composites(crops, n) if kind == "composite" else swaps(kind, crops, n)
            found |= {kind: fake, f"{kind} real": real}
            save_file(found, file)
            print(kind, n, flush=True)
    return {kind: (found[f"{kind} real"], found[kind]) for kind in counts}


def worn(real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """Portraits and fakes (B, 3, S, S) uint8, made worse alike: (2 B, 3, S, S) in [0, 1].

    They are mirrored, moved, darkened, blurred by a change of size, and compressed.
    """
    n, size = len(real), real.shape[-1]
    draw = torch.rand(n, 8, generator=rng)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + 0.06 * (2 * draw[:, 0] - 1)
    theta[:, 0, 0] *= torch.where(draw[:, 1] < 0.5, -1, 1)
    theta[:, :, 2] = 0.04 * (2 * draw[:, 2:4] - 1)
    grid = F.affine_grid(theta, list(real.shape), align_corners=False)
    both = []
    for pictures in (real, fake):
        x = pictures.float() / 255 * (0.8 + 0.4 * draw[:, 4, None, None, None])
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False).clamp(0, 1)
        for row, (small, grey, jpeg) in enumerate(draw[:, 5:].tolist()):
            one = x[row]
            if small < 0.3:
                side = int(size * (0.5 + small / 0.6))
                one = F.interpolate(one[None], (side, side), mode="area")
                one = F.interpolate(one, (size, size), mode="bilinear")[0]
            if grey < 0.1:
                one = one.mean(0, keepdim=True).expand(3, -1, -1)
            x[row] = compressed(one, int(60 + jpeg * 70)) if jpeg < 0.5 else one
        both.append(x)
    return torch.cat(both)


def compressed(picture: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    to_pil(picture).save(stream, "JPEG", quality=quality)
    pixels = bytearray(Image.open(stream).convert("RGB").tobytes())
    size = picture.shape[-1]
    return torch.frombuffer(pixels, dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255


def train(pictures: Pictures, test: Pictures, *, seconds: float, steps: int) -> ArtefactNet:
    torch.manual_seed(0)
    net = ArtefactNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    rng = torch.Generator().manual_seed(2)
    share = BATCH // len(pictures)
    label = torch.arange(2 * BATCH).ge(BATCH).float()
    started, mean = time.monotonic(), 0.0
    for step in range(steps):
        real, fake = [], []
        for portraits, made in pictures.values():
            index = torch.randint(len(made), (share,), generator=rng)
            real.append(portraits[index])
            fake.append(made[index])
        seen = worn(torch.cat(real), torch.cat(fake), rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(seen.to(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += (float(loss.detach()) - mean) / min(step + 1, 100)
        passed = time.monotonic() - started
        if step % 100 == 99:
            print(
                json.dumps({"step": step + 1, "loss": round(mean, 4), "s": int(passed)}), flush=True
            )
        if step % 500 == 499:
            print(json.dumps(judged(net.eval(), test)), flush=True)
            net.train()
        if passed > seconds:
            raise SystemExit(f"Not done after {seconds} s. Take fewer --steps.")
    return net.eval()


@torch.inference_mode()
def judged(net: ArtefactNet, pictures: Pictures) -> dict[str, float]:
    """The area under the curve of each kind of fake against the portraits that they were made of,
    as they are and worn; and of all kinds together."""
    found, logits = {}, []
    for kind, (real, fake) in pictures.items():
        plain = net(torch.cat([real, fake]).float() / 255)
        rough = net(worn(real, fake, torch.Generator().manual_seed(5)))
        logits.append(plain.view(2, -1))
        for name, values in ((kind, plain), (f"{kind} worn", rough)):
            found[name] = area(values[: len(real)], values[len(real) :])
    return {"all": area(*torch.cat(logits, 1)), **found}


def area(real: Tensor, fake: Tensor) -> float:
    return round(verification_auc(fake.tolist(), real.tolist()) or 0.0, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", type=Path, help="a file of people, one a line")
    parser.add_argument("--steps", type=int, default=2800, help="of 32 crops")
    parser.add_argument("--seconds", type=float, default=900, help="at most")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    crops = CropSet.load(args.data)
    out = held_out(crops)
    unwanted = set(args.without.read_text("utf-8").split("\n")) if args.without else set[str]()
    named = torch.tensor([name in unwanted for name in crops.info["people"]])[crops.people]
    used, others = crops.only(~out & ~named), crops.only(out & ~named)
    test = fakes(args.out / "held-out.safetensors", others, HELD_OUT)
    made = fakes(args.out / "fakes.safetensors", used, FAKES)
    net = train(made, test, seconds=args.seconds, steps=args.steps)
    tensors = {
        name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()
    }
    net.load_state_dict(tensors)  # the figures are of what is kept
    people = len(set(others.people.tolist()))
    print(json.dumps({"people": people, "auc": judged(net, test)}))
    file = WEIGHTS / "artefacts.safetensors"
    file.write_bytes(to_bytes(tensors, {"license": "Apache-2.0"}))
    print(f"evaluation/artefacts.py: DIGEST = {hashlib.sha256(file.read_bytes()).hexdigest()!r}")


if __name__ == "__main__":
    main()
