"""Catalogues of what plugins offer, under names that have one owner each, and checks of that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import pluggy

from facke_core.errors import PluginError, UnknownNameError, did_you_mean
from facke_core.plugins import hookspecs
from facke_core.plugins.specs import RecipeRef
from facke_core.references import TARGET

__all__ = ["Catalogue", "PluginInfo"]

EVENTS = ("facke_result", "facke_train_step")
_HOOKS = [name for name in vars(hookspecs) if name.startswith("facke_")]
_TARGET_FIELDS = ("config", "build", "objective", "available", "target")
Spec = TypeVar("Spec")


class PluginInfo(NamedTuple):
    """One line of ``facke plugins``: what a plugin contributes (kind, such as ``method`` or
    ``event`` -> names), how many seconds its import took, and why it failed if it did."""

    name: str
    version: str = ""
    distribution: str = ""
    contributions: Mapping[str, tuple[str, ...]] = {}
    failure: str = ""
    seconds: float = 0.0


class Catalogue(dict[str, Spec]):
    """Name -> description, of one ``kind``: methods, commands and recipes by name, the others in
    registration order. An unknown name says which is near, and which plugins ``failed``."""

    def __init__(self, kind: str, spec: type[Spec], hook: str, failed: list[PluginInfo]) -> None:
        self.kind, self.spec, self.hook, self._failed = kind, spec, hook, failed
        self.owners: dict[str, str] = {}
        """Name -> the plugin that offers it."""

    def add(self, specs: Mapping[str, Spec], owner: str) -> None:
        """Put descriptions in, which the registry has checked."""
        merged = {**self, **specs}
        self.clear()
        by_name = self.kind in ("method", "command", "recipe")
        self.update(sorted(merged.items()) if by_name else merged)
        self.owners.update(dict.fromkeys(specs, owner))

    def __missing__(self, name: str) -> Spec:
        known = ", ".join(sorted(self)) or "none"
        message = f"Unknown {self.kind} {name!r}.{did_you_mean(name, self)} Installed: {known}."
        if self.kind == "method" and not self:
            message += " Methods come with plugins: pip install facke-gan, for example."
        if self._failed:
            failed = ", ".join(f"{info.name} ({info.failure})" for info in self._failed)
            message += f" Plugins that failed to load: {failed}."
        raise UnknownNameError(message)


def checked_hooks(plugin: object, name: str) -> dict[str, list[pluggy.HookImpl]]:
    """Let pluggy look at a plugin, in a manager of its own: hook -> its implementations."""
    trial = pluggy.PluginManager("facke")
    trial.add_hookspecs(hookspecs)
    try:
        trial.register(plugin, name)
        trial.check_pending()
    except pluggy.PluginValidationError as error:
        bad = re.search(r"'(\w+)'", str(error))
        guess = did_you_mean(bad[1], _HOOKS) if bad and bad[1] not in _HOOKS else ""
        raise PluginError(
            f"The plugin {name!r} does not fit facke's hooks: {' '.join(str(error).split())}."
            f"{guess} The hooks are: {', '.join(_HOOKS)}."
        ) from error
    hooks = {hook: getattr(trial.hook, hook).get_hookimpls() for hook in _HOOKS}
    for hook, impls in hooks.items():
        own = getattr(plugin, hook, None)
        if own is not None and own is not getattr(hookspecs, hook) and not impls:
            raise PluginError(
                f"The plugin {name!r} defines {hook} without facke_core.hookimpl, so it would "
                "never be called. Decorate it with @hookimpl."
            )
        if any(impl.hookwrapper or (impl.wrapper and hook != "facke_result") for impl in impls):
            raise PluginError(
                f"The plugin {name!r} wraps {hook}. Only facke_result can be wrapped, with "
                "hookimpl(wrapper=True)."
            )
    return hooks


def collect(
    hooks: Mapping[str, list[pluggy.HookImpl]], plugin: str, catalogues: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Ask a plugin for all that it offers, and register nothing: kind -> name -> description."""
    offers: dict[str, dict[str, Any]] = {kind: {} for kind in catalogues}

    def add(catalogue: Catalogue[Any], spec: Any) -> None:
        what = f"the {catalogue.kind} {spec.name!r}"
        if spec.name in offers[catalogue.kind]:
            raise PluginError(f"The plugin {plugin!r} offers {what} twice. Rename one of them.")
        if owner := catalogue.owners.get(spec.name):
            raise PluginError(
                f"The plugins {owner!r} and {plugin!r} both offer {what}. Uninstall one of them, "
                f"or leave one out, for example with FACKE_PLUGINS={owner}."
            )
        for target in targets_of(spec):
            if not TARGET.fullmatch(target):
                wrong = f"the target {target!r} of {what} is not 'package.module:attribute'."
                raise PluginError(f"The plugin {plugin!r}: {wrong}")
        offers[catalogue.kind][spec.name] = spec

    for catalogue in catalogues.values():
        for impl in hooks.get(catalogue.hook, ()):
            returned = impl.function()
            for spec in returned if isinstance(returned, Iterable) else [returned]:
                if not isinstance(spec, catalogue.spec):
                    wanted = f"a list of {catalogue.spec.__name__}, but it holds {spec!r}."
                    raise PluginError(
                        f"The plugin {plugin!r}: {catalogue.hook}() must return {wanted}"
                    )
                add(catalogue, spec)
                for name, resource in getattr(spec, "recipes", {}).items():
                    add(catalogues["recipe"], RecipeRef(name, cast(Any, spec), resource))
    return offers


def targets_of(spec: Any) -> list[str]:
    return [value for name in _TARGET_FIELDS if (value := getattr(spec, name, ""))]
