"""This machine: its devices, a folder for caches, optional packages."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from facke_core.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["available_devices", "cache_folder", "resolve_device"]


def check_workers(workers: int, *, least: int = 1) -> None:
    """Refuse a number of processes or threads at which this machine could not work any more.

    Raises:
        UsageError: fewer than ``least``, or more than 8 and two per core.
    """
    most = 8 + 2 * (os.cpu_count() or 1)
    if not least <= workers <= most:
        none = ", or 0 for none" if least == 0 else ""
        raise UsageError(
            f"{workers} workers are no number from {least} to {most}, which is the most for the "
            f"{os.cpu_count()} cores of this machine. Give as many as there are cores{none}."
        )


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

    It need not exist, and perhaps cannot be made: a cache is there to save time, and who has no
    home has none.
    """
    root = os.environ.get("FACKE_CACHE")
    if root:
        return Path(root)
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "facke"
    try:
        return Path.home() / ".cache" / "facke"
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return Path(os.devnull) / "facke"


def short_temporary_folder() -> None:
    """Choose the folder for the sockets of this process and its children, before the first of them.

    The name of a socket may have some 100 bytes only, which is less than ``TMPDIR`` may have.

    Raises:
        UnavailableError: there is no folder with a short name that can be written.
    """
    import tempfile
    from multiprocessing import util

    before = tempfile.tempdir
    try:
        short = (each for each in (tempfile.gettempdir(), *_SHORT) if len(os.fsencode(each)) < 70)
        tempfile.tempdir = next(each for each in short if os.access(each, os.W_OK))
        util.get_temp_dir()  # which is remembered, and removed in the end
    except (StopIteration, OSError) as error:
        raise UnavailableError(
            "Processes cannot be started: there is no folder for their sockets, which need a short "
            "name. Let TMPDIR name a folder with at most 70 characters that can be written."
        ) from error
    finally:
        tempfile.tempdir = before


_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


EXTRAS = {
    "av": "video",
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


@contextmanager
def signals_kept() -> Iterator[list[int]]:
    """Keep SIGINT, SIGTERM and SIGHUP in a list while inside, instead of being stopped by them.

    Those that are ignored stay so, and other threads than the main one hear none.
    """
    came: list[int] = []
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, lambda n, _: came.append(n))
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_later() -> Iterator[None]:
    """Let signals wait until the end of the ``with`` block, for what must not stop halfway."""
    came: list[int] = []
    try:
        with signals_kept() as came:
            yield
    finally:  # also in the place of an error: processes that heard it, too, may be gone
        for number in came[:1]:
            signal.raise_signal(number)


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
