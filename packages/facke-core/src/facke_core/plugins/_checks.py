"""What a plugin module must look like before the registry takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from facke_core.errors import PluginError, did_you_mean
from facke_core.plugins import hookspecs
from facke_core.plugins.catalogue import Catalogue
from facke_core.plugins.specs import RecipeRef

TARGET = re.compile(r"[\w.]+:[\w.]+")
EVENTS = ("facke_result", "facke_train_step")
_HOOKS = [name for name in vars(hookspecs) if name.startswith("facke_")]
_TARGET_FIELDS = ("config", "build", "objective", "available", "target")


def new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def checked_manager(plugin: object, name: str) -> pluggy.PluginManager:
    """A manager with this plugin alone: pluggy leaves half-registered state when it raises."""
    trial = new_manager()
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
    for hook in _HOOKS:
        impls = getattr(trial.hook, hook).get_hookimpls()
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
    return trial


def collect(
    trial: pluggy.PluginManager, plugin: str, catalogues: Mapping[str, Catalogue[Any]]
) -> dict[str, dict[str, Any]]:
    """Kind -> name -> description: all that a plugin offers, nothing of it registered yet."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in catalogues}

    def add(kind: str, spec: Any) -> None:
        if spec.name in found[kind]:
            raise PluginError(
                f"The plugin {plugin!r} offers the {kind} {spec.name!r} twice. Rename one of them."
            )
        if spec.name in catalogues[kind]:
            owner = catalogues[kind].owners[spec.name]
            raise PluginError(
                f"The plugins {owner!r} and {plugin!r} both offer the {kind} {spec.name!r}. "
                f"Uninstall one of them, or leave one out, for example with FACKE_PLUGINS={owner}."
            )
        found[kind][spec.name] = spec

    for kind, catalogue in catalogues.items():
        for returned in getattr(trial.hook, catalogue.hook)() if catalogue.hook else ():
            for spec in returned if isinstance(returned, Iterable) else [returned]:
                if not isinstance(spec, catalogue.spec):
                    raise PluginError(
                        f"The plugin {plugin!r}: {catalogue.hook}() must return a list of "
                        f"{catalogue.spec.__name__}, but it holds {spec!r}."
                    )
                add(kind, spec)
                for target in targets_of(spec):
                    if not TARGET.fullmatch(target):
                        raise PluginError(
                            f"The plugin {plugin!r}: the target {target!r} of the {kind} "
                            f"{spec.name!r} is not 'package.module:attribute'."
                        )
                for name, resource in getattr(spec, "recipes", {}).items():
                    add("recipe", RecipeRef(name, spec, resource))
    return found


def targets_of(spec: Any) -> list[str]:
    return [value for name in _TARGET_FIELDS if (value := getattr(spec, name, ""))]
