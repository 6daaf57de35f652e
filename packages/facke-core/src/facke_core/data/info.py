"""``dataset.json``: what a crop set says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from facke_core.config import from_dict, read_json
from facke_core.errors import check_ranges

__all__: list[str] = []

FORMAT = 3
"""Version of the layout of a crop set."""
INFO = "dataset.json"

Store = Literal["tensors", "webdataset"]
"""The form of the shards: memory-mapped safetensors, or WebDataset tars of PNGs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """The entries that facke reads; there may be others.

    Raises:
        ConfigError: a number out of its range.
    """

    format: int = 1
    name: str = ""
    license: str = ""
    alignment: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Fields of :class:`facke_core.faces.templates.Alignment`."""
    aligned: bool = False
    """True where the pictures were crops already."""
    identity_encoder: Mapping[str, Any] = field(default_factory=dict)
    """``{"name": ..., **settings}`` of the encoder of the vectors."""
    encoder_digest: str = ""
    store: Store = "tensors"
    digits: int = 1
    """Hexadecimal digits in the names of the shards."""
    count: int = 0
    rows: str = ""
    """SHA-256 of the keys."""
    preparation: str = ""
    people: tuple[str, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    manifest: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, INFO, format=(1, 2**31), digits=(1, 64), count=(0, 2**40))


_KNOWN = frozenset(entry.name for entry in fields(DatasetInfo))


def read_info(folder: Path) -> tuple[DatasetInfo, dict[str, Any]]:
    """Read ``dataset.json`` of a folder, of whichever version: what facke knows in it, and all.

    Raises:
        ConfigError: it cannot be read, or an entry has the wrong type.
    """
    content = read_json(folder / INFO)
    known = {key: value for key, value in content.items() if key in _KNOWN}
    return from_dict(DatasetInfo, known, where=INFO), content
