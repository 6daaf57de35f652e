"""Reading and writing photos: RGB, float32, (3, H, W), [0, 1], sRGB, upright.

Everything that can go wrong with a picture becomes one :class:`~facke_core.errors.ImageError`.
Results are written with 8 bits per channel. 16-bit grey pictures are read exactly, 16-bit colour
with 8 bits (what Pillow gives).
"""

from __future__ import annotations

import io
import os
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import torch
import torch.nn.functional as F
from PIL import PngImagePlugin
from PIL.Image import Transpose
from torch import Tensor

from facke_core._files import write_bytes
from facke_core.errors import ImageError
from facke_core.images.files import (
    WRITABLE,
    check_output,
    check_pixels,
    explaining,
    explaining_memory,
    open_image,
)
from facke_core.images.metadata import XMP_TAG, orientation
from facke_core.images.profiles import grey_to_srgb, scaled_integers, to_srgb

__all__ = ["ImageLike", "Photo", "read_image", "resize", "to_pil", "write_image"]

ImageLike = str | PathLike[str] | PIL.Image.Image | np.ndarray[Any, Any] | Tensor
"""A picture in any form that :func:`read_image` takes."""

PNG_LEVEL = 3
"""Compression level of zlib, 0 to 9: 3 takes two thirds of the time of Pillow's 6, and an eighth
more bytes."""
_BITS, _PLANES = 258, 284
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


class Photo(NamedTuple):
    """A picture that was read."""

    image: Tensor
    """Colours (3, H, W) float32 RGB in [0, 1], on the CPU."""
    alpha: Tensor | None
    """Opacity (1, H, W) float32 in [0, 1]; None where the picture has no transparency."""
    name: str
    """Name in messages: the path, or the kind of object that was given."""


def read_image(source: ImageLike) -> Photo:
    """Read a photo from a file, a PIL image, an array or a tensor.

    Files and PIL images: EXIF orientation is applied, an embedded colour profile is converted to
    sRGB, transparency is kept apart, of several frames the first is taken.
    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors (1, H, W), (3, H, W) or
    (4, H, W), in RGB order; uint8, uint16 or float in [0, 1].

    Raises:
        ImageError: it cannot be read; says what, why and what to do.
        OutOfMemoryError: memory does not suffice for it.
    """
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, PIL.Image.Image):
        name = getattr(source, "filename", "") or "the given PIL image"
        with explaining(name):
            return _from_pil(source, name)
    if not isinstance(source, str | PathLike):
        raise ImageError(
            f"An image was given as {type(source).__name__}, which is not known: "
            "give a path, a PIL image, a numpy array or a torch tensor."
        )
    with open_image(source) as picture:
        return _from_pil(picture, os.fspath(source))


def _from_pil(picture: PIL.Image.Image, name: str) -> Photo:
    check_pixels(picture, name)
    profile, transparent = picture.info.get("icc_profile"), picture.info.get("transparency")
    _mend_tiles(picture, name)
    picture.load()
    turn = _TURNS.get(orientation(picture, name))
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture, profile, transparent, name)
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("LA" if picture.mode in ("LA", "La") else "RGBA")
        alpha = _channels(picture.getchannel("A"))
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert(picture.mode[:-1])  # drops the alpha, keeps the colours
    elif picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return Photo(_rgb(_channels(to_srgb(picture, profile, name))), alpha, name)


def _mend_tiles(picture: PIL.Image.Image, name: str) -> None:
    """Put right what Pillow 13 takes the numbers of some TIFFs to be.

    Raw planes of 16 bits are read as if they had 8, and big-endian floats that libtiff has unpacked
    as if they were so still.
    """
    if not isinstance(picture, PIL.TiffImagePlugin.TiffImageFile):
        return
    tags = picture.tag_v2
    deep_planes = tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) == 16
    order = "B" if tags.prefix == b"MM" else "L"
    tiles = []
    for tile in picture.tile:
        mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if tile.codec_name == "raw" and deep_planes:
            if mode not in ("R", "G", "B", "A"):
                raise ImageError(
                    f"{name} cannot be read: a TIFF of {picture.mode} in separate planes of 16 "
                    "bits is not understood. Save it as RGB, or with 8 bits."
                )
            tile = tile._replace(args=(f"{mode};16{order}", *rest))
        elif tile.codec_name == "libtiff" and mode == "F;32BF":
            tile = tile._replace(args=("F;32NF", *rest))
        tiles.append(tile)
    picture.tile = tiles


def _from_deep_grey(
    picture: PIL.Image.Image, profile: bytes | None, transparent: object, name: str
) -> Photo:
    """A grey picture of 16-bit integers or floats."""
    if picture.mode == "F":
        floats = torch.from_numpy(np.array(picture, dtype=np.float32))
        grey = grey_to_srgb(_unit_range(floats, name)[None], profile, name)
        return Photo(_rgb(grey), None, name)
    array = np.asarray(picture)
    grey = grey_to_srgb(scaled_integers(array, name), profile, name)
    alpha = None
    if isinstance(transparent, int):  # this value, in a PNG
        alpha = torch.from_numpy(np.array(array != transparent, dtype=np.float32))[None]
    return Photo(_rgb(grey), alpha, name)


def _channels(picture: PIL.Image.Image) -> Tensor:
    """An 8-bit picture as (C, H, W) in [0, 1]."""
    array = torch.from_numpy(np.array(picture, dtype=np.uint8))
    array = array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    return array.contiguous().float().div_(255)  # bytes are moved faster than floats


def _rgb(image: Tensor) -> Tensor:
    return image.expand(3, -1, -1).contiguous() if image.shape[0] == 1 else image


def _unit_range(values: Tensor, name: str) -> Tensor:
    """Floats, checked to lie in [0, 1]; rounding noise is clamped."""
    if not bool(torch.isfinite(values).all()):
        raise ImageError(
            f"{name} holds values that are not finite (NaN or infinity). "
            "Find where they arise, or replace them, e.g. by torch.nan_to_num."
        )
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        if low < 0:
            advice = "If it was normalised to [-1, 1], give image / 2 + 0.5."
        elif high <= 255:
            advice = "If white is 255, give image / 255 or an array of uint8."
        else:
            advice = "Scale it so that black is 0 and white is 1."
        raise ImageError(
            f"{name} holds values from {low:g} to {high:g}: floats must lie in [0, 1]. {advice}"
        )
    return values.clamp(0, 1)


def _from_array(array: np.ndarray[Any, Any]) -> Photo:
    name = f"the given array of shape {array.shape}"
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        hint = ""
        if image.ndim == 3 and image.shape[0] in (1, 3, 4):
            hint = " Give array.transpose(1, 2, 0)."
        raise ImageError(
            f"{name} is not a picture: arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
            f"{hint or ' For several pictures call once for each.'}"
        )
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / 65535
    if image.dtype.kind not in "fu" or (image.dtype.kind == "u" and image.dtype != np.uint8):
        raise _wrong_dtype(name, str(image.dtype))
    if image.dtype.kind == "f":
        image = image.astype(np.float32)
    values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return _from_values(values, name)


def _from_tensor(tensor: Tensor) -> Photo:
    name = f"the given tensor of shape {tuple(tensor.shape)}"
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        if tensor.ndim == 4:
            hint = "For a batch call once for each picture, e.g. with images[0]."
        elif tensor.ndim == 3 and tensor.shape[2] in (1, 3, 4):
            hint = "Give image.permute(2, 0, 1)."
        else:
            hint = "Give the picture with its channels first."
        raise ImageError(
            f"{name} is not a picture: tensors are (1, H, W), (3, H, W) or (4, H, W). {hint}"
        )
    values = tensor.detach().cpu()
    if values.dtype == torch.uint16:
        values = values.float() / 65535
    if not (values.is_floating_point() or values.dtype == torch.uint8):
        raise _wrong_dtype(name, str(tensor.dtype))
    return _from_values(values, name)


def _wrong_dtype(name: str, dtype: str) -> ImageError:
    return ImageError(
        f"{name} has type {dtype}, whose range is not known: "
        "give uint8 (0 to 255), uint16 (0 to 65535) or floats in [0, 1]."
    )


def _from_values(values: Tensor, name: str) -> Photo:
    """Make a photo of uint8 or float values (1 | 3 | 4, H, W); always a copy."""
    if values.numel() == 0:
        raise ImageError(f"{name} is empty. Give a picture of at least one pixel.")
    if values.dtype == torch.uint8:
        image = values.float() / 255
    else:
        image = _unit_range(values.float(), name)
    alpha = image[3:].contiguous() if image.shape[0] == 4 else None
    return Photo(_rgb(image[:3]).contiguous(), alpha, name)


def resize(images: Tensor, size: tuple[int, int], *, mode: str = "antialias") -> Tensor:
    """Resize images (B, C, H, W) to ``size`` (height, width).

    The mode ``antialias`` is bilinear and averages where it shrinks. ``nearest``, ``bilinear`` and
    ``bicubic`` skip pixels then, as the original systems do.
    """
    if mode == "antialias":
        return F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(images, size, mode=mode)


def to_pil(image: Tensor, alpha: Tensor | None = None) -> PIL.Image.Image:
    """An 8-bit picture of (3, H, W) in [0, 1], RGBA where ``alpha`` (1, H, W) is given."""
    channels = image if alpha is None else torch.cat([image, alpha])
    values = channels.detach().cpu().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return PIL.Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def write_image(
    path: str | PathLike[str],
    image: Tensor,
    alpha: Tensor | None = None,
    *,
    xmp: bytes | None = None,
    overwrite: bool = False,
    quality: int = 95,
) -> None:
    """Write a picture; the format follows the extension (:data:`WRITABLE`).

    The file appears complete or not at all.

    Args:
        path: where to.
        image: (3, H, W) in [0, 1].
        alpha: (1, H, W) in [0, 1]; refused for JPEG unless it is 1 everywhere.
        xmp: an XMP packet to embed.
        overwrite: replace an existing file.
        quality: 1 to 100, for JPEG, WebP and AVIF.

    Raises:
        ImageError: it cannot be written; nothing is left behind.
    """
    file = check_output(path, overwrite=overwrite, size=(image.shape[2], image.shape[1]))
    if not bool(image.isfinite().all()):
        raise ImageError(
            f"{file} is not written: the picture holds values that are not finite (NaN or "
            "infinity), which would be black. Find where they arise."
        )
    form = WRITABLE[file.suffix.lower()]
    if form == "JPEG" and alpha is not None:
        if float(alpha.min()) < 1:
            raise ImageError(
                f"{file} cannot be written: the picture is transparent in places, and JPEG knows "
                f"no transparency. Write {file.stem}.png, .webp, .avif or .tif instead."
            )
        alpha = None
    options: dict[str, Any] = {}
    if form in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = quality
    if form == "JPEG":
        options["subsampling"] = 0
    elif form == "AVIF":
        options["subsampling"] = "4:4:4"
    elif form == "PNG":
        options["compress_level"] = PNG_LEVEL
    elif form == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    if xmp is not None:
        options.update(_xmp_options(form, xmp))
    encoded = io.BytesIO()  # Pillow itself does not notice when a file system takes a part only
    try:
        with explaining_memory(str(file)):
            to_pil(image, alpha).save(encoded, format=form, **options)
        write_bytes(file, encoded.getbuffer())
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(
            f"{file} cannot be written: {reason}. "
            "Check the free space and the rights, or choose another place or format."
        ) from error


def _xmp_options(form: str, xmp: bytes) -> dict[str, Any]:
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return {"pnginfo": info}
    if form == "TIFF":
        return {"tiffinfo": {XMP_TAG: xmp}}
    return {"xmp": xmp}
