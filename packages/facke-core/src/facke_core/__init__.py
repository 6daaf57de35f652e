"""facke: face swapping with generative models.

Importing this package loads neither torch nor numpy nor PIL; what needs them is loaded on first
use (PEP 562). The usual way in::

    from facke_core import load

    swapper = load("simswap")
    result = swapper("source.jpg", "target.jpg")
    result.save("out.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from facke_core._version import __version__
from facke_core.errors import FackeError
from facke_core.plugins.hookspecs import hookimpl
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import (
    Bundled,
    CommandSpec,
    ConverterSpec,
    DetectorSpec,
    EncoderSpec,
    HubRef,
    Method,
    MethodSpec,
    MetricSpec,
)

if TYPE_CHECKING:
    from facke_core.building import load_encoder
    from facke_core.loading import load
    from facke_core.pipeline import SwapPipeline
    from facke_core.publish.save import save
    from facke_core.results import SwapResult
    from facke_core.training.trainer import Trainer
    from facke_core.types import (
        AlignedFace,
        DiscriminatorOutput,
        Face,
        FaceBatch,
        GeneratorOutput,
        GeneratorSpec,
        IdentityEncoderSpec,
        SwapInputs,
        SwapRequest,
    )

_LAZY = {
    "load": "facke_core.loading",
    "load_encoder": "facke_core.building",
    "save": "facke_core.publish.save",
    "SwapPipeline": "facke_core.pipeline",
    "Trainer": "facke_core.training.trainer",
    "AlignedFace": "facke_core.types",
    "DiscriminatorOutput": "facke_core.types",
    "Face": "facke_core.types",
    "FaceBatch": "facke_core.types",
    "GeneratorOutput": "facke_core.types",
    "GeneratorSpec": "facke_core.types",
    "IdentityEncoderSpec": "facke_core.types",
    "SwapInputs": "facke_core.types",
    "SwapRequest": "facke_core.types",
    "SwapResult": "facke_core.results",
}

__all__ = [
    "AlignedFace",
    "Bundled",
    "CommandSpec",
    "ConverterSpec",
    "DetectorSpec",
    "DiscriminatorOutput",
    "EncoderSpec",
    "Face",
    "FaceBatch",
    "FackeError",
    "GeneratorOutput",
    "GeneratorSpec",
    "HubRef",
    "IdentityEncoderSpec",
    "Method",
    "MethodSpec",
    "MetricSpec",
    "Registry",
    "SwapInputs",
    "SwapPipeline",
    "SwapRequest",
    "SwapResult",
    "Trainer",
    "__version__",
    "default_registry",
    "hookimpl",
    "load",
    "load_encoder",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
