"""What plugins return from their hooks: descriptions with string targets, nothing imported.

A *target* is ``"package.module:attribute"``, resolved on first use only
(:meth:`facke_core.Registry.resolve`). A *resource* is ``"package:path/in/package"``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from facke_core.errors import PluginError

if TYPE_CHECKING:
    from facke_core.protocols import Generator, Sampler

__all__ = ["RecipeRef"]

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str
    """``^[a-z][a-z0-9-]*$``, unique among all plugins."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            kind = type(self).__name__.removesuffix("Spec").lower()
            raise PluginError(
                f"{kind} name {self.name!r} is not usable: names are lower-case letters, digits "
                "and hyphens and start with a letter. Rename it in the plugin."
            )


@dataclass(frozen=True, slots=True)
class HubRef:
    """A repository on the Hugging Face Hub at one commit."""

    repo_id: str
    revision: str

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.revision):
            raise PluginError(
                f"HubRef({self.repo_id!r}): revision {self.revision!r} is not a 40-digit commit. "
                "Branches move; pin the commit that was tested."
            )


@dataclass(frozen=True, slots=True)
class Bundled:
    """Weights that lie inside a plugin's own wheel: ``"facke_gan:weights/simswap-mini"``."""

    resource: str


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

    __slots__ = ()


class DetectorSpec(_Part):
    """A face detector."""

    __slots__ = ()


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
    """A recipe that a method ships."""

    name: str
    method: MethodSpec
    resource: str
    """Where its JSON lies."""


class Method(NamedTuple):
    """A built method: a generator and the procedure that infers with it."""

    generator: Generator
    sampler: Sampler[Any]
