"""The hooks of facke. All are optional; each takes and returns values, nothing is registered by
side effect. Implement them in the module that your ``facke.plugins`` entry point names::

    from facke_core import MethodSpec, hookimpl

    @hookimpl
    def facke_methods():
        return [MethodSpec(name="demo", summary="...", config="demo:Config", build="demo:build")]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.plugins.specs import (
        CommandSpec,
        ConverterSpec,
        DetectorSpec,
        EncoderSpec,
        MethodSpec,
        MetricSpec,
    )
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest

__all__ = [
    "facke_commands",
    "facke_converters",
    "facke_face_detectors",
    "facke_identity_encoders",
    "facke_methods",
    "facke_metrics",
    "facke_result",
    "facke_train_step",
]

PROJECT = "facke"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def facke_methods() -> Iterable[MethodSpec]:  # type: ignore[empty-body]
    """Describe the swap methods of this plugin."""


@hookspec
def facke_identity_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Describe the identity encoders of this plugin."""


@hookspec
def facke_face_detectors() -> Iterable[DetectorSpec]:  # type: ignore[empty-body]
    """Describe the face detectors of this plugin, best first."""


@hookspec
def facke_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """Describe the metrics of this plugin."""


@hookspec
def facke_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Describe the subcommands that this plugin adds to ``facke``."""


@hookspec
def facke_converters() -> Iterable[ConverterSpec]:  # type: ignore[empty-body]
    """Describe the kinds of checkpoints that this plugin can read."""


@hookspec
def facke_result(result: SwapResult, request: SwapRequest) -> SwapResult | None:
    """Called with every full-picture result: watermark, sign or record it.

    Return a changed result, or None to leave it as it is. Called in registration order, each
    implementation seeing what the one before returned.
    """


@hookspec
def facke_train_step(report: StepReport) -> None:
    """Called after every training step: experiment trackers."""
