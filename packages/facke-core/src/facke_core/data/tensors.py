"""Safetensors files that are written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from facke_core import _tensors
from facke_core._files import replacing

__all__: list[str] = []

_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8"}


class Column(NamedTuple):
    """A tensor that is written in parts along its first dimension."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Iterable[Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Column:
        """A column of one part, the whole tensor."""
        return cls(tensor.dtype, tuple(tensor.shape), (tensor,))


def write_tensors(path: Path, columns: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes follow from its content.

    ``safetensors.torch.save_file`` needs all tensors in memory, orders metadata at random and hides
    the number of an I/O error; tensors here may be larger than the memory.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    # wide types first, so that each tensor begins at a multiple of its item
    ordered = sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, column in ordered:
        begin, end = end, end + torch.Size(column.shape).numel() * column.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[column.dtype],
            "shape": list(column.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, size=8 + len(text) + end) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, column in ordered:
            for part in column.parts:
                file.write(part.contiguous().flatten().view(torch.uint8).numpy().data)
        assert file.tell() == 8 + len(text) + end


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, memory-mapped, and its metadata.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    tensors, metadata, _ = _tensors.mapped(path)
    return tensors, metadata
