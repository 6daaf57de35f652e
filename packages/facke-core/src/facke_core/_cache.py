"""Files in facke's cache, each with its digest beside it: what does not match was never kept.

A cache saves time and decides nothing. Where it cannot be read or written, things are made anew.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from facke_core._files import sha256_of, write_bytes
from facke_core.environment import cache_folder

__all__: list[str] = []

SUFFIX = ".sha256"


def read(name: str) -> bytearray | None:
    """Return the content that was kept under ``name``; None if there is none, or a damaged one."""
    with suppress(OSError, RuntimeError):  # a user without a home
        path = cache_folder() / name
        content = bytearray(path.read_bytes())
        if hashlib.sha256(content).hexdigest().encode() == _seal(path).read_bytes().strip():
            return content
    return None


def write(name: str, content: bytes) -> Path | None:
    """Keep the content under ``name``; return its place, or None where it cannot be written."""
    with suppress(OSError, RuntimeError):
        path = cache_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        seal(path)
        return path
    return None


def seal(path: Path) -> None:
    """Note the digest of a file of the cache, which was just written.

    Raises:
        OSError: it cannot be read or noted.
    """
    write_bytes(_seal(path), f"{sha256_of(path)}\n".encode())


def sound(path: Path) -> bool:
    """Tell whether a file of the cache is there, and is what was written."""
    with suppress(OSError):
        return sha256_of(path).encode() == _seal(path).read_bytes().strip()
    return False


def _seal(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)
