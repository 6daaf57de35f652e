"""The one reader of safetensors: what was hashed is what is used, and a header promises nothing.

``safetensors`` itself reads paths, so that the file whose digest was compared can be another one
than the file whose tensors are taken.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from facke_core import _json
from facke_core.errors import OutOfMemoryError

if TYPE_CHECKING:
    from torch import Tensor

__all__: list[str] = []

MAX_HEADER = 32 * 2**20
"""Largest size of a header; that of a network of 1,000 tensors has 100 kB."""
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


class TensorFile(NamedTuple):
    """The content of a safetensors file."""

    tensors: dict[str, Tensor]
    """Tensors on the CPU by name, views on the bytes that were read."""
    metadata: dict[str, str]
    sha256: str
    """Digest of these bytes; empty where they are mapped."""


def read(path: Path) -> TensorFile:
    """Read a file once: digest and tensors are of the same bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no safetensors file; says why.
        OutOfMemoryError: it does not fit into the memory.
    """
    size = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(file.read(8), size)  # before a file without end is read
            file.seek(0)
            data = bytearray(size)
            count = file.readinto(data)
            if count != size or file.read(1):
                raise OSError(f"{path} was changed while it was read")
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path} has {size / 1e9:.1f} GB, more than there is memory for. Use a machine with "
            "more."
        ) from error
    tensors, metadata = parse(data)
    return TensorFile(tensors, metadata, hashlib.sha256(data).hexdigest())


def mapped(path: Path) -> TensorFile:
    """Map a file into memory, which may be larger than the memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no safetensors file; says why.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors, metadata = parse(data)
    return TensorFile(tensors, metadata, "")


def parse(data: bytearray | mmap.mmap) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors, as views on ``data``, and metadata.

    Raises:
        ValueError: it is no safetensors file; says why.
    """
    start = _check_size(data[:8], len(data))
    header = _json.parse(bytes(data[8:start]))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are no texts")
    end, tensors = 0, {}
    entries = {name: _entry(name, about) for name, about in header.items()}
    for name, (_, _, (begin, stop)) in sorted(entries.items(), key=lambda item: item[1][2]):
        if begin != end:
            raise ValueError(f"{name[:60]!r} does not begin where the tensor before it ends")
        end = stop
    if start + end != len(data):
        raise ValueError(f"it has {len(data)} bytes, its header promises {start + end}")
    for name, (dtype, shape, (begin, stop)) in entries.items():
        tensors[name] = _tensor(data, name, dtype, shape, start + begin, stop - begin)
    return tensors, metadata


def _check_size(head: bytes | bytearray, size: int) -> int:
    """Return where the numbers begin."""
    if len(head) < 8:
        raise ValueError("it is too short")
    length = int.from_bytes(head, "little")
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(f"its header claims {length} bytes")
    return 8 + length


def _entry(name: str, about: Any) -> tuple[str, list[int], list[int]]:
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:60]!r} has no dtype, shape and place")
    dtype, shape, place = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name[:60]!r} has the unknown dtype {str(dtype)[:20]!r}")
    for numbers in (shape, place):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{name[:60]!r} has a shape or a place that is none")
    if len(place) != 2 or len(shape) > 16:
        raise ValueError(f"{name[:60]!r} has a shape or a place that is none")
    return dtype, shape, place


def _tensor(
    data: bytearray | mmap.mmap, name: str, dtype: str, shape: list[int], start: int, size: int
) -> Tensor:
    import torch

    kind: torch.dtype | None = getattr(torch, _DTYPES[dtype], None)
    if kind is None:
        raise ValueError(f"{name[:60]!r} has the dtype {dtype}, which this torch does not know")
    if math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{name[:60]!r} has {size} bytes, which is not its shape {shape}")
    try:
        if not size:
            return torch.empty(shape, dtype=kind)
        values = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=start)
        if values.data_ptr() % kind.itemsize:
            values = values.clone()
        return values.view(kind).view(shape)
    except (RuntimeError, OverflowError) as error:  # a dimension beyond measure beside a 0
        raise ValueError(f"{name[:60]!r} has the shape {shape}, which is none") from error
