"""Checks of image files before anything is decoded; loads neither torch nor numpy.

Commands call :func:`check_input` and :func:`check_output` first, so that a wrong path or an
enormous picture costs neither seconds nor memory.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path

import PIL.Image

from facke_core._files import one_job
from facke_core.errors import FackeError, ImageError, OutOfMemoryError, lacks_memory
from facke_core.images.metadata import open_picture

__all__: list[str] = []

MAX_PIXELS = 100_000_000
"""Most pixels of a picture; larger ones are refused by their header, before decoding."""
MAX_MEMORY = 2_500_000_000
"""Most bytes that reading a picture may take; estimated from its header, before decoding."""
FREE_MEMORY = 256_000_000
"""Bytes that reading may take for every file, however small."""
MEMORY_PER_BYTE = 2000
"""Bytes that reading may take besides, for each byte of the file. Photographs need 20 to 1000."""

READABLE = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""Pillow's names of the formats that are read."""
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
SUFFIXES = (*WRITABLE, ".bmp", ".gif", ".ppm")
"""Ends of names of pictures, in folders where other files lie too."""
_OF_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}
"""Longest sides, in pixels, that can be written and read again, of formats that have a limit."""


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is of a system's own making: ``._a.jpg`` of macOS,
    ``Thumbs.db`` of Windows, thumbnails of network disks."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def pictures_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """Return the pictures in a folder by the ends of their names, sorted; hidden ones are left out.

    Args:
        folder: where to look.
        deep: also in the folders inside it.
    """
    inside = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path
        for path in inside
        if path.suffix.lower() in SUFFIXES
        and not any(map(is_hidden, path.relative_to(folder).parts))
    )


def check_input(path: str | PathLike[str]) -> tuple[int, int]:
    """Read the header of an image file, and refuse what :func:`open_image` would refuse.

    Returns:
        Its sides in pixels, as they are stored: a photo that lies on its side has them exchanged.

    Raises:
        ImageError: it is missing, no image, or too large.
    """
    with open_image(path) as picture:
        return picture.size


@contextmanager
def open_image(path: str | PathLike[str]) -> Iterator[PIL.Image.Image]:
    """Open an image file, with its header read and its size checked.

    Raises:
        ImageError: it is missing, no image, larger than :data:`MAX_PIXELS`, or would take more
            memory than it may; also for what goes wrong in the ``with`` block.
        OutOfMemoryError: there is less memory than it may take.
    """
    name = os.fspath(path)
    file = Path(path)
    with explaining(name), warnings.catch_warnings():
        if file.is_dir():
            raise ImageError(f"{name} is a folder. Give an image file.")
        if not file.exists():
            raise ImageError(f"{name} does not exist. Check the path and the spelling.")
        kept = file.stat()
        if not stat.S_ISREG(kept.st_mode):  # it may have no end, and can be read once only
            raise ImageError(
                f"{name} is a pipe or a device, not a file. Save the picture to a file first."
            )
        if kept.st_size == 0:
            raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # bombs are checked, damage raises
        with file.open("rb") as stream, open_picture(stream, READABLE) as picture:
            check_pixels(picture, name, kept.st_size)
            yield picture


def one_picture(path: Path) -> AbstractContextManager[None]:
    """Keep other jobs from the place of a picture that takes long to make, while inside.

    Raises:
        DataError: another job has it, or its folder cannot be written.
    """
    return one_job(path, beside=True)


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Turn what Pillow raises in the ``with`` block into an ImageError with a reason and a remedy.

    Raises:
        OutOfMemoryError: memory did not suffice.
        ImageError: anything else but a FackeError was raised inside.
    """
    try:
        with explaining_memory(name):
            yield
    except FackeError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image that can be read: its content is none of "
            f"{', '.join(READABLE)}. Convert it to PNG or JPEG."
        ) from error
    except PIL.Image.DecompressionBombError as error:
        number = re.search(r"\d+", str(error))
        raise _too_many_pixels(name, f"{number[0]} pixels" if number else "") from error
    except Exception as error:  # decoders raise nearly every type on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(
                f"{name} cannot be read: {error.strerror}. Check the path and its rights."
            ) from error
        raise ImageError(
            f"{name} is damaged or incomplete: {error}. Copy or download it again, "
            "or open it in an image editor and save it anew."
        ) from error


@contextmanager
def explaining_memory(name: str) -> Iterator[None]:
    """Turn an error for want of memory in the ``with`` block into an OutOfMemoryError.

    Raises:
        OutOfMemoryError: memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FackeError) or not lacks_memory(error):
            raise
        raise OutOfMemoryError(
            f"{name} needs more memory than this process can get. It may be a good picture: make "
            "it smaller, close other programs, or raise the limit (`ulimit -v`, a container's)."
        ) from error


def check_pixels(picture: PIL.Image.Image, name: str, file_size: int | None = None) -> None:
    """Refuse a picture that is too large to be read; ``name`` is for the message.

    Args:
        picture: with its header read; nothing is decoded.
        name: for the message.
        file_size: in bytes; None where the picture comes from no file.

    Raises:
        ImageError: it has more than :data:`MAX_PIXELS`, or would take more than
            :data:`MAX_MEMORY`, or far more than a photograph of ``file_size``.
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{width} x {height} pixels")
    needed, allowed = width * height * _bytes_per_pixel(picture), MAX_MEMORY
    if file_size is not None:
        allowed = min(allowed, FREE_MEMORY + MEMORY_PER_BYTE * file_size)
    if needed > allowed:
        raise ImageError(
            f"{name} is too large ({width} x {height} pixels): reading it would take about "
            f"{needed / 1e9:.1f} GB of memory, and at most {allowed / 1e9:.1f} GB are used for a "
            "file of its size and kind. Make it smaller first."
        )


def _bytes_per_pixel(picture: PIL.Image.Image) -> int:
    """The memory that reading takes at its peak, by measurement, rounded up."""
    needed = 36 if picture.mode in _WITH_ALPHA or "transparency" in picture.info else 24
    # decoders of animations keep canvases besides
    return needed + {"WEBP": 12, "AVIF": 12, "GIF": 8}.get(picture.format or "", 0)


def _too_many_pixels(name: str, size: str) -> ImageError:
    return ImageError(
        f"{name} is too large ({size}): at most {MAX_PIXELS // 10**6} megapixels are read, "
        "because a small file can expand to many gigabytes. Make it smaller first."
    )


def check_output(
    path: str | PathLike[str], *, overwrite: bool = False, size: tuple[int, int] | None = None
) -> Path:
    """Return ``path``, or fail early where :func:`~facke_core.images.io.write_image` would fail.

    Args:
        path: where to.
        overwrite: a file may be there.
        size: sides of the picture in pixels, where they are known; in any order.

    Raises:
        ImageError: unknown extension, missing or unwritable folder, existing file, or a format that
            knows no such sides.
    """
    file = Path(path)
    try:
        _check_place(file, overwrite)
        if size is not None:
            _check_sides(file, size)
    except OSError as error:
        raise ImageError(
            f"{file} cannot be written: {error.strerror}. Choose another name or folder."
        ) from error
    return file


def _check_place(file: Path, overwrite: bool) -> None:
    if file.suffix.lower() not in WRITABLE:
        raise ImageError(
            f"{file} cannot be written: the extension {file.suffix!r} is none of "
            f"{', '.join(WRITABLE)}. Choose one of them, e.g. {file.stem or 'out'}.png."
        )
    if file.is_dir():
        raise ImageError(f"{file} is a folder. Give the name of a file in it.")
    if not file.parent.is_dir():
        raise ImageError(
            f"{file} cannot be written: the folder {file.parent} does not exist. Make it first."
        )
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise ImageError(
            f"{file} cannot be written: no permission to write into the folder {file.parent}. "
            "Choose another folder or change its rights."
        )
    if file.exists() and not overwrite:
        raise ImageError(
            f"{file} exists already. Choose another name, or overwrite it with `overwrite=True`."
        )


def _check_sides(file: Path, size: tuple[int, int]) -> None:
    form = WRITABLE[file.suffix.lower()]
    limit = MAX_SIDE.get(form)
    if limit is not None and max(size) > limit:
        raise ImageError(
            f"{file} cannot be written: the picture is {size[0]} x {size[1]} pixels, and {form} "
            f"takes at most {limit} on a side. Write {file.stem}.png or .tif instead."
        )
