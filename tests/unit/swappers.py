"""Small swappers and a recogniser whose values can be told beforehand, and their pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from facke_core.data.crops import CropSet
from facke_core.evaluation import attributes as a
from facke_core.evaluation import metrics as m
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.runner import Evaluator
from facke_core.faces.templates import Alignment
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import Method
from facke_core.testing import TinyDetector, TinyGenerator
from standins import ColourEncoder, PlainSampler

SIZE = 32
TEMPLATE = "simswap_frontal"
PER_PAIR: list[Callable[[], Any]] = [
    m.recon_l1,
    m.psnr,
    m.ssim,
    m.id_loss,
    m.id_retrieval,
    m.id_retrieval_l2,
    m.id_gain,
    m.retrieval_top1,
    m.retrieval_top5,
    a.pose_error,
    a.expression_error,
    a.background,
]


def colours(seed: int) -> ColourEncoder:
    """Recognises people by four colours: those of the quarters of their face."""
    return ColourEncoder(
        2,
        name=f"colours-{seed}",
        size=SIZE,
        template=TEMPLATE,
        centre=0.5,
        middle=True,
        mixed=seed,
    )


def network() -> TinyGenerator:
    """Convolutions, so that sums depend on the number of crops that are computed together."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyGenerator(SIZE, 12, width=24, norm=False).eval()


SAMPLERS = {
    "network": PlainSampler(),
    "target": PlainSampler(picture="target"),
    "source": PlainSampler(picture="source"),
    "noise": PlainSampler(picture="target", noise=0.1),
}


def pipeline(what: str = "network") -> SwapPipeline:
    return SwapPipeline(
        Method(network(), SAMPLERS[what]),
        identity_encoder=colours(0),
        detector=TinyDetector(TEMPLATE),
        alignment=Alignment(template=TEMPLATE, size=SIZE),
        registry=Registry(),
    )


def judge(seed: int = 1) -> Recogniser:
    return Recogniser(encoder=colours(seed), settings={"name": f"colours-{seed}"})


def evaluator(what: str = "network", *more: Any, **options: Any) -> Evaluator:
    measured = [*(make() for make in PER_PAIR), *more]
    return Evaluator(pipeline(what), measured, judge=judge(), **options)


def portraits(n: int, *, seed: int = 0, side: int = SIZE) -> Tensor:
    """(n, 3, side, side) uint8: smooth random pictures."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 4, 4, generator=rng)
    large = nn.functional.interpolate(small, (side, side), mode="bilinear")
    return (large * 255).byte()


def write_photos(folder: Path, n: int, *, black: Sequence[int] = ()) -> list[str]:
    """n portraits as PNG files; those in ``black`` show no face."""
    names = []
    for i, image in enumerate(portraits(n, side=48)):
        pixels = image if i not in black else image * 0
        names.append(f"{i}.png")
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / names[-1])
    return names


def write_pairs(file: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("source", "target"), *pairs])
    return file


def all_pairs(folder: Path, n: int, *, black: Sequence[int] = ()) -> Path:
    """A CSV of all ordered pairs of n portraits."""
    names = write_photos(folder, n, black=black)
    return write_pairs(folder / "pairs.csv", [(a, b) for a in names for b in names if a != b])


def dataset(n: int = 6) -> CropSet:
    images = portraits(n)
    vectors = torch.eye(12)[torch.arange(n) % 12]
    return CropSet(
        images=images,
        embeddings=vectors[:, None].expand(n, 2, 12).contiguous(),
        people=torch.arange(n),
        weights=torch.ones(n),
        info={"name": "tiny", "alignment": {"template": TEMPLATE, "size": SIZE}},
    )
