"""The settings of a training, all of which is checked and built before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from facke_core.building import build_method, load_encoder
from facke_core.config import arguments, to_dict
from facke_core.data.batches import SwapBatches
from facke_core.data.crops import CropSet, check_encoder, prepare_call
from facke_core.environment import check_workers, resolve_device
from facke_core.errors import ConfigError, DataError, UsageError, did_you_mean
from facke_core.objective import Objective
from facke_core.plugins.registry import Registry
from facke_core.protocols import Generator, IdentityEncoder, Method
from facke_core.training.folder import RunFolder
from facke_core.training.probe import SwapProbe
from facke_core.training.recipe import Recipe
from facke_core.training.resuming import check_same_run, recipe_of
from facke_core.training.trainer import Trainer, make_accelerator
from facke_core.weights import checkpoints
from facke_core.weights.checkpoints import Checkpoint
from facke_core.weights.layout import MODEL, WeightsConfig, fill, read_tensors
from facke_core.weights.licenses import announce
from facke_core.weights.sources import locate

__all__ = ["TrainSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What to train, on what, where, and from where on.

    Raises:
        UsageError: a number of workers below 0, or more than this machine can have; the dataset
            is to be the run folder.
    """

    recipe: str
    """A registered recipe's name, or a JSON file."""
    data: Path
    """A crop set, as ``facke prepare`` makes them."""
    out: Path
    """The run folder."""
    resume: bool = False
    """Continue from the run's newest sound checkpoint, with its recipe
    (:mod:`facke_core.training.resuming`)."""
    init: str | None = None
    """Weights of the same network (as for :func:`facke_core.load`) to begin with instead of random
    ones; step, optimisers and discriminator begin anew."""
    overrides: Sequence[str] = ()
    """``key=value`` changes of the recipe."""
    device: str = "auto"
    """The device, as for :func:`facke_core.load`."""
    workers: int = 0
    """Processes that read batches ahead; 0: this one reads."""
    without: Path | None = None
    """A file of people of ``data``, one a line, from whose pictures nothing is learned, such as
    those on whom the weights are going to be measured."""
    panel: Path | None = None
    """Another crop set, whose faces the probe swaps; default: ``test`` beside ``train`` in ``data``
    if there is one, else ``data`` itself."""

    def __post_init__(self) -> None:
        check_workers(self.workers, least=0)
        if self.out.exists() and self.data.exists() and self.out.samefile(self.data):
            raise UsageError(
                f"{self.out} is the dataset, and a run is no part of it. Choose another folder: "
                "`out=...`."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training that can begin, or go on."""

    recipe: Recipe
    trainer: Trainer
    folder: RunFolder
    probe: SwapProbe | None
    """The probe; None without one, and in all processes but the main one."""
    registry: Registry


def prepare(settings: TrainSettings, registry: Registry) -> Training:
    """Check and build everything, and restore the checkpoint to resume from.

    Raises:
        UsageError: the run folder holds a run already and ``resume`` is false, or the reverse; or
            what is to be resumed is another run than this one.
        DataError: the crop set does not fit the recipe.
        TrainingError: a checkpoint cannot be read.
        ConfigError: the recipe has unknown keys or wrong values.
    """
    latest = _latest(settings.out, settings.resume)
    recipe, base = recipe_of(settings.recipe, settings.overrides, registry, latest)
    place = resolve_device(settings.device)
    crops = CropSet.load(settings.data)
    if settings.without:
        crops = crops.without(settings.without)
    encoder = load_encoder(recipe.identity_encoder, registry=registry)
    _check_framing(encoder, recipe)
    _check_dataset(crops, recipe, encoder, settings.data)
    panel = _panel(settings, recipe, encoder) or crops
    torch.manual_seed(recipe.seed)
    weights = WeightsConfig(
        method=recipe.method,
        generator=recipe.generator,
        identity_encoder=recipe.identity_encoder,
        alignment=recipe.alignment,
        license=crops.info.get("license", ""),
    )
    method = build_method(weights, registry=registry)
    begun = _begin_with(settings.init, method.generator, registry) if settings.init else ""
    objective = _objective(method, encoder, recipe, registry)
    if not (method.generator.spec.identity_dim or "identity_encoder" in objective.modules):
        weights = replace(weights, identity_encoder=None)  # it had no part in them
    trainer = Trainer(
        objective,
        SwapBatches(crops, batch_size=recipe.batch_size, config=recipe.data, seed=recipe.seed),
        recipe=recipe,
        accelerator=make_accelerator(recipe, place),
        workers=settings.workers,
    )
    run = {
        "base": to_dict(base),
        "data": {"name": crops.info.get("name", ""), "digest": crops.digest()},
        "begun with": begun,
        "processes": trainer.accelerator.num_processes,
        "device": place.type,
    }
    folder = RunFolder(
        out=settings.out,
        trainer=trainer,
        method=method,
        weights=weights,
        registry=registry,
        provenance=_provenance(settings, crops, trainer.accelerator.num_processes),
        run=run,
    )
    if latest:
        check_same_run(latest.state, run, latest.folder)
        folder.restore(trainer.resume(latest))
    probe = None
    if recipe.probe.every and trainer.accelerator.is_main_process:
        probe = _probe(recipe, panel, method, encoder, registry)
    return Training(recipe=recipe, trainer=trainer, folder=folder, probe=probe, registry=registry)


def _latest(out: Path, resume: bool) -> Checkpoint | None:
    latest = checkpoints.newest(out) if resume else None
    if resume and not latest:
        raise UsageError(f"{out} holds no checkpoint to resume. Start without `resume=True`.")
    if not resume and (saved := checkpoints.complete(out)):
        raise UsageError(
            f"{out} holds a run already (checkpoint {saved[-1].name}). Continue it with "
            "`resume=True`, or choose another folder: `out=...`."
        )
    return latest


def _provenance(settings: TrainSettings, crops: CropSet, processes: int) -> dict[str, Any]:
    """Return what ``config.json`` says of the training, without places on this machine."""
    recipe = settings.recipe
    return {
        "recipe": recipe if not recipe.endswith(".json") else Path(recipe).stem,
        "processes": processes,
        "data": crops.info.get("name", settings.data.name),
        "sources": [f"{count} {name}" for name, count in crops.info.get("sources", {}).items()],
    }


def _begin_with(init: str, generator: Generator, registry: Registry) -> str:
    """Fill the generator; return what the weights are called, without the place they lie in."""
    source = locate(init, registry=registry)
    if source.folder is None:
        raise UsageError(f"{init} has no weights to begin with. Leave `init` out.")
    announce(source.config, name=source.name, revision=source.revision, registry=registry)
    tensors = read_tensors(source.folder, MODEL, source.config)
    fill(cast(nn.Module, generator), tensors, source=init, built_by="the recipe's generator")
    return f"{source.name} {source.revision}".strip()


# -- what learns -----------------------------------------------------------------------------------


def _objective(
    method: Method, encoder: IdentityEncoder, recipe: Recipe, registry: Registry
) -> Objective:
    spec = registry.methods[recipe.method]
    if not spec.objective:
        raise UsageError(f"The method {spec.name!r} cannot be trained: it has no objective.")
    make = registry.resolve(spec.objective)
    _check_arguments(make, recipe)
    made = partial(make, method, encoder, recipe)
    return cast(Objective, made(**arguments(made, recipe.objective, where="recipe.objective")))


def _check_arguments(make: Callable[..., Objective], recipe: Recipe) -> None:
    known = list(inspect.signature(make).parameters)[3:]  # after method, encoder, recipe
    for key in recipe.objective:
        if key not in known:
            raise ConfigError(
                f"recipe.objective.{key}: unknown key.{did_you_mean(key, known)} The objective of "
                f"{recipe.method!r} knows: {', '.join(known) or 'none'}."
            )


# -- what it learns from and is looked at by -------------------------------------------------------


def _check_framing(encoder: IdentityEncoder, recipe: Recipe) -> None:
    """Refuse an encoder of another framing than the results, which it judges as they are."""
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


def _panel(settings: TrainSettings, recipe: Recipe, encoder: IdentityEncoder) -> CropSet | None:
    """Read faces for the probe that the training does not see, if there are any."""
    data, panel = settings.data, settings.panel
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
