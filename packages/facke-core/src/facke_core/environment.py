"""This machine: its devices, a folder for caches, optional packages."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from facke_core.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["available_devices", "cache_folder", "resolve_device"]


MAX_WORKERS = 1024
"""Most processes that anything starts."""


def available_devices() -> list[str]:
    """The devices that torch can compute on here, fastest first: ``cuda:0``, ..., ``mps``,
    ``cpu``."""
    import torch

    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UnavailableError: it is not there; nothing else is taken instead.
        UsageError: not the name of a device.
    """
    import torch

    name, there = str(device), available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name == "cuda" and "cuda:0" in there:
        return torch.device("cuda:0")
    if name in there:
        return torch.device(name)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not index.isdecimal()):
        raise UsageError(
            f"Unknown device {name!r}. Use auto, cpu, cuda, cuda:N or mps; "
            f"here there are: {', '.join(there)}."
        )
    advice = f"Use one of: auto, {', '.join(there)}."
    if kind == "cuda" and "cuda:0" not in there:
        built = f"this torch ({torch.__version__}) was built for CUDA {torch.version.cuda}"
        reason = f"{built}, but finds no GPU; see the driver with nvidia-smi"
        if not torch.version.cuda:
            reason = f"this torch ({torch.__version__}) was built without CUDA"
        advice = f"{reason[0].upper()}{reason[1:]}. {advice}"
    raise UnavailableError(f"The device {name!r} is not available here. {advice}")


def cache_folder() -> Path:
    """The folder of facke's caches: ``$FACKE_CACHE``, or ``facke`` in the user's cache folder.

    It need not exist.
    """
    root = os.environ.get("FACKE_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facke"


EXTRAS = {
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime.quantization": "onnx",
    "openvino": "openvino",
}
"""Name of a module -> the extra of facke-core that brings it."""


def require(module: str) -> Any:
    """Import a module that an extra brings, one of :data:`EXTRAS`, and return it.

    What its import adds to ``sys.path`` is taken away again: ``onnxruntime.quantization`` adds a
    folder where ``import models`` would find something.

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
    """Tell whether ``module`` can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def versions(*modules: str) -> dict[str, str]:
    """The versions of distributions, by name; those that are not installed are left out."""
    from importlib.metadata import PackageNotFoundError, version

    by_module = {}
    for module in modules:
        try:
            by_module[module] = version(module)
        except PackageNotFoundError:
            continue
    return by_module


class ForkSafeLock:
    """A lock that a thread may take again, that a forked child finds open, and that is never copied
    or pickled: a copy is a lock of its own.

    Args:
        held_by_fork: a fork waits until the lock is free, for what must not be forked halfway.
    """

    def __init__(self, *, held_by_fork: bool = False) -> None:
        self._held_by_fork = held_by_fork
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _before_fork() -> None:
    for lock in _locks:
        if lock._held_by_fork:
            lock._lock.acquire()


def _after_fork() -> None:
    for lock in _locks:
        if lock._held_by_fork:
            lock._lock.release()


def _in_child() -> None:
    _after_fork()
    for lock in _locks:
        if not lock._held_by_fork:  # whoever held it is not here
            lock._lock = threading.RLock()
    if set_threads := getattr(sys.modules.get("torch"), "set_num_threads", None):
        set_threads(1)  # those of OpenMP are not here, and its next sum would wait for them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
