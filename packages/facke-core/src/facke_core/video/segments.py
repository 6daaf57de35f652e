"""Segments: a part of a clip each, decoded, changed and encoded from a fresh start.

A finished segment is a file of encoded packets and a small file that describes it, in the folder of
the work. What is in them follows from the clip, the settings and the number of the segment alone.
"""

from __future__ import annotations

import gc
import os
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from facke_core._files import replacing, sha256_of
from facke_core.config import from_dict, read_json, write_json
from facke_core.environment import require
from facke_core.errors import ConfigError, FackeWarning
from facke_core.video import codecs, pixels
from facke_core.video.codecs import Encoding
from facke_core.video.frames import MARGIN, Change, Changed, Frame
from facke_core.video.media import Clip
from facke_core.video.reading import Behind, ahead, frames_of
from facke_core.video.timing import Plan

__all__: list[str] = []

QUEUE = 4
"""Frames that wait between two threads."""
SCAN = "clip.json"
PLAN = "plan.json"
_HEAD = struct.Struct("<qIB")
"""Before each packet: when it is shown, its bytes, whether decoding can begin with it."""


class Packet(NamedTuple):
    """An encoded frame."""

    pts: int
    """When it is shown, in units of the plan."""
    key: bool
    """Whether decoding can begin with it."""
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What became of a segment."""

    number: int
    frames: int
    """How many were written."""
    changed: int
    """How many were changed."""
    sha256: str
    """SHA-256 of the file of packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWork:
    """Work in parts, one per segment: a :class:`~facke_core.jobs.engines.Work`."""

    clip: str
    """Path of the clip."""
    folder: str
    """Path of the folder of the work, with :data:`SCAN` and :data:`PLAN`."""
    encoding: Encoding
    change: Callable[[int | None], Change]
    """A function of the number of threads that loads what is needed and returns the change."""

    def open(self, threads: int | None) -> Callable[[range], Mapping[str, Any]]:
        """Load what changes the frames; return what does segments of these numbers."""
        change = self.change(threads)
        clip, plan = _read(Clip, self.folder, SCAN), _read(Plan, self.folder, PLAN)

        def do(part: range) -> Mapping[str, Any]:
            done = [make(self, clip, plan, number, change) for number in part]
            return {"segments": [asdict(segment) for segment in done]}

        return do


def _read(kind: Any, folder: str, name: str) -> Any:
    return from_dict(kind, read_json(Path(folder) / name), where="")


def make(
    work: ClipWork,
    clip: Clip,
    plan: Plan,
    number: int,
    change: Change,
    on_frame: Callable[[Changed, int], None] | None = None,
) -> Segment:
    """Make a segment: three threads decode, change and encode.

    Args:
        work: names the files.
        clip: the clip.
        plan: what is written.
        number: of the segment.
        change: what is done to the frames.
        on_frame: called after each frame, with how many were written for it.
    """
    part = plan.parts[number]
    window = range(max(part.start - MARGIN, 0), min(part.stop + MARGIN, len(clip.times)))
    layout = pixels.layout_of(pixels.working_format(clip.pix_fmt), clip.colour, clip.height)
    turn = pixels.turn_of(clip.matrix)
    waiting: deque[tuple[int, Any]] = deque()
    changed = 0

    def decoded() -> Iterator[tuple[Frame, Any]]:
        for index, native in frames_of(Path(work.clip), clip, window):
            frame = pixels.working(native)
            image = pixels.upright(pixels.to_rgb(frame, layout), turn).contiguous()
            yield Frame(index, clip.seconds(index), image, index in part), frame

    def looked(pairs: Iterable[tuple[Frame, Any]]) -> Iterator[Frame]:
        for frame, native in pairs:
            if not _is_written(plan, frame):
                if frame.inside:
                    continue
            elif frame.inside:
                waiting.append((frame.index, native))
            yield frame

    path = packets_of(work.folder, number)
    with replacing(path) as file, open(file, "wb") as stream:
        encoder = _Encoder(clip, plan, work.encoding, stream)
        with (
            warnings.catch_warnings(),
            closing(ahead(decoded(), QUEUE)) as pairs,
            Behind(encoder.put, QUEUE) as behind,
        ):
            warnings.simplefilter("ignore", FackeWarning)  # doubts about faces, in every frame
            for each in change(looked(pairs)):
                if each.index not in part:
                    continue
                index, native = waiting.popleft()
                if index != each.index:
                    raise ValueError(f"frame {each.index} was given back for frame {index}")
                behind.put(native, each, plan.shown[index - plan.first], layout, turn)
                changed += each.mask is not None
                if on_frame:
                    on_frame(each, len(plan.shown[index - plan.first]))
            if waiting:
                raise ValueError(f"frame {waiting[0][0]} was not given back")
        encoder.finish()
    segment = Segment(number=number, frames=encoder.frames, changed=changed, sha256=sha256_of(path))
    write_json(note_of(work.folder, number), asdict(segment))
    del encoder
    gc.collect()  # what PyAV ties into rings holds the frames of codecs
    return segment


def _is_written(plan: Plan, frame: Frame) -> bool:
    place = frame.index - plan.first
    return 0 <= place < len(plan.shown) and bool(plan.shown[place])


class _Encoder:
    """Writes packets of frames into a file."""

    def __init__(self, clip: Clip, plan: Plan, encoding: Encoding, file: Any) -> None:
        av = require("av")
        quiet_encoders()
        self._file, self._plan, self._encoding = file, plan, encoding
        self._unit = plan.unit
        self.frames = 0
        form = "matroska" if encoding.animated else encoding.container
        self._container = av.open(os.devnull, "w", format=form)
        self._stream = codecs.add_stream(self._container, clip, encoding, plan)

    def put(self, native: Any, changed: Changed, times: list[int], layout: Any, turn: Any) -> None:
        frame = native
        if changed.mask is not None and bool((changed.mask > 0).any()):
            before = pixels.to_rgb(frame, layout)
            after = pixels.stored(changed.image.detach().cpu().float(), turn)
            mask = pixels.stored(changed.mask.detach().cpu(), turn)
            frame.make_writable()
            pixels.put(frame, before, after, mask, layout)
        if frame.format.name != self._encoding.pix_fmt:
            frame = frame.reformat(format=self._encoding.pix_fmt)
        frame.pict_type = 0
        for time in times:
            frame.pts, frame.time_base = time, self._unit
            context = self._stream.codec_context  # some encoders ask the frames
            frame.color_primaries, frame.color_trc = context.color_primaries, context.color_trc
            self._write(self._stream.encode(frame))
            self.frames += 1

    def finish(self) -> None:
        self._write(self._stream.encode(None))
        self._container.close()

    def _write(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            data = bytes(packet)
            self._file.write(_HEAD.pack(packet.pts, len(data), packet.is_keyframe))
            self._file.write(data)


def quiet_encoders() -> None:
    """Keep the encoders' own messages off the standard error."""
    import os

    os.environ.setdefault("SVT_LOG", "1")


def packets_of(folder: str, number: int) -> Path:
    """The file of a segment's packets."""
    return Path(folder) / f"{number:06d}.packets"


def note_of(folder: str, number: int) -> Path:
    """The file that says what became of a segment."""
    return Path(folder) / f"{number:06d}.json"


def packets_in(file: Path) -> Iterator[Packet]:
    """The packets of a segment."""
    with file.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            pts, size, key = _HEAD.unpack(head)
            yield Packet(pts, bool(key), stream.read(size))


def kept(folder: str, number: int) -> Segment | None:
    """A segment that was finished and is as it was written; None where it has to be made."""
    note, file = note_of(folder, number), packets_of(folder, number)
    if not (note.is_file() and file.is_file()):
        return None
    try:
        segment: Segment = from_dict(Segment, read_json(note), where="")
    except ConfigError:
        return None
    return segment if segment.number == number and segment.sha256 == sha256_of(file) else None


def here(
    work: ClipWork,
    clip: Clip,
    plan: Plan,
    numbers: Iterable[int],
    on_frame: Callable[[Changed, int], None] | None,
) -> Iterator[Segment]:
    """Make segments one after the other, in this process."""
    change = work.change(None)
    for number in numbers:
        yield make(work, clip, plan, number, change, on_frame)


def packets(folder: str, segments: Iterable[Segment]) -> Iterator[Packet]:
    """The packets of all segments, one after the other."""
    for segment in segments:
        yield from packets_in(packets_of(folder, segment.number))
