"""The choice of the runtime that computes a generator: the one that was asked for, or the fastest
that is exact enough here."""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from facke_core import _cache, _json
from facke_core.backends.graphs import (
    cached_graph,
    max_error,
    network_digest,
    probe_inputs,
    run_torch,
)
from facke_core.backends.runtimes import GraphGenerator, OnnxRuntimeSession, OpenVinoSession
from facke_core.config import from_dict, json_text
from facke_core.environment import installed, versions
from facke_core.errors import ConfigError, FackeError, UsageError, check_choice
from facke_core.protocols import Generator

__all__ = ["Choice", "Measured", "choose", "measure", "with_backend"]

BACKENDS = ("torch", "onnxruntime", "openvino", "auto")
BOUND = 2 / 255
"""Largest absolute error of ``auto`` against torch in float32: two steps of an 8-bit picture."""
ROUNDS = 2
"""How often each way to compute gets its turn."""
TURN = 3
"""Runs per turn that count. One more, before them, does not: it finds in the processor's caches
what another way left there."""
PROBES = 3
"""Faces on which the error is measured."""
Way = TypeVar("Way")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one way to compute costs, in time and in exactness."""

    backend: str
    """``torch``, ``onnxruntime`` or ``openvino``."""
    dtype: str
    """The number format: ``float32``, ``bfloat16`` or ``float16``."""
    seconds: float
    """Median of the runs on one face, in seconds."""
    max_error: float
    """Largest error against torch in float32, where 1 is the range from black to white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What computes a generator, as a text ``openvino bfloat16``."""

    backend: str
    """``torch``, ``onnxruntime`` or ``openvino``."""
    dtype: str
    """The number format: ``float32``, ``bfloat16`` or ``float16``."""
    measured: tuple[Measured, ...] = ()
    """Measurements of ``auto``: torch in float32 first, then everything else that was tried; none
    for a runtime that was asked for."""
    fresh: bool = False
    """Whether it was measured just now."""

    def __str__(self) -> str:
        return f"{self.backend} {self.dtype}"

    @property
    def ratio(self) -> float:
        """How many times faster than torch in float32 it was; 1 where nothing was measured."""
        for way in self.measured:
            if (way.backend, way.dtype) == (self.backend, self.dtype):
                return self.measured[0].seconds / way.seconds
        return 1.0


def with_backend(
    generator: Any,
    backend: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> tuple[Generator, Choice]:
    """Put a generator on ``device``, to be computed by ``backend``.

    Args:
        generator: in float32; a torch generator is moved and cast in place.
        backend: of :data:`BACKENDS`.
        device: the graphs run on a CPU only.
        dtype: what to compute in; None: float32, or with ``auto`` what is fastest.

    Returns:
        The generator to call, and what computes it.

    Raises:
        UsageError: an unknown backend, or one that does not know the dtype or the device.
        UnavailableError: its package is missing.
        CompatibilityError: the generator cannot be a graph.
    """
    check_choice("The backend", backend, BACKENDS)
    choice = Choice(backend=backend, dtype=_name(dtype or torch.float32))
    if not isinstance(generator, nn.Module):
        if backend in ("torch", "auto"):
            return generator, Choice(backend="torch", dtype="float32")
        raise UsageError(
            f"{type(generator).__name__} is no torch module, so {backend} cannot compute it. Use "
            "the backend torch."
        )
    generator.eval().requires_grad_(False)
    if backend == "auto":
        choice = choose(generator, device, dtype)
    elif backend != "torch":
        _check(choice, device)
    return _computed(generator, choice, device), choice


def choose(generator: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Choice:
    """Choose the fastest way to compute a generator here with an error of at most :data:`BOUND`.

    All ways are measured on seeded inputs, once for each network, device, number of threads and set
    of versions; the result is remembered in facke's cache.

    Args:
        generator: in float32.
        device: where it is to be computed.
        dtype: leave out ways in another number format.
    """
    name = f"backends/{_situation(generator, device)}.json"
    measured = _remembered(name, device)
    fresh = not measured
    if not measured:
        measured = measure(generator, device)
        _remember(name, measured)
    held = [
        way
        for way in measured
        if way.max_error <= BOUND and (dtype is None or way.dtype == _name(dtype))
    ]
    best = min(held, key=lambda way: way.seconds, default=measured[0])
    return Choice(backend=best.backend, dtype=best.dtype, measured=measured, fresh=fresh)


def measure(
    generator: nn.Module, device: torch.device, *, rounds: int = ROUNDS, probes: int = PROBES
) -> tuple[Measured, ...]:
    """Measure time and error of every way to compute a generator here, torch in float32 first.

    What cannot compute this generator is left out.

    Args:
        generator: in float32.
        device: where it is to be computed.
        rounds: how often each way gets its turn of :data:`TURN` runs on one face.
        probes: faces on which the error is measured.
    """
    inputs = {k: v.to(device) for k, v in probe_inputs(generator, probes).items()}
    one_face = {k: v[:1] for k, v in inputs.items()}
    reference: dict[str, Tensor] = {}
    ready: dict[Choice, Any] = {}
    errors: dict[Choice, float] = {}
    for choice in candidates(device):
        try:
            copied = copy.deepcopy(generator) if choice.backend == "torch" else generator
            computed = _computed(copied, choice, device)
            result = run_torch(computed, _cast(computed, inputs))
            reference = reference or result
            errors[choice] = max_error(result, reference)
            run_torch(computed, _cast(computed, one_face))
        except (FackeError, RuntimeError):
            if not reference:  # torch itself cannot
                raise
            continue
        ready[choice] = computed
    ways = {
        choice: partial(_run, computed, _cast(computed, one_face), device)
        for choice, computed in ready.items()
    }
    seconds = in_turns(ways, rounds)
    return tuple(
        Measured(
            backend=choice.backend,
            dtype=choice.dtype,
            seconds=seconds[choice],
            max_error=errors[choice],
        )
        for choice in ready
    )


def in_turns(ways: Mapping[Way, Callable[[], object]], rounds: int) -> dict[Way, float]:
    """Measure the median seconds of each way. They take turns, so that other work on the machine
    disturbs all of them; every turn is a run that does not count, and :data:`TURN` that do."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            run()
            for _ in range(TURN):
                start = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(runs) for way, runs in seconds.items()}


def candidates(device: torch.device) -> list[Choice]:
    """List what can be tried on ``device`` with what is installed, the reference first."""
    ways = [("torch", "float32"), ("torch", "bfloat16")]
    if device.type == "cuda":
        ways.append(("torch", "float16"))
    if device.type == "cpu" and installed("onnx") and installed("onnxscript"):
        if installed("onnxruntime"):
            ways.append(("onnxruntime", "float32"))
        if installed("openvino"):
            ways += [("openvino", "float32"), ("openvino", "bfloat16")]
    return [Choice(backend=backend, dtype=dtype) for backend, dtype in ways]


def _computed(generator: nn.Module, choice: Choice, device: torch.device) -> Generator:
    dtype = getattr(torch, choice.dtype)
    if choice.backend == "torch":
        generator.to(device, dtype)
        if dtype != torch.float32:
            generator.to(memory_format=torch.channels_last)
        return cast(Generator, generator)
    generator.to(device, torch.float32)
    graph = cached_graph(generator)
    if choice.backend == "onnxruntime":
        return GraphGenerator(generator, OnnxRuntimeSession(graph))
    return GraphGenerator(generator, OpenVinoSession(graph, dtype))


def _check(choice: Choice, device: torch.device) -> None:
    if device.type != "cpu":
        raise UsageError(
            f"The backend {choice.backend} computes on a CPU only, not on {device}. Use "
            "`device='cpu'`, or the backend torch."
        )
    known = {"onnxruntime": ("float32",), "openvino": ("float32", "bfloat16")}[choice.backend]
    if choice.dtype not in known:
        raise UsageError(
            f"The backend {choice.backend} does not compute in {choice.dtype}: it knows "
            f"{' and '.join(known)}."
        )


def _cast(generator: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cast inputs as a pipeline does: to the dtype of a torch generator, to float32 for others."""
    dtype = torch.float32
    if isinstance(generator, nn.Module):
        dtype = next((p.dtype for p in generator.parameters()), dtype)
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def _run(generator: Any, inputs: Mapping[str, Tensor], device: torch.device) -> None:
    run_torch(generator, inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _situation(generator: nn.Module, device: torch.device) -> str:
    """Name what the choice depends on, in 32 digits for a file."""
    import platform

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    what: dict[str, Any] = {
        "network": network_digest(generator),
        "device": f"{device} {where} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": versions("torch", "onnxruntime", "openvino", "facke-core"),
        "bound": BOUND,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    measured: tuple[Measured, ...]


def _remembered(name: str, device: torch.device) -> tuple[Measured, ...]:
    try:
        ways = from_dict(_Remembered, _json.parse(bytes(_cache.read(name) or b""))).measured
    except (ValueError, ConfigError):
        return ()  # not there, or damaged: measured again
    known = {(choice.backend, choice.dtype) for choice in candidates(device)}
    sound = all(
        (way.backend, way.dtype) in known and way.seconds > 0 and way.max_error >= 0 for way in ways
    )
    reference = ways[:1] and (ways[0].backend, ways[0].dtype) == ("torch", "float32")
    return ways if sound and reference else ()


def _remember(name: str, measured: tuple[Measured, ...]) -> None:
    finite = [asdict(way) for way in measured if way.max_error < float("inf")]
    _cache.write(name, json_text({"measured": finite}).encode())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
