"""What is installed: plugins, the names they own, and how to get from a name to an object.

Nothing heavy is imported here. A plugin that cannot be loaded is kept with the reason in
:attr:`Registry.failures`; every other plugin keeps working.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pkgutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pluggy

from facke_core.errors import PluginError, did_you_mean
from facke_core.plugins import catalogue
from facke_core.plugins.catalogue import Catalogue, PluginInfo
from facke_core.plugins.specs import (
    CommandSpec,
    ConverterSpec,
    DetectorSpec,
    EncoderSpec,
    MethodSpec,
    MetricSpec,
    RecipeRef,
)

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest

__all__: list[str] = []

GROUP = "facke.plugins"
CORE = "facke-core"


class Registry:
    """Plugins and the names they own. An ordinary object: tests make their own."""

    def __init__(self) -> None:
        self._manager = catalogue.new_manager()
        self._targets: dict[str, str] = {}
        self._plugins: dict[str, PluginInfo] = {}
        self.failures: list[PluginInfo] = []
        """Plugins that could not be loaded."""
        failed = self.failures
        self.methods = Catalogue("method", MethodSpec, "facke_methods", failed, by_name=True)
        """Swap methods, by name; so are commands and recipes."""
        self.encoders = Catalogue("encoder", EncoderSpec, "facke_identity_encoders", failed)
        """Identity encoders, in registration order; so are detectors, metrics and converters."""
        self.detectors = Catalogue("detector", DetectorSpec, "facke_face_detectors", failed)
        """Face detectors: the first usable one is the default."""
        self.metrics = Catalogue("metric", MetricSpec, "facke_metrics", failed)
        self.commands = Catalogue("command", CommandSpec, "facke_commands", failed, by_name=True)
        """Commands that plugins add to ``facke``."""
        self.converters = Catalogue("converter", ConverterSpec, "facke_converters", failed)
        """Kinds of checkpoints that can be converted."""
        self.recipes = Catalogue("recipe", RecipeRef, "", failed, by_name=True)
        """Training recipes that methods ship."""
        self.catalogues: Mapping[str, Catalogue[Any]] = {
            one.kind: one for one in vars(self).values() if isinstance(one, Catalogue)
        }
        """By kind, as in :attr:`PluginInfo.contributions`."""

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
        installed = [entry.name for entry in entries]
        text = os.environ.get("FACKE_PLUGINS")
        wanted = (
            installed if text is None else [CORE, *filter(None, map(str.strip, text.split(",")))]
        )
        for entry in entries:
            if entry.name in wanted:
                self._load(entry)
        for name in sorted({*wanted} - {*installed, CORE}):
            reason = f"named in FACKE_PLUGINS but not installed.{did_you_mean(name, installed)}"
            self.failures.append(PluginInfo(name, failure=reason))
        return self

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        dist, started = entry.dist, time.perf_counter()
        info = PluginInfo(entry.name, dist.version if dist else "", dist.name if dist else "")
        try:
            plugin = entry.load()
            self._add(plugin, info._replace(seconds=time.perf_counter() - started))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            own = isinstance(error, PluginError)
            reason = str(error) if own else f"{type(error).__name__}: {error}".rstrip(": ")
            if any(info.name == other.name for other in self.plugins()):
                info = info._replace(name=f"{info.name} ({info.distribution})")
            seconds = time.perf_counter() - started
            self.failures.append(info._replace(failure=reason, seconds=seconds))

    def register(self, plugin: object, name: str = "", *, version: str = "") -> None:
        """Add one plugin: a module or object with ``@hookimpl`` functions. All or nothing.

        Raises:
            PluginError: an unknown hook, a wrong signature, a description of the wrong class, or
                a name that is taken. The registry is unchanged then.
        """
        name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        self._add(plugin, PluginInfo(name, version))

    def _add(self, plugin: object, info: PluginInfo) -> None:
        name = info.name
        if name in self._plugins:
            first = self._plugins[name].distribution
            raise PluginError(
                f"A plugin named {name!r} is registered already"
                f"{first and f' (from {first})'}. Uninstall one of the two, or rename its entry "
                f"point in the group {GROUP}."
            )
        trial = catalogue.checked_manager(plugin, name)
        found = catalogue.collect(trial, name, self.catalogues)
        self._manager.register(plugin, name)
        for kind, specs in found.items():
            self.catalogues[kind].add(specs, name)
            targets = (target for spec in specs.values() for target in catalogue.targets_of(spec))
            self._targets.update(dict.fromkeys(targets, name))
        offers = {kind: tuple(specs) for kind, specs in found.items() if specs}
        if events := tuple(h for h in catalogue.EVENTS if getattr(trial.hook, h).get_hookimpls()):
            offers["event"] = events
        self._plugins[name] = info._replace(contributions=offers)

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every discovered plugin, the failed ones last."""
        return (*self._plugins.values(), *self.failures)

    def resolve(self, target: str) -> Any:
        """The object that ``"package.module:attribute"`` names, imported on this first use.

        Raises:
            PluginError: it cannot be imported; names the plugin, the target and the cause.
        """
        plugin = self._targets.get(target)
        whose = f" of the plugin {plugin!r}" if plugin else ""
        if not catalogue.TARGET.fullmatch(target):
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

    def availability(self, spec: EncoderSpec | DetectorSpec) -> str:
        """An empty string where ``spec`` can be used here, else the reason and the fix."""
        if not spec.available:
            return ""
        try:
            return str(self.resolve(spec.available)())
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def apply_result(self, result: SwapResult, request: SwapRequest) -> SwapResult:
        """Run the ``facke_result`` hooks in registration order, each on the previous result.

        Hook wrappers (``hookimpl(wrapper=True)``) enclose that chain and see its final result.

        Raises:
            PluginError: a hook raised, or returned something else; names the plugin.
        """
        impls, running = self._manager.hook.facke_result.get_hookimpls(), []
        for impl in reversed([impl for impl in impls if impl.wrapper]):  # outermost first
            wrapper = _call(impl, result=result, request=request)
            with _blaming(impl):
                next(wrapper)
            running.append((impl, wrapper))
        for impl in impls:
            if not impl.wrapper:
                result = _changed(impl, result, _call(impl, result=result, request=request))
        for impl, wrapper in reversed(running):
            with _blaming(impl):
                try:
                    wrapper.send(result)
                except StopIteration as stop:
                    value = stop.value
                else:
                    raise RuntimeError("its hook wrapper yields twice")
            result = _changed(impl, result, value)
        return result

    def train_step(self, report: StepReport) -> None:
        """Run the ``facke_train_step`` hooks in registration order.

        Raises:
            PluginError: a hook raised; names the plugin.
        """
        for impl in self._manager.hook.facke_train_step.get_hookimpls():
            _call(impl, report=report)


@functools.cache
def default_registry() -> Registry:
    """The registry of everything installed, discovered once per process."""
    return Registry().discover()


# pluggy's own calls give all implementations the same arguments and do not say which one failed


def _call(impl: pluggy.HookImpl, **arguments: Any) -> Any:
    with _blaming(impl):
        return impl.function(*(arguments[name] for name in impl.argnames))


def _changed(impl: pluggy.HookImpl, before: SwapResult, value: Any) -> SwapResult:
    from facke_core.results import SwapResult

    if value is None:
        return before
    if not isinstance(value, SwapResult):
        raise PluginError(
            f"The plugin {impl.plugin_name!r}: facke_result must return a SwapResult or None, "
            f"got {type(value).__name__}. Update or uninstall the plugin."
        )
    return value


@contextmanager
def _blaming(impl: pluggy.HookImpl) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PluginError(
            f"The plugin {impl.plugin_name!r} failed in its hook {impl.function.__name__}: "
            f"{type(error).__name__}: {error}. Update or uninstall the plugin, or leave it out "
            "with FACKE_PLUGINS."
        ) from error
