"""What plugins offer of one kind, under names that have one owner each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from facke_core.errors import UnknownNameError, did_you_mean

__all__ = ["Catalogue", "PluginInfo"]

Spec = TypeVar("Spec")


class PluginInfo(NamedTuple):
    """One line of ``facke plugins``."""

    name: str
    version: str = ""
    distribution: str = ""
    contributions: Mapping[str, tuple[str, ...]] = {}
    """Kind (``method``, ``encoder``, ``detector``, ``metric``, ``command``, ``converter``,
    ``recipe``, ``event``) -> names."""
    failure: str = ""
    """Why it could not be loaded; empty if it was."""
    seconds: float = 0.0
    """Time that its import took."""


class Catalogue(dict[str, Spec]):
    """Name -> description, of one kind; an unknown name says which is near, and what there is.

    Args:
        kind: what messages call it.
        spec: the class of the descriptions.
        hook: returns them.
        failures: plugins that could not be loaded, which may be why a name is unknown.
        by_name: sorted by name; else in the order of registration.
    """

    def __init__(
        self,
        kind: str,
        spec: type[Spec],
        hook: str,
        failures: list[PluginInfo],
        *,
        by_name: bool = False,
    ) -> None:
        self.kind, self.spec, self.hook, self.by_name = kind, spec, hook, by_name
        self.owners: dict[str, str] = {}
        """Name -> the plugin that offers it."""
        self._failures = failures

    def add(self, specs: Mapping[str, Spec], owner: str) -> None:
        """Put descriptions in, which the registry has checked."""
        merged = {**self, **specs}
        self.clear()
        self.update(sorted(merged.items()) if self.by_name else merged)
        self.owners.update(dict.fromkeys(specs, owner))

    def __missing__(self, name: str) -> Spec:
        message = f"Unknown {self.kind} {name!r}.{did_you_mean(name, self)}"
        message += f" Installed: {', '.join(sorted(self)) or 'none'}."
        if self.kind == "method" and not self:
            message += " Methods come with plugins: pip install facke-gan, for example."
        if self._failures:
            failed = ", ".join(f"{info.name} ({info.failure})" for info in self._failures)
            message += f" Plugins that failed to load: {failed}."
        raise UnknownNameError(message)
