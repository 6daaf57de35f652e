"""Colours of embedded ICC profiles, brought to sRGB; one that cannot be used costs a warning."""

from __future__ import annotations

import functools
import io
import struct
import warnings
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL import ImageCms
from torch import Tensor

from facke_core.errors import FackeWarning, ImageError

__all__: list[str] = []

_NO_PROFILE = (ImageCms.PyCMSError, OSError, ValueError)


def to_srgb(picture: PIL.Image.Image, profile: bytes | None, name: str) -> PIL.Image.Image:
    """Convert the colours from an embedded profile; a profile that is sRGB changes nothing."""
    if profile:
        try:
            if not _is_srgb(profile, picture.mode):
                converted = ImageCms.profileToProfile(
                    picture, _opened(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                return converted if converted is not None else picture
        except _NO_PROFILE as error:
            _warn_of_profile(name, error)
    return picture.convert("RGB") if picture.mode == "CMYK" else picture


def grey_to_srgb(values: Tensor, profile: bytes | None, name: str) -> Tensor:
    """Convert grey values (1, H, W) in [0, 1] from an embedded profile, with 16 bits."""
    if profile:
        try:
            if not _is_srgb(profile, "L"):
                deep = (values[0] * 65535).round().numpy().astype(np.uint16)
                converted = ImageCms.profileToProfile(
                    PIL.Image.fromarray(deep),
                    _opened(profile),
                    _opened(_grey_profile()),
                    outputMode="I;16",
                    flags=ImageCms.Flags.NOOPTIMIZE,  # whose tables are coarse in the shadows
                )
                return scaled_integers(np.asarray(converted), name)
        except _NO_PROFILE as error:
            _warn_of_profile(name, error)
    return values


def _warn_of_profile(name: str, error: Exception) -> None:
    warnings.warn(
        f"{name}: its colour profile cannot be used ({error}); the colours are read as "
        "sRGB and may look different.",
        FackeWarning,
        stacklevel=3,
    )


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


@functools.lru_cache(maxsize=16)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Tell whether a profile moves none of many colours by more than 2 of 255.

    Its description says little: there are linear profiles that call themselves sRGB.

    Raises:
        PyCMSError, OSError, ValueError: it is none for pictures of this mode.
    """
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 33).round().astype(np.uint8)
    shades = np.arange(256, dtype=np.uint8)
    if mode == "L":
        before = PIL.Image.fromarray(shades[None])
    else:
        cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        before = PIL.Image.fromarray(np.concatenate([cube, shades[None, :, None].repeat(3, 2)], 1))
    after = ImageCms.profileToProfile(
        before, _opened(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    moved = np.asarray(after, np.int16) - np.asarray(before.convert("RGB"), np.int16)
    return int(np.abs(moved).max()) <= 2


@functools.cache
def _grey_profile() -> bytes:
    """An ICC profile of grey with the curve of sRGB."""

    def numbers(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = numbers(0.9642, 1.0, 0.8249)
    point = b"XYZ " + bytes(4) + white
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += numbers(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII", 2, b"wtpt", start, len(point))
    tags += struct.pack(">4sII", b"kTRC", start + len(point), len(curve))
    kind = b"\4\x20\0\0mntrGRAYXYZ "
    head = struct.pack(">II", start + len(point) + len(curve), 0) + kind + bytes(12) + b"acsp"
    return (head + bytes(28) + white).ljust(128, b"\0") + tags + point + curve


def scaled_integers(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """Integer grey values (H, W) of at most 16 bits as (1, H, W) in [0, 1]."""
    values = torch.from_numpy(array.astype(np.int64))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{name} holds whole numbers from {low} to {high}: at most 16 bits (0 to 65535) are "
            "understood. Convert it to an 8- or 16-bit picture."
        )
    return (values.float() / 65535)[None]
