"""Animated GIF, WebP and PNG: read and written with Pillow, with their delays and their loop."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from facke_core.environment import require
from facke_core.errors import ImageError
from facke_core.images.files import check_pixels, explaining
from facke_core.video.kinds import ANIMATED
from facke_core.video.media import Clip

__all__: list[str] = []


def scan(path: Path) -> Clip:
    """Look at all frames of an animated picture.

    Raises:
        ImageError: it is damaged, or too large.
    """
    times, sums, alpha, time, width, height = [0], list[int](), False, 0, 0, 0
    for picture, shown in _pictures(path):
        sums.append(zlib.crc32(picture.tobytes()))
        width, height = picture.size
        alpha = alpha or (picture.mode == "RGBA" and _is_clear(picture))
        time += max(shown, 1)
        times.append(time)
    with PIL.Image.open(path, formats=tuple(set(ANIMATED.values()))) as first:
        form, loop = first.format or "", first.info.get("loop")
    return Clip(
        kind="pictures",
        container=form,
        codec=form.lower(),
        pix_fmt="gbrap" if alpha else "gbrp",
        width=width,
        height=height,
        time_base="1/1000",
        rate=str(max(round(1000 * len(sums) / time), 1)),
        times=times[:-1],
        last=times[-1] - times[-2],
        sums=sums,
        keys=[0],
        alpha=alpha,
        loop=loop,
    )


def _is_clear(picture: PIL.Image.Image) -> bool:
    return picture.getchannel("A").getextrema() != (255, 255)


def _pictures(path: Path) -> Iterator[tuple[PIL.Image.Image, int]]:
    """Each frame as RGB or RGBA, and how long it is shown in milliseconds."""
    with open(path, "rb") as file, explaining(str(path)):
        picture = PIL.Image.open(file, formats=tuple(set(ANIMATED.values())))
        check_pixels(picture, str(path), path.stat().st_size)
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            yield picture.convert(mode), round(picture.info.get("duration", 0))


def frames_of(path: Path, part: range) -> Iterator[tuple[int, Any]]:
    """The frames of a part, as those of other clips: each is made of those before it."""
    av = require("av")
    for number, (picture, _) in enumerate(_pictures(path)):
        if number >= part.stop:
            return
        if number in part:
            form = "rgba" if picture.mode == "RGBA" else "rgb24"
            yield number, av.VideoFrame.from_ndarray(np.array(picture), format=form)


def write(
    path: Path,
    form: str,
    frames: Iterator[Any],
    delays: Sequence[int],
    *,
    loop: int | None,
    xmp: bytes,
) -> None:
    """Write an animated picture.

    Args:
        path: where to.
        form: Pillow's name of the format.
        frames: frames of PyAV. Those of a GIF are taken one at a time; Pillow keeps all of others.
        delays: how long each is shown, in milliseconds.
        loop: how often all are shown; 0 for ever, None: nothing is said.
        xmp: the disclosure.
    """
    pictures = (_picture(frame, form) for frame in frames)
    first = next(pictures)
    options: dict[str, Any] = {} if loop is None else {"loop": loop}
    if form == "WEBP":
        options |= {"lossless": True, "method": 2, "xmp": xmp, "loop": loop or 0}
    elif form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options |= {"pnginfo": info}
    first.save(
        path,
        format=form,
        save_all=True,
        # others go through them several times
        append_images=pictures if form == "GIF" else list(pictures),
        duration=list(delays) if len(delays) > 1 else delays[0],
        **options,
    )
    if form == "GIF":
        _add_xmp(path, xmp)


def _picture(frame: Any, form: str) -> PIL.Image.Image:
    alpha = any(part.is_alpha for part in frame.format.components)
    name = "rgba" if alpha else "rgb24"
    picture = PIL.Image.fromarray(frame.reformat(format=name).to_ndarray())
    if form != "GIF" or len(picture.getcolors(256) or ()) or alpha:
        return picture
    return picture.quantize(256, method=PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)


def _add_xmp(path: Path, xmp: bytes) -> None:
    """Put the block of XMP before the first frame of a GIF."""
    data = path.read_bytes()
    if data[:3] != b"GIF":
        raise ImageError(f"{path} is not written: Pillow made no GIF of it.")
    flags = data[10]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    magic = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
    path.write_bytes(data[:at] + b"\x21\xff\x0bXMP DataXMP" + xmp + magic + data[at:])
