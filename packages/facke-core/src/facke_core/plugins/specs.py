"""Descriptions that plugins return from their hooks, with *targets* and *resources* that are
strings (:mod:`facke_core.references`); nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from facke_core.errors import PluginError
from facke_core.references import Bundled, HubRef

__all__ = ["RecipeRef"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str
    """Lower-case letters, digits and hyphens, a letter first; unique among all plugins."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise PluginError(
                f"{type(self).__name__} name {self.name!r} is not usable: names are lower-case "
                "letters, digits and hyphens and start with a letter. Rename it in the plugin."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec(_Named):
    """A face-swapping method; ``paper`` is empty or where it is published: ``arXiv:2106.06340``."""

    summary: str  # a line for ``facke methods``
    config: str
    """Target of a frozen dataclass, e.g. ``"facke_gan.simswap:SimSwapConfig"``."""
    build: str
    """Target of ``(config) -> Method``."""
    objective: str = ""
    """Target of ``(method, encoder, recipe) -> Objective``; empty: it cannot be trained. Further
    arguments are what a recipe can name under ``objective``."""
    recipes: Mapping[str, str] = field(default_factory=dict)
    """Name -> resource of a recipe file (:class:`facke_core.Recipe`)."""
    weights: Mapping[str, HubRef | Bundled] = field(default_factory=dict)
    """Tag -> place of weights; the first is the default. Empty: the method needs none, if
    ``default_config`` says how to build it."""
    default_config: Mapping[str, Any] | None = None
    """Generator configuration of a method that works without weights."""
    paper: str = ""
    license: str = ""  # SPDX, of the default weights
    rank: int = 0
    """Who asks for no method gets the highest of those that need no network; 0: never this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part(_Named):
    summary: str
    build: str
    """Target of ``(**settings) -> IdentityEncoder``, or ``FaceDetector``."""
    available: str = ""
    """Target of ``() -> str``: an empty string, or why it cannot be used here and the fix."""
    license: str = ""


class EncoderSpec(_Part):
    """An identity encoder, which recipes and ``config.json`` name, with settings for ``build``."""


class DetectorSpec(_Part):
    """A face detector; the first that is available, in registration order, is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec(_Named):
    """A metric of ``facke evaluate``: ``build()`` makes what gives one value per swapped pair."""

    summary: str
    build: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(_Named):
    """A subcommand of ``facke``; ``target`` is a plain function for typer, ``help`` one line."""

    target: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverterSpec(_Named):
    """A kind of checkpoint that ``facke weights convert`` reads."""

    summary: str
    target: str
    """Target of ``(Checkpoint) -> Converted | None`` (:mod:`facke_core.convert.kinds`): None where
    names and shapes of the tensors are not its own."""
    guess: bool = True
    """Whether it is asked about files of a kind that nobody named. False, where its tensors look
    like those of another kind."""


class RecipeRef(NamedTuple):
    """A recipe that a method ships, and where its JSON lies."""

    name: str
    method: MethodSpec
    resource: str
