"""``train`` takes a recipe and a dataset, and makes a run folder.

A run folder holds ``recipe.json``, ``log.jsonl``, ``tensorboard/``, ``previews/``, ``best.json``
and ``checkpoints/``. A checkpoint is a folder of weights (the moving average), and the run folder
stands for its newest one: ``load("./run")``. ``train(..., resume=True)`` continues from there.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from facke_core._files import one_job
from facke_core.environment import signals_kept
from facke_core.errors import FackeWarning
from facke_core.images.provenance import disclosure
from facke_core.objective import StepReport
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import Generator
from facke_core.training.logs import RunLog
from facke_core.training.probe import ProbeReport
from facke_core.training.recipe import Recipe
from facke_core.training.setup import Training, TrainSettings, prepare

__all__ = ["TrainSummary", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What a call of :func:`train` did."""

    out: Path
    """The run folder."""
    step: int
    """Steps that are done, those of earlier calls included."""
    steps: int
    """Steps of the recipe."""
    images: int
    """Samples seen in those that are done."""
    seconds: float
    """Wall time of this call's steps."""
    finished: bool
    """False when it was stopped before the last step; ``resume=True`` continues."""
    best: Mapping[str, Any]
    """The probe with the lowest retrieval + reconstruction, and its checkpoint; empty without
    probes."""
    stopped_by: int = 0
    """Number of the signal that stopped it before its last step; 0: none did."""


def train(
    settings: TrainSettings,
    *,
    on_step: Callable[[StepReport, Recipe], None] | None = None,
    on_probe: Callable[[ProbeReport], None] | None = None,
    registry: Registry | None = None,
) -> TrainSummary:
    """Train a recipe on a crop set and write a run folder.

    Interrupted by SIGINT, SIGTERM or SIGHUP it saves a checkpoint and returns. Killed, it loses
    what came after the last checkpoint; resumed, it goes on to the weights that it would have made
    without the interruption, bit for bit.

    Args:
        settings: what to train, on what, where, and from where on.
        on_step: called after every step, in the main process only.
        on_probe: called after every probe, in the main process only.
        registry: where methods, encoders and recipes are looked up; default: everything installed.

    Returns:
        How far the run has come, and which checkpoint is the best.

    Raises:
        UsageError: the run folder holds a run already and ``resume`` is false, or the reverse; or
            it is another run than the one to resume.
        DataError: the crop set does not fit the recipe, another job is at work on ``out``, or it
            cannot be written.
        TrainingError: a loss or a gradient is not finite, or a checkpoint cannot be written or
            read.
    """
    # of several processes the first writes; it is known before they have found each other
    first = os.environ.get("RANK", "0") == "0"
    with one_job(settings.out) if first else nullcontext():
        return _train(settings, on_step, on_probe, registry or default_registry())


def _train(
    settings: TrainSettings,
    on_step: Callable[[StepReport, Recipe], None] | None,
    on_probe: Callable[[ProbeReport], None] | None,
    registry: Registry,
) -> TrainSummary:
    training = prepare(settings, registry)
    recipe, trainer, folder = training.recipe, training.trainer, training.folder
    started = time.perf_counter()
    with signals_kept() as stopped, folder.open() as log:
        for report in trainer:
            training.registry.train_step(report)
            step, last = report.step, report.step == recipe.steps
            if log and (last or step % recipe.log_every == 0):
                log.write(step, _speed(report) | dict(report.losses))
            if log and on_step:
                on_step(report, recipe)
            improved = False
            if log and training.probe and (last or step % recipe.probe.every == 0):
                seen = training.probe(cast(Generator, trainer.ema.module), step)
                improved = folder.judge(seen)
                _tell(seen, log, on_probe, disclosure(folder.request))
            stop = trainer.any(bool(stopped))
            if improved or stop or last or step % recipe.save_every == 0:
                folder.keep(golden=last)
            if stop:
                break
    stopped_by = stopped[0] if stopped else signal.SIGINT  # or another process heard it
    return _summary(training, time.perf_counter() - started, stopped_by)


def _speed(report: StepReport) -> dict[str, float | int | str]:
    return {"images": report.images, "images_per_s": report.images_per_second}


def _tell(
    seen: ProbeReport,
    log: RunLog,
    on_probe: Callable[[ProbeReport], None] | None,
    xmp: bytes,
) -> None:
    log.write(seen.step, dict(seen.values))
    if seen.preview is not None:
        log.image(seen.step, "preview", seen.preview, xmp)
    if seen.warning:
        warnings.warn(seen.warning, FackeWarning, stacklevel=3)
    if on_probe:
        on_probe(seen)


def _summary(training: Training, seconds: float, stopped_by: int) -> TrainSummary:
    trainer, steps = training.trainer, training.recipe.steps
    finished = trainer.step >= steps
    return TrainSummary(
        out=training.folder.out,
        step=trainer.step,
        steps=steps,
        images=trainer.images,
        seconds=seconds,
        finished=finished,
        best=training.folder.best,
        stopped_by=0 if finished else stopped_by,
    )
