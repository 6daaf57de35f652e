"""Swaps measured by ``facke_core.evaluation``, as the benchmarks want it.

Two things differ from ``facke evaluate``: the judge (reid.py) looks for the faces itself, by a
detector that no pipeline has; and crops are swapped a batch at a time by whatever the caller gives,
which can count, keep time, or draw noise for the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from reid import Judge
from torch import Tensor

from facke_core.evaluation.clock import STAGES
from facke_core.evaluation.metrics import (
    AnyMetric,
    PerPair,
    SwappedPairs,
    id_gain,
    id_retrieval,
    psnr,
    retrieval_top1,
)
from facke_core.evaluation.pictures import PictureStore, inputs_of, unpacked
from facke_core.evaluation.report import summarise
from facke_core.evaluation.rows import Row
from facke_core.evaluation.session import EvaluationSession
from facke_core.images.io import resize
from facke_core.jobs.pairs import PairSet, PictureRef, SwapPair
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock
from facke_core.types import AlignedFace, Progress, SwapInputs

SwapCrops = Callable[[SwapInputs], Tensor]
"""Crops, identities and meshes -> result crops (B, 3, S, S) in [0, 1]."""
SIDE = 512


class HalfPictures(PictureStore):
    """The photographs at :data:`SIDE` pixels; the originals have 1024."""

    def read(self, picture: PictureRef) -> tuple[Tensor, AlignedFace | None]:
        photo, face = super().read(picture)
        if face is None:
            photo = resize(photo[None], (SIDE, SIDE))[0].clamp(0, 1)
        return photo, face


class BatchSession(EvaluationSession):
    """Swaps a batch at a time by ``swap_crops``; the faces that metrics see are the judge's."""

    def __init__(
        self,
        pictures: PictureStore,
        pipeline: SwapPipeline,
        pairs: PairSet,
        *,
        metrics: Sequence[AnyMetric],
        judge: Judge,
        swap_crops: SwapCrops,
    ) -> None:
        super().__init__(pipeline, pairs, metrics=metrics, encoders={"judge": judge})
        self.pictures, self._judge, self._swap_crops = pictures, judge, swap_crops
        self._results: dict[tuple[PictureRef, PictureRef], Tensor] = {}
        self.photos: dict[SwapPair, Tensor] = {}
        """The finished photos of the last batch."""

    @torch.inference_mode()
    def rows(self, indices: Iterable[int], *, batch_size: int = 8) -> list[Row]:
        """The rows of one batch."""
        indices = list(indices)
        pairs = [self.pairs.pairs[i] for i in indices]
        self.map(self.ready, list({one.key: one for pair in pairs for one in pair[:2]}.values()))
        pairs = [pair for pair in pairs if all(map(self.pictures.usable, pair[:2]))]
        if pairs:
            source = [self.pictures.load(pair.source) for pair in pairs]
            target = [self.pictures.load(pair.target) for pair in pairs]
            known = [self.pictures.known(pair.source) for pair in pairs]
            identity = torch.stack([one.vectors["identity"] for one in known])
            results = self._swap_crops(inputs_of(self.pipeline, source, target, identity))
            self._results = dict(
                zip((pair[:2] for pair in pairs), results.clamp(0, 1).float().cpu(), strict=True)
            )
        self.photos = {}
        return super().rows(indices, batch_size=batch_size)

    def batches(self, end: int, size: int) -> Iterator[list[Row]]:
        """The rows of the first ``end`` pairs, a batch at a time."""
        for start in range(0, end, size):
            yield self.rows(range(start, min(start + size, end)))

    def swap(
        self, source: PictureRef, target: PictureRef, *, identity: Tensor | None = None
    ) -> Tensor:
        return self._results[source, target]

    def swapped(self, index: int, *, rebuilt: bool = False) -> SwappedPairs | None:
        found, pair = super().swapped(index, rebuilt=rebuilt), self.pairs.pairs[index]
        if found is None or not found.photos:
            return found
        self.photos[pair] = found.photos[0]
        before = self._judge.find(unpacked(self.pictures.load(pair.target).photo))
        return replace(
            found, target_faces=[before], result_faces=[self._judge.find(found.photos[0])]
        )


def landmark_shift() -> PerPair:
    """Mean distance of the five points in target and result, in percent of the distance of the
    target's eyes. It mixes pose, expression and place, which facke's own metrics tell apart; it
    stays because figures of earlier versions have it."""

    def measure(pairs: SwappedPairs) -> Tensor:
        (before,), (after,) = pairs.target_faces, pairs.result_faces
        if before is None or after is None:
            return torch.tensor([torch.nan])
        eyes = (before.landmarks[1] - before.landmarks[0]).norm()
        return 100 * (after.landmarks - before.landmarks).norm(dim=1).mean()[None] / eyes

    return PerPair(name="landmark-shift", needs=frozenset({"faces"}), function=measure)


def result_target() -> PerPair:
    """``cos(J(result), J(target))``: what is left of the target."""

    def measure(pairs: SwappedPairs) -> Tensor:
        assert pairs.identities is not None
        seen = pairs.identities["judge"]
        return (seen.result * seen.target).sum(1)

    return PerPair(name="result-target", needs=frozenset({"judge"}), function=measure)


def measure(
    pipeline: SwapPipeline,
    pairs: PairSet,
    judge: Judge,
    *,
    swap_crops: SwapCrops | None = None,
    pictures: PictureStore | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    batch_size: int = 8,
    keep: int = 0,
    own: Sequence[PictureRef] = (),
    on_progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[SwapPair, Tensor]]:
    """Swap pairs and judge the results.

    Args:
        pipeline: detects, aligns, encodes and pastes.
        pairs: all of them: a source is looked for among the people of all, whatever ``limit`` is.
        judge: what measures.
        swap_crops: instead of the generator's swaps, whose noise begins anew for each batch.
        pictures: what is known of the pictures, if several calls share it.
        limit: number of pairs; None: all.
        seconds: begin no further batch after this time; None: never.
        batch_size: crops per call of ``swap_crops``.
        keep: the finished photos of the first so many pairs are returned, whatever ``seconds`` is.
        own: who is also swapped with themselves; for nobody, ``self_psnr`` is None.
        on_progress: called after each batch.

    Returns:
        The figures of identity_transfer.py, and pair -> finished photo (3, H, W).
    """

    def plain(inputs: SwapInputs) -> Tensor:
        return pipeline.sample(inputs, rng=torch.Generator().manual_seed(0))

    started, end, kept = time.monotonic(), len(pairs.first(limit)), set(pairs.pairs[:keep])
    pictures = pictures or HalfPictures(pipeline, StageClock(STAGES), crops=pairs.crops)
    session = partial(BatchSession, pictures, pipeline, judge=judge, swap_crops=swap_crops or plain)
    metrics = [id_gain(), id_retrieval(), retrieval_top1(), result_target(), landmark_shift()]
    rows, shown = list[Row](), dict[SwapPair, Tensor]()
    with session(pairs, metrics=metrics) as swaps:
        for some in swaps.batches(end, batch_size):
            rows += some
            shown |= {pair: swaps.photos[pair] for pair in kept & swaps.photos.keys()}
            if on_progress:
                on_progress("pairs", len(rows), end)
            if seconds is not None and len(rows) >= keep and time.monotonic() > started + seconds:
                break
    selves = replace(pairs, pairs=[SwapPair(one, one) for one in own])
    with session(selves, metrics=[psnr()]) as swaps:
        rebuilt = [row for some in swaps.batches(len(selves), batch_size) for row in some]
    found, undetected, _ = summarise(rows, [metric.name for metric in metrics])
    found |= summarise(rebuilt, ["psnr"])[0]
    mean = {name: value.value for name, value in found.items()}
    # the judge has a value for each pair that was swapped
    gain, source = mean["id-gain"] or 0.0, 1 - (mean["id-retrieval"] or 0.0)
    report = {
        "gain": gain,
        "top1": mean["retrieval-top1"],
        "landmark_shift": mean["landmark-shift"],
        "self_psnr": mean["psnr"],
        "pairs": len(rows),
        "undetected": (undetected or 0) / len(rows),
        "result_source": source,
        "target_source": source - gain,
        "result_target": mean["result-target"],
    }
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in report.items()}
    return rounded, shown
