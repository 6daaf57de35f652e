"""What plugins return from their hooks: descriptions, with *targets* and *resources* that are
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
    """``^[a-z][a-z0-9-]*$``, unique among all plugins."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            kind = type(self).__name__.removesuffix("Spec").lower()
            raise PluginError(
                f"{kind} name {self.name!r} is not usable: names are lower-case letters, digits "
                "and hyphens and start with a letter. Rename it in the plugin."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec(_Named):
    """A face-swapping method."""

    summary: str
    """One line for ``facke methods``."""
    config: str
    """Target of a frozen dataclass, e.g. ``"facke_gan.simswap:SimSwapConfig"``."""
    build: str
    """Target of ``(config) -> Method``."""
    objective: str = ""
    """Target of ``(method, encoder, recipe) -> Objective``; empty: cannot be trained. Further
    arguments are what a recipe can name under ``objective``."""
    recipes: Mapping[str, str] = field(default_factory=dict)
    """Name -> resource of a recipe file."""
    weights: Mapping[str, HubRef | Bundled] = field(default_factory=dict)
    """Tag -> where they are; the first is the default. Empty: the method needs none, if
    ``default_config`` says how to build it."""
    default_config: Mapping[str, Any] | None = None
    """Generator configuration of a method that works without weights."""
    paper: str = ""
    license: str = ""
    """SPDX identifier of the default weights' licence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part(_Named):
    summary: str
    build: str
    """Target of ``(**settings) -> IdentityEncoder``, or ``FaceDetector``."""
    available: str = ""
    """Target of ``() -> str``: an empty string, or why it cannot be used here and the fix."""
    license: str = ""


class EncoderSpec(_Part):
    """An identity encoder."""


class DetectorSpec(_Part):
    """A face detector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec(_Named):
    """A metric of ``facke evaluate``: one value per swapped pair."""

    summary: str
    build: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(_Named):
    """A subcommand of ``facke``; ``target`` is a plain function that typer can read."""

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
    """Whether it is asked about files of a kind that nobody named; not, where its tensors look like
    those of another kind."""


class RecipeRef(NamedTuple):
    """A recipe that a method ships, and where its JSON lies."""

    name: str
    method: MethodSpec
    resource: str
