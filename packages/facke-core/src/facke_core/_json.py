"""The one reader of JSON: what files and other people say is bounded before anything believes it.

Python's own reader accepts NaN, keys that come twice, numbers without end and any depth, and
makes up to thirty bytes of memory of each byte of text. Types are a matter of
:func:`facke_core.config.from_dict`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

__all__: list[str] = []

MAX_DEPTH = 64
"""Objects and lists inside each other."""
MAX_MEMORY = 400_000_000
"""Bytes of memory that a text may take; a report of 100,000 pairs takes half of it."""
_COSTS = ((b"{", 240), (b"[", 80), (b",", 64))
"""Bytes of memory for what each of these begins, at most."""
_ODD = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""NUL, or half of a character: no file can have the one in its name, no text the other."""


def parse(text: str | bytes) -> Any:
    """Parse JSON strictly.

    Args:
        text: as text, or in UTF-8.

    Returns:
        Values of finite floats, integers of 64 bits, strings that can be written, lists and dicts.

    Raises:
        ValueError: it is no strict JSON, nested more deeply than :data:`MAX_DEPTH`, or takes more
            than :data:`MAX_MEMORY`; says why.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    cost = (2 if data.isascii() else 5) * len(data)
    cost += sum(bytes_ * data.count(begin) for begin, bytes_ in _COSTS)
    if cost > MAX_MEMORY:
        raise ValueError(
            f"it would take {cost / 1e6:.0f} MB of memory, more than any of facke's files"
        )
    text = data.decode("utf-8-sig")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(f"it is nested more deeply than {MAX_DEPTH} levels") from None
    _check(value, strings=bool(_ODD.search(text)))
    return value


def read(path: Path) -> Any:
    """:func:`parse` the content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: see :func:`parse`.
    """
    data = bytearray()
    with path.open("rb") as file:  # in pieces, because a device has no size and no end
        while 2 * len(data) <= MAX_MEMORY and (piece := file.read(2**20)):
            data += piece
    return parse(bytes(data))


def _check(value: Any, *, strings: bool) -> None:
    """Refuse too much depth, and texts that cannot be written."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
                if strings:
                    inner += item
            elif isinstance(item, list):
                inner += item
            elif strings and isinstance(item, str):
                _writable(item)
        if not strings:
            inner = [item for item in inner if isinstance(item, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested more deeply than {MAX_DEPTH} levels")


def _writable(text: str) -> None:
    if "\0" in text:
        raise ValueError("a text in it holds the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it holds half of a character") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = ""
        for name, _ in pairs:
            twice = name if name in seen else twice
            seen.add(name)
        raise ValueError(f"the key {twice[:60]!r} appears twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"{text[:20]} is no integer of 64 bits")
    return number
