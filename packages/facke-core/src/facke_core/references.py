"""References name what a description does not import: objects, files, and weights.

A *target* is ``"package.module:attribute"``, resolved on first use only. A *resource* is
``"package:path/in/package"``.
"""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facke_core.errors import PluginError

__all__ = ["resource"]

TARGET = re.compile(r"[\w.]+:[\w.]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubRef:
    """Weights in a repository on the Hugging Face Hub, at one commit.

    Raises:
        PluginError: the revision is a branch or a tag, which can move.
    """

    repo_id: str
    """``org/name``."""
    revision: str
    """The commit, 40 hexadecimal digits."""

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.revision):
            raise PluginError(
                f"HubRef({self.repo_id!r}): revision {self.revision!r} is not a 40-digit commit. "
                "Branches move; pin the commit that was tested."
            )


@dataclass(frozen=True, slots=True)
class Bundled:
    """Weights that lie inside a plugin's own wheel."""

    resource: str
    """Their folder, such as ``"facke_gan:weights/simswap-mini"``."""


def resolve(target: str, *, whose: str = "") -> Any:
    """Import the object that ``"package.module:attribute"`` names.

    Args:
        target: the name.
        whose: words that come after it in an error, such as ``" of the plugin 'demo'"``.

    Raises:
        PluginError: it cannot be imported; says ``whose`` it is, and the cause.
    """
    if not TARGET.fullmatch(target):
        raise PluginError(f"The target {target!r}{whose} is not 'package.module:attribute'.")
    try:
        return pkgutil.resolve_name(target)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        fix = "Reinstall or update the plugin, or report this to its authors."
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            if package not in target.replace(":", ".").split(".")[:1]:
                fix = f"It needs the Python package {package!r}: install it and try again."
        raise PluginError(f"Cannot load {target!r}{whose}: {cause}. {fix}") from error


def unavailable(target: str) -> str:
    """Ask whether a thing can be used here: an empty string, or why not and the fix.

    Args:
        target: the name of a function ``() -> str`` that answers; empty: it can.
    """
    if not target:
        return ""
    try:
        return str(resolve(target)())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def resource(path: str) -> Path:
    """Find the file or folder that ``"package:path/in/package"`` names.

    Raises:
        PluginError: no such package or file, or the package is zipped.
    """
    from importlib import resources

    package, colon, inner = path.partition(":")
    try:
        place = resources.files(package).joinpath(*inner.split("/")) if colon else None
    except Exception as error:
        raise PluginError(
            f"The resource {path!r}: cannot import {package!r} "
            f"({type(error).__name__}: {error}). Reinstall the plugin."
        ) from error
    if place is None:
        raise PluginError(f"The resource {path!r} is not 'package:path/in/package'.")
    if not isinstance(place, Path) or not place.exists():
        raise PluginError(
            f"The resource {path!r} is not there: the package {package!r} is incomplete or "
            "zipped. Reinstall it, unzipped."
        )
    return place
