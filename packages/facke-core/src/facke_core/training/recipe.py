"""Recipes: everything that decides a training, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from facke_core.data.crops import BatchConfig
from facke_core.errors import ConfigError
from facke_core.losses.terms import TERMS
from facke_core.training.step import LossTerm


@dataclass(frozen=True, slots=True, kw_only=True)
class TermConfig:
    """One loss term; see :class:`~facke_core.training.step.LossTerm`."""

    weight: float
    start: int = 0
    ramp: int = 0
    where: Literal["same_identity"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the loss, e.g. ``{"layers": "o"}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Adam, one per phase."""

    lr: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    """``cosine`` falls to ``final`` of the rate at the last step."""
    warmup: int = 0
    final: float = 0.05

    def lr_at(self, step: int, steps: int) -> float:
        rate = self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "cosine":
            cos = (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
            rate *= self.final + (1 - self.final) * cos
        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training, complete but for the data."""

    method: str
    steps: int
    batch_size: int
    generator: Mapping[str, Any]
    """Configuration of the method's generator."""
    identity_encoder: Mapping[str, Any]
    alignment: Mapping[str, Any]
    discriminator: Mapping[str, Any] = field(default_factory=dict)
    data: BatchConfig = field(default_factory=BatchConfig)
    loss: Mapping[str, TermConfig] = field(default_factory=dict)
    """Terms of the generator, by the names in :data:`facke_core.losses.terms.TERMS`."""
    discriminator_loss: Mapping[str, TermConfig] = field(default_factory=dict)
    discriminator_every: int = 1
    """The discriminator learns in every n-th step."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: float = 0.999
    clip: float = 0.0
    """Largest gradient norm; 0 for no clipping."""
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    seed: int = 0
    log_every: int = 20
    save_every: int = 500


def terms(configs: Mapping[str, TermConfig]) -> list[LossTerm]:
    """The loss terms that a recipe names.

    Raises:
        ConfigError: an unknown term or option.
    """
    built = []
    for name, config in configs.items():
        if name not in TERMS:
            raise ConfigError(f"loss.{name}: no such term. There are: {', '.join(sorted(TERMS))}.")
        try:
            loss = TERMS[name](**config.options)
        except TypeError as error:
            raise ConfigError(f"loss.{name}.options: {error}.") from error
        built.append(LossTerm(loss, config.weight, config.where, config.start, config.ramp))
    return built
