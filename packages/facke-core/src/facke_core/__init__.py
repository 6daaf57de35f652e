"""facke: face swapping with generative models.

Importing this package loads neither torch nor numpy nor PIL; what needs them is loaded on first
use (PEP 562). The usual way in::

    from facke_core import load

    swapper = load("simswap")
    result = swapper("source.jpg", "target.jpg")
    result.save("out.png")

What is offered here, in three groups:

- to swap: :func:`load` gives a :class:`SwapPipeline`, which gives a :class:`SwapResult`;
  :func:`load_encoder`; :func:`save`; every error is a :class:`FackeError`.
- to write a method: the protocols :class:`Generator`, :class:`Sampler`, :class:`IdentityEncoder`,
  :class:`Discriminator`, :class:`Loss` and :class:`FaceDetector`, and the values that they take and
  give; to train it, :class:`Objective`, :class:`LossTerm`, :class:`Recipe`, :class:`Trainer`.
- to make it a plugin: ``hookimpl``, and the descriptions :class:`MethodSpec`, :class:`EncoderSpec`
  and so on, which a :class:`Registry` holds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from facke_core._version import __version__
from facke_core.errors import FackeError
from facke_core.plugins.hookspecs import hookimpl
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import (
    CommandSpec,
    ConverterSpec,
    DetectorSpec,
    EncoderSpec,
    MethodSpec,
    MetricSpec,
)
from facke_core.protocols import Method
from facke_core.references import Bundled, HubRef

if TYPE_CHECKING:
    from facke_core.building import load_encoder
    from facke_core.faces.templates import Alignment
    from facke_core.loading import load
    from facke_core.objective import LossTerm, Objective
    from facke_core.pipeline import SwapPipeline
    from facke_core.protocols import (
        Discriminator,
        FaceDetector,
        Generator,
        IdentityEncoder,
        Loss,
        Sampler,
    )
    from facke_core.publish.save import save
    from facke_core.results import SwapResult
    from facke_core.sampling import SinglePass
    from facke_core.training.recipe import Recipe
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
    "building": ("load_encoder",),
    "faces.templates": ("Alignment",),
    "loading": ("load",),
    "objective": ("LossTerm", "Objective"),
    "pipeline": ("SwapPipeline",),
    "protocols": (
        "Discriminator",
        "FaceDetector",
        "Generator",
        "IdentityEncoder",
        "Loss",
        "Sampler",
    ),
    "publish.save": ("save",),
    "results": ("SwapResult",),
    "sampling": ("SinglePass",),
    "training.recipe": ("Recipe",),
    "training.trainer": ("Trainer",),
    "types": (
        "AlignedFace",
        "DiscriminatorOutput",
        "Face",
        "FaceBatch",
        "GeneratorOutput",
        "GeneratorSpec",
        "IdentityEncoderSpec",
        "SwapInputs",
        "SwapRequest",
    ),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "AlignedFace",
    "Alignment",
    "Bundled",
    "CommandSpec",
    "ConverterSpec",
    "DetectorSpec",
    "Discriminator",
    "DiscriminatorOutput",
    "EncoderSpec",
    "Face",
    "FaceBatch",
    "FaceDetector",
    "FackeError",
    "Generator",
    "GeneratorOutput",
    "GeneratorSpec",
    "HubRef",
    "IdentityEncoder",
    "IdentityEncoderSpec",
    "Loss",
    "LossTerm",
    "Method",
    "MethodSpec",
    "MetricSpec",
    "Objective",
    "Recipe",
    "Registry",
    "Sampler",
    "SinglePass",
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
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
