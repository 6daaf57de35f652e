"""``facke train``: a recipe and a dataset in, a run folder out.

A run folder holds ``recipe.json``, ``log.jsonl``, ``tensorboard/``, ``previews/``, ``best.json``
and ``checkpoints/``. A checkpoint is a folder of weights (the moving average), and the run folder
stands for its newest one: ``load("./run")``. ``train(..., resume=True)`` continues from there.
"""

from __future__ import annotations

import inspect
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from facke_core._files import leftovers
from facke_core.building import build_method, load_encoder
from facke_core.config import to_dict, write_json
from facke_core.data.batches import SwapBatches
from facke_core.data.crops import CropSet, check_encoder, prepare_call
from facke_core.environment import resolve_device
from facke_core.errors import ConfigError, DataError, FackeWarning, UsageError, did_you_mean
from facke_core.images.provenance import disclosure
from facke_core.objective import Objective, StepReport
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import Method
from facke_core.protocols import Generator, IdentityEncoder
from facke_core.publish.save import save
from facke_core.training.logs import LOG, RunLog
from facke_core.training.probe import ProbeReport, SwapProbe
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.trainer import Trainer, make_accelerator
from facke_core.types import SwapRequest
from facke_core.weights import checkpoints
from facke_core.weights.layout import MODEL, WeightsConfig, fill, read_tensors
from facke_core.weights.licenses import announce
from facke_core.weights.sources import locate

__all__ = ["RECIPE", "TrainSummary", "train"]

RECIPE = "recipe.json"
BEST = "best.json"
KEEP = 2
"""Newest checkpoints that stay in a run folder, besides the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What a call of :func:`train` did."""

    out: Path
    step: int
    steps: int
    images: int
    seconds: float
    finished: bool
    """False when it was stopped before the last step; ``resume=True`` continues."""
    best: Mapping[str, Any]
    """The probe with the lowest retrieval + reconstruction, and its checkpoint; empty without
    probes."""


def train(
    recipe: str,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    init: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    workers: int = 0,
    panel: Path | None = None,
    on_step: Callable[[StepReport, Recipe], None] | None = None,
    on_probe: Callable[[ProbeReport], None] | None = None,
    registry: Registry | None = None,
) -> TrainSummary:
    """Train ``recipe`` on the crop set ``data`` and write the run folder ``out``.

    Interrupted by SIGINT or SIGTERM it saves a checkpoint and returns. Killed, it loses what came
    after the last checkpoint; resumed, it goes on to the weights that it would have made without
    the interruption, bit for bit.

    Args:
        recipe: a registered recipe's name, or a JSON file.
        data: made by ``facke prepare``.
        out: the run folder.
        resume: continue from its newest sound checkpoint.
        init: weights of the same network (as for :func:`facke_core.load`) to begin with instead of
            random ones; step, optimisers and discriminator begin anew.
        overrides: ``key=value`` changes of the recipe.
        device: as for :func:`facke_core.load`.
        workers: processes that read batches ahead.
        panel: another crop set, whose faces the probe swaps; default: ``test`` beside ``train`` in
            ``data`` if there is one, else ``data`` itself.
        on_step: called after every step, in the main process only.
        on_probe: called after every probe, in the main process only.
        registry: where methods, encoders and recipes are looked up.

    Raises:
        UsageError: ``out`` holds a run already and ``resume`` is false, or the reverse.
        DataError: the crop set does not fit the recipe.
        TrainingError: a loss is not finite, or a checkpoint cannot be written or read.
    """
    registry = registry or default_registry()
    settings = read_recipe(recipe, overrides, registry)
    latest = _latest(out, resume)
    place = resolve_device(device)
    crops = CropSet.load(data)
    encoder = load_encoder(settings.identity_encoder, registry=registry)
    _check_framing(encoder, settings)
    _check_dataset(crops, settings, encoder, data)
    faces = _panel(data, panel, settings, encoder) or crops
    torch.manual_seed(settings.seed)
    weights = WeightsConfig(
        method=settings.method,
        generator=settings.generator,
        identity_encoder=settings.identity_encoder,
        alignment=settings.alignment,
        license=crops.info.get("license", ""),
    )
    method = build_method(weights, registry=registry)
    begun_with = _begin_with(init, method.generator, registry) if init and not latest else ""
    spec = registry.method(settings.method)
    if not spec.objective:
        raise UsageError(f"The method {spec.name!r} cannot be trained: it has no objective.")
    make = registry.resolve(spec.objective)
    _check_arguments(make, settings)
    objective = make(method, encoder, settings, **settings.objective)
    if not (method.generator.spec.identity_dim or "identity_encoder" in objective.modules):
        weights = replace(weights, identity_encoder=None)  # it had no part in them
    accelerator = make_accelerator(settings, place)
    batches = SwapBatches(
        crops, batch_size=settings.batch_size, config=settings.data, seed=settings.seed
    )
    trainer = Trainer(objective, batches, recipe=settings, accelerator=accelerator, workers=workers)
    run = _Run(
        out=out,
        trainer=trainer,
        method=method,
        weights=weights,
        registry=registry,
        provenance={
            **({"begun with": begun_with} if begun_with else {}),
            "recipe": recipe if not recipe.endswith(".json") else Path(recipe).stem,
            "processes": accelerator.num_processes,
            "data": crops.info.get("name", data.name),
            "sources": [f"{count} {name}" for name, count in crops.info.get("sources", {}).items()],
        },
    )
    if latest:
        run.restore(trainer.resume(latest))
    probe = None
    if settings.probe.every and accelerator.is_main_process:
        probe = _probe(settings, faces, method, encoder, registry)

    started = time.perf_counter()
    main = accelerator.is_main_process
    if main:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RECIPE, to_dict(settings))
    with _stop_signals() as stopped, RunLog(out, trainer.step) if main else nullcontext() as log:
        for report in trainer:
            registry.train_step(report)
            last = report.step == settings.steps
            if log and (report.step % settings.log_every == 0 or last):
                speed = {"images": report.images, "images_per_s": report.images_per_second}
                log.write(report.step, speed | dict(report.losses))
            if on_step and main:
                on_step(report, settings)
            improved = False
            if probe and log and (report.step % settings.probe.every == 0 or last):
                seen = probe(cast(Generator, trainer.ema.module), report.step)
                improved = run.judge(seen)
                _tell(seen, log, on_probe, disclosure(run.request))
            stop = trainer.any(bool(stopped))
            if improved or stop or last or report.step % settings.save_every == 0:
                run.keep()
            if stop:
                break
    return TrainSummary(
        out=out,
        step=trainer.step,
        steps=settings.steps,
        images=trainer.images,
        seconds=time.perf_counter() - started,
        finished=trainer.step >= settings.steps,
        best=run.best,
    )


@dataclass(kw_only=True)
class _Run:
    """What is written of a run, besides its log."""

    out: Path
    trainer: Trainer
    method: Method
    weights: WeightsConfig
    registry: Registry
    provenance: dict[str, Any]
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> SwapRequest:
        """What previews say about themselves."""
        step = f"step {self.trainer.step}"
        return SwapRequest(
            method=self.weights.method, weights=self.out.name, revision=step, seed=None
        )

    def judge(self, seen: ProbeReport) -> bool:
        """Whether this is the best so far: the lowest retrieval + reconstruction, as in the
        paper's choice of weights."""
        if not seen.score < self.best.get("score", float("inf")):  # nan is not lower either
            return False
        self.best = {
            "step": seen.step,
            "score": seen.score,
            "retrieval": seen.retrieval,
            "reconstruction": seen.reconstruction,
            "checkpoint": f"{checkpoints.FOLDER}/{checkpoints.name(seen.step)}",
        }
        return True

    def keep(self) -> None:
        """Write a checkpoint and remove those that are no longer wanted."""
        if not self.trainer.accelerator.is_main_process:
            return
        folder = self.out / checkpoints.FOLDER
        new = folder / checkpoints.name(self.trainer.step)
        if new.exists():
            return
        self.trainer.save(new, self._add_weights)
        if self.best:
            write_json(self.out / BEST, self.best)
        kept = {self.out / self.best["checkpoint"]} if self.best else set()
        for old in checkpoints.complete(self.out)[:-KEEP]:
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier call knew, and clear away what it left unfinished."""
        self.best = dict(state.get("best", {}))
        if begun_with := state.get("begun with"):
            self.provenance = {"begun with": begun_with} | self.provenance
        if self.trainer.accelerator.is_main_process:
            leftovers(self.out / checkpoints.FOLDER, remove=True)

    def _add_weights(self, folder: Path) -> dict[str, Any]:
        provenance = self.provenance | {
            "steps": self.trainer.step,
            "images": self.trainer.images,
            "log": _curve(self.out / LOG),
        }
        save(
            self.method._replace(generator=cast(Generator, self.trainer.ema.module)),
            folder,
            replace(self.weights, training=provenance),
            dtype=torch.float16,
            registry=self.registry,
        )
        return {"best": self.best, "begun with": self.provenance.get("begun with", "")}


def _latest(out: Path, resume: bool) -> Path | None:
    latest = checkpoints.newest_sound(out) if resume else None
    if resume and not latest:
        raise UsageError(f"{out} holds no checkpoint to resume. Start without `resume=True`.")
    if not resume and (found := checkpoints.complete(out)):
        raise UsageError(
            f"{out} holds a run already (checkpoint {found[-1].name}). Continue it with "
            "`resume=True`, or choose another folder: `out=...`."
        )
    return latest


def _panel(
    data: Path, panel: Path | None, recipe: Recipe, encoder: IdentityEncoder
) -> CropSet | None:
    """Faces for the probe that the training does not see, if there are any."""
    test = data / "test"
    if panel is None and (data / "train").is_dir() and test.is_dir():
        panel = test
    if panel is None or not recipe.probe.every:
        return None
    crops = CropSet.load(panel)
    _check_dataset(crops, recipe, encoder, panel)
    return crops


def _probe(
    recipe: Recipe, panel: CropSet, method: Method, encoder: IdentityEncoder, registry: Registry
) -> SwapProbe:
    judge = None
    if recipe.probe.encoder:
        judge = load_encoder(recipe.probe.encoder, registry=registry)
        if isinstance(judge, nn.Module):
            judge.to(next(cast(nn.Module, method.generator).parameters()).device)
    return SwapProbe(
        panel,
        config=recipe.probe,
        sampler=method.sampler,
        encoder=encoder,
        judge=judge,
        seed=recipe.seed,
    )


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


def _begin_with(init: str, generator: Generator, registry: Registry) -> str:
    """Fill the generator; returns what the weights are called, without the place they lie in."""
    found = locate(init, registry=registry)
    if found.folder is None:
        raise UsageError(f"{init} has no weights to begin with. Leave `init` out.")
    announce(found.config, name=found.name, revision=found.revision, registry=registry)
    tensors = read_tensors(found.folder, MODEL, found.config)
    fill(cast(nn.Module, generator), tensors, source=init, built_by="the recipe's generator")
    return f"{found.name} {found.revision}".strip()


def _check_arguments(make: Callable[..., Objective], recipe: Recipe) -> None:
    known = list(inspect.signature(make).parameters)[3:]  # after method, encoder, recipe
    for key in recipe.objective:
        if key not in known:
            raise ConfigError(
                f"recipe.objective.{key}: unknown key.{did_you_mean(key, known)} The objective of "
                f"{recipe.method!r} knows: {', '.join(known) or 'none'}."
            )


def _check_framing(encoder: IdentityEncoder, recipe: Recipe) -> None:
    """The encoder judges results as they are, so it has to know their framing."""
    template, wanted = encoder.spec.template, recipe.alignment.get("template")
    if template and template != wanted:
        raise ConfigError(
            f"recipe.identity_encoder: {encoder.spec.name} takes crops of the template "
            f"{template!r}, and recipe.alignment.template is {wanted!r}. Add "
            f"`overrides=['identity_encoder.crop_template={wanted}']`, for the dataset as well."
        )


def _check_dataset(crops: CropSet, recipe: Recipe, encoder: IdentityEncoder, data: Path) -> None:
    check_encoder(crops, encoder, recipe.identity_encoder, data)
    have, want = crops.info.get("alignment"), dict(recipe.alignment)
    if have != want:
        raise DataError(
            f"{data} was made with the alignment {have}, the recipe needs {want}. Make another "
            f"dataset: {prepare_call(data, crops.info, **want)}"
        )


def _curve(log: Path, lines: int = 40) -> str:
    """At most about ``lines`` evenly spaced lines of the log."""
    text = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return "\n".join(text[:: max(1, len(text) // lines)])


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is not empty once SIGINT or SIGTERM came; the step in flight ends first."""
    came: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: came.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
