"""Trains the network that sees what lies before a face; writes faces/occlusion.safetensors.

    ./dev facke prepare PHOTOS DATASET --manifest PACK.csv
    ./dev python tools/train_occlusion.py DATASET --out runs/occlusion-1
    ./dev python tools/train_occlusion.py DATASET --out runs/occlusion-2 --clean runs/occlusion-1
    ./dev python tools/train_occlusion.py DATASET --out runs/occlusion-3 --clean runs/occlusion-2

DATASET holds ordinary portraits of 128 pixels; occluders are drawn over them (data/occluders.py).
Some portraits wear real glasses or hair that nobody labelled: later rounds leave out those in which
the network of the round before sees something on more of the face than --most, and go on from its
weights. --without names people who are left out, in training and in judging. --found adds real
glasses and hair that tools/find_occluders.py found, and draws before portraits only that show none.
One person in 20 is held out; the figures at the end are theirs. A run that was stopped goes on when
it is called again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.data.batches import BatchConfig, SwapBatches
from facke_core.data.crops import CropSet
from facke_core.faces.paste import mesh_hull
from facke_core.nn.occlusion import OcclusionNet
from facke_core.objective import LossTerm, Phase
from facke_core.training.recipe import OptimizerConfig, Recipe
from facke_core.training.trainer import Trainer
from facke_core.types import FaceBatch, GeneratorOutput, Step
from facke_core.weights import checkpoints
from facke_core.weights.tensors import to_bytes

WEIGHTS = Path(__file__).resolve().parent.parent / "packages/facke-core/src/facke_core/faces"
REAL = 8
"""Portraits with real glasses in a batch, and as many with real hair."""
MOST = 0.02
"""Share of a face on which nothing should be seen in a bare portrait."""


class Segment:
    """The objective: cross entropy, five times as much near edges, and the soft Dice loss."""

    def __init__(self, net: OcclusionNet, found: Mapping[str, Tensor] | None = None) -> None:
        self.modules: Mapping[str, nn.Module] = {"generator": net}
        self.found = found
        if found is not None:
            self.kinds = [(found["hair"] == kind).nonzero()[:, 0] for kind in (False, True)]
        terms = [LossTerm(Entropy()), LossTerm(Dice())]
        self.phases = [Phase("generator", self.forward, terms)]

    def forward(
        self,
        modules: Mapping[str, nn.Module],
        batch: FaceBatch,
        rng: torch.Generator | None,
        made: GeneratorOutput | None = None,
    ) -> Step:
        assert batch.target_mesh is not None
        assert batch.occlusion is not None
        assert rng is not None
        hull = mesh_hull(batch.target_mesh, batch.target.shape[-1])
        together = [batch.target, hull, batch.occlusion, torch.ones_like(hull)]
        if self.found is not None:  # real ones
            rows = torch.cat(
                [kind[torch.randint(len(kind), (REAL,), generator=rng)] for kind in self.kinds]
            )
            real = [self.found[name][rows].float() for name in ("crop", "hull", "label", "weight")]
            real[0] = real[0] / 255
            flip = torch.rand(len(rows), 1, 1, 1, generator=rng) < 0.5
            real = [torch.where(flip, each.flip(-1), each) for each in real]
            together = [torch.cat(pair) for pair in zip(together, real, strict=True)]
        crop, hull, label, known = moved(together, rng)
        crop = worn(crop, rng)
        logits = modules["generator"](crop, hull).float()
        edge = F.max_pool2d(label, 5, 1, 2) + F.max_pool2d(-label, 5, 1, 2) > 0.3
        near = F.max_pool2d(hull, 9, 1, 4)  # what lies around the face is not labelled
        known = (known > 0.99).float()
        weight = (near + 0.05) * (1 + 4 * edge) * known
        aux = {"logits": logits, "label": label, "weight": weight}
        return Step(batch=batch, output=GeneratorOutput(crop, aux), modules=modules, rng=rng)


class Entropy:
    name = "entropy"

    def __call__(self, step: Step) -> Tensor:
        logits, label, weight = (step.output.aux[key] for key in ("logits", "label", "weight"))
        loss = F.binary_cross_entropy_with_logits(logits, label, reduction="none") * weight
        return loss.flatten(1).sum(1) / weight.flatten(1).sum(1)


class Dice:
    name = "dice"

    def __call__(self, step: Step) -> Tensor:
        share, label = step.output.aux["logits"].sigmoid(), step.output.aux["label"]
        near = (step.output.aux["weight"] > 0.5).float()
        both = (2 * share * label * near).flatten(1).sum(1)
        total = ((share + label) * near).flatten(1).sum(1)
        return 1 - (both + 20) / (total + 20)


def moved(together: Sequence[Tensor], rng: torch.Generator) -> tuple[Tensor, ...]:
    """Turn, zoom and shift pictures a little, all alike."""
    b = len(together[0])
    draw = torch.rand(b, 4, generator=rng) * 2 - 1
    angle, zoom = 0.12 * draw[:, 0], 1 + 0.12 * draw[:, 1]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos, -sin, 0.06 * draw[:, 2]], 1)]
    rows += [torch.stack([sin, cos, 0.06 * draw[:, 3]], 1)]
    stack = torch.cat([*together], 1)
    grid = F.affine_grid(torch.stack(rows, 1), list(stack.shape), align_corners=False)
    seen = F.grid_sample(stack, grid, padding_mode="border", align_corners=False)
    return tuple(seen.split([each.shape[1] for each in together], 1))


def worn(crop: Tensor, rng: torch.Generator) -> Tensor:
    """Take sharpness, add noise, and take colours, as photographs lack them."""
    draw = torch.rand(len(crop), 4, generator=rng)[:, :, None, None, None]
    size = crop.shape[-1]
    small = 40 + int(torch.randint(60, (1,), generator=rng))
    soft = F.interpolate(crop, (small, small), mode="bilinear", antialias=True)
    soft = F.interpolate(soft, (size, size), mode="bicubic")
    crop = torch.where(draw[:, 0] < 0.3, soft, crop)
    grey = crop.mean(1, keepdim=True).expand_as(crop)
    crop = torch.where(draw[:, 1] < 0.15, grey, crop)
    noise = torch.randn(crop.shape, generator=rng) * draw[:, 2] ** 2 * 0.06
    return (crop * (0.7 + 0.6 * draw[:, 3]) + noise).clamp(0, 1)


def held_out_people(crops: CropSet) -> Tensor:
    """Which people (P,) are held out."""
    return torch.tensor([zlib.crc32(name.encode()) % 20 == 0 for name in crops.info["people"]])


def held_out(crops: CropSet) -> Tensor:
    """Which crops (N,) show somebody who is held out."""
    return held_out_people(crops)[crops.people]


@torch.inference_mode()
def seen(net: OcclusionNet, crops: CropSet) -> Tensor:
    """The share (N,) of each face on which the network sees something."""
    assert crops.mesh is not None
    shares = []
    for rows in torch.arange(len(crops)).split(64):
        hull = mesh_hull(crops.mesh[rows], crops.images[:1].shape[-1])
        found = (net(crops.images[rows].float() / 255, hull) > 0) * hull
        shares.append(found.flatten(1).sum(1) / hull.flatten(1).sum(1))
    return torch.cat(shares)


@torch.inference_mode()
def judged(net: OcclusionNet, crops: CropSet, batches: int = 24) -> dict[str, float]:
    """Intersection over union on drawn occluders, inside faces, and how much is seen in portraits
    before which nothing was drawn."""
    drawn = SwapBatches(crops, batch_size=32, config=config(1.0), seed=991)
    size = crops.images[:1].shape[-1]
    both = either = 0.0
    for step in range(batches):
        batch = drawn.read(step)
        assert batch.target_mesh is not None
        assert batch.occlusion is not None
        hull = mesh_hull(batch.target_mesh, size) > 0.5
        found = (net(batch.target, hull.float()) > 0) & hull
        label = (batch.occlusion > 0.5) & hull
        both += float((found & label).sum())
        either += float((found | label).sum())
    bare = seen(net, crops)
    return {
        "iou": both / either,
        "median seen in bare portraits": float(bare.median()),
        "portraits with more than 2 % seen": float((bare > MOST).float().mean()),
    }


def config(occluders: float) -> BatchConfig:
    return BatchConfig(occluders=occluders, intra=0.0, colour_jitter=0.2)


@torch.inference_mode()
def real_found(net: OcclusionNet, found: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of the places on real rims, and on real hair, where the network sees something, and
    of the other places of these portraits."""
    seen = net(found["crop"].float() / 255, found["hull"].float()) > 0
    there, known = found["label"] > 0.5, found["weight"] > 0.5
    shares = {}
    for name, kind in (("rims", ~found["hair"]), ("hair", found["hair"])):
        hit, other = (seen & there & known)[kind], (seen & ~there & known)[kind]
        shares[f"real {name} found"] = float(hit.sum() / (there & known)[kind].sum())
        shares[f"beside {name}"] = float(other.sum() / (~there & known)[kind].sum())
    return shares


def trained(run: Path) -> OcclusionNet:
    """The moving average of a run's newest checkpoint, or what a file of weights holds."""
    from safetensors.torch import load_file

    newest = checkpoints.newest_sound(run) if run.is_dir() else None
    if newest is None and not run.is_file():
        raise SystemExit(f"{run} holds no checkpoint")
    net = OcclusionNet()
    net.load_state_dict(load_file(newest / "ema.safetensors" if newest else run))
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clean", type=Path, help="the run of the round before, or its weights")
    parser.add_argument("--most", type=float, default=MOST, help="share of a face")
    parser.add_argument("--without", type=Path, help="a file of people, one a line")
    parser.add_argument("--found", type=Path, help="a file of find_occluders.py")
    parser.add_argument("--steps", type=int, default=3000, help="of 32 crops")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    recipe = Recipe(
        method="occlusion",
        steps=args.steps,
        batch_size=32,
        generator={},
        identity_encoder={},
        alignment={},
        data=config(0.75),
        optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), schedule="cosine", warmup=100),
        ema=0.998,
        clip=1.0,
        precision="bfloat16",
        save_every=250,
    )
    crops = CropSet.load(args.data)
    found = unseen = None
    if args.found:
        from safetensors.torch import load_file

        found = load_file(args.found)
        bare = found.pop("bare")
        theirs = held_out_people(crops)[found["person"]]
        unseen = {name: tensor[theirs] for name, tensor in found.items()}
        found = {name: tensor[~theirs] for name, tensor in found.items()}
        print(f"{len(theirs)} portraits with real glasses or hair", flush=True)
        crops = crops.only(bare)
    if args.without:
        crops = crops.without(args.without)
    out = held_out(crops)
    train = crops.only(~out)
    if args.clean:
        clean = seen(trained(args.clean), train) <= args.most
        print(f"{int(clean.sum())} of {len(clean)} portraits stay", flush=True)
        train = train.only(clean)
    torch.manual_seed(recipe.seed)
    net = OcclusionNet().to(memory_format=torch.channels_last)
    if args.clean:
        net.load_state_dict(trained(args.clean).state_dict())
    batches = SwapBatches(train, batch_size=recipe.batch_size, config=recipe.data, seed=recipe.seed)
    trainer = Trainer(Segment(net, found), batches, recipe=recipe, workers=args.workers)
    if latest := checkpoints.newest_sound(args.out):
        trainer.resume(latest)
    for report in trainer:
        if report.step % recipe.log_every == 0:
            losses: dict[str, Any] = {key: round(value, 4) for key, value in report.losses.items()}
            print(
                json.dumps({"step": report.step, "s": round(report.seconds, 2)} | losses),
                flush=True,
            )
        if report.step % recipe.save_every == 0 or report.step == recipe.steps:
            trainer.save(args.out / checkpoints.FOLDER / checkpoints.name(report.step))
    net = trained(args.out)
    figures = judged(net, crops.only(out))
    if unseen is not None:
        figures |= real_found(net, unseen)
    print(json.dumps(figures))
    tensors = {
        name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()
    }
    file = WEIGHTS / "occlusion.safetensors"
    file.write_bytes(to_bytes(tensors, {"license": "Apache-2.0"}))
    print(f"faces/occlusion.py: DIGEST = {hashlib.sha256(file.read_bytes()).hexdigest()!r}")


if __name__ == "__main__":
    main()
