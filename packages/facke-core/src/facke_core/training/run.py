"""``facke train``: a recipe and a dataset in, a run folder out.

A run folder is a weights folder (``config.json``, ``model.safetensors``: the moving average, ready
for ``load("./run")``) with ``log.jsonl``, ``recipe.json`` and ``checkpoints/``, from which
``--resume`` continues.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from facke_core.config import from_dict, override, read_json, to_dict, write_json
from facke_core.data.crops import CropSet, SwapBatches
from facke_core.devices import resolve_device
from facke_core.errors import DataError, UsageError
from facke_core.loading import build_method, load_encoder, save
from facke_core.protocols import Generator
from facke_core.registry import Registry, default_registry
from facke_core.sources import locate
from facke_core.training.recipe import Recipe
from facke_core.training.step import StepReport
from facke_core.training.trainer import STATE, Trainer, make_accelerator
from facke_core.weights import MODEL, WeightsConfig, fill, read_tensors

LOG = "log.jsonl"
RECIPE = "recipe.json"
CHECKPOINTS = "checkpoints"
KEEP = 2
"""Checkpoints that stay in a run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What a call of :func:`train` did."""

    out: Path
    step: int
    steps: int
    images: int
    seconds: float
    finished: bool
    """False when it was stopped before the last step; ``--resume`` continues."""


def read_recipe(recipe: str, overrides: Sequence[str], registry: Registry) -> Recipe:
    """A registered recipe's name or a JSON file, with ``key=value`` overrides.

    Raises:
        ConfigError: unknown key, wrong type, missing value.
        UnknownNameError: neither a file nor a registered recipe.
    """
    path = Path(recipe)
    if path.suffix != ".json":
        path = registry.resource(registry.recipe(recipe).resource)
    data = override(read_json(path), *overrides, schema=Recipe)
    return from_dict(Recipe, data, where="recipe")


def train(
    recipe: str,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    init: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    on_step: Callable[[StepReport, Recipe], None] | None = None,
    registry: Registry | None = None,
) -> TrainSummary:
    """Train ``recipe`` on the crop set ``data`` and write the run folder ``out``.

    ``init`` names weights of the same network (as for :func:`facke_core.load`) to begin with
    instead of random ones; step, optimisers and discriminator begin anew.

    Interrupted by SIGINT or SIGTERM it saves a checkpoint and returns. ``on_step`` is called
    after every step, in the main process only.

    Raises:
        UsageError: ``out`` holds a run already and ``resume`` is false, or the reverse.
        DataError: the crop set does not fit the recipe.
        TrainingError: a loss is not finite, or a checkpoint cannot be written.
    """
    registry = registry or default_registry()
    settings = read_recipe(recipe, overrides, registry)
    checkpoints = out / CHECKPOINTS
    latest = _latest(checkpoints)
    if latest and not resume:
        raise UsageError(
            f"{out} holds a run already (checkpoint {latest.name}). Continue it with --resume, or "
            "choose another --out."
        )
    if resume and not latest:
        raise UsageError(f"{out} holds no checkpoint to resume. Start without --resume.")

    place = resolve_device(device)
    crops = CropSet.load(data)
    _check_dataset(crops, settings, data)
    weights = WeightsConfig(
        method=settings.method,
        generator=settings.generator,
        identity_encoder=settings.identity_encoder,
        alignment=settings.alignment,
        license="Apache-2.0",
    )
    torch.manual_seed(settings.seed)
    method = build_method(weights, registry=registry)
    begun_with = ""
    if init and not latest:
        begun_with = _begin_with(init, method.generator, registry)
    encoder = load_encoder(settings.identity_encoder, registry=registry)
    spec = registry.method(settings.method)
    if not spec.objective:
        raise UsageError(f"The method {spec.name!r} cannot be trained: it has no objective.")
    objective = registry.resolve(spec.objective)(method, encoder, settings)
    accelerator = make_accelerator(settings, place)
    batches = SwapBatches(
        crops, batch_size=settings.batch_size, config=settings.data, seed=settings.seed
    )
    trainer = Trainer(objective, batches, recipe=settings, accelerator=accelerator)
    if latest:
        trainer.resume(latest)
    out.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        write_json(out / RECIPE, to_dict(settings))

    def keep() -> None:
        if not accelerator.is_main_process:
            return
        trainer.save(checkpoints / f"{trainer.step:08d}")
        for old in sorted(checkpoints.glob("[0-9]*"))[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        provenance = {
            **({"begun with": begun_with} if begun_with else {}),
            "recipe": recipe if not recipe.endswith(".json") else Path(recipe).stem,
            "steps": trainer.step,
            "images": trainer.images,
            "processes": accelerator.num_processes,
            "data": crops.info.get("name", data.name),
            "sources": [f"{count} {name}" for name, count in crops.info.get("sources", {}).items()],
            "log": _curve(out / LOG),
        }
        averaged = method._replace(generator=cast(Generator, trainer.ema.module))
        save(
            averaged,
            out,
            replace(weights, training=provenance),
            dtype=torch.float16,
            overwrite=True,
            registry=registry,
        )

    started = time.perf_counter()
    with _stop_signals() as stopped, _log(out, accelerator.is_main_process) as log:
        saved = trainer.step
        for report in trainer:
            registry.train_step(report)
            if report.step % settings.log_every == 0 or report.step == settings.steps:
                line = {
                    "step": report.step,
                    "images": report.images,
                    "images_per_s": report.images_per_second,
                }
                log.write(json.dumps(_rounded(line | dict(report.losses))) + "\n")
                log.flush()
            if on_step and accelerator.is_main_process:
                on_step(report, settings)
            if report.step % settings.save_every == 0:
                keep()
                saved = report.step
            if stopped:
                break
        if trainer.step != saved:
            keep()
    return TrainSummary(
        out=out,
        step=trainer.step,
        steps=settings.steps,
        images=trainer.images,
        seconds=time.perf_counter() - started,
        finished=trainer.step >= settings.steps,
    )


def _begin_with(init: str, generator: Generator, registry: Registry) -> str:
    """Fill the generator; returns what the weights are called, without the place they lie in."""
    found = locate(init, registry=registry)
    if found.folder is None:
        raise UsageError(f"{init} has no weights to begin with. Leave --init out.")
    tensors = read_tensors(found.folder, MODEL, found.config)
    fill(cast(nn.Module, generator), tensors, source=init, built_by="the recipe's generator")
    return f"{found.weights} {found.revision}".strip()


def _latest(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint: its folder got its name only when all was written."""
    found = [p for p in checkpoints.glob("[0-9]*") if (p / STATE).is_file()]
    return max(found, default=None, key=lambda p: int(p.name.split(".")[0]))


def _check_dataset(crops: CropSet, recipe: Recipe, data: Path) -> None:
    for key in ("identity_encoder", "alignment"):
        have, want = crops.info.get(key), dict(getattr(recipe, key))
        if have != want:
            raise DataError(
                f"{data} was made with {key} {have}, the recipe needs {want}. Make the crop set "
                "again with the recipe's settings."
            )


def _log(out: Path, main_process: bool) -> IO[str]:
    return (out / LOG if main_process else Path(os.devnull)).open("a", encoding="utf-8")


def _curve(log: Path, lines: int = 40) -> str:
    """At most about ``lines`` evenly spaced lines of the log."""
    text = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return "\n".join(text[:: max(1, len(text) // lines)])


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}


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
