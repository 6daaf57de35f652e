"""Calling the hooks of plugins: whatever one raises names the plugin."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from facke_core.errors import PluginError

if TYPE_CHECKING:
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest


def apply_result(
    impls: Sequence[pluggy.HookImpl], result: SwapResult, request: SwapRequest
) -> SwapResult:
    """See :meth:`facke_core.plugins.registry.Registry.apply_result`."""

    def chain() -> SwapResult:
        current = result
        for impl in impls:
            if impl.wrapper:
                continue
            changed = call(impl, result=current, request=request)
            current = current if changed is None else _a_result(impl, changed)
        return current

    wrappers = [impl for impl in impls if impl.wrapper]
    return _wrapped(wrappers, chain, result=result, request=request)


def call(impl: pluggy.HookImpl, **arguments: Any) -> Any:
    try:
        return impl.function(*(arguments[name] for name in impl.argnames))
    except Exception as error:
        raise _hook_failed(impl, error) from error


def _wrapped(
    wrappers: Sequence[pluggy.HookImpl], inner: Callable[[], SwapResult], **arguments: Any
) -> SwapResult:
    if not wrappers:
        return inner()
    impl = wrappers[-1]
    generator: Generator[None, SwapResult, SwapResult] = call(impl, **arguments)
    try:
        next(generator)
    except Exception as error:
        raise _hook_failed(impl, error) from error
    value = _wrapped(wrappers[:-1], inner, **arguments)
    try:
        generator.send(value)
    except StopIteration as stop:
        return value if stop.value is None else _a_result(impl, stop.value)
    except Exception as error:
        raise _hook_failed(impl, error) from error
    raise PluginError(f"The plugin {impl.plugin_name!r}: its hook wrapper yields twice.")


def _a_result(impl: pluggy.HookImpl, value: Any) -> SwapResult:
    from facke_core.results import SwapResult

    if not isinstance(value, SwapResult):
        raise PluginError(
            f"The plugin {impl.plugin_name!r}: facke_result must return a SwapResult or None, "
            f"got {type(value).__name__}. Update or uninstall the plugin."
        )
    return value


def _hook_failed(impl: pluggy.HookImpl, error: Exception) -> PluginError:
    return PluginError(
        f"The plugin {impl.plugin_name!r} failed in its hook {impl.function.__name__}: "
        f"{type(error).__name__}: {error}. Update or uninstall the plugin, or leave it out with "
        "FACKE_PLUGINS."
    )
