"""The registry of what is installed: plugins and the names they own. It imports nothing heavy."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pluggy

from facke_core.errors import FackeWarning, PluginError, did_you_mean
from facke_core.plugins import catalogue, specs
from facke_core.plugins.catalogue import Catalogue, PluginInfo
from facke_core.references import resolve

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest

__all__: list[str] = []

GROUP = "facke.plugins"
CORE = "facke-core"
OFFICIAL = (CORE, "facke-gan", "facke-vae", "facke-diffusion")


class Registry:
    """Plugins and the names they own, as ``Registry().discover()`` finds; tests make their own."""

    def __init__(self) -> None:
        self._impls: dict[str, list[pluggy.HookImpl]] = {hook: [] for hook in catalogue.EVENTS}
        self._targets: dict[str, str] = {}
        self._plugins: dict[str, PluginInfo] = {}
        self.failures: list[PluginInfo] = []
        """Plugins that could not be loaded, with the reason; every other one keeps working."""
        failed = self.failures  # which the catalogues name when they do not know a name
        self.methods = Catalogue("method", specs.MethodSpec, "facke_methods", failed)
        self.encoders = Catalogue("encoder", specs.EncoderSpec, "facke_identity_encoders", failed)
        self.detectors = Catalogue("detector", specs.DetectorSpec, "facke_face_detectors", failed)
        self.metrics = Catalogue("metric", specs.MetricSpec, "facke_metrics", failed)
        self.commands = Catalogue("command", specs.CommandSpec, "facke_commands", failed)
        self.converters = Catalogue("converter", specs.ConverterSpec, "facke_converters", failed)
        self.recipes = Catalogue("recipe", specs.RecipeRef, "", failed)
        self.catalogues: Mapping[str, Catalogue[Any]] = {
            names.kind: names for names in vars(self).values() if isinstance(names, Catalogue)
        }
        """The catalogues by kind, as in :attr:`PluginInfo.contributions`."""

    def discover(self) -> Registry:
        """Load every installed plugin, each on its own; return the registry itself.

        facke-core comes first, then facke's own, then others, by name; ``FACKE_PLUGINS=facke-gan``
        restricts it to that (and facke-core). What a plugin raises, even ``SystemExit``, is kept.
        A method in the place of one of facke's own is a FackeWarning.
        """
        points = importlib.metadata.entry_points(group=GROUP)
        own = [e for e in points if e.dist and e.dist.name.replace("_", "-").lower() in OFFICIAL]
        entries = sorted(points, key=lambda e: (e not in own, e.name != CORE, e.name))
        installed = [entry.name for entry in entries]
        named = os.environ.get("FACKE_PLUGINS", ",".join(installed)).split(",")
        wanted = [CORE, *filter(None, map(str.strip, named))]
        for entry in entries:
            if entry.name in wanted:
                self._load(entry)
        for name in sorted({*wanted} - {*installed, CORE}):
            why = f"named in FACKE_PLUGINS but not installed.{did_you_mean(name, installed)}"
            self.failures.append(PluginInfo(name, failure=why))
        absent = Registry()
        for entry in own if self._plugins.keys() - OFFICIAL else ():
            if entry.name not in self._plugins:
                absent._load(entry)
        for name in absent.methods.keys() & self.methods.keys():
            whose = f"{self.methods.owners[name]!r}, not of {absent.methods.owners[name]!r}"
            warnings.warn(f"The method {name!r} is of the plugin {whose}.", FackeWarning, 3)
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
            info = info._replace(failure=reason, seconds=time.perf_counter() - started)
            self.failures.append(info)

    def register(self, plugin: object, name: str = "", *, version: str = "") -> None:
        """Add one plugin: a module or object with ``@hookimpl`` functions. All or nothing.

        Raises:
            PluginError: an unknown hook, a wrong signature, a description of the wrong class, or
                a name that is taken. The registry is unchanged then.
        """
        own = str(getattr(plugin, "__name__", type(plugin).__name__))
        self._add(plugin, PluginInfo(name or own, version))

    def _add(self, plugin: object, info: PluginInfo) -> None:
        name = info.name
        if name in self._plugins:
            first = self._plugins[name].distribution
            raise PluginError(
                f"A plugin named {name!r} is registered already"
                f"{first and f' (from {first})'}. Uninstall one of the two, or rename its entry "
                f"point in the group {GROUP}."
            )
        hooks = catalogue.checked_hooks(plugin, name)
        collected = catalogue.collect(hooks, name, self.catalogues)
        for kind, offered in collected.items():
            self.catalogues[kind].add(offered, name)
            for spec in offered.values():
                self._targets.update(dict.fromkeys(catalogue.targets_of(spec), name))
        offers = {kind: tuple(names) for kind, names in collected.items() if names}
        if events := tuple(hook for hook in catalogue.EVENTS if hooks[hook]):
            offers["event"] = events
            for hook in events:
                self._impls[hook] += hooks[hook]
        self._plugins[name] = info._replace(contributions=offers)

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Tell of every discovered plugin, the failed ones last."""
        return (*self._plugins.values(), *self.failures)

    def resolve(self, target: str) -> Any:
        """Import what ``"package.module:attribute"`` names; PluginError names its plugin."""
        plugin = self._targets.get(target)
        return resolve(target, whose=f" of the plugin {plugin!r}" if plugin else "")

    def apply_result(self, result: SwapResult, request: SwapRequest) -> SwapResult:
        """Run the ``facke_result`` hooks in registration order, each on the previous result; hook
        wrappers (``hookimpl(wrapper=True)``) enclose that chain. PluginError names the plugin."""
        impls = sorted(self._impls["facke_result"], key=lambda impl: bool(impl.wrapper))
        return _through(impls, result, request)

    def train_step(self, report: StepReport) -> None:
        """Run the ``facke_train_step`` hooks; PluginError names the plugin of one that raises."""
        for impl in self._impls["facke_train_step"]:
            _call(impl, report=report)


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed, which is discovered once per process."""
    return Registry().discover()


def _through(impls: list[pluggy.HookImpl], result: SwapResult, request: SwapRequest) -> SwapResult:
    """Let the last hook change what those before it made (pluggy gives all the same result)."""
    if not impls:
        return result
    *before, impl = impls
    if not impl.wrapper:
        result = _through(before, result, request)
    changed = _call(impl, result=result, request=request)
    if impl.wrapper:
        with _blaming(impl):
            next(changed)
        result, wrapper, changed = _through(before, result, request), changed, None
        with _blaming(impl):
            try:
                wrapper.send(result)
                raise RuntimeError("its hook wrapper yields twice")
            except StopIteration as stop:
                changed = stop.value
    if not isinstance(changed, type(result) | None):
        raise PluginError(
            f"The plugin {impl.plugin_name!r}: facke_result must return a SwapResult or None, "
            f"got {type(changed).__name__}. Update or uninstall the plugin."
        )
    return changed or result


def _call(impl: pluggy.HookImpl, **arguments: Any) -> Any:
    with _blaming(impl):
        return impl.function(*(arguments[name] for name in impl.argnames))


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
