"""Small clips of every kind, made with PyAV; no file of a camera is needed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from facke_core.types import SwapRequest
from facke_core.video.frames import Changed, Frame

WIDTH, HEIGHT = 96, 64
REQUEST = SwapRequest(method="none", weights="none.test", revision="", seed=3)


def picture(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray[Any, Any]:
    """A picture (H, W, 3) of its own for each number: a gradient, and a bar that moves."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    colours = np.stack([x * 255 // width, y * 255 // height, (x + y + 9 * number) % 256], -1)
    colours[:, (3 * number) % width : (3 * number) % width + 4] = 230
    return colours.astype(np.uint8)


def clip(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 12,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    form: str = "yuv420p",
    unit: Fraction = Fraction(1, 12800),
    times: Callable[[int], int] = lambda number: 512 * number,
    sounds: int = 0,
    subtitles: bool = False,
    options: dict[str, str] | None = None,
    colour: tuple[int, int, int, int] = (1, 1, 1, 1),
    aspect: Fraction | None = None,
    turn: int = 0,
    gop: int = 4,
    metadata: dict[str, str] | None = None,
    chapters: bool = False,
    field_order: int = 0,
    make: Callable[[int], Any] | None = None,
) -> Path:
    """Write a clip of ``frames`` pictures, with what is asked for."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options={"crf": "10", **(options or {})}
                                     if codec.startswith("libx26") else options or {})  # fmt: skip
        stream.width, stream.height = size
        stream.pix_fmt = form
        context = stream.codec_context
        stream.time_base = context.time_base = unit
        context.gop_size = gop
        context.color_range, context.color_primaries, context.color_trc = colour[:3]
        context.colorspace = colour[3]
        if aspect:
            context.sample_aspect_ratio = aspect
        if field_order:
            context.field_order = field_order
        if turn:
            stream.set_display_rotation(turn)
        audio = [out.add_stream("aac", rate=48000) for _ in range(sounds)]
        for number, each in enumerate(audio):
            each.metadata["language"] = ("eng", "deu")[number % 2]
        text: Any = _subtitles(out, path) if subtitles else None
        if metadata:
            out.metadata.update(metadata)
        if chapters:
            base = Fraction(1, 1000)
            out.set_chapters(
                [
                    {"id": n, "start": a, "end": b, "time_base": base, "metadata": {"title": t}}
                    for n, a, b, t in ((1, 0, 200, "one"), (2, 200, 480, "two"))
                ]
            )
        for number in range(frames):
            frame = make(number) if make else _frame(number, size, form)
            frame.pts, frame.time_base = times(number), unit
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        length = float((times(frames - 1) + 512) * unit)
        for number, each in enumerate(audio):
            for sound in _tone(length, 220 * (number + 1)):
                out.mux(each.encode(sound))
            out.mux(each.encode(None))
        if text is not None:
            for number in range(2):
                packet = av.Packet(f"line {number}".encode())
                packet.pts = packet.dts = 150 * number
                packet.duration, packet.time_base, packet.stream = 120, Fraction(1, 1000), text
                packet.is_keyframe = True
                out.mux(packet)
    return path


def _frame(number: int, size: tuple[int, int], form: str) -> Any:
    colours = picture(number, size)
    if form.startswith("yuva") or form in ("bgra", "gbrap"):
        alpha = np.full((*colours.shape[:2], 1), 255, np.uint8)
        alpha[: size[1] // 4] = 60
        return av.VideoFrame.from_ndarray(np.concatenate([colours, alpha], -1), "rgba").reformat(
            format=form
        )
    return av.VideoFrame.from_ndarray(colours, "rgb24").reformat(format=form)


def _tone(seconds: float, pitch: int) -> Iterator[Any]:
    for start in range(0, int(48000 * seconds), 1024):
        wave = np.sin(2 * np.pi * pitch * (start + np.arange(1024)) / 48000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]) * 0.2, "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield frame


def _subtitles(out: Any, path: Path) -> Any:
    """A stream of subtitles, from a file beside the clip, because FFmpeg has to read one first."""
    text = path.with_suffix(".srt")
    text.write_text("1\n00:00:00,000 --> 00:00:00,100\na\n")
    with av.open(str(text)) as source:
        stream = out.add_stream_from_template(source.streams.subtitles[0], opaque=True)
    stream.metadata["language"] = "fra"
    text.unlink()
    return stream


def animation(path: Path, *, frames: int = 5, loop: int = 3, alpha: bool = False) -> Path:
    """An animated GIF, WebP or PNG with delays of its own."""
    pictures = []
    for number in range(frames):
        shown = Image.fromarray(picture(number, (48, 32)))
        if alpha:
            shown.putalpha(Image.new("L", shown.size, 255))
            shown.paste((0, 0, 0, 0), (0, 0, 10, 10))
        if path.suffix == ".gif":
            shown = shown.quantize(64)
        pictures.append(shown)
    delays = [40 + 20 * number for number in range(frames)]
    extra: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=delays, loop=loop, **extra
    )
    return path


def truncated(source: Path, path: Path, share: float) -> Path:
    """The beginning of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def grid(path: Path) -> list[tuple[int, bytes]]:
    """The time of each frame, and all its samples as they are decoded: what framemd5 compares."""
    shown: list[tuple[int, bytes]] = []
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            form = frame.format.name
            planes = b"".join(
                np.frombuffer(memoryview(plane), np.uint8)
                .reshape(-1, plane.line_size)[: plane.height, : plane.width * _bytes(frame)]
                .tobytes()
                for plane in frame.planes
            )
            shown.append((frame.pts or 0, form.encode() + planes))
    return shown


def _bytes(frame: Any) -> int:
    if frame.format.name in ("bgr0", "bgra"):
        return 4
    return 2 if frame.format.components[0].bits > 8 else 1


class Inverted:
    """A change that inverts a square, as a face would be changed; it can be pickled."""

    def __init__(self, *, skip: int = 0, never: bool = False) -> None:
        self.skip, self.never = skip, never

    def __call__(self, threads: int | None) -> Callable[[Iterator[Frame]], Iterator[Changed]]:
        return self.change

    def change(self, frames: Iterator[Frame]) -> Iterator[Changed]:
        """Invert a square in the middle of all frames but those that are skipped."""
        for frame in frames:
            if self.never or (self.skip and frame.index % self.skip == 1):
                yield Changed(frame.index, frame.image)
                continue
            mask = torch.zeros_like(frame.image[:1])
            height, width = mask.shape[1:]
            mask[:, height // 4 : height // 2, width // 4 : width // 2] = 1
            yield Changed(frame.index, torch.where(mask > 0, 1 - frame.image, frame.image), mask)


def boxes(path: Path) -> list[str]:
    """The kinds of the boxes at the top of an MP4 file."""
    data, at, kinds = path.read_bytes(), 0, []
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        kinds.append(kind.decode("latin-1"))
        at += size or len(data)
    return kinds
