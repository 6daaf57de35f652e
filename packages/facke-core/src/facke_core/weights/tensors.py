"""Tensors of weights: equal ones make equal files, and none holds a number that is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from facke_core import _tensors
from facke_core.errors import VerificationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__: list[str] = []

_FORMATS = {"float16", "bfloat16", "float32", "float64"}
"""The number formats of weights."""


def name_of(dtype: torch.dtype) -> str:
    """Return what ``config.json`` calls a number format: ``float16``."""
    return str(dtype).removeprefix("torch.")


def castable(dtype: torch.dtype, own: torch.dtype) -> bool:
    """Tell whether tensors of ``dtype`` mean what a network with tensors of ``own`` takes them for.

    Floats of 16 bits or more stand for each other; codes in 8 bits mean nothing without their
    scale. Counters may be floats, as in checkpoints that were halved as a whole.
    """
    return name_of(dtype) in _FORMATS or not (own.is_floating_point or own.is_complex)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name the tensors with NaN or infinite numbers, and how many of how many they are.

    Returns:
        Such as ``stem.weight (3 of 864)``, five at most; empty where all are finite.
    """
    bad = {name: _count(value) for name, value in tensors.items()}
    return some([f"{name} ({n} of {tensors[name].numel()})" for name, n in bad.items() if n])


def check_format(path: Path, dtype: str) -> None:
    """Raise VerificationError unless the floats in a file have the format that config.json says."""
    other = {
        key: name_of(tensor.dtype)
        for key, tensor in _tensors.mapped(path).tensors.items()
        if tensor.is_floating_point() and name_of(tensor.dtype) != dtype
    }
    if other:
        raise VerificationError(
            f"{path} is not in the number format {dtype}, as config.json says: "
            f"{some([f'{key} is {name}' for key, name in other.items()])}. Restore config.json, or "
            "copy or download the folder again."
        )


def check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights with numbers that are not finite, which make black or empty results.

    Args:
        tensors: by name.
        source: what they are called, for the error.

    Raises:
        VerificationError: there are some; names the tensors and how many.
    """
    if bad := not_finite(tensors):
        raise VerificationError(
            f"{source} holds numbers that are not finite (NaN or infinite): {bad}. Nothing can be "
            "computed with them: get the weights again, or take those of an earlier checkpoint."
        )


def some(names: list[str], limit: int = 5) -> str:
    """Join names, those after the first few by their number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Make the content of a safetensors file: the same for the same tensors and metadata.

    ``safetensors`` itself writes metadata in another order each time.
    """
    from safetensors.torch import save

    plain = {name: value.contiguous() for name, value in tensors.items()}
    data = save(plain, dict(metadata) or None)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    about = dict(sorted(header.pop("__metadata__", {}).items()))
    entries = sorted(header.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0]))
    text = json.dumps({"__metadata__": about, **dict(entries)}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _count(value: Tensor) -> int:
    """Count the numbers that are not finite."""
    if not value.numel() or not (value.is_floating_point() or value.is_complex()):
        return 0
    if value.is_floating_point():
        if value.element_size() < 2:
            value = value.float()
        if all(bool(bound.isfinite()) for bound in value.aminmax()):  # one pass, and no copy
            return 0
    return int((~value.isfinite()).sum())
