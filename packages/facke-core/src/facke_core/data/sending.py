"""Batches on their way from the processes that read them to the one that trains.

Tensors go through the memory that processes share (``/dev/shm``). Where a batch does not fit, as in
the 64 MB of a container, it goes through a pipe, which is slower, with its pictures as bytes where
that loses nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facke_core.types import FaceBatch

__all__: list[str] = []

SHARED = Path("/dev/shm")


def to_send(parts: Sequence[FaceBatch], workers: int) -> list[Any]:
    """Bring the parts of a step into the form in which one of ``workers`` processes sends them."""
    size = sum(value.nbytes for part in parts for value in part if value is not None)
    if 2 * size * workers <= free_bytes():  # all may send at once, and the last ones are in use
        return list(parts)
    return [
        tuple(None if value is None else _as_bytes(value).numpy() for value in part)
        for part in parts
    ]


def received(part: Any) -> FaceBatch:
    """Return what was sent, as it was."""
    if isinstance(part, FaceBatch):
        return part
    values: list[Any] = [array if array is None else torch.from_numpy(array) for array in part]
    batch = FaceBatch(*values)
    return batch.each(lambda x: x.float() / 255 if x.dtype == torch.uint8 else x)


def free_bytes() -> float:
    """Return how much memory is left to share; infinite where nothing limits it but the memory."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return float("inf")


def shared_memory() -> str:
    """Say how much memory processes can share."""
    try:
        usage = shutil.disk_usage(SHARED)
    except OSError:
        return f"there is no {SHARED}"
    return f"{SHARED} has {usage.total >> 20} MB, of which {usage.free >> 20} are free"


def _as_bytes(value: Tensor) -> Tensor:
    """Return a picture of 8 bits as such, and everything else as it is."""
    if value.dtype != torch.float32 or value.ndim != 4:
        return value
    small = (value * 255).round().to(torch.uint8)
    return small if torch.equal(small.float() / 255, value) else value
