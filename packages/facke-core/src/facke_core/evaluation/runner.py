"""The evaluator: pairs of pictures in, a report out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from facke_core._files import one_job
from facke_core.building import LazyDetector
from facke_core.config import to_dict
from facke_core.errors import DataError, UsageError
from facke_core.evaluation.calibration import calibrate
from facke_core.evaluation.clips import of_clips
from facke_core.evaluation.clock import STAGES, encoder_share
from facke_core.evaluation.features import load_features
from facke_core.evaluation.judges import (
    NO_JUDGE,
    NO_TRAINER,
    Recogniser,
    check_judge,
    load_recogniser,
    trainer_of,
)
from facke_core.evaluation.metrics import AnyMetric, SetMetric, SwappedPairs
from facke_core.evaluation.report import (
    EvaluationReport,
    MetricInfo,
    by_tone,
    environment,
    summarise,
)
from facke_core.evaluation.rows import Row, RowFiles, check_batch, rounded, unpack
from facke_core.evaluation.session import FACES, EvaluationSession
from facke_core.evaluation.statistics import LEVEL, REPLICATES, Estimate
from facke_core.evaluation.tones import facts
from facke_core.jobs.engines import parts_without
from facke_core.jobs.pairs import PairSet, Rule, SamePair, pairs_from
from facke_core.loading import load
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Progress
from facke_core.weights.sources import Source

__all__ = ["EvaluationSpec", "Evaluator"]

Compute = Callable[[Mapping[str, Any], Sequence[range]], Iterable[tuple[range, Mapping[str, Any]]]]
"""A function of a protocol and shards, which yields each shard with what
:class:`~facke_core.evaluation.work.EvaluationWork` finds, in any order."""
_LACKS = {"judge": NO_JUDGE, "trainer": NO_TRAINER}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSpec:
    """Everything that decides a report, as plain values."""

    weights: str | Source
    """Name of the weights, or the weights themselves, as :func:`facke_core.load` takes it."""
    pairs: str | None = None
    """Path of a CSV of pairs (:func:`~facke_core.jobs.pairs.read_pairs`); else ``data`` is
    given."""
    data: str | None = None
    """Path of a dataset of ``facke prepare``; its test part is taken, where it has one."""
    limit: int | None = None
    """Number of pairs: the first ones of the CSV, or those drawn from the dataset."""
    rule: Rule = "paper"
    judge: str | Mapping[str, Any] | None = None
    """Encoder that judges, as :func:`facke_core.load_encoder` takes it; None: no judge."""
    encoder: str | Mapping[str, Any] | None = None
    """Encoder that takes the place of the training encoder, for models without one."""
    allow_training_encoder: bool = False
    metrics: Sequence[str] = ()
    """Names of metrics; empty: all but those that swap onto covered targets, which take long."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str = "cpu"
    backend: str = "torch"
    """Runtime of the generator, as :func:`facke_core.load` takes it."""

    def pair_set(self) -> PairSet:
        """Read or draw the pairs; errors are those of :func:`~facke_core.jobs.pairs.pairs_from`."""
        return pairs_from(
            file=Path(self.pairs) if self.pairs is not None else None,
            data=Path(self.data) if self.data is not None else None,
            limit=self.limit,
            seed=self.seed or 0,
            rule=self.rule,
        )

    def evaluator(self, registry: Registry | None = None) -> Evaluator:
        """Load everything that the evaluation needs.

        Raises:
            UsageError: the judge had a part in the training.
            FackeError: whatever :func:`facke_core.load` raises.
        """
        registry = registry or default_registry()
        metrics = make_metrics(self.metrics, registry)
        pipeline = load(
            self.weights,
            device=self.device,
            backend=self.backend,
            sampler=self.sampler,
            registry=registry,
        )
        device = pipeline.device
        judge = encoder = None
        if self.judge is not None:
            judge = load_recogniser(self.judge, device=device, registry=registry)
            if not self.allow_training_encoder:
                check_judge(judge, pipeline, registry)
        if self.encoder is not None:
            encoder = load_recogniser(self.encoder, device=device, registry=registry)
        return Evaluator(pipeline, metrics, judge=judge, encoder=encoder, seed=self.seed)


def make_metrics(names: Sequence[str], registry: Registry) -> list[AnyMetric]:
    """The metrics of these names, or all registered ones that swap each pair once.

    Raises:
        UnknownNameError: no such metric.
    """
    specs = [registry.metrics[name] for name in names or registry.metrics]
    made: list[AnyMetric] = [registry.resolve(spec.build)() for spec in specs]
    return [metric for metric in made if names or "covered" not in metric.needs]


class Evaluator:
    """Measures one pipeline.

    Args:
        pipeline: the pipeline that swaps.
        metrics: the metrics to measure; those that cannot be are in ``left_out``, with the reason.
        judge: a recogniser that had no part in the training; the caller makes sure.
        encoder: takes the place of the training encoder, where the pipeline has none.
        seed: seed of the noise; see :class:`~facke_core.evaluation.session.EvaluationSession`.
        workers: number of threads; default: one per core. No value depends on it.

    Raises:
        UsageError: none of the metrics can be measured.
    """

    def __init__(
        self,
        pipeline: SwapPipeline,
        metrics: Sequence[AnyMetric],
        *,
        judge: Recogniser | None = None,
        encoder: Recogniser | None = None,
        seed: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.pipeline, self.seed = pipeline, seed
        self.workers = workers or os.cpu_count() or 1
        recognisers = {"trainer": trainer_of(pipeline) or encoder, "judge": judge}
        if any("features" in metric.needs for metric in metrics):
            recognisers["features"] = load_features(pipeline.device)
        self.encoders = {
            role: recogniser for role, recogniser in recognisers.items() if recogniser is not None
        }
        self.metrics = [m for m in metrics if not self._lacking(m)]
        self.left_out = {m.name: _LACKS[role] for m in metrics if (role := self._lacking(m))}
        if not self.metrics:
            raise UsageError(
                f"Nothing can be measured. {'; '.join(sorted(set(self.left_out.values())))}."
            )

    def _lacking(self, metric: AnyMetric) -> str:
        return next((role for role in _LACKS if role in metric.needs - self.encoders.keys()), "")

    def run(
        self,
        pairs: PairSet,
        *,
        batch_size: int = 8,
        out: Path | None = None,
        resume: bool = False,
        compute: Compute | None = None,
        on_progress: Progress | None = None,
    ) -> EvaluationReport:
        """Swap and measure all pairs.

        Args:
            pairs: the pairs to swap.
            batch_size: pairs in work at a time. No value depends on it.
            out: a folder that keeps the rows while it runs; without, an interruption loses them.
            resume: go on with the rows in ``out``.
            compute: finds the rows elsewhere (:mod:`facke_core.evaluation.work`). No value depends
                on it.
            on_progress: called now and then.

        Raises:
            UsageError: ``out`` holds rows of another evaluation, or any without ``resume``; or a
                ``batch_size`` that is none.
            DataError: there are no pairs, or all are skipped, or another job is at work on ``out``.
        """
        check_batch(batch_size)
        if not len(pairs):
            raise DataError("There are no pairs to evaluate.")
        with one_job(out) if out is not None else nullcontext():
            protocol = self.protocol(pairs)
            files = RowFiles(out, protocol, resume=resume) if out is not None else None
            known = files.known(pairs) if files else {}
            elsewhere: Counter[str] = Counter()
            with self.session(pairs, on_progress=on_progress) as session:
                known = session.among_these(known)
                missing = parts_without(known, len(pairs))
                if compute is None:
                    parts = self._rows(session, missing, batch_size, on_progress)
                else:
                    parts = _computed(compute(protocol, missing), elsewhere)
                for part, new_rows in parts:
                    known |= zip(part, new_rows, strict=True)
                    if files:
                        files.write(part, new_rows)
                    if on_progress and compute is not None:
                        on_progress("pairs", len(known), len(pairs))
                rows = [known[index] for index in range(len(pairs))]
                of_set = self._of_set(session, rows)
                seconds = Counter(session.clock.seconds()) + elsewhere
            about = {
                "pairs_computed": sum(map(len, missing)),
                "batch_size": batch_size,
                "workers": self.workers,
                "seconds": {stage: round(seconds[stage], 3) for stage in STAGES},
                "encoder_share": round(encoder_share(seconds), 4),
            }
            return self._report(protocol, rows, of_set, about)

    def _rows(
        self,
        session: EvaluationSession,
        missing: Sequence[range],
        batch_size: int,
        on_progress: Progress | None,
    ) -> Iterator[tuple[range, list[Row]]]:
        for shard in missing:
            rows: list[Row] = []
            for start in range(0, len(shard), batch_size):
                part = shard[start : start + batch_size]
                rows += session.rows(part, batch_size=batch_size)
                if on_progress:
                    on_progress("pairs", part.stop, len(session.pairs))
            yield shard, rows

    def session(self, pairs: PairSet, *, on_progress: Progress | None = None) -> EvaluationSession:
        """The computation itself, to be used in a ``with`` statement."""
        return EvaluationSession(
            self.pipeline,
            pairs,
            metrics=self.metrics,
            encoders=self.encoders,
            seed=self.seed,
            workers=self.workers,
            on_progress=on_progress,
        )

    def swapped(self, pairs: PairSet, indices: Sequence[int]) -> list[SwappedPairs | None]:
        """Swap some pairs again, exactly as they were evaluated, for their pictures.

        Each result has swap(source, source), too; it is None where a face is missing.
        """
        with self.session(pairs) as session:
            return session.again(indices)

    def calibrate(
        self, pairs: Sequence[SamePair], *, on_progress: Progress | None = None
    ) -> dict[str, dict[str, Any]]:
        """Measure how well the encoders tell real people apart, as
        :func:`facke_core.evaluation.calibration.calibrate` does."""
        encoders = {role: self.encoders[role] for role in _LACKS if role in self.encoders}
        return calibrate(
            self.pipeline, encoders, pairs, workers=self.workers, on_progress=on_progress
        )

    def protocol(self, pairs: PairSet) -> dict[str, Any]:
        """The facts that decide the values of a report on ``pairs``, as plain values."""
        pipeline, source = self.pipeline, self.pipeline.source
        sampler = pipeline.method.sampler
        settings = getattr(sampler, "__dataclass_fields__", {})
        return {
            "pairs": {
                "name": pairs.name,
                "sha256": pairs.digest,
                "n": len(pairs),
                "kind": "photographs" if pairs.crops is None else "aligned crops",
                "sources": len(pairs.sources),
                "targets": len(pairs.targets),
                "references": sum(pair.reference is not None for pair in pairs.pairs),
            },
            "weights": {
                "name": self.name,
                "method": source.config.method if source else "",
                "revision": source.revision if source else "",
                "sampler": json.loads(
                    json.dumps({key: getattr(sampler, key) for key in settings}, default=str)
                ),
            },
            "encoders": {
                role: {"settings": dict(recogniser.settings), "sha256": recogniser.digest}
                for role, recogniser in self.encoders.items()
            },
            "metrics": [metric.name for metric in self.metrics],
            "networks": {
                m.name: digest for m in self.metrics if (digest := getattr(m, "digest", ""))
            },
            "alignment": to_dict(pipeline.alignment),
            "detector": self._detector(pairs),
            "backend": pipeline.choice.backend,
            "dtype": pipeline.choice.dtype,
            "seed": self.seed,
            "tones": facts(),
            "interval": {
                "level": LEVEL,
                "replicates": REPLICATES,
                "by": "pigeonhole bootstrap of source and target people",
            },
        }

    @property
    def name(self) -> str:
        """The name of the weights in reports."""
        source = self.pipeline.source
        if source is None:
            return type(self.pipeline.method.generator).__name__
        return source.name or source.config.method

    def _detector(self, pairs: PairSet) -> dict[str, Any] | None:
        needs = frozenset().union(*(metric.needs for metric in self.metrics))
        if pairs.crops is not None and not needs & FACES:
            return None
        detector = self.pipeline.detector
        inner = detector.get() if isinstance(detector, LazyDetector) else detector
        return {"name": type(inner).__name__, "threshold": detector.threshold}

    def _of_set(self, session: EvaluationSession, rows: Sequence[Row]) -> dict[str, Estimate]:
        estimates: dict[str, Estimate] = {}
        for metric in session.of_set:
            if "clip" in metric.needs:
                estimates[metric.name] = of_clips(metric, rows, session.pairs.pairs)
                continue
            role = "judge" if "judge" in metric.needs else "features"
            kept = [row.vector if role == "judge" else row.features for row in rows]
            done = [torch.from_numpy(unpack(text).copy()) for text in kept if text]
            results = torch.stack(done).double() if done else torch.zeros(0, 1, dtype=torch.float64)
            real = session.real_vectors(role) if done else results
            value = metric.of_set(results, real)
            shown = None if value is None else rounded(value)
            estimates[metric.name] = Estimate(value=shown, n=len(done))
        return estimates

    def _report(
        self,
        protocol: Mapping[str, Any],
        rows: Sequence[Row],
        of_set: Mapping[str, Estimate],
        about: Mapping[str, Any],
    ) -> EvaluationReport:
        per_pair = [m.name for m in self.metrics if not isinstance(m, SetMetric)]
        summary, undetected, skipped = summarise(rows, per_pair)
        summary |= of_set
        if sum(skipped.values()) == len(rows):
            raise DataError(f"No pair could be swapped: {', '.join(skipped)}.")
        return EvaluationReport(
            name=self.name,
            protocol=protocol,
            metrics={
                m.name: MetricInfo(unit=m.unit, higher_is_better=m.higher_is_better)
                for m in self.metrics
            },
            summary={metric.name: summary[metric.name] for metric in self.metrics},
            undetected=undetected,
            skipped=skipped,
            left_out=self.left_out,
            tones=by_tone(rows, per_pair),
            rows=rows,
            environment=environment(self.pipeline.device),
            run=about,
        )


def _computed(
    parts: Iterable[tuple[range, Mapping[str, Any]]], seconds: Counter[str]
) -> Iterator[tuple[range, list[Row]]]:
    """Make rows of what other processes sent; their seconds are added to ``seconds``."""
    for part, answer in parts:
        seconds.update(answer["seconds"])
        yield part, [Row(**row) for row in answer["rows"]]
