"""Small swappers, a recogniser and a detector whose values can be told beforehand."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from facke_core.data.crops import CropSet
from facke_core.evaluation import metrics as m
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.runner import Evaluator
from facke_core.faces.templates import Alignment, template_points
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import Method
from facke_core.types import Face, GeneratorOutput, GeneratorSpec, IdentityEncoderSpec, SwapInputs

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
    m.pose_error,
    m.expression_error,
    m.background,
]


class Colours(nn.Module):
    """Recognises people by four colours: those of the quarters of their face."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(12, 12, generator=rng), requires_grad=False)
        self.spec = IdentityEncoderSpec(
            name=f"colours-{seed}", embedding_dim=12, input_size=(SIZE, SIZE), template=TEMPLATE
        )

    def forward(self, face: Tensor) -> Tensor:
        inner = face[:, :, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
        quarters = nn.functional.adaptive_avg_pool2d(inner, 2).flatten(1) - 0.5
        return nn.functional.normalize(quarters @ self.mix, dim=1)


class Fixed:
    """Finds a face in the middle of every photo that is not black."""

    threshold = 0.5

    def __call__(self, photo: Tensor) -> list[Face]:
        if float(photo.mean()) < 0.02:
            return []
        side = min(photo.shape[1:])
        points = template_points(TEMPLATE, side).float()
        return [Face(torch.cat([points.amin(0), points.amax(0)]), points, 1.0)]


class Network(nn.Module):
    """Convolutions, so that sums depend on the number of crops that are computed together."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 3, padding=1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.15, generator=rng)
        self.spec = GeneratorSpec(
            image_size=SIZE, identity_dim=12, conditions=frozenset({"identity"})
        )

    def forward(self, x: Tensor, *, identity: Tensor) -> GeneratorOutput:
        tint = 0.2 * identity[:, :3, None, None]
        return GeneratorOutput((x + self.last(self.first(x).relu()) + tint).clamp(0, 1), {})


@dataclass(frozen=True)
class Way:
    """``network``, ``target``, ``source``, or ``noise``: the target with noise."""

    what: str = "network"

    @property
    def supplies(self) -> frozenset[str]:
        return frozenset({"identity"})

    def __call__(
        self, generator: Any, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        if self.what == "network":
            image: Tensor = generator(inputs.target, identity=inputs.identity).image
            return image
        if self.what == "noise":
            drawn = torch.rand(inputs.target.shape, generator=rng)
            return (inputs.target + 0.1 * drawn).clamp(0, 1)
        return {"target": inputs.target, "source": inputs.source}[self.what]


def pipeline(what: str = "network") -> SwapPipeline:
    return SwapPipeline(
        Method(Network().eval(), Way(what)),
        identity_encoder=Colours(0),
        detector=Fixed(),
        alignment=Alignment(template=TEMPLATE, size=SIZE),
        registry=Registry(),
    )


def judge(seed: int = 1) -> Recogniser:
    return Recogniser(encoder=Colours(seed), settings={"name": f"colours-{seed}"})


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
