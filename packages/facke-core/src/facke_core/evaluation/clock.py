"""Threads that work beside each other, and the time that each stage takes them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["STAGES", "Clock", "alone", "encoder_share"]

STAGES = ("read", "detect", "align", "encode", "generate", "paste", "judge", "measure")
"""Names of the stages. ``encode``: identities for the generator. ``judge``: all other vectors."""
ENCODERS = ("encode", "judge")


def alone() -> None:
    """Make torch compute in the calling thread alone; each thread of a pool calls it first.

    Threads inside of small networks only get in each other's way, and their number can change the
    last bits.
    """
    import torch

    torch.set_num_threads(1)


class Clock:
    """Seconds per stage. Stages that run beside each other are added."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage so far."""
        return dict(self._seconds)


def encoder_share(seconds: Mapping[str, float]) -> float:
    """The share of the identity encoders in the time of all stages; 0 if none was counted."""
    total = sum(seconds.get(stage, 0.0) for stage in STAGES)
    return sum(seconds.get(stage, 0.0) for stage in ENCODERS) / total if total else 0.0
