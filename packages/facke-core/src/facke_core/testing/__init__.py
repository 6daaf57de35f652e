"""The conformance kit: tests that a plugin inherits, and small stand-ins for its own tests.

A method's author writes::

    from facke_core.testing import MethodConformance

    class TestPyramid(MethodConformance):
        method = "pyramid"
        tiny = {"levels": 2}  # sizes that keep the suite under a few seconds

and pytest runs every check of :class:`MethodConformance` on it. Needs the extra ``testing``.
Importing this package loads neither torch nor pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facke_core.testing.detectors import DetectorConformance
    from facke_core.testing.discriminators import DiscriminatorConformance
    from facke_core.testing.encoders import EncoderConformance
    from facke_core.testing.fakes import (
        TinyDetector,
        TinyDiscriminator,
        TinyEncoder,
        TinyGenerator,
        faces,
        identities,
    )
    from facke_core.testing.losses import LossConformance
    from facke_core.testing.methods import MethodConformance
    from facke_core.testing.metrics import MetricConformance
    from facke_core.testing.samplers import SamplerConformance

_WHERE = {
    "DetectorConformance": "detectors",
    "DiscriminatorConformance": "discriminators",
    "EncoderConformance": "encoders",
    "LossConformance": "losses",
    "MethodConformance": "methods",
    "MetricConformance": "metrics",
    "SamplerConformance": "samplers",
    "TinyDetector": "fakes",
    "TinyDiscriminator": "fakes",
    "TinyEncoder": "fakes",
    "TinyGenerator": "fakes",
    "faces": "fakes",
    "identities": "fakes",
}

__all__ = [
    "DetectorConformance",
    "DiscriminatorConformance",
    "EncoderConformance",
    "LossConformance",
    "MethodConformance",
    "MetricConformance",
    "SamplerConformance",
    "TinyDetector",
    "TinyDiscriminator",
    "TinyEncoder",
    "TinyGenerator",
    "faces",
    "identities",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"facke_core.testing.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
