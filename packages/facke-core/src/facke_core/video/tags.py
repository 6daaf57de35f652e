"""Clips say that they are synthetic, in their XMP and in a comment that every player shows."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

from facke_core._version import __version__
from facke_core.errors import ImageError
from facke_core.images.provenance import parse_packet
from facke_core.video.media import opened

if TYPE_CHECKING:
    from facke_core.types import SwapRequest

__all__: list[str] = []

XMP = "XMP"
"""The tag of Matroska and WebM that holds the packet."""
COMMENT = "comment"
_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""The box of XMP in MP4 and QuickTime (XMP specification, part 3)."""
_MAX_BYTES = 4_000_000


def comment(request: SwapRequest, before: str = "") -> str:
    """The sentence of disclosure, after what the clip's own comment said."""
    by = " ".join(filter(None, (request.method, request.weights)))
    seed = "" if request.seed is None else f", seed {request.seed}"
    said = f"Synthetic: faces were swapped by facke {__version__} ({by}{seed})."
    return said if not before or before == said else f"{before} | {said}"


def add_box(file: BinaryIO, xmp: bytes) -> None:
    """Put the box of XMP at the end of an MP4 or QuickTime file."""
    file.seek(0, 2)
    file.write(struct.pack(">I4s", 24 + len(xmp), b"uuid") + _UUID + xmp)


def read_disclosure(path: Path) -> dict[str, str]:
    """Read what a clip says about its making, as of pictures
    (:func:`facke_core.images.provenance.read_disclosure`); empty where it says nothing.

    Raises:
        ImageError: no clip that can be read, or its XMP is broken.
    """
    with opened(path) as container:
        packet = _tag(container.metadata, XMP).encode() or _box(path)
    if not packet:
        return {}
    try:
        return parse_packet(packet)
    except (ValueError, LookupError, ElementTree.ParseError, expat.ExpatError) as error:
        raise ImageError(
            f"{path}: its XMP metadata cannot be read ({error}). The clip itself may be fine; "
            "nothing can be said about its origin."
        ) from error


def _tag(metadata: Mapping[str, Any], name: str) -> str:
    return next((str(text) for key, text in metadata.items() if key.upper() == name), "")


def _box(path: Path) -> bytes:
    """The content of the box of XMP among the boxes of a file, if it has any."""
    size_of_file = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= size_of_file:
            file.seek(at)
            size, kind = struct.unpack(">I4s", file.read(8))
            head = 8
            if size == 1:
                (size,) = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))
                head = 16
            size = size or size_of_file - at
            if size < head or not kind.isalnum():
                return b""
            if kind == b"uuid" and size - head - 16 <= _MAX_BYTES and file.read(16) == _UUID:
                return file.read(size - head - 16)
            at += size
    return b""
