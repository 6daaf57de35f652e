"""The work of an evaluation: pairs in, rows out.

Every network sees one crop at a time. Other numbers of crops change the last bits of a
convolution, these can change where a detector finds a face, and that changes every number that
follows. So a row depends on its pair, on the set of sources and on the seed, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from facke_core.errors import ImageError, PluginError
from facke_core.evaluation.clips import frame_of
from facke_core.evaluation.clock import STAGES, pool
from facke_core.evaluation.covered import covered
from facke_core.evaluation.finishing import finished
from facke_core.evaluation.identities import (
    BY_VECTORS,
    Gallery,
    digest_of,
    gallery_of,
    identities_of,
)
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.metrics import AnyMetric, Identities, Metric, SetMetric, SwappedPairs
from facke_core.evaluation.pictures import Loaded, PictureStore, inputs_of, unpacked
from facke_core.evaluation.rows import Row, check_batch, pack, rounded, unpack
from facke_core.jobs.pairs import PairSet, PictureRef, SwapPair, key_of, noise
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock
from facke_core.types import Face, Progress

__all__: list[str] = []

_PHOTO = frozenset({"photo", "faces", "judge", "features", "clip"})
"""Needs that include the finished photo."""
FACES = frozenset({"faces", "judge", "clip"})
"""Needs that include the face in the finished photo."""
T = TypeVar("T")


class EvaluationSession:
    """The computation of one pipeline on one set of pairs; used in a ``with`` statement.

    Args:
        pipeline: the pipeline that swaps.
        pairs: all pairs, also where only some are evaluated here: the people of all are those
            among whom a source is looked for.
        metrics: the metrics to measure.
        encoders: ``trainer``, ``judge`` and ``features``, as far as metrics need them.
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
        self._pool = pool(workers)
        self._on_progress = on_progress
        self._people: Gallery | None = None

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
            self._make_ready([picture for pair in pairs for picture in pair[:2]])
            if self._needs & {"judge"}:
                self._gallery()
            if rebuilt := self._to_rebuild([pair.source for pair in pairs]):
                self.map(self._rebuild, rebuilt)
            rows += self.map(self._row, batch)
        return rows

    @cached_property
    def among(self) -> str:
        """Digest of the gallery's pictures and who is on them; empty where no metric reads it."""
        return digest_of(self.pairs) if "judge" in self._needs else ""

    @torch.inference_mode()
    def among_these(self, known: Mapping[int, Row]) -> dict[int, Row]:
        """Rows that were found among other people, with the values that follow from these.

        They follow from the vector that a row keeps, for core's metrics; where another metric may
        look at more, the row is left out, and is to be found anew.
        """
        stale = {i: row for i, row in known.items() if not row.skipped and row.among != self.among}
        rows = {i: row for i, row in known.items() if i not in stale}
        judged = [metric for metric in self.per_pair if "judge" in metric.needs]
        if not stale or not all(metric.name in BY_VECTORS for metric in judged):
            return rows
        pairs = {index: self.pairs.pairs[index] for index in stale}
        self._make_ready(picture for pair in pairs.values() for picture in pair[:2])
        gallery = self._gallery()
        for index, row in stale.items():
            pair = pairs[index]
            if not row.vector or self._unusable(pair):
                continue
            a, b = (self.pictures.load(picture).aligned.crop[None] for picture in pair[:2])
            vector = torch.from_numpy(unpack(row.vector).copy())
            seen = identities_of("judge", pair, vector, self.pictures, gallery=gallery)
            swapped = SwappedPairs(source=a, target=b, identities={"judge": seen})
            values = {m.name: rounded(self._value(m, swapped)) for m in judged}
            rows[index] = replace(row, among=self.among, values={**row.values, **values})
        return rows

    def real_vectors(self, role: str) -> Tensor:
        """The vectors (M, D) of a role of all different pictures of the pairs that show a face."""
        pictures = self.pairs.sources + self.pairs.targets
        different = list({picture.key: picture for picture in pictures}.values())
        self._make_ready(different)
        usable = [picture for picture in different if self.pictures.usable(picture)]
        return torch.stack([self.pictures.known(p).vectors[role] for p in usable]).double()

    @torch.inference_mode()
    def swapped(self, index: int, *, rebuilt: bool = False) -> SwappedPairs | None:
        """Swap one pair, with everything that the metrics need; None where a face is missing.

        With ``rebuilt``, swap(source, source) is there in any case.
        """
        pair = self.pairs.pairs[index]
        self.ready(pair.source)
        self.ready(pair.target)
        if self._unusable(pair):
            return None
        source, target = (self.pictures.load(picture) for picture in pair[:2])
        swapped = SwappedPairs(source=source.aligned.crop[None], target=target.aligned.crop[None])
        if rebuilt or self._mixed:
            swapped = replace(swapped, reconstruction=self.swap(pair.source, pair.source)[None])
        if not self._needs - {"self"}:
            return swapped
        result = self.swap(pair.source, pair.target)
        swapped = replace(swapped, result=result[None], aligned=[target.aligned])
        photo = face = None
        if self._needs & _PHOTO:
            place = pair.target, target
            swapped = finished(swapped, *place, self.pipeline, self.pictures, self.clock)
            photo = swapped.photos[0]
        if photo is not None and self._needs & FACES:
            face = self.pictures.find(photo)
            known = self.pictures.known(pair.target)
            swapped = replace(swapped, target_faces=[known.face], result_faces=[face])
        if "covered" in self._needs:
            swap = partial(self._sample, pair.source, pair.target)
            swapped = replace(swapped, covered=[covered(self.pipeline, target, swap)])
        crops = {"trainer": result}
        if swapped.pasted is not None:
            crops["features"] = swapped.pasted[0]
        identities = {
            role: self._identities(role, pair, crops, photo, face)
            for role in self._encoders
            if role in self._needs
        }
        return replace(swapped, identities=identities)

    def again(self, indices: Sequence[int]) -> list[SwappedPairs | None]:
        """Swap some pairs exactly as :meth:`rows` does, with swap(source, source)."""
        if self._needs & {"judge"}:
            self._gallery()
        return self.map(lambda index: self.swapped(index, rebuilt=True), indices)

    # -- pictures ----------------------------------------------------------------------------------

    def map(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Apply a function to each item, in this session's threads."""
        return list(self._pool.map(function, items))

    def _make_ready(
        self, pictures: Iterable[PictureRef], what: str = "", *, judged: bool = False
    ) -> None:
        different = list({picture.key: picture for picture in pictures}.values())
        ready = partial(self.ready, judged=judged)
        for done, _ in enumerate(self._pool.map(ready, different), 1):
            if what and self._on_progress:
                self._on_progress(what, done, len(different))

    def ready(self, picture: PictureRef, *, judged: bool = False) -> None:
        """Find the face of a picture and compute its vectors, if that was not done before.

        With ``judged`` only the judge's, for a picture that is swapped with none.
        """
        if not self.pictures.usable(picture):
            return
        known = self.pictures.known(picture)
        missing = {"identity", *(role for role in self._encoders if role in self._needs)}
        missing = (missing & {"judge"} if judged else missing) - known.vectors.keys()
        if not missing:
            return
        loaded = self.pictures.load(picture)
        if "identity" in missing:
            with self.clock.stage("encode"):
                known.vectors["identity"] = self.pipeline.encode(loaded.aligned.crop[None])[0]
        for role in missing & {"trainer", "features"}:
            known.vectors[role] = self._by_crop(role, loaded.aligned.crop)
        if "judge" in missing:
            face = known.face or loaded.aligned.face
            known.vectors["judge"] = self._by_judge(unpacked(loaded.photo), face)

    def _gallery(self) -> Gallery:
        """The people of all pairs, in the judge's vectors."""
        if self._people is None:
            self._make_ready(self.pairs.compared, "people", judged=True)
            self._people = gallery_of(self.pairs, self.pictures)
        return self._people

    # -- swapping ----------------------------------------------------------------------------------

    def swap(
        self, source: PictureRef, target: PictureRef, *, identity: Tensor | None = None
    ) -> Tensor:
        """Swap two pictures that are ready: the result crop (3, S, S).

        ``identity`` (D,) takes the place of the source's.
        """
        return self._sample(source, target, self.pictures.load(target), identity)

    def _sample(
        self,
        source: PictureRef,
        target: PictureRef,
        taker: Loaded,
        identity: Tensor | None = None,
    ) -> Tensor:
        if identity is None:
            identity = self.pictures.known(source).vectors["identity"]
        giver = self.pictures.load(source)
        inputs = inputs_of(self.pipeline, [giver], [taker], identity[None])
        with self.clock.stage("generate"):
            return self.pipeline.sample(
                inputs, rng=noise(self.seed, source, target), sampler=self._sampler
            )[0]

    # -- measuring ---------------------------------------------------------------------------------

    def _by_crop(self, role: str, crop: Tensor) -> Tensor:
        with self.clock.stage("judge"):
            return self._encoders[role].of_crop(crop, self.pipeline.alignment)

    def _by_judge(self, photo: Tensor, face: Face) -> Tensor:
        judge = self._encoders["judge"]
        with self.clock.stage("align"):
            crop = judge.cut(photo, face, self.pipeline.alignment)
        with self.clock.stage("judge"):
            return judge.of_cut(crop)

    def _identities(
        self,
        role: str,
        pair: SwapPair,
        crops: Mapping[str, Tensor],
        photo: Tensor | None,
        face: Face | None,
    ) -> Identities:
        if role in crops:
            vector = self._by_crop(role, crops[role])
            return identities_of(role, pair, vector, self.pictures)
        assert photo is not None
        # a face that is not found is where the target's was
        known = self.pictures.known(pair.target)
        where = face or known.face or self.pictures.load(pair.target).aligned.face
        vector = self._by_judge(photo, where)
        return identities_of(role, pair, vector, self.pictures, gallery=self._gallery())

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
            "reference": pair.reference.name if pair.reference else "",
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
        frame = frame_of(swapped) if "clip" in self._needs else None
        return Row(
            **about,
            values=values,
            detected=swapped.result_faces[0] is not None if looked else None,
            vector=self._vector(swapped, "judge"),
            features=self._vector(swapped, "features"),
            frame="" if frame is None else pack(frame.numpy()),
            source_tone=self.pictures.tone(pair.source),
            target_tone=self.pictures.tone(pair.target),
        )

    def _unusable(self, pair: SwapPair) -> dict[str, PictureRef]:
        """Role -> picture, for those that cannot be used; a reference only where one judges."""
        roles = {"source": pair.source, "target": pair.target, "reference": pair.reference}
        if "judge" not in self._needs:
            del roles["reference"]
        return {r: p for r, p in roles.items() if p is not None and not self.pictures.usable(p)}

    def _why_not(self, pair: SwapPair) -> str:
        unusable = self._unusable(pair)
        faults = {r: fault for r, p in unusable.items() if (fault := self.pictures.why_not(p))}
        reasons = [f"the {role} cannot be used: {fault}" for role, fault in faults.items()]
        if without := " and the ".join(role for role in unusable if role not in faults):
            reasons.append(f"no face was found in the {without}")
        return "; ".join(dict.fromkeys(reasons))

    def _vector(self, swapped: SwappedPairs, role: str) -> str:
        seen = (swapped.identities or {}).get(role)
        return pack(seen.result[0].numpy()) if seen else ""

    def _value(self, metric: Metric, pairs: SwappedPairs) -> float:
        with self.clock.stage("measure"):
            values = metric(pairs)
        if values.shape != (1,):
            raise PluginError(
                f"The metric {metric.name!r} returned a tensor of shape {tuple(values.shape)} for "
                "1 pair. A metric returns one value per pair, (B,)."
            )
        return float(values)
