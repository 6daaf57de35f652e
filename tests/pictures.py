"""Files of pictures, made by hand where Pillow cannot write what others do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageCms

PNG = b"\x89PNG\r\n\x1a\n"


def smooth(width: int = 48, height: int = 32) -> np.ndarray[Any, Any]:
    """Colours (H, W, 3) uint8 with every corner different."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], 2).astype(np.uint8)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunks(png: bytes, *chunks: bytes, last: bool = False) -> bytes:
    """A PNG with more chunks: after its header, or after the pixels."""
    at = png.rindex(b"IEND") - 4 if last else 33
    return png[:at] + b"".join(chunks) + png[at:]


def segment(content: bytes) -> bytes:
    """An APP1 segment of a JPEG."""
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def with_segments(jpeg: bytes, *contents: bytes) -> bytes:
    return jpeg[:2] + b"".join(map(segment, contents)) + jpeg[2:]


def exif(orientation: int, *entries: bytes) -> bytes:
    """A TIFF header, the orientation, and entries of 12 bytes each."""
    rows = [struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0), *entries]
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(rows)) + b"".join(rows) + bytes(4)


ODD_EXIF = {
    "text in a number": struct.pack(">HHI4s", 0x011A, 2, 4, b"abc\0"),
    "a negative number": struct.pack(">HHIi", 0x0213, 9, 1, -5),
    "a type that does not exist": struct.pack(">HHII", 0x0131, 99, 1, 0),
    "a place outside of the file": struct.pack(">HHII", 0x8769, 4, 1, 0x7FFFFFFF),
}


def rgb_profile(exponent: float, description: str = "sRGB linear") -> bytes:
    """An ICC profile with the primaries of sRGB and a power as its curve."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = struct.unpack(">I", srgb[128:132])[0]
    entries = [struct.unpack(">4sII", srgb[132 + 12 * i : 144 + 12 * i]) for i in range(count)]
    tags = {kind: srgb[at : at + size] for kind, at, size in entries}
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    text = description.encode("utf-16-be")
    tags[b"desc"] = (
        b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28)
    )
    tags[b"desc"] += text
    for kind in (b"rTRC", b"gTRC", b"bTRC"):
        tags[kind] = curve
    return _profile(srgb[:128], tags)


def grey_profile(exponent: float) -> bytes:
    """An ICC profile of grey with a power as its curve."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    white = b"XYZ " + bytes(4) + srgb[68:80]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    return _profile(srgb[:16] + b"GRAY" + srgb[20:128], {b"wtpt": white, b"kTRC": curve})


def _profile(head: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    for kind, content in tags.items():
        at = 132 + 12 * len(tags) + len(body)
        table += struct.pack(">4sII", kind, at, len(content))
        body += content + bytes(-len(content) % 4)
    return struct.pack(">I", 128 + len(table) + len(body)) + head[4:] + table + body


def png16(pixels: np.ndarray[Any, Any], *chunks: bytes) -> bytes:
    """A PNG of 16 bits: grey (H, W) or colours (H, W, 3 or 4) uint16."""
    colour = {1: 0, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        PNG
        + chunk(b"IHDR", head)
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def planar_tiff(planes: np.ndarray[Any, Any], order: str = "<", rows: int = 0) -> bytes:
    """An uncompressed TIFF of separate planes (C, H, W) uint8 or uint16, in strips of ``rows``."""
    count, height, width = planes.shape
    rows = rows or height
    deep = planes.dtype.itemsize
    strips = [
        planes[c, y : y + rows].astype(f"{order}u{deep}").tobytes()
        for c in range(count)
        for y in range(0, height, rows)
    ]
    n = len(strips)

    def entry(tag: int, kind: int, values: Sequence[int]) -> tuple[int, int, Sequence[int]]:
        return tag, kind, values

    entries = [
        entry(256, 4, [width]),
        entry(257, 4, [height]),
        entry(258, 3, [8 * deep] * count),
        entry(259, 3, [1]),
        entry(262, 3, [2]),
        entry(273, 4, [0] * n),
        entry(277, 3, [count]),
        entry(278, 4, [rows]),
        entry(279, 4, [len(strip) for strip in strips]),
        entry(284, 3, [2]),
        *([entry(338, 3, [2])] if count == 4 else []),
    ]
    beyond = 8 + 2 + 12 * len(entries) + 4
    sizes = {3: 2, 4: 4}
    after = beyond + sum(
        len(values) * sizes[kind] for _, kind, values in entries if len(values) * sizes[kind] > 4
    )
    places = [after + sum(map(len, strips[:i])) for i in range(n)]
    table, more = struct.pack(order + "H", len(entries)), b""
    for tag, kind, values in entries:
        data = struct.pack(
            f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *(places if tag == 273 else values)
        )
        if len(data) > 4:
            held = struct.pack(order + "I", beyond + len(more))
            more += data
        else:
            held = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, len(values)) + held
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + table + bytes(4) + more + b"".join(strips)
