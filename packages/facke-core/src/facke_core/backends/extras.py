"""Optional packages, imported on use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from facke_core.errors import UnavailableError

__all__ = ["installed", "require", "versions"]

EXTRAS = {
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime.quantization": "onnx",
    "openvino": "openvino",
}
"""Module -> the extra of facke-core that brings it."""


def require(module: str) -> Any:
    """The module; what its import adds to ``sys.path`` is taken away again
    (``onnxruntime.quantization`` adds a folder where ``import models`` would find something).

    Raises:
        UnavailableError: it is not installed, or broken; says what to install.
    """
    path = list(sys.path)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"{module} cannot be imported ({error}). It comes with an extra. Run: "
            f'pip install "facke-core[{EXTRAS[module]}]"'
        ) from error
    finally:
        sys.path[:] = path


def installed(module: str) -> bool:
    """Whether ``module`` is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def versions(*modules: str) -> dict[str, str]:
    """Module -> version of its distribution, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for module in modules:
        try:
            found[module] = version(module)
        except PackageNotFoundError:
            continue
    return found
