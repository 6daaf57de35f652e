"""Checks of image files before anything is decoded; loads neither torch nor numpy.

Commands call :func:`check_input` and :func:`check_output` first, so that a wrong path or an
enormous picture costs neither seconds nor memory.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import PIL.Image

from facke_core.errors import FackeError, ImageError

__all__: list[str] = []

MAX_PIXELS = 100_000_000
"""Most pixels of a picture; larger ones are refused by their header, before decoding."""

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


def check_input(path: str | PathLike[str]) -> None:
    """Read the header of an image file, and refuse what :func:`open_image` would refuse.

    Raises:
        ImageError: it is missing, no image or larger than :data:`MAX_PIXELS`.
    """
    with open_image(path):
        pass


@contextmanager
def open_image(path: str | PathLike[str]) -> Iterator[PIL.Image.Image]:
    """Open an image file, with its header read and its size checked.

    Raises:
        ImageError: it is missing, no image or larger than :data:`MAX_PIXELS`; also for what goes
            wrong in the ``with`` block (:func:`explaining`).
    """
    name = os.fspath(path)
    file = Path(path)
    with explaining(name), warnings.catch_warnings():
        if file.is_dir():
            raise ImageError(f"{name} is a folder. Give an image file.")
        if not file.exists():
            raise ImageError(f"{name} does not exist. Check the path and the spelling.")
        if file.is_file() and file.stat().st_size == 0:
            raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # bombs are checked, damage raises
        with PIL.Image.open(file, formats=READABLE) as picture:
            check_pixels(picture, name)
            yield picture


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Turn what Pillow raises in the ``with`` block into an ImageError with a reason and a remedy.

    Raises:
        ImageError: anything but a FackeError was raised inside.
    """
    try:
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


def check_pixels(picture: PIL.Image.Image, name: str) -> None:
    """Refuse a picture of too many pixels; ``name`` is for the message.

    Raises:
        ImageError: it has more than :data:`MAX_PIXELS`.
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{width} x {height} pixels")


def _too_many_pixels(name: str, size: str) -> ImageError:
    return ImageError(
        f"{name} is too large ({size}): at most {MAX_PIXELS // 10**6} megapixels are read, "
        "because a small file can expand to many gigabytes. Make it smaller first."
    )


def check_output(path: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Return ``path``, or fail early where :func:`~facke_core.images.io.write_image` would fail.

    Raises:
        ImageError: unknown extension, missing or unwritable folder, existing file.
    """
    file = Path(path)
    try:
        _check_place(file, overwrite)
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
