"""Threads that work beside each other, and the time that each stage takes them together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from facke_core.environment import check_workers

__all__: list[str] = []

STAGES = ("read", "detect", "align", "occlusion", "encode", "generate", "paste", "judge", "measure")
"""Names of the stages. ``encode``: identities for the generator. ``judge``: all other vectors."""
ENCODERS = ("encode", "judge")


def alone() -> None:
    """Make torch compute in the calling thread alone; each thread of a pool calls it first.

    Threads inside of small networks only get in each other's way, and their number can change the
    last bits.
    """
    import torch

    torch.set_num_threads(1)


def pool(workers: int | None) -> ThreadPoolExecutor:
    """Threads that compute :func:`alone`, by default one per core.

    Raises:
        UsageError: this machine cannot have so many.
    """
    workers = workers or os.cpu_count() or 1
    check_workers(workers)
    return ThreadPoolExecutor(workers, initializer=alone)


def encoder_share(seconds: Mapping[str, float]) -> float:
    """The share of the identity encoders in the time of all stages; 0 if none was counted."""
    total = sum(seconds.get(stage, 0.0) for stage in STAGES)
    return sum(seconds.get(stage, 0.0) for stage in ENCODERS) / total if total else 0.0
