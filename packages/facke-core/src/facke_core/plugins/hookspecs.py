"""The hooks of facke: all are optional, all return values. ``docs/hooks.md`` has examples.

Implement them with :data:`hookimpl` in the module that your ``facke.plugins`` entry point names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.plugins import specs
    from facke_core.results import SwapResult
    from facke_core.types import SwapRequest

__all__: list[str] = []

hookspec = pluggy.HookspecMarker("facke")
hookimpl = pluggy.HookimplMarker("facke")


@hookspec
def facke_methods() -> Iterable[specs.MethodSpec]:  # type: ignore[empty-body]
    """Describe the swap methods of this plugin."""


@hookspec
def facke_identity_encoders() -> Iterable[specs.EncoderSpec]:  # type: ignore[empty-body]
    """Describe the identity encoders of this plugin."""


@hookspec
def facke_face_detectors() -> Iterable[specs.DetectorSpec]:  # type: ignore[empty-body]
    """Describe the face detectors of this plugin, best first."""


@hookspec
def facke_metrics() -> Iterable[specs.MetricSpec]:  # type: ignore[empty-body]
    """Describe the metrics of this plugin."""


@hookspec
def facke_commands() -> Iterable[specs.CommandSpec]:  # type: ignore[empty-body]
    """Describe the subcommands that this plugin adds to ``facke``."""


@hookspec
def facke_converters() -> Iterable[specs.ConverterSpec]:  # type: ignore[empty-body]
    """Describe the kinds of checkpoints that this plugin can read."""


@hookspec
def facke_result(result: SwapResult, request: SwapRequest) -> SwapResult | None:
    """Watermark, sign or record a full-picture result; return a changed one, or None to leave it.
    Hooks run in registration order, each on what the one before returned."""


@hookspec
def facke_train_step(report: StepReport) -> None:
    """Record a training step that was just finished, as experiment trackers do."""
