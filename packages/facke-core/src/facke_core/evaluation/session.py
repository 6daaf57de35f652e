"""The work of an evaluation: pairs in, rows out.

Every network sees one crop at a time. Other numbers of crops change the last bits of a
convolution, these can change where a detector finds a face, and that changes every number that
follows. So a row depends on its pair, on the set of sources and on the seed, and on nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from facke_core.errors import ImageError, PluginError
from facke_core.evaluation.clock import STAGES, alone
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.metrics import AnyMetric, Identities, Metric, SetMetric, SwappedPairs
from facke_core.evaluation.pictures import Loaded, PictureStore, inputs_of, unpacked
from facke_core.evaluation.rows import Row, check_batch, pack, rounded, unpack
from facke_core.faces.align import warp
from facke_core.jobs.pairs import PairSet, PictureRef, SwapPair, key_of, noise
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock
from facke_core.types import Face, Progress

__all__: list[str] = []

_PHOTO = frozenset({"photo", "faces", "judge"})
"""Needs that include the finished photo; the last two also the face in it."""
FACES = frozenset({"faces", "judge"})
"""Needs that include the face in the finished photo."""
BY_VECTORS = frozenset(
    {"id-retrieval", "id-retrieval-l2", "id-gain", "retrieval-top1", "retrieval-top5"}
)
"""Core's metrics that follow from the judge's vectors alone."""
T = TypeVar("T")


class EvaluationSession:
    """The computation of one pipeline on one set of pairs; used in a ``with`` statement.

    Args:
        pipeline: the pipeline that swaps.
        pairs: all pairs, also where only some are evaluated here: the sources of all are those
            among which one is retrieved.
        metrics: the metrics to measure.
        encoders: ``trainer`` and ``judge``, as far as metrics need them.
        seed: seed of samplers that draw noise; with None those that draw only for somebody who
            asks for a seed do not.
        workers: number of threads. The rows do not depend on it.
        on_progress: called while the sources are made ready.
    """

    def __init__(
        self,
        pipeline: SwapPipeline,
        pairs: PairSet,
        *,
        metrics: Sequence[AnyMetric],
        encoders: dict[str, Recogniser],
        seed: int | None = None,
        workers: int | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.pipeline, self.pairs, self.seed = pipeline, pairs, seed
        self.per_pair = [m for m in metrics if not isinstance(m, SetMetric)]
        self.of_set = [m for m in metrics if isinstance(m, SetMetric)]
        self._needs = frozenset[str]().union(*(m.needs for m in metrics))
        self._encoders = encoders
        self._sampler = pipeline.sampler(seed)
        self.clock = StageClock(STAGES)
        self.pictures = PictureStore(pipeline, self.clock, crops=pairs.crops)
        self._rebuilt: dict[str, dict[str, float]] = {}
        self._pool = ThreadPoolExecutor(workers or os.cpu_count(), initializer=alone)
        self._on_progress = on_progress
        self._gallery: tuple[Tensor, Tensor, dict[str, int]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rows(self, indices: Iterable[int], *, batch_size: int = 8) -> list[Row]:
        """Swap and measure some pairs: their rows, in the order of ``indices``.

        ``batch_size`` of them are in work at a time.
        """
        check_batch(batch_size)
        rows: list[Row] = []
        remaining = iter(indices)
        while batch := list(islice(remaining, batch_size)):
            pairs = [self.pairs.pairs[i] for i in batch]
            self._make_ready([picture for pair in pairs for picture in pair])
            if self._needs & {"judge"}:
                self._sources()
            if rebuilt := self._to_rebuild([pair.source for pair in pairs]):
                self.map(self._rebuild, rebuilt)
            rows += self.map(self._row, batch)
        return rows

    @cached_property
    def among(self) -> str:
        """Digest of the sources and who is on them; empty where no metric reads that."""
        if "judge" not in self._needs:
            return ""
        number: dict[str, int] = {}
        people = {p.key: number.setdefault(p.identity, len(number)) for p in self.pairs.sources}
        return hashlib.sha256(repr(sorted(people.items())).encode()).hexdigest()

    @torch.inference_mode()
    def among_these(self, known: Mapping[int, Row]) -> dict[int, Row]:
        """Rows that were found among other sources, with the values that follow from these.

        They follow from the vector that a row keeps, for core's metrics; where another metric may
        look at more, the row is left out, and is to be found anew.
        """
        stale = {i: row for i, row in known.items() if not row.skipped and row.among != self.among}
        rows = {i: row for i, row in known.items() if i not in stale}
        judged = [metric for metric in self.per_pair if "judge" in metric.needs]
        if not stale or not all(metric.name in BY_VECTORS for metric in judged):
            return rows
        pairs = {index: self.pairs.pairs[index] for index in stale}
        self._make_ready(picture for pair in pairs.values() for picture in pair)
        self._sources()
        for index, row in stale.items():
            if not row.vector or not all(map(self.pictures.usable, pairs[index])):
                continue
            a, b = (self.pictures.load(picture).aligned.crop[None] for picture in pairs[index])
            seen = self._seen("judge", *pairs[index], torch.from_numpy(unpack(row.vector).copy()))
            swapped = SwappedPairs(source=a, target=b, identities={"judge": seen})
            values = {m.name: rounded(self._value(m, swapped)) for m in judged}
            rows[index] = replace(row, among=self.among, values={**row.values, **values})
        return rows

    def real_vectors(self) -> Tensor:
        """The judge's vectors (M, D) of all different pictures of the pairs that show a face."""
        pictures = self.pairs.sources + self.pairs.targets
        different = list({picture.key: picture for picture in pictures}.values())
        self._make_ready(different)
        usable = [picture for picture in different if self.pictures.usable(picture)]
        return torch.stack([self.pictures.known(p).vectors["judge"] for p in usable]).double()

    @torch.inference_mode()
    def swapped(self, index: int, *, rebuilt: bool = False) -> SwappedPairs | None:
        """Swap one pair, with everything that the metrics need; None where a face is missing.

        With ``rebuilt``, swap(source, source) is there in any case.
        """
        pair = self.pairs.pairs[index]
        self.ready(pair.source)
        self.ready(pair.target)
        if not all(self.pictures.usable(picture) for picture in pair):
            return None
        source, target = (self.pictures.load(picture) for picture in pair)
        crops = source.aligned.crop[None], target.aligned.crop[None]
        swapped = SwappedPairs(source=crops[0], target=crops[1])
        if rebuilt or self._mixed:
            swapped = replace(swapped, reconstruction=self.swap(pair.source, pair.source)[None])
        if not self._needs - {"self"}:
            return swapped
        result = self.swap(pair.source, pair.target)
        swapped = replace(swapped, result=result[None], aligned=[target.aligned])
        photo = face = None
        if self._needs & _PHOTO:
            photo = self._finished(result, pair.target, target)
            pasted = result[None] if pair.target.path is None else self._cut(photo, target)
            swapped = replace(swapped, photos=[photo], pasted=pasted)
        if photo is not None and self._needs & FACES:
            face = self.pictures.find(photo)
            known = self.pictures.known(pair.target)
            swapped = replace(swapped, target_faces=[known.face], result_faces=[face])
        identities = {
            role: self._identities(role, pair.source, pair.target, result, photo, face)
            for role in self._encoders
            if role in self._needs
        }
        return replace(swapped, identities=identities)

    def again(self, indices: Sequence[int]) -> list[SwappedPairs | None]:
        """Swap some pairs exactly as :meth:`rows` does, with swap(source, source)."""
        if self._needs & {"judge"}:
            self._sources()
        return self.map(lambda index: self.swapped(index, rebuilt=True), indices)

    # -- pictures ----------------------------------------------------------------------------------

    def map(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Apply a function to each item, in this session's threads."""
        return list(self._pool.map(function, items))

    def _make_ready(self, pictures: Iterable[PictureRef], what: str = "") -> None:
        different = list({picture.key: picture for picture in pictures}.values())
        for done, _ in enumerate(self._pool.map(self.ready, different), 1):
            if what and self._on_progress:
                self._on_progress(what, done, len(different))

    def ready(self, picture: PictureRef) -> None:
        """Find the face of a picture and compute its vectors, if that was not done before."""
        if not self.pictures.usable(picture):
            return
        known = self.pictures.known(picture)
        missing = {"identity", *(role for role in self._encoders if role in self._needs)}
        missing -= known.vectors.keys()
        if not missing:
            return
        loaded = self.pictures.load(picture)
        if "identity" in missing:
            with self.clock.stage("encode"):
                known.vectors["identity"] = self.pipeline.encode(loaded.aligned.crop[None])[0]
        if "trainer" in missing:
            known.vectors["trainer"] = self._by_trainer(loaded.aligned.crop)
        if "judge" in missing:
            face = known.face or loaded.aligned.face
            known.vectors["judge"] = self._by_judge(unpacked(loaded.photo), face)

    def _sources(self) -> tuple[Tensor, Tensor, dict[str, int]]:
        """The vectors (G, D) of all usable sources, the persons (G,) on them, and these by key."""
        if self._gallery is None:
            self._make_ready(self.pairs.sources, "sources")
            usable = [source for source in self.pairs.sources if self.pictures.usable(source)]
            number: dict[str, int] = {}
            people = [number.setdefault(source.identity, len(number)) for source in usable]
            vectors = [self.pictures.known(source).vectors["judge"].double() for source in usable]
            stacked = torch.stack(vectors) if vectors else torch.zeros(0, 0, dtype=torch.float64)
            own = {source.key: person for source, person in zip(usable, people, strict=True)}
            self._gallery = stacked, torch.tensor(people, dtype=torch.int64), own
        return self._gallery

    # -- swapping ----------------------------------------------------------------------------------

    def swap(
        self, source: PictureRef, target: PictureRef, *, identity: Tensor | None = None
    ) -> Tensor:
        """Swap two pictures that are ready: the result crop (3, S, S).

        ``identity`` (D,) takes the place of the source's.
        """
        if identity is None:
            identity = self.pictures.known(source).vectors["identity"]
        giver, taker = (self.pictures.load(picture) for picture in (source, target))
        inputs = inputs_of(self.pipeline, [giver], [taker], identity[None])
        with self.clock.stage("generate"):
            return self.pipeline.sample(
                inputs, rng=noise(self.seed, source, target), sampler=self._sampler
            )[0]

    def _finished(self, result: Tensor, picture: PictureRef, target: Loaded) -> Tensor:
        with self.clock.stage("paste"):
            if picture.path is None:
                return self.pictures.framed(result)
            return self.pipeline.paste(
                unpacked(target.photo), result, target.aligned, occlusion=target.occlusion
            ).image

    def _cut(self, photo: Tensor, target: Loaded) -> Tensor:
        """The crop (1, 3, S, S) of a finished photo where the target's crop was."""
        alignment = self.pipeline.alignment
        with self.clock.stage("measure"):
            return warp(
                photo[None],
                target.aligned.matrix[None],
                alignment.size,
                border=alignment.border,
                antialias=alignment.antialias,
            )

    # -- measuring ---------------------------------------------------------------------------------

    def _by_trainer(self, crop: Tensor) -> Tensor:
        with self.clock.stage("judge"):
            return self._encoders["trainer"].of_crop(crop, self.pipeline.alignment)

    def _by_judge(self, photo: Tensor, face: Face) -> Tensor:
        judge = self._encoders["judge"]
        with self.clock.stage("align"):
            crop = judge.cut(photo, face, self.pipeline.alignment)
        with self.clock.stage("judge"):
            return judge.of_cut(crop)

    def _identities(
        self,
        role: str,
        source: PictureRef,
        target: PictureRef,
        result: Tensor,
        photo: Tensor | None,
        face: Face | None,
    ) -> Identities:
        if role == "trainer":
            return self._seen(role, source, target, self._by_trainer(result))
        assert photo is not None
        # a face that is not found is where the target's was
        known = self.pictures.known(target)
        where = face or known.face or self.pictures.load(target).aligned.face
        return self._seen(role, source, target, self._by_judge(photo, where))

    def _seen(
        self, role: str, source: PictureRef, target: PictureRef, vector: Tensor
    ) -> Identities:
        gallery, people, own = torch.zeros(0, len(vector)), torch.zeros(0, dtype=torch.int64), -1
        if role == "judge":
            gallery, people, numbers = self._sources()
            own = numbers[source.key]
        return Identities(
            source=self.pictures.known(source).vectors[role][None],
            target=self.pictures.known(target).vectors[role][None],
            result=vector[None],
            gallery=gallery,
            people=people,
            own=torch.tensor([own]),
        )

    @property
    def _mixed(self) -> bool:
        """True where a metric reads the reconstruction beside something else."""
        return any("self" in m.needs and m.needs != {"self"} for m in self.per_pair)

    def _to_rebuild(self, sources: Iterable[PictureRef]) -> list[PictureRef]:
        if not any(m.needs == {"self"} for m in self.per_pair):
            return []
        different = {
            source.key: source for source in sources if source.key not in self._rebuilt
        }.values()
        return [source for source in different if self.pictures.usable(source)]

    @torch.inference_mode()
    def _rebuild(self, source: PictureRef) -> None:
        """Compute the values that a source alone decides."""
        crop = self.pictures.load(source).aligned.crop[None]
        rebuilt = self.swap(source, source)[None]
        pairs = SwappedPairs(source=crop, target=crop, reconstruction=rebuilt)
        own = [metric for metric in self.per_pair if metric.needs == {"self"}]
        self._rebuilt[source.key] = {m.name: self._value(m, pairs) for m in own}

    @torch.inference_mode()
    def _row(self, index: int) -> Row:
        pair = self.pairs.pairs[index]
        about: dict[str, Any] = {
            "pair": index,
            "source": pair.source.name,
            "target": pair.target.name,
            "source_identity": pair.source.identity,
            "target_identity": pair.target.identity,
            "key": key_of(pair),
            "among": self.among,
        }
        try:
            swapped = self.swapped(index)
            reason = "" if swapped else self._why_not(pair)
        except ImageError as error:  # it was damaged after its face was found
            swapped, reason = None, str(error)
        if swapped is None:
            empty = dict.fromkeys(metric.name for metric in self.per_pair)
            return Row(**about, values=empty, skipped=reason)
        known = self._rebuilt.get(pair.source.key, {})
        values = {
            m.name: rounded(known[m.name] if m.name in known else self._value(m, swapped))
            for m in self.per_pair
        }
        looked = bool(self._needs & FACES)
        return Row(
            **about,
            values=values,
            detected=swapped.result_faces[0] is not None if looked else None,
            vector=self._vector(swapped),
        )

    def _why_not(self, pair: SwapPair) -> str:
        roles = dict(zip(("source", "target"), pair, strict=True))
        unusable = {r: p for r, p in roles.items() if not self.pictures.usable(p)}
        faults = {r: fault for r, p in unusable.items() if (fault := self.pictures.why_not(p))}
        reasons = [f"the {role} cannot be used: {fault}" for role, fault in faults.items()]
        if without := " and the ".join(role for role in unusable if role not in faults):
            reasons.append(f"no face was found in the {without}")
        return "; ".join(dict.fromkeys(reasons))

    def _vector(self, swapped: SwappedPairs) -> str:
        if not swapped.identities or "judge" not in swapped.identities:
            return ""
        return pack(swapped.identities["judge"].result[0].numpy())

    def _value(self, metric: Metric, pairs: SwappedPairs) -> float:
        with self.clock.stage("measure"):
            values = metric(pairs)
        if values.shape != (1,):
            raise PluginError(
                f"The metric {metric.name!r} returned a tensor of shape {tuple(values.shape)} for "
                "1 pair. A metric returns one value per pair, (B,)."
            )
        return float(values)
