"""Several sets of weights on the same pairs: what ``facke evaluate`` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facke_core.evaluation.facke2022 import Facke2022Report, run_facke2022
from facke_core.evaluation.html import cases_of, write_html
from facke_core.evaluation.report import EvaluationReport
from facke_core.evaluation.runner import Compute, EvaluationSpec, Evaluator
from facke_core.evaluation.scan import ScanReport, metrics, scan
from facke_core.evaluation.work import EvaluationWork
from facke_core.jobs.engines import Engine
from facke_core.jobs.pairs import read_same
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Progress

__all__ = ["evaluate", "evaluate_facke2022", "scan_run"]


def evaluate(
    specs: Sequence[EvaluationSpec],
    *,
    batch_size: int = 8,
    workers: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    calibration: Path | None = None,
    html: Path | None = None,
    engine: Engine | None = None,
    registry: Callable[[], Registry] = default_registry,
    on_progress: Progress | None = None,
    on_reports: Callable[[list[EvaluationReport]], None] | None = None,
) -> list[EvaluationReport]:
    """Measure several sets of weights; everything is loaded before the first is.

    Args:
        specs: one per set of weights, which alone tell them apart.
        batch_size: pairs in work at a time.
        workers: number of threads; default: one per core.
        out: a folder for the rows, with one folder for each.
        resume: go on with the rows in ``out``.
        calibration: CSV of real pairs (:func:`~facke_core.jobs.pairs.read_same`).
        html: write a page with pictures here.
        engine: computes the rows elsewhere; default: here. No value depends on it.
        registry: where names are looked up; other processes call it too.
        on_progress: called now and then.
        on_reports: called when everything is measured, before the page is made, which may fail.

    Raises:
        FackeError: whatever :meth:`EvaluationSpec.evaluator` and :meth:`Evaluator.run` raise.
    """
    same = read_same(calibration) if calibration is not None else []
    pairs = specs[0].pair_set()
    evaluators = [_evaluator(spec, workers, registry()) for spec in specs]
    folders = _folders([evaluator.name for evaluator in evaluators])
    reports = []
    for spec, evaluator, folder in zip(specs, evaluators, folders, strict=True):
        progress = _named(on_progress, evaluator.name if len(specs) > 1 else "")
        # first, because it takes little and may find that a picture is damaged
        calibrated = evaluator.calibrate(same, on_progress=progress) if same else {}
        report = evaluator.run(
            pairs,
            batch_size=batch_size,
            out=out / folder if out is not None else None,
            resume=resume,
            compute=_elsewhere(engine, _located(spec, evaluator), batch_size, registry)
            if engine
            else None,
            on_progress=progress,
        )
        report = replace(report, calibration=calibrated)
        reports.append(report)
    if on_reports is not None:
        on_reports(reports)
    if html is not None:
        each = zip(evaluators, reports, strict=True)
        write_html(
            html, reports, [cases_of(evaluator, pairs, report) for evaluator, report in each]
        )
    return reports


def evaluate_facke2022(
    specs: Sequence[EvaluationSpec],
    *,
    workers: int | None = None,
    registry: Callable[[], Registry] = default_registry,
    on_progress: Progress | None = None,
) -> list[Facke2022Report]:
    """Measure several sets of weights by the arithmetic of Facke's benchmark
    (:mod:`facke_core.evaluation.facke2022`)."""
    pairs = specs[0].pair_set()
    wanted = [replace(spec, metrics=("id-loss", "id-retrieval")) for spec in specs]
    evaluators = [_evaluator(spec, workers, registry()) for spec in wanted]
    return [
        run_facke2022(evaluator, pairs, on_progress=_named(on_progress, evaluator.name))
        for evaluator in evaluators
    ]


def scan_run(
    run: Path,
    spec: EvaluationSpec,
    *,
    coarse: int,
    fine: int | None,
    skip: int,
    batch_size: int = 8,
    workers: int | None = None,
    registry: Callable[[], Registry] = default_registry,
    on_progress: Progress | None = None,
) -> ScanReport:
    """Choose among the checkpoints of a run, as :func:`facke_core.evaluation.scan.scan` does.

    ``spec`` says all but the weights and the metrics; the other arguments are those of ``scan``.
    """
    names = registry()

    def evaluator(folder: str) -> Evaluator:
        at_checkpoint = replace(spec, weights=folder, metrics=("id-retrieval",))
        loaded = _evaluator(at_checkpoint, workers, names)
        judge = loaded.encoders["judge"]
        return Evaluator(loaded.pipeline, metrics(), judge=judge, seed=spec.seed, workers=workers)

    return scan(
        run,
        evaluator,
        spec.pair_set(),
        coarse=coarse,
        fine=fine,
        skip=skip,
        batch_size=batch_size,
        on_progress=on_progress,
    )


def _elsewhere(
    engine: Engine,
    spec: EvaluationSpec,
    batch_size: int,
    registry: Callable[[], Registry],
) -> Compute:
    def compute(
        protocol: Mapping[str, Any], missing: Sequence[range]
    ) -> Iterator[tuple[range, Mapping[str, Any]]]:
        everywhere = replace(
            spec,
            pairs=spec.pairs and str(Path(spec.pairs).absolute()),
            data=spec.data and str(Path(spec.data).absolute()),
        )
        work = EvaluationWork(
            spec=everywhere, protocol=protocol, batch_size=batch_size, registry=registry
        )
        return engine(work, missing)

    return compute


def _located(spec: EvaluationSpec, evaluator: Evaluator) -> EvaluationSpec:
    """The same work, for processes that have to load the very weights that were loaded here."""
    return replace(spec, weights=evaluator.pipeline.source or spec.weights)


def _evaluator(spec: EvaluationSpec, workers: int | None, registry: Registry) -> Evaluator:
    evaluator = spec.evaluator(registry)
    if workers is not None:
        evaluator.workers = workers
    return evaluator


def _folders(names: Sequence[str]) -> list[str]:
    """The name of a folder for each name of weights; repeated names are numbered."""
    clean = [re.sub(r"[^\w.-]+", "-", name).strip("-.") or "weights" for name in names]
    return [name if clean.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(clean, 1)]


def _named(on_progress: Progress | None, name: str) -> Progress | None:
    if on_progress is None or not name:
        return on_progress
    show = on_progress
    return lambda what, done, total: show(f"{name}: {what}", done, total)
