"""What kind a file is, by its content: one picture, an animated one, or a clip. Loads no torch."""

from __future__ import annotations

from pathlib import Path

__all__: list[str] = []

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Ends of names of pictures that can be animated -> Pillow's names of the formats."""
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".vob", ".y4m"),
)
"""Ends of names of clips."""


def is_clip(path: Path) -> bool:
    """Tell whether a file is a clip or an animated picture, and not one picture."""
    return is_stream(path) or is_animated(path)


def is_animated(path: Path) -> bool:
    """Tell whether a file is a GIF, WebP or PNG with several frames; others are not looked at."""
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=tuple(set(ANIMATED.values()))) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except Exception:  # whoever reads it says what is wrong
        return False


def is_stream(path: Path) -> bool:
    """Tell whether a file is a clip, and no picture of any kind.

    One that cannot be told, such as an empty one, is what its name says.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(400)
    except OSError:
        return False
    if head[4:8] == b"ftyp":  # that of AVIF and HEIF, too, is a box of MP4
        return head[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    return (
        head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip")
        or head[:4] in (b"\x1a\x45\xdf\xa3", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1")
        or head[:4] in (b"\x30\x26\xb2\x75", b"\x06\x0e\x2b\x34", b"YUV4")
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or (head[:1] == b"G" and head[188:189] == b"G")
        or (head[4:5] == b"G" and head[196:197] == b"G")
        or (path.suffix.lower() in SUFFIXES and not _is_picture(path))
    )


def _is_picture(path: Path) -> bool:
    import PIL.Image

    try:
        with PIL.Image.open(path):
            return True
    except Exception:
        return False
