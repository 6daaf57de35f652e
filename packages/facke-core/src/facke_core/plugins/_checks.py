"""What a plugin module must look like before the registry takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple

import pluggy

from facke_core.errors import PluginError, did_you_mean
from facke_core.plugins import hookspecs
from facke_core.plugins.specs import (
    CommandSpec,
    ConverterSpec,
    DetectorSpec,
    EncoderSpec,
    MethodSpec,
    MetricSpec,
)

TARGET = re.compile(r"[\w.]+:[\w.]+")
EVENTS = ("facke_result", "facke_train_step")
# kind -> (hook, class of what it returns)
KINDS: dict[str, tuple[str, type[Any]]] = {
    "method": ("facke_methods", MethodSpec),
    "encoder": ("facke_identity_encoders", EncoderSpec),
    "detector": ("facke_face_detectors", DetectorSpec),
    "metric": ("facke_metrics", MetricSpec),
    "command": ("facke_commands", CommandSpec),
    "converter": ("facke_converters", ConverterSpec),
}
_TARGET_FIELDS = frozenset({"config", "build", "objective", "available", "target"})


class Recipe(NamedTuple):
    """A recipe that a plugin ships: which method it trains and where its JSON lies."""

    method: MethodSpec
    resource: str


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
        known = [hook for hook in vars(hookspecs) if hook.startswith("facke_")]
        bad = re.search(r"'(\w+)'", str(error))
        guess = did_you_mean(bad[1], known) if bad and bad[1] not in known else ""
        raise PluginError(
            f"The plugin {name!r} does not fit facke's hooks: {' '.join(str(error).split())}."
            f"{guess} The hooks are: {', '.join(known)}."
        ) from error
    for hook in vars(hookspecs):
        if not hook.startswith("facke_"):
            continue
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


def collect(trial: pluggy.PluginManager, plugin: str) -> dict[str, dict[str, Any]]:
    specs: dict[str, dict[str, Any]] = {}
    for kind, (hook, spec_class) in KINDS.items():
        found: dict[str, Any] = {}
        specs[kind] = found
        for returned in getattr(trial.hook, hook)():
            for spec in returned if isinstance(returned, Iterable) else [returned]:
                if not isinstance(spec, spec_class):
                    raise PluginError(
                        f"The plugin {plugin!r}: {hook}() must return a list of "
                        f"{spec_class.__name__}, but it holds {spec!r}."
                    )
                _add(found, kind, spec.name, spec, plugin)
                for target in targets_of(spec):
                    if not TARGET.fullmatch(target):
                        raise PluginError(
                            f"The plugin {plugin!r}: the target {target!r} of the {kind} "
                            f"{spec.name!r} is not 'package.module:attribute'."
                        )
    recipes: dict[str, Any] = {}
    for method in specs["method"].values():
        for name, resource in method.recipes.items():
            _add(recipes, "recipe", name, Recipe(method, resource), plugin)
    return specs | {"recipe": recipes}


def _add(found: dict[str, Any], kind: str, name: str, spec: Any, plugin: str) -> None:
    if name in found:
        raise PluginError(
            f"The plugin {plugin!r} offers the {kind} {name!r} twice. Rename one of them."
        )
    found[name] = spec


def targets_of(spec: Any) -> list[str]:
    if isinstance(spec, Recipe):
        return []
    values = (getattr(spec, f.name) for f in fields(spec) if f.name in _TARGET_FIELDS)
    return [value for value in values if value]
