"""What picture files say beside their pixels: profile, orientation, XMP. Loads no torch.

A fault in them is no fault of the picture. Pillow reads them together with the pixels and gives
the picture up where it cannot parse them, so the parts of a PNG are sorted here: Pillow gets those
that make the picture, and what is read of the others is bounded.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import PIL.TiffImagePlugin

from facke_core.errors import FackeWarning

__all__: list[str] = []

MAX_BYTES = 16 << 20
"""Most bytes of one piece of metadata, decompressed; larger ones are not read."""
MAX_PACKETS = 100
"""Most XMP packets of one file that are looked at."""
ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
XMP_TAG = 700
"""The tag of a TIFF that holds its XMP packet."""
_XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_XMP_PNG = b"XML:com.adobe.xmp"
_XMP_GIF = rb"!\xff\x0bXMP DataXMP(.*?)\x01\xff\xfe\xfd"


def open_picture(file: BinaryIO, formats: tuple[str, ...] | None = None) -> PIL.Image.Image:
    """Open a picture with Pillow so that its metadata can do no harm when it is loaded.

    Raises:
        Exception: whatever Pillow raises.
    """
    if _begins(file, _PNG):
        return _open_png(file, formats)
    try:
        picture = PIL.Image.open(file, formats=formats)
    except Exception:
        # Pillow writes the EXIF of an AVIF anew where the file says a turn beside it
        if _begins(file, b"ftypavif", 4) or _begins(file, b"ftypavis", 4):
            return PIL.Image.open(_without_exif(file), formats=formats)
        raise
    if isinstance(picture, PIL.TiffImagePlugin.TiffImageFile):
        # Pillow turns these when they are loaded, and looks into all of EXIF then
        with suppress(Exception):
            exif = picture.getexif()
            for key in [key for key in exif if key != ORIENTATION]:
                del exif[key]
    return picture


def orientation(picture: PIL.Image.Image, name: str) -> int:
    """Read how a picture is to be turned, 1 to 8 as EXIF has it; 1 where that cannot be read."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception as error:  # parsers raise nearly every type
        warnings.warn(
            f"{name}: its EXIF metadata cannot be read ({error}); the picture is taken as it is "
            "stored, and may lie on its side.",
            FackeWarning,
            stacklevel=2,
        )
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def xmp_packets(path: Path) -> list[bytes]:
    """Read the XMP packets of a picture that Pillow can open, wherever they stand in the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if _begins(file, _PNG):
            packets = _png_xmp(file)
        elif _begins(file, b"\xff\xd8"):
            packets = _jpeg_xmp(file)
        else:
            packets = _other_xmp(file)
        return [packet for packet, _ in zip(packets, range(MAX_PACKETS), strict=False) if packet]


def _begins(file: BinaryIO, signature: bytes, at: int = 0) -> bool:
    file.seek(at)
    same = file.read(len(signature)) == signature
    file.seek(0)
    return same


# PNG


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The kind and length of each chunk, with the file at its content; ends where they do."""
    place = len(_PNG)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        place += 12 + length
        yield kind, length
        if kind == b"IEND":
            return


def _open_png(file: BinaryIO, formats: tuple[str, ...] | None) -> PIL.Image.Image:
    pixels, info = io.BytesIO(), {}
    pixels.write(_PNG)
    for kind, length in _chunks(file):
        if kind[:1].isupper() or kind == b"tRNS":  # critical ones, and transparency
            pixels.write(struct.pack(">I4s", length, kind) + file.read(length + 4))
        elif length <= MAX_BYTES:
            with suppress(ValueError, zlib.error):
                info.update(_png_info(kind, file.read(length)))
    pixels.seek(0)
    picture = PIL.Image.open(pixels, formats=formats)
    picture.info.update(info)
    return picture


def _png_info(kind: bytes, content: bytes) -> dict[str, str | bytes]:
    """The entries of Pillow's ``info`` that a chunk stands for, of those that are used."""
    if kind == b"eXIf":
        return {"exif": b"Exif\0\0" + content}
    if kind == b"iCCP":
        packed = content.partition(b"\0")[2][1:]
        try:
            return {"icc_profile": inflate(packed)}
        except (ValueError, zlib.error):
            return {"icc_profile": packed}  # no profile, and reported where it is applied
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return {}
    key, text = _png_text(kind, content)
    if key == b"Raw profile type exif":
        return {key.decode(): text.decode("latin-1")}
    return {"xmp": text} if key == _XMP_PNG else {}


def _png_text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """The key and the text of a chunk of text."""
    key, _, rest = content.partition(b"\0")
    if kind == b"tEXt":
        return key, rest
    if kind == b"zTXt":
        return key, inflate(rest[1:])
    packed = rest[:1] == b"\1"
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # after the language, twice
    return key, inflate(text) if packed else text


def inflate(data: bytes) -> bytes:
    """Decompress at most :data:`MAX_BYTES`.

    Raises:
        ValueError: it is larger.
        zlib.error: it is damaged.
    """
    machine = zlib.decompressobj()
    text = machine.decompress(data, MAX_BYTES)
    if machine.unconsumed_tail:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return text


def _png_xmp(file: BinaryIO) -> Iterator[bytes]:
    for kind, length in _chunks(file):
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or length > MAX_BYTES:
            continue
        with suppress(ValueError, zlib.error):
            key, text = _png_text(kind, file.read(length))
            if key == _XMP_PNG:
                yield text
            elif key == b"Raw profile type xmp":  # of ImageMagick: a name, a length, hexadecimal
                yield bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))


# Others


def _jpeg_xmp(file: BinaryIO) -> Iterator[bytes]:
    """The packets of all segments; the parts of an extended one are put together."""
    parts: dict[bytes, dict[int, bytes]] = {}
    file.seek(2)
    while (head := file.read(2)) and head[0] == 0xFF:
        kind = head[1]
        if kind == 0xFF:  # padding
            file.seek(-1, io.SEEK_CUR)
            continue
        if kind in (0xDA, 0xD9):  # the pixels begin, or the file ends
            break
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # they have no content
            continue
        length = int.from_bytes(file.read(2), "big")
        content = file.read(max(length - 2, 0))
        if kind == 0xE1 and content.startswith(_XMP_JPEG):
            yield content[len(_XMP_JPEG) :]
        elif kind == 0xE1 and content.startswith(_XMP_MORE):
            rest = content[len(_XMP_MORE) :]
            parts.setdefault(rest[:32], {})[int.from_bytes(rest[36:40], "big")] = rest[40:]
    for pieces in parts.values():
        yield b"".join(pieces[at] for at in sorted(pieces))


def _other_xmp(file: BinaryIO) -> Iterator[bytes]:
    """The packets of a format whose metadata Pillow keeps apart from the pixels."""
    if _begins(file, b"RIFF"):
        place = 12
        while file.seek(place) and len(head := file.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            if kind == b"XMP " and length <= MAX_BYTES:
                yield file.read(length)
            place += 8 + length + length % 2
        return
    if _begins(file, b"GIF8"):  # of which Pillow keeps no packet
        yield from re.findall(_XMP_GIF, file.read(MAX_BYTES), re.DOTALL)
        return
    with open_picture(file) as picture:
        packet = picture.info.get("xmp") or getattr(picture, "tag_v2", {}).get(XMP_TAG)
        if packet:
            yield packet.encode() if isinstance(packet, str) else bytes(packet)


def _without_exif(file: BinaryIO) -> BinaryIO:
    """A copy of an AVIF whose EXIF has no entry."""
    file.seek(0)
    data = bytearray(file.read())
    for header, count in ((b"II*\0\x08\0\0\0", 8), (b"MM\0*\0\0\0\x08", 8)):
        at = data.find(header)
        if at >= 0:
            data[at + count : at + count + 2] = b"\0\0"
    return io.BytesIO(bytes(data))
