"""What a clip holds: its frames with their times, its picture's format, its other streams.

A clip is decoded once from end to end before anything is made of it. So damage is found in the
first minute and not in the last, the number of frames is known and not guessed, and whoever decodes
a part of it later can tell whether a frame is the right one (:mod:`facke_core.video.reading`).
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from facke_core.environment import require
from facke_core.errors import FackeError, ImageError, OutOfMemoryError, first_line

__all__: list[str] = []

MISSING = 1.0
"""Seconds that a clip may end before its header says, because many headers are rounded."""
MATRIX = "DISPLAYMATRIX"
UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
"""The display matrix of a picture that is shown as it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What was seen of a clip, from end to end; plain values."""

    kind: str
    """``stream``, or ``pictures`` for an animated GIF, WebP or PNG."""
    container: str
    """FFmpeg's names of the container, or Pillow's of the format of pictures."""
    codec: str
    pix_fmt: str
    width: int
    height: int
    """The size as it is stored."""
    time_base: str
    """The unit of all times, in seconds: a fraction."""
    rate: str
    """Frames per second on average: a fraction."""
    times: list[int]
    """When each frame is shown, in order."""
    last: int
    """How long the last frame is shown, in units of the time base; 0 where nobody knows."""
    sums: list[int]
    """CRC-32 of each frame's first plane."""
    keys: list[int]
    """The numbers of the frames at which decoding can begin."""
    timed: bool = True
    """False where the file says nothing about times, so that they were counted."""
    sample_aspect: str = ""
    """Width to height of a pixel: a fraction; empty where nothing is said."""
    colour: list[int] = field(default_factory=list)
    """Numbers of range, primaries, transfer and matrix (ITU-T H.273, but for the range)."""
    matrix: list[int] = field(default_factory=list)
    """The display matrix; empty where there is none."""
    interlaced: bool = False
    field_order: int = 0
    mastering: str = ""
    """The mastering display of HDR, as x265 writes it."""
    light: str = ""
    """Largest and average light level of HDR, as x265 writes it."""
    alpha: bool = False
    loop: int | None = None
    """How often pictures are shown; 0 for ever. None: once, or nothing is said."""

    @property
    def unit(self) -> Fraction:
        """The time base."""
        return Fraction(self.time_base)

    def seconds(self, index: int) -> float:
        """When a frame is shown."""
        return float(self.times[index] * self.unit)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are stored."""
        return self.width, self.height


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a clip with PyAV, for reading.

    Raises:
        ImageError: it is missing, empty, no clip, or what is read of it is damaged.
        UnavailableError: PyAV is not installed.
    """
    av = require("av")
    check_file(path)
    with explaining(path):
        # an absolute name is no address, and what a playlist names must be a file, too
        options = {"protocol_whitelist": "file"}
        try:
            container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
        except (av.InvalidDataError, av.EOFError, av.DemuxerNotFoundError) as error:
            raise ImageError(
                f"{path} is no clip that can be read, or it is incomplete: {_said(error)}. Copy or "
                "download it again."
            ) from error
        with container:
            yield container


def check_file(path: Path) -> None:
    """Refuse what is no file, or has no content.

    Raises:
        ImageError: it is not there, a folder, a pipe, or empty.
    """
    if path.is_dir():
        raise ImageError(f"{path} is a folder. Give a clip.")
    if not path.exists():
        raise ImageError(f"{path} does not exist. Check the path and the spelling.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError(f"{path} is a pipe or a device, not a file. Save the clip to a file.")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes). Copy or download it again.")


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn what PyAV raises in the ``with`` block into an ImageError.

    Raises:
        ImageError: something of FFmpeg's was raised inside.
    """
    av = require("av")
    try:
        yield
    except FackeError:
        raise
    except (MemoryError, av.MemoryError) as error:
        raise OutOfMemoryError(
            f"{path} needs more memory than this process can get. Close other programs, raise the "
            "limit (`ulimit -v`, a container's), or make the clip smaller."
        ) from error
    except av.FFmpegError as error:
        raise ImageError(
            f"{path} cannot be read: {_said(error)}. Copy or download it again, or convert it to "
            "MP4 with another program."
        ) from error


def _said(error: Any) -> str:
    return str(getattr(error, "strerror", None) or first_line(error)).rstrip(".")


def picture_stream(container: Any, path: Path) -> Any:
    """Find the stream of pictures of a clip that is open, set up to be decoded.

    Raises:
        ImageError: it has none, or none that can be decoded.
    """
    streams = [each for each in container.streams.video if not is_cover(each)]
    if not streams:
        others = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
        raise ImageError(
            f"{path} has no video stream: it holds {others}. Give a clip, or a picture."
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise ImageError(
            f"{path} has a video stream of a codec that this build of FFmpeg cannot decode. "
            "Convert it to H.264 with another program."
        )
    stream.thread_type = "AUTO"
    return stream


def is_cover(stream: Any) -> bool:
    """Tell whether a stream of pictures is a picture of a cover."""
    return bool(int(stream.disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def decoder_of(stream: Any) -> Any:
    """What decodes a stream's packets: a context with a method ``decode``.

    FFmpeg's own decoders of VP8 and VP9 leave transparency out.
    """
    if stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    av = require("av")
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    return av.CodecContext.create(name, "r") if name else stream.codec_context


def first_plane(frame: Any) -> int:
    """The CRC-32 of a frame's first plane, without the padding of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    wide = plane.width * max(plane.line_size // max(plane.width, 1), 1)
    if frame.format.components:
        wide = -(-plane.width * _step(frame) // 8)
    return zlib.crc32(lines[: plane.height, :wide].tobytes())


def _step(frame: Any) -> int:
    """Bits from one pixel of the first plane to the next."""
    parts = [part for part in frame.format.components if part.plane == 0]
    bits = max(part.bits for part in parts)
    return sum(8 if bits <= 8 else 16 for part in parts if part.width == frame.width) or 8


def scan(path: Path, end: float | None = None) -> Clip:
    """Decode a clip from end to end, and say what is in it.

    Args:
        path: the clip.
        end: seconds; frames from there on are not looked at.

    Raises:
        ImageError: it cannot be read, is damaged or incomplete, or shows nothing.
    """
    with opened(path) as container:
        stream = picture_stream(container, path)
        decoder = decoder_of(stream)
        unit = stream.time_base
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        times: list[int] = []
        sums: list[int] = []
        keys: list[int] = []
        first, timed, last, ends, stopped = None, True, 0, Fraction(0), False
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                ends = max(ends, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is not stream and packet.stream.index != stream.index:
                continue
            for frame in _decoded(decoder, packet, path, times, unit):
                first = first or frame
                time = frame.pts
                if time is None:
                    timed = False
                    time = times[-1] + round(1 / rate / unit) if times else 0
                if times and time <= times[-1]:
                    time = times[-1] + 1
                if end is not None and time * unit >= end:
                    stopped = True
                    break
                if frame.key_frame:
                    keys.append(len(times))
                times.append(time)
                sums.append(first_plane(frame))
                last = frame.duration or 0
            if stopped:
                break
        if first is None or not times:
            what = f"no frame before {end:g} s" if stopped else "no frame that can be decoded"
            raise ImageError(f"{path} shows {what}. Give a clip with pictures.")
        promised = Fraction(container.duration or 0, 1_000_000)
        if not stopped:
            _check_whole(path, promised + Fraction(container.start_time or 0, 1_000_000), ends)
        last = last or (times[-1] - times[-2] if len(times) > 1 else round(1 / rate / unit))
        return Clip(
            kind="stream",
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            time_base=str(unit),
            rate=str(rate),
            times=times,
            last=last,
            sums=sums,
            keys=keys,
            timed=timed,
            sample_aspect=_aspect(stream),
            field_order=stream.codec_context.field_order,
            **_of_picture(first, stream),
        )


def _decoded(
    decoder: Any, packet: Any, path: Path, times: Sequence[int], unit: Fraction
) -> Iterator[Any]:
    """The frames of a packet, none of which is damaged."""
    av = require("av")
    try:
        frames = decoder.decode(packet if packet.size else None)
    except (av.EOFError, av.BlockingIOError):
        return
    except av.FFmpegError as error:
        raise _damaged(path, times, unit, _said(error)) from error
    for frame in frames:
        if frame.is_corrupt:
            raise _damaged(path, times, unit, "parts of a frame are missing")
        yield frame


def _damaged(path: Path, times: Sequence[int], unit: Fraction, why: str) -> ImageError:
    at = float(times[-1] * unit) if times else 0.0
    good = f" What comes before can be used by `end={at:.2f}`." if at else ""
    return ImageError(
        f"{path} is damaged after {at:.2f} s: {why}. Copy or download it again.{good}"
    )


def _check_whole(path: Path, promised: Fraction, ends: Fraction) -> None:
    if ends and promised - ends > MISSING + promised / 100:
        raise ImageError(
            f"{path} is incomplete: its header promises {float(promised):.1f} s, and it ends after "
            f"{float(ends):.1f} s. Copy or download it again. What is there can be used by "
            f"`end={float(ends):.1f}`."
        )


def _aspect(stream: Any) -> str:
    ratio = stream.sample_aspect_ratio
    return str(ratio) if ratio else ""


def _of_picture(frame: Any, stream: Any) -> dict[str, Any]:
    """What the first frame says about the format of all."""
    context, sides = stream.codec_context, {}
    for data in frame.side_data:
        sides[data.type.name] = bytes(data)
    matrix = np.frombuffer(sides.get(MATRIX, b""), np.int32).tolist()
    parts = frame.format.components
    seen = [frame.color_range, frame.color_primaries, frame.color_trc, frame.colorspace]
    told = [context.color_range, context.color_primaries, context.color_trc, context.colorspace]
    nothing = (0, 2, 2, 2)
    colour = [int(b if a == none else a) for a, b, none in zip(seen, told, nothing, strict=True)]
    return {
        "pix_fmt": frame.format.name,
        "width": frame.width,
        "height": frame.height,
        "colour": colour,
        "matrix": [] if tuple(matrix) == UPRIGHT else matrix,
        "interlaced": bool(frame.interlaced_frame),
        "mastering": _mastering(sides.get("MASTERING_DISPLAY_METADATA", b"")),
        "light": _light(sides.get("CONTENT_LIGHT_LEVEL", b"")),
        "alpha": any(part.is_alpha for part in parts),
    }


def _mastering(data: bytes) -> str:
    """AVMasteringDisplayMetadata: three primaries and the white point, then the luminances."""
    if len(data) < 88:
        return ""
    numbers = np.frombuffer(data[:88], np.int32).reshape(-1, 2)
    has_primaries, has_light = numbers[10]
    if not (has_primaries and has_light):
        return ""
    places = [round(50000 * int(n) / int(d)) if d else 0 for n, d in numbers[:8]]
    low, high = (round(10000 * int(n) / int(d)) if d else 0 for n, d in numbers[8:10])
    red, green, blue, white = (tuple(places[i : i + 2]) for i in (0, 2, 4, 6))
    shown = [f"{name}({x},{y})" for name, (x, y) in
             (("G", green), ("B", blue), ("R", red), ("WP", white))]  # fmt: skip
    return "".join(shown) + f"L({high},{low})"


def _light(data: bytes) -> str:
    if len(data) < 8:
        return ""
    largest, average = np.frombuffer(data[:8], np.uint32)
    return f"{largest},{average}"
