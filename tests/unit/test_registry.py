"""Plugins are isolated from each other, and every name has one owner."""

from __future__ import annotations

import importlib.metadata
import types
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from facke_core import MethodSpec, Registry, hookimpl
from facke_core.errors import FackeWarning, PluginError, UnknownNameError
from facke_core.plugins.specs import DetectorSpec
from facke_core.references import HubRef, resource, unavailable
from facke_core.results import SwapResult
from facke_core.types import SwapRequest
from standins import plugin

Install = Callable[..., None]


def method(name: str = "demo", **more: Any) -> MethodSpec:
    return MethodSpec(
        name=name, summary="a demo", config="json:JSONDecoder", build="json:loads", **more
    )


def nothing() -> list[Any]:
    return []


class FakeEntryPoint:
    """An entry point whose import is the function ``load``."""

    def __init__(self, name: str, load: Callable[[], Any], distribution: str) -> None:
        self.name, self.load = name, load
        self.dist = types.SimpleNamespace(name=distribution, version="1.2")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    entries: list[FakeEntryPoint] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    monkeypatch.delenv("FACKE_PLUGINS", raising=False)

    def add(name: str, load: Callable[[], Any], distribution: str = "") -> None:
        entries.append(FakeEntryPoint(name, load, distribution or name))

    return add


def raising(error: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    "error",
    [RuntimeError("compiled against another CUDA"), ImportError("no torch"), SystemExit("bye")],
)
def test_a_plugin_that_fails_on_import_is_reported_and_others_work(
    install: Install, error: BaseException
) -> None:
    install("broken", raising(error))
    install("good", lambda: plugin(facke_methods=lambda: [method()]))
    registry = Registry().discover()
    assert list(registry.methods) == ["demo"]
    (failure,) = registry.failures
    assert failure.name == "broken"
    assert failure.failure == f"{type(error).__name__}: {error}"
    assert {info.name: bool(info.failure) for info in registry.plugins()} == {
        "good": False,
        "broken": True,
    }


def test_an_interrupt_during_discovery_is_not_swallowed(install: Install) -> None:
    install("slow", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        Registry().discover()


def test_an_unknown_method_suggests_lists_and_names_failed_plugins(install: Install) -> None:
    install("facke-broken", raising(RuntimeError("compiled against another CUDA")))
    install("good", lambda: plugin(facke_methods=lambda: [method("simswap"), method("cvae")]))
    with pytest.raises(UnknownNameError) as caught:
        Registry().discover().methods["simswp"]
    assert str(caught.value) == (
        "Unknown method 'simswp'. Did you mean 'simswap'? Installed: cvae, simswap. "
        "Plugins that failed to load: facke-broken (RuntimeError: compiled against another CUDA)."
    )


def test_facke_plugins_restricts_discovery_and_keeps_core(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("facke-core", "facke-gan", "facke-vae"):
        install(name, lambda name=name: plugin(facke_methods=lambda: [method(name)]))
    monkeypatch.setenv("FACKE_PLUGINS", "facke-vae, facke-gna")
    registry = Registry().discover()
    assert list(registry.methods) == ["facke-core", "facke-vae"]
    (failure,) = registry.failures
    assert "not installed. Did you mean 'facke-gan'?" in failure.failure


def test_a_method_in_the_place_of_an_official_one_is_announced(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, package in (("aaa", "aaa"), ("facke-gan", "facke_gan"), ("other", "other")):
        offers = method("other" if name == "other" else "simswap")
        install(name, lambda offers=offers: plugin(facke_methods=lambda: [offers]), package)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry = Registry().discover()  # the official one keeps its name
    assert registry.methods.owners == {"simswap": "facke-gan", "other": "other"}
    (failure,) = registry.failures
    assert failure.name == "aaa"
    assert "both offer the method 'simswap'" in failure.failure
    monkeypatch.setenv("FACKE_PLUGINS", "aaa,other")
    with pytest.warns(FackeWarning, match="'simswap' is of the plugin 'aaa', not of 'facke-gan'"):
        assert Registry().discover().methods.owners["simswap"] == "aaa"
    monkeypatch.setenv("FACKE_PLUGINS", "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(Registry().discover().methods) == ["other"]


def test_core_is_discovered_first_and_the_others_by_name(install: Install) -> None:
    for name in ("zeta", "facke-core", "alpha"):
        install(name, lambda: plugin())
    assert [info.name for info in Registry().discover().plugins()] == [
        "facke-core",
        "alpha",
        "zeta",
    ]


def test_two_distributions_with_one_plugin_name_are_told_apart(install: Install) -> None:
    install("same", lambda: plugin(), "first")
    install("same", lambda: plugin(), "second")
    (failure,) = Registry().discover().failures
    assert failure.name == "same (second)"
    assert "registered already (from first)" in failure.failure


def test_a_clash_names_both_plugins_and_the_remedy() -> None:
    registry = Registry()
    registry.register(plugin(facke_methods=lambda: [method()]), "one")
    with pytest.raises(PluginError, match=r"'one' and 'two' both offer the method 'demo'.*Uninst"):
        registry.register(plugin(facke_methods=lambda: [method()]), "two")
    assert registry.methods.owners["demo"] == "one"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (plugin(facke_method=lambda: None), "Did you mean 'facke_methods'"),
        (plugin(facke_result=lambda result, nonsense: None), "nonsense"),
        (plugin(facke_methods=lambda: [method("new"), "text"]), "must return a list of MethodSpec"),
        (plugin(facke_methods=lambda: [method("new"), method("new")]), "'new' twice"),
        (plugin(facke_methods=lambda: 3), "must return a list of MethodSpec"),
        (
            plugin(facke_methods=lambda: [MethodSpec(name="x", summary="", config="a", build="b")]),
            "the target 'a' of the method 'x' is not",
        ),
        (types.SimpleNamespace(facke_methods=nothing), "without facke_core.hookimpl"),
        (
            plugin(
                facke_methods=lambda: [method("new")],
                facke_face_detectors=lambda: [
                    DetectorSpec(name="taken", summary="", build="json:loads")
                ],
            ),
            "both offer the detector 'taken'",
        ),
    ],
)
def test_a_plugin_that_is_refused_leaves_the_registry_as_it_was(bad: Any, message: str) -> None:
    registry = Registry()
    taken = DetectorSpec(name="taken", summary="", build="json:loads")
    registry.register(plugin(facke_face_detectors=lambda: [taken]), "first")
    before = registry.plugins()
    with pytest.raises(PluginError, match=message):
        registry.register(bad, "bad")
    assert not registry.methods
    assert registry.plugins() == before
    registry.register(plugin(facke_methods=lambda: [method("new")]), "bad")
    assert registry.methods["new"].name == "new"


def test_a_target_is_resolved_on_use_and_a_failure_names_plugin_and_target() -> None:
    registry = Registry()
    spec = MethodSpec(name="x", summary="", config="no_such_package.a:B", build="json:nothing")
    registry.register(plugin(facke_methods=lambda: [spec]), "mine")
    assert registry.resolve("json:loads")("3") == 3
    with pytest.raises(PluginError, match=r"'json:nothing' of the plugin 'mine': AttributeError"):
        registry.resolve(spec.build)
    with pytest.raises(PluginError, match=r"'no_such_package.a:B' of the plugin 'mine'"):
        registry.resolve(spec.config)
    with pytest.raises(PluginError, match=r"is not 'package.module:attribute'"):
        registry.resolve("json.loads")


def test_a_resource_is_a_path_inside_a_package() -> None:
    assert resource("facke_core:py.typed").is_file()
    with pytest.raises(PluginError, match="is not there"):
        resource("facke_core:absent/file.json")
    with pytest.raises(PluginError, match="cannot import 'no_such_package'"):
        resource("no_such_package:file")
    with pytest.raises(PluginError, match="is not 'package:path"):
        resource("facke_core")


def test_recipes_belong_to_their_method() -> None:
    registry = Registry()
    spec = method(recipes={"demo-mini": "facke_core:py.typed"})
    registry.register(plugin(facke_methods=lambda: [spec]), "mine")
    assert registry.recipes["demo-mini"].method is spec
    with pytest.raises(UnknownNameError, match="Did you mean 'demo-mini'"):
        registry.recipes["demo-mimi"]


def test_a_plugin_lists_what_it_contributes() -> None:
    registry = Registry()
    registry.register(
        plugin(
            facke_methods=lambda: [method(recipes={"r": "a:b"})],
            facke_result=lambda result: None,
        ),
        "mine",
        version="3",
    )
    (info,) = registry.plugins()
    assert info.version == "3"
    assert info.contributions == {
        "method": ("demo",),
        "recipe": ("r",),
        "event": ("facke_result",),
    }


def test_an_availability_check_that_raises_is_a_reason() -> None:
    spec = DetectorSpec(name="x", summary="", build="json:loads", available="json:loads")
    assert unavailable(spec.available).startswith("TypeError")
    assert unavailable(DetectorSpec(name="y", summary="", build="json:loads").available) == ""


@pytest.fixture
def swapped() -> SwapResult:
    request = SwapRequest(method="m", weights="", revision="", seed=None)
    return SwapResult(image=torch.zeros(3, 2, 2), faces=(), seconds={}, request=request)


def brighter(by: float) -> Callable[..., SwapResult]:
    def facke_result(result: SwapResult) -> SwapResult:
        return SwapResult(
            image=result.image * 10 + by,
            faces=result.faces,
            seconds=result.seconds,
            request=result.request,
        )

    return facke_result


def test_result_hooks_run_in_registration_order_on_the_previous_result(swapped: SwapResult) -> None:
    registry = Registry()
    registry.register(plugin(facke_result=brighter(1)), "a")
    registry.register(plugin(facke_result=lambda request: None), "b")
    registry.register(plugin(facke_result=brighter(2)), "c")
    assert registry.apply_result(swapped, swapped.request).image.max() == 12


def test_a_wrapper_sees_the_final_result_and_may_change_it(swapped: SwapResult) -> None:
    seen: list[float] = []

    def facke_result(
        result: SwapResult, request: SwapRequest
    ) -> Generator[None, SwapResult, SwapResult]:
        final = yield
        seen.append(float(final.image.max()))
        return brighter(5)(final)

    registry = Registry()
    wrapper = types.SimpleNamespace(facke_result=hookimpl(wrapper=True)(facke_result))
    registry.register(wrapper, "wrap")
    registry.register(plugin(facke_result=brighter(1)), "a")
    assert registry.apply_result(swapped, swapped.request).image.max() == 15
    assert seen == [1]


def test_a_result_hook_that_fails_names_its_plugin(swapped: SwapResult) -> None:
    registry = Registry()
    registry.register(plugin(facke_result=lambda result: 1 / 0), "mark")
    with pytest.raises(PluginError, match=r"'mark' failed in its hook .*ZeroDivisionError"):
        registry.apply_result(swapped, swapped.request)
    registry = Registry()
    registry.register(plugin(facke_result=lambda result: "text"), "mark")
    with pytest.raises(PluginError, match="'mark': facke_result must return a SwapResult"):
        registry.apply_result(swapped, swapped.request)


def test_train_step_hooks_hear_every_report_in_registration_order() -> None:
    heard: list[Any] = []
    registry = Registry()
    registry.register(plugin(facke_train_step=lambda report: heard.append(("a", report))), "a")
    registry.register(plugin(facke_train_step=lambda report: heard.append(("b", report))), "b")
    report: Any = object()
    registry.train_step(report)
    assert heard == [("a", report), ("b", report)]


def test_a_hub_reference_must_be_pinned_to_a_commit() -> None:
    with pytest.raises(PluginError, match="40-digit commit"):
        HubRef("org/repo", "main")


def test_the_installed_core_plugin_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACKE_PLUGINS", "")
    registry = Registry().discover()
    assert [info.name for info in registry.plugins()] == ["facke-core"]
    assert registry.encoders["dlib-resnet29"].license == "CC0-1.0"
    assert list(registry.detectors) == ["mediapipe", "yunet"]
