"""A recipe is everything that decides a training, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facke_core.config import arguments, from_dict, override, read_json
from facke_core.data.batches import BatchConfig
from facke_core.errors import ConfigError, check_ranges, did_you_mean
from facke_core.losses.terms import TERMS
from facke_core.objective import LossTerm
from facke_core.plugins.registry import Registry
from facke_core.protocols import Loss
from facke_core.references import resource
from facke_core.training.probe import ProbeConfig

__all__ = ["OptimizerConfig", "TermConfig", "read_recipe", "terms"]


MAX_STEPS = 10**9
MAX_SEED = 2**32
"""The largest seed that, with step, phase and part, still makes one of 64 bits."""
MAX_BASES = 16
"""Recipes that a recipe can differ from, one upon another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermConfig:
    """One loss term of a recipe, which becomes a :class:`~facke_core.objective.LossTerm`.

    Raises:
        ConfigError: a step below 0.
    """

    weight: float
    """The factor at full strength."""
    start: int = 0
    """The first step at which the term counts."""
    ramp: int = 0
    """Steps from then until the weight is full."""
    where: Literal["same_identity"] | None = None
    """The samples that count: those whose result is known, or, with None, all of them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the loss, e.g. ``{"layers": "o"}``."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss", start=(0, MAX_STEPS), ramp=(0, MAX_STEPS))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The settings of Adam, of which each phase has one.

    Raises:
        ConfigError: a number out of its range.
    """

    lr: float = 4e-4
    """The learning rate at its highest."""
    betas: tuple[float, float] = (0.0, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    """``cosine`` falls to ``final`` of the rate at the last step."""
    warmup: int = 0
    """Steps in which the rate rises linearly to its highest."""
    final: float = 0.05
    """Share of ``lr`` that is left at the end of ``cosine``."""

    def __post_init__(self) -> None:
        check_ranges(
            self, "optimizer", lr=(0, 1e30), betas=(0, 1), warmup=(0, MAX_STEPS), final=(0, 1)
        )

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step``, counted from 0, in a training of ``steps``."""
        rate = self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "cosine":
            cos = (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
            rate *= self.final + (1 - self.final) * cos
        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training, complete but for the data; :func:`read_recipe` reads one from JSON.

    A JSON file may name another recipe as its ``base`` (a registered one, or a file beside it) and
    give the differences only: objects are merged, ``null`` removes a key.

    Raises:
        ConfigError: a number out of its range, such as a batch size below 1.
    """

    method: str
    """Name of a registered method."""
    steps: int
    """Steps of the training in all, each of one batch and every phase that is due."""
    batch_size: int
    """Samples per step, over all processes and parts."""
    generator: Mapping[str, Any]
    """Configuration of the method's generator."""
    identity_encoder: Mapping[str, Any]
    """The encoder that conditions and judges, ``{"name": ..., **settings}``."""
    alignment: Mapping[str, Any]
    """Fields of :class:`~facke_core.faces.templates.Alignment`; the data must have been made so."""
    discriminator: Mapping[str, Any] = field(default_factory=dict)
    """Configuration of the method's discriminator, if it has one."""
    data: BatchConfig = field(default_factory=BatchConfig)
    """The mixture of the batches: pairs, composites, augmentation."""
    loss: Mapping[str, TermConfig] = field(default_factory=dict)
    """Terms of the generator, by the names in :data:`facke_core.losses.terms.TERMS`."""
    discriminator_loss: Mapping[str, TermConfig] = field(default_factory=dict)
    """Terms of the discriminator, likewise."""
    discriminator_every: int = 1
    """The discriminator learns in every n-th step."""
    objective: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the method's objective, for methods that have some."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: float = 0.999
    """Decay per step of the moving average of the generator, which is what is saved as weights."""
    clip: float = 0.0
    """Largest gradient norm; 0 for no clipping."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, to save memory. Batch normalisation
    sees one part at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the networks, by autocast; losses are float32. ``float16`` needs CUDA."""
    channels_last: bool = True
    """Keep the networks in torch's memory format of that name, with which convolutions are faster.
    """
    compile: bool = False
    """``torch.compile`` the generator: faster after minutes of compilation, mostly on GPUs."""
    seed: int = 0
    """Seed of all randomness: fresh weights, the order of the data, noise."""
    log_every: int = 20
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two checkpoints."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """The panel of faces that is swapped during training."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Origins of values, by dotted path: paper, code, measurement."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "recipe",
            steps=(1, MAX_STEPS),
            batch_size=(1, 65_536),
            accumulate=(1, 65_536),
            discriminator_every=(1, MAX_STEPS),
            log_every=(1, MAX_STEPS),
            save_every=(1, MAX_STEPS),
            ema=(0, 1),
            clip=(0, math.inf),
            seed=(-MAX_SEED, MAX_SEED),
        )


def read_recipe(recipe: str, overrides: Sequence[str], registry: Registry) -> Recipe:
    """Read a registered recipe, by its name, or a JSON file, with ``key=value`` overrides.

    Args:
        recipe: the name, or the path of the file.
        overrides: changes such as ``optimizer.lr=1e-4``, by dotted path; values are JSON.
        registry: where recipes are looked up.

    Raises:
        ConfigError: unknown key, wrong type, missing value, bases in a circle.
        UnknownNameError: neither a file nor a registered recipe.
    """
    data = override(_read(recipe, Path(), registry, ()), *overrides, schema=Recipe)
    return from_dict(Recipe, data, where="recipe")


def _read(name: str, folder: Path, registry: Registry, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read the content of a recipe, bases resolved."""
    path = folder / name
    if path.suffix != ".json":
        path = resource(registry.recipes[name].resource)
    if len(seen) == MAX_BASES:
        raise ConfigError(f"recipe.base: more than {MAX_BASES} recipes, one upon another.")
    if path in seen:
        raise ConfigError(f"recipe.base: {' -> '.join(p.name for p in (*seen, path))} is a circle.")
    data = read_json(path)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"recipe.base: expected a recipe's name or file, got {base!r}.")
    return _merged(_read(base, path.parent, registry, (*seen, path)), data)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def terms(
    configs: Mapping[str, TermConfig],
    extra: Mapping[str, Callable[..., Loss]] | None = None,
    *,
    where: str = "loss",
) -> list[LossTerm]:
    """Build the loss terms that a recipe names.

    Args:
        configs: by name.
        extra: a method's own terms, besides :data:`facke_core.losses.terms.TERMS`.
        where: the recipe's key that holds them, for messages.

    Raises:
        ConfigError: an unknown term, or an unknown option or one of the wrong type.
    """
    known = {**TERMS, **(extra or {})}
    built = []
    for name, config in configs.items():
        if name not in known:
            raise ConfigError(
                f"{where}.{name}: no such term.{did_you_mean(name, known)} There are: "
                f"{', '.join(sorted(known))}."
            )
        options = arguments(known[name], config.options, where=f"{where}.{name}.options")
        loss = known[name](**options)
        built.append(LossTerm(loss, config.weight, config.where, config.start, config.ramp))
    return built
