"""What is installed: plugins, the names they own, and how to get from a name to an object.

Nothing heavy is imported here. A plugin that cannot be loaded becomes a :class:`PluginFailure`;
every other plugin keeps working.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pkgutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from facke_core.errors import PluginError, UnknownNameError, did_you_mean
from facke_core.plugins._calls import apply_result, call
from facke_core.plugins._checks import (
    EVENTS,
    KINDS,
    TARGET,
    Recipe,
    checked_manager,
    collect,
    new_manager,
    targets_of,
)
from facke_core.plugins.specs import (
    CommandSpec,
    ConverterSpec,
    DetectorSpec,
    EncoderSpec,
    MethodSpec,
    MetricSpec,
)

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest

__all__ = ["GROUP", "PluginFailure", "PluginInfo", "Registry", "default_registry"]

GROUP = "facke.plugins"
CORE = "facke-core"
# fmt: off
RESERVED_COMMANDS = frozenset({
    "methods", "plugins", "doctor", "swap", "matrix", "prepare", "train", "evaluate", "weights",
    "inspect", "help",
})
# fmt: on
"""Subcommands of ``facke`` itself, present or to come; plugins cannot take these names."""


class PluginFailure(NamedTuple):
    """A plugin that could not be loaded, and why."""

    plugin: str
    reason: str
    distribution: str = ""
    version: str = ""
    seconds: float = 0.0


class PluginInfo(NamedTuple):
    """One line of ``facke plugins``."""

    name: str
    version: str = ""
    distribution: str = ""
    contributions: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Kind (``method``, ``encoder``, ``detector``, ``metric``, ``command``, ``converter``,
    ``recipe``, ``event``) -> names."""
    failure: str = ""
    seconds: float = 0.0
    """Time that its import took."""


class Registry:
    """Plugins and the names they own. An ordinary object: tests make their own."""

    def __init__(self) -> None:
        self._manager = new_manager()
        self._specs: dict[str, dict[str, Any]] = {kind: {} for kind in (*KINDS, "recipe")}
        self._owners: dict[tuple[str, str], str] = {}
        self._targets: dict[str, str] = {}
        self._plugins: dict[str, PluginInfo] = {}
        self._failures: dict[str, PluginFailure] = {}

    # -- filling -----------------------------------------------------------------------------

    def discover(self) -> Registry:
        """Load every installed plugin, each on its own; returns the registry.

        Entry points of the group ``facke.plugins``, facke-core first, the others by name.
        ``FACKE_PLUGINS=facke-gan,facke-vae`` restricts it to those (and facke-core). Whatever a
        plugin raises on import or registration, ``SystemExit`` included, is kept in
        :attr:`failures`; only ``KeyboardInterrupt`` passes.
        """
        entries = sorted(
            importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.name != CORE, e.name)
        )
        wanted = _wanted_plugins()
        for entry in entries:
            if wanted is None or entry.name in wanted:
                self._load(entry)
        installed = [entry.name for entry in entries]
        for name in sorted((wanted or set()) - set(installed) - {CORE}):
            reason = f"named in FACKE_PLUGINS but not installed.{did_you_mean(name, installed)}"
            self._failures[name] = PluginFailure(plugin=name, reason=reason)
        return self

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        distribution = entry.dist.name if entry.dist else ""
        version = entry.dist.version if entry.dist else ""
        started = time.perf_counter()
        try:
            plugin = entry.load()
            seconds = time.perf_counter() - started
            self.register(
                plugin, entry.name, distribution=distribution, version=version, seconds=seconds
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            own = isinstance(error, PluginError)
            reason = str(error) if own else f"{type(error).__name__}: {error}".rstrip(": ")
            name = entry.name
            if name in self._plugins or name in self._failures:
                name = f"{name} ({distribution})"
            self._failures[name] = PluginFailure(
                plugin=name,
                reason=reason,
                distribution=distribution,
                version=version,
                seconds=time.perf_counter() - started,
            )

    def register(
        self,
        plugin: object,
        name: str | None = None,
        *,
        distribution: str = "",
        version: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Add one plugin: a module or object with ``@hookimpl`` functions. All or nothing.

        Raises:
            PluginError: an unknown hook, a wrong signature, a description of the wrong class, or
                a name that is taken. The registry is unchanged then.
        """
        name = str(name or getattr(plugin, "__name__", type(plugin).__name__))
        if name in self._plugins:
            first = self._plugins[name]
            raise PluginError(
                f"A plugin named {name!r} is registered already"
                f"{_from(first.distribution)}. Uninstall one of the two, or rename its entry "
                f"point in the group {GROUP}."
            )
        trial = checked_manager(plugin, name)
        specs = collect(trial, name)
        self._check_owners(specs, name)

        self._manager.register(plugin, name)
        for kind, found in specs.items():
            for spec_name, spec in found.items():
                self._specs[kind][spec_name] = spec
                self._owners[kind, spec_name] = name
                for target in targets_of(spec):
                    self._targets[target] = name
        contributions = {kind: tuple(found) for kind, found in specs.items() if found}
        events = tuple(hook for hook in EVENTS if getattr(trial.hook, hook).get_hookimpls())
        if events:
            contributions["event"] = events
        self._plugins[name] = PluginInfo(
            name=name,
            version=version,
            distribution=distribution,
            contributions=contributions,
            seconds=seconds,
        )

    def _check_owners(self, specs: Mapping[str, Mapping[str, Any]], plugin: str) -> None:
        for kind, found in specs.items():
            for name in found:
                owner = self._owners.get((kind, name))
                if owner is not None:
                    raise PluginError(
                        f"The plugins {owner!r} and {plugin!r} both offer the {kind} {name!r}. "
                        f"Uninstall one of them, or leave one out, for example with "
                        f"FACKE_PLUGINS={owner}."
                    )
                if kind == "command" and name in RESERVED_COMMANDS:
                    raise PluginError(
                        f"The plugin {plugin!r} offers the command {name!r}, a name that facke "
                        "keeps for itself. Rename the command in the plugin."
                    )

    # -- what there is -----------------------------------------------------------------------

    def methods(self) -> tuple[MethodSpec, ...]:
        """All swap methods, by name."""
        return tuple(spec for _, spec in sorted(self._specs["method"].items()))

    def encoders(self) -> tuple[EncoderSpec, ...]:
        """All identity encoders, in registration order."""
        return tuple(self._specs["encoder"].values())

    def detectors(self) -> tuple[DetectorSpec, ...]:
        """All face detectors, in registration order: the first usable one is the default."""
        return tuple(self._specs["detector"].values())

    def metrics(self) -> tuple[MetricSpec, ...]:
        """All metrics, in registration order."""
        return tuple(self._specs["metric"].values())

    def commands(self) -> tuple[CommandSpec, ...]:
        """All commands that plugins add to ``facke``, by name."""
        return tuple(spec for _, spec in sorted(self._specs["command"].items()))

    def converters(self) -> tuple[ConverterSpec, ...]:
        """All kinds of checkpoints that can be converted, in registration order."""
        return tuple(self._specs["converter"].values())

    def recipes(self) -> Mapping[str, Recipe]:
        """All training recipes that plugins ship, by name."""
        return dict(sorted(self._specs["recipe"].items()))

    def method(self, name: str) -> MethodSpec:
        """The method ``name``. Raises UnknownNameError with the nearest name and all of them."""
        return cast(MethodSpec, self._get("method", name))

    def encoder(self, name: str) -> EncoderSpec:
        """The identity encoder ``name``. Raises UnknownNameError."""
        return cast(EncoderSpec, self._get("encoder", name))

    def detector(self, name: str) -> DetectorSpec:
        """The face detector ``name``. Raises UnknownNameError."""
        return cast(DetectorSpec, self._get("detector", name))

    def metric(self, name: str) -> MetricSpec:
        """The metric ``name``. Raises UnknownNameError."""
        return cast(MetricSpec, self._get("metric", name))

    def command(self, name: str) -> CommandSpec:
        """The plugin command ``name``. Raises UnknownNameError."""
        return cast(CommandSpec, self._get("command", name))

    def converter(self, name: str) -> ConverterSpec:
        """The kind of checkpoint ``name``. Raises UnknownNameError."""
        return cast(ConverterSpec, self._get("converter", name))

    def recipe(self, name: str) -> Recipe:
        """The recipe ``name``. Raises UnknownNameError."""
        return cast(Recipe, self._get("recipe", name))

    def owner(self, kind: str, name: str) -> str:
        """The plugin that owns a name; ``kind`` as in :attr:`PluginInfo.contributions`."""
        return self._owners[kind, name]

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """Plugins that could not be loaded."""
        return tuple(self._failures.values())

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every discovered plugin, the failed ones last."""
        failed = (
            PluginInfo(
                name=failure.plugin,
                version=failure.version,
                distribution=failure.distribution,
                failure=failure.reason,
                seconds=failure.seconds,
            )
            for failure in self._failures.values()
        )
        return (*self._plugins.values(), *failed)

    def _get(self, kind: str, name: str) -> Any:
        known = self._specs[kind]
        if name in known:
            return known[name]
        message = f"Unknown {kind} {name!r}.{did_you_mean(name, known)}"
        message += f" Installed: {', '.join(sorted(known)) or 'none'}."
        if kind == "method" and not known:
            message += " Methods come with plugins: pip install facke-gan, for example."
        if self._failures:
            failed = ", ".join(f"{f.plugin} ({f.reason})" for f in self._failures.values())
            message += f" Plugins that failed to load: {failed}."
        raise UnknownNameError(message)

    # -- using it ----------------------------------------------------------------------------

    def resolve(self, target: str) -> Any:
        """The object that ``"package.module:attribute"`` names, imported on this first use.

        Raises:
            PluginError: it cannot be imported; names the plugin, the target and the cause.
        """
        plugin = self._targets.get(target)
        whose = f" of the plugin {plugin!r}" if plugin else ""
        if not TARGET.fullmatch(target):
            raise PluginError(f"The target {target!r}{whose} is not 'package.module:attribute'.")
        try:
            return pkgutil.resolve_name(target)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            fix = "Reinstall or update the plugin, or report this to its authors."
            own = target.partition(".")[0].partition(":")[0]
            if isinstance(error, ModuleNotFoundError) and error.name:
                package = error.name.partition(".")[0]
                if package != own:
                    fix = f"It needs the Python package {package!r}: install it and try again."
            raise PluginError(f"Cannot load {target!r}{whose}: {cause}. {fix}") from error

    def availability(self, spec: EncoderSpec | DetectorSpec) -> str:
        """An empty string where ``spec`` can be used here, else the reason and the fix."""
        if not spec.available:
            return ""
        try:
            return str(self.resolve(spec.available)())
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def resource(self, path: str) -> Path:
        """The file or folder that ``"package:path/in/package"`` names.

        Raises:
            PluginError: no such package or file, or the package is zipped.
        """
        from importlib import resources

        package, colon, inner = path.partition(":")
        try:
            found = resources.files(package).joinpath(*inner.split("/")) if colon else None
        except Exception as error:
            raise PluginError(
                f"The resource {path!r}: cannot import {package!r} "
                f"({type(error).__name__}: {error}). Reinstall the plugin."
            ) from error
        if found is None:
            raise PluginError(f"The resource {path!r} is not 'package:path/in/package'.")
        if not isinstance(found, Path) or not found.exists():
            raise PluginError(
                f"The resource {path!r} is not there: the package {package!r} is incomplete or "
                "zipped. Reinstall it, unzipped."
            )
        return found

    def apply_result(self, result: SwapResult, request: SwapRequest) -> SwapResult:
        """Run the ``facke_result`` hooks in registration order, each on the previous result.

        Hook wrappers (``hookimpl(wrapper=True)``) enclose that chain and see its final result.

        Raises:
            PluginError: a hook raised, or returned something else; names the plugin.
        """
        impls = self._manager.hook.facke_result.get_hookimpls()
        return apply_result(impls, result, request)

    def train_step(self, report: StepReport) -> None:
        """Run the ``facke_train_step`` hooks in registration order.

        Raises:
            PluginError: a hook raised; names the plugin.
        """
        for impl in self._manager.hook.facke_train_step.get_hookimpls():
            call(impl, report=report)


@functools.cache
def default_registry() -> Registry:
    """The registry of everything installed, discovered once per process."""
    return Registry().discover()


def _wanted_plugins() -> set[str] | None:
    text = os.environ.get("FACKE_PLUGINS")
    if text is None:
        return None
    return {name.strip() for name in text.split(",") if name.strip()} | {CORE}


def _from(distribution: str) -> str:
    return f" (from {distribution})" if distribution else ""
