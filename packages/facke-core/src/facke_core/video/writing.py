"""The file that a clip becomes: the new pictures, and everything else as it was.

Packets of sound, subtitles and data are copied as they are; so are chapters, tags, the order of
the streams, and what they are for.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from facke_core._files import replacing
from facke_core.environment import require
from facke_core.errors import UsageError
from facke_core.images.provenance import disclosure
from facke_core.video import animations, codecs, tags
from facke_core.video.codecs import Encoding
from facke_core.video.kinds import ANIMATED
from facke_core.video.media import Clip, explaining, opened, picture_stream
from facke_core.video.segments import Segment, packets
from facke_core.video.timing import Plan

if TYPE_CHECKING:
    from facke_core.types import SwapRequest

__all__: list[str] = []

OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "creation_time")
"""Tags that describe the old file and not its content, but for the time of the recording."""
OF_THE_PICTURES = ("encoder", "duration", "bps", "number_of_", "_statistics")
"""Beginnings of tags of a stream that describe how it was encoded."""
LANGUAGES = {
    "deu": "ger",
    "nld": "dut",
    "ell": "gre",
    "isl": "ice",
    "zho": "chi",
    "fas": "per",
    "ces": "cze",
    "slk": "slo",
    "ron": "rum",
    "sqi": "alb",
    "msa": "may",
    "fre": "fra",
}
"""Languages -> the other code for them (ISO 639-2), which is the one that QuickTime knows."""
PLAIN = (
    *("title", "artist", "album", "album_artist", "composer", "comment", "genre", "date", "track"),
    *("copyright", "description", "synopsis", "show", "episode_id", "network", "lyrics", "disc"),
    *("grouping", "creation_time", "location", "keywords", "media_type", "hd_video"),
)
"""Tags that MP4 has a place for."""


def check_streams(path: Path, clip: Clip, encoding: Encoding, out: Path, audio: str) -> list[str]:
    """Find what a container cannot hold of a clip's other streams, before anything is made.

    Returns:
        What is left out, in words: data that only its own container knows.

    Raises:
        UsageError: sound or subtitles that cannot be copied into it.
    """
    if clip.kind == "pictures":
        return []
    lost = []
    with opened(path) as source:
        for stream in _others(source, path, audio):
            if stream.type != "audio" and encoding.animated:
                continue
            if _fits(stream, encoding.container) or _is_of_chapters(stream, source):
                continue
            what = stream.codec_context.name if stream.codec_context else "of no known kind"
            said = f"stream {stream.index} of the clip ({stream.type}, {what})"
            if stream.type not in ("audio", "subtitle"):
                lost.append(f"{said} is left out, which {encoding.container} cannot hold")
                continue
            sound = ", or leave sound out by `audio='none'`" if stream.type == "audio" else ""
            raise UsageError(
                f"{out} cannot hold {said}, which is copied as it is. Write .mkv{sound}."
            )
    return lost


def _fits(stream: Any, container: str) -> bool:
    """Tell whether a container takes a stream as it is."""
    av = require("av")
    if container in ANIMATED.values():
        return False
    if stream.type == "attachment":
        return container == "matroska"
    try:
        with av.open(os.devnull, "w", format=container) as file:
            file.add_stream_from_template(stream, opaque=True)
            file.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _is_of_chapters(stream: Any, source: Any) -> bool:
    """Tell whether a stream holds the names of chapters, which are written as chapters."""
    return bool(stream.type == "data" and stream.frames == len(source.chapters()) > 0)


def _others(source: Any, path: Path, audio: str) -> list[Any]:
    """The streams beside that of the pictures."""
    own = picture_stream(source, path).index
    return [
        stream
        for stream in source.streams
        if stream.index != own and not (stream.type == "audio" and audio == "none")
    ]


def write(
    path: Path,
    out: Path,
    *,
    clip: Clip,
    plan: Plan,
    encoding: Encoding,
    folder: str,
    segments: Sequence[Segment],
    request: SwapRequest,
    audio: str,
) -> None:
    """Put segments and the other streams of a clip together; OUT appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    xmp = disclosure(request)
    if encoding.animated:
        times = [*plan.times, plan.times[-1] + plan.last]
        ms = [round(time * plan.unit * 1000) for time in times]
        delays = [max(b - a, 0) for a, b in itertools.pairwise(ms)]
        frames = _decoded(clip, plan, encoding, folder, segments)
        with replacing(out) as part:
            animations.write(part, encoding.container, frames, delays, loop=_loop(clip), xmp=xmp)
        return
    with replacing(out) as part, open(part, "w+b") as file:
        _mux(path, file, clip, plan, encoding, folder, segments, request, audio, xmp)
        if encoding.container in ("mp4", "mov"):
            tags.add_box(file, xmp)


def _loop(clip: Clip) -> int | None:
    return clip.loop if clip.kind == "pictures" else 0


def _mux(
    path: Path,
    file: BinaryIO,
    clip: Clip,
    plan: Plan,
    encoding: Encoding,
    folder: str,
    segments: Sequence[Segment],
    request: SwapRequest,
    audio: str,
    xmp: bytes,
) -> None:
    av = require("av")
    with ExitStack() as stack:
        stack.enter_context(explaining(path))
        source = stack.enter_context(opened(path)) if clip.kind == "stream" else None
        metadata = _kept(source.metadata) if source else {}
        metadata[tags.COMMENT] = tags.comment(request, metadata.get(tags.COMMENT, ""))
        options = {}
        if encoding.container in ("mp4", "mov") and any(key not in PLAIN for key in metadata):
            options["movflags"] = "use_metadata_tags"
        if encoding.container in ("matroska", "webm"):
            metadata[tags.XMP] = xmp.decode()
        out = stack.enter_context(av.open(file, "w", format=encoding.container, options=options))
        out.flags |= av.container.Flags.bitexact.value  # no number that is drawn by chance
        streams: dict[int, Any] = {}
        if source is None:
            video = codecs.add_stream(out, clip, encoding, plan)
        else:
            video = _add_all(source, out, streams, path, clip, encoding, plan, audio)
            out.set_chapters(_chapters(source.chapters(), plan))
        out.metadata.update(metadata)
        pictures = _pictures(video, plan, folder, segments)
        others = _copied(source, streams, plan) if source is not None and streams else iter(())
        for _, packet in heapq.merge(pictures, others, key=lambda pair: pair[0]):
            out.mux_one(packet)


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: text
        for key, text in metadata.items()
        if key.lower() not in OF_THE_FILE or key.lower() == "creation_time"
    }


def _add_all(
    source: Any,
    out: Any,
    streams: dict[int, Any],
    path: Path,
    clip: Clip,
    encoding: Encoding,
    plan: Plan,
    audio: str,
) -> Any:
    """Add all streams in the order of the clip; return that of the pictures."""
    own = picture_stream(source, path)
    others = {
        stream.index
        for stream in _others(source, path, audio)
        if _fits(stream, encoding.container) and not _is_of_chapters(stream, source)
    }
    video = None
    for stream in source.streams:
        if stream.index == own.index:
            video = added = codecs.add_stream(out, clip, encoding, plan)
        elif stream.index not in others:
            continue
        elif stream.type == "attachment":
            name = stream.name or stream.metadata.get("filename", "attachment")
            out.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
            continue
        else:
            streams[stream.index] = added = out.add_stream_from_template(stream, opaque=True)
        mine = stream.index == own.index
        added.metadata.update(_tags_of(stream, encoding.container, encoded=mine))
        added.disposition = stream.disposition
    return video


def _tags_of(stream: Any, container: str, *, encoded: bool) -> dict[str, str]:
    left = OF_THE_PICTURES if encoded else ("duration",)
    kept = {k: text for k, text in stream.metadata.items() if not k.lower().startswith(left)}
    if container == "mov" and "language" in kept:
        kept["language"] = LANGUAGES.get(kept["language"], kept["language"])
    return kept


def _chapters(chapters: list[Any], plan: Plan) -> list[Any]:
    """Chapters of what is written, in its times."""
    start = Fraction(plan.start)
    kept = []
    for chapter in chapters:
        unit = chapter["time_base"] or Fraction(1, 1000)
        shift = round(start / unit)
        begin, end = max(chapter["start"] - shift, 0), chapter["end"] - shift
        if plan.end is not None:
            end = min(end, round((Fraction(plan.end) - start) / unit))
        if end > begin:
            kept.append({**chapter, "start": begin, "end": end})
    return kept


def _pictures(
    stream: Any, plan: Plan, folder: str, segments: Sequence[Segment]
) -> Iterator[tuple[Fraction, Any]]:
    """The packets of the new pictures, each with its time. They are decoded in the order in which
    they are shown."""
    av = require("av")
    times = plan.times
    ends = [*times[1:], times[-1] + plan.last]
    for (pts, key, data), end in zip(packets(folder, segments), ends, strict=True):
        packet = av.Packet(data)
        packet.pts = packet.dts = pts
        packet.duration, packet.time_base = end - pts, plan.unit
        packet.is_keyframe, packet.stream = key, stream
        yield pts * plan.unit, packet


def _copied(source: Any, streams: dict[int, Any], plan: Plan) -> Iterator[tuple[Fraction, Any]]:
    """The packets of the other streams, each with its time."""
    start = Fraction(plan.start)
    end = None if plan.end is None else Fraction(plan.end) - start
    at = Fraction(0)
    wanted = [stream for stream in source.streams if stream.index in streams]
    for packet in source.demux(wanted):
        if packet.size == 0 and packet.dts is None:
            continue
        if (packet.pts is not None or packet.dts is not None) and packet.time_base:
            shift = round(start / packet.time_base)
            if packet.pts is not None:
                packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
            begins: Any = packet.pts if packet.pts is not None else packet.dts
            if (start and begins < 0) or (end is not None and begins * packet.time_base >= end):
                continue
            at = max(at, (packet.dts if packet.dts is not None else begins) * packet.time_base)
        packet.stream = streams[packet.stream.index]
        yield at, packet


def _decoded(
    clip: Clip, plan: Plan, encoding: Encoding, folder: str, segments: Iterable[Segment]
) -> Iterator[Any]:
    """The frames of segments, for formats that are encoded as a whole."""
    av = require("av")
    decoder = av.CodecContext.create("ffv1", "r")
    with av.open(os.devnull, "w", format="matroska") as file:
        stream = codecs.add_stream(file, clip, encoding, plan)
        file.start_encoding()
        decoder.extradata = stream.codec_context.extradata
        decoder.width, decoder.height = clip.size
        for packet in packets(folder, segments):
            yield from decoder.decode(av.Packet(packet.data))
        yield from decoder.decode(None)
