"""What a clip kept of another one: frames, times, colours, sound, subtitles, chapters, tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from facke_core.video import tags
from facke_core.video.codecs import losses
from facke_core.video.media import Clip, opened, picture_stream
from facke_core.video.pixels import working_format
from facke_core.video.timing import Plan, plan_of
from facke_core.video.work import ClipSettings, look
from facke_core.video.writing import LANGUAGES, OF_THE_FILE, OF_THE_PICTURES

__all__ = ["verify_media"]

RESOLUTION = {"matroska": Fraction(1, 1000), "webm": Fraction(1, 1000), "GIF": Fraction(1, 100)}
"""Containers that round times -> to what, in seconds; others keep those of their streams."""
COLOURS = ("range", "primaries", "transfer", "matrix")


class MediaPoint(NamedTuple):
    """One point of the comparison."""

    name: str
    kept: bool
    said: str
    """What was found, or how the two differ."""


@dataclass(frozen=True, slots=True)
class _Track:
    """A stream that is copied: what it is, and all its packets."""

    kind: str
    codec: str
    language: str
    disposition: int
    packets: int
    digest: str
    times: list[Fraction]


def verify_media(
    before: Path | str, after: Path | str, *, settings: ClipSettings | None = None
) -> list[MediaPoint]:
    """Compare a clip with what was made of it, but for what its pictures show.

    Args:
        before: the clip.
        after: what was made of it.
        settings: with which; what they leave out is not missed.

    Returns:
        The points, each with whether it was kept.

    Raises:
        ImageError: one of them cannot be read.
    """
    settings = settings or ClipSettings()
    old_path, new_path = Path(before), Path(after)
    old, new = look(old_path, settings.end), look(new_path)
    plan = plan_of(old, start=settings.start, end=settings.end, fps=settings.fps)
    points = [*_of_times(plan, new), *_of_pictures(old, new)]
    if old.kind == "stream" and new.kind == "stream":
        points += _of_streams(old_path, new_path, plan, settings.audio, _grain(new))
    elif "pictures" in (old.kind, new.kind) and old.kind == new.kind:
        points.append(_point("loop", _times_shown(old.loop), _times_shown(new.loop)))
    points.append(_of_disclosure(new_path, new))
    return points


def _times_shown(loop: int | None) -> str:
    return "once" if loop is None else ("for ever" if loop == 0 else f"{loop} times more")


def _point(name: str, old: object, new: object) -> MediaPoint:
    same = old == new
    return MediaPoint(name, same, str(new) if same else f"{old} before, {new} now")


def _grain(new: Clip) -> Fraction:
    """The difference of times that a container's own units make."""
    grain = new.unit
    for name, unit in RESOLUTION.items():
        if name in new.container.split(","):
            grain = max(grain, unit)
    return grain


def _of_times(plan: Plan, new: Clip) -> Iterator[MediaPoint]:
    wanted = [time * plan.unit for time in plan.times]
    there = [time * new.unit for time in new.times]
    yield _point("frames", len(wanted), len(there))
    grain = _grain(new)
    if len(wanted) == len(there):
        offset = there[0] - wanted[0]
        worst = max(abs(b - a - offset) for a, b in zip(wanted, there, strict=True))
        text = f"{float(worst) * 1000:.3g} ms apart at most; the file counts in {_ms(grain)}"
        if offset:
            text += f"; everything begins {float(offset) * 1000:.3g} ms later"
        yield MediaPoint("times", worst <= grain, text)
    length = wanted[-1] + plan.last * plan.unit - wanted[0]
    now = there[-1] + new.last * new.unit - there[0]
    said = f"{float(length):.3f} s before, {float(now):.3f} s now"
    yield MediaPoint("duration", abs(length - now) <= 2 * grain, said)


def _ms(grain: Fraction) -> str:
    return f"{float(grain) * 1000:.3g} ms"


def _of_pictures(old: Clip, new: Clip) -> Iterator[MediaPoint]:
    yield _point("size", "x".join(map(str, old.size)), "x".join(map(str, new.size)))
    a, b = (working_format(each.pix_fmt) for each in (old, new))
    if new.kind == "pictures":
        yield _point("transparency", old.alpha, new.alpha)
        return
    same = not any(losses(a, b)[:4])
    both = f"{old.pix_fmt} before, {new.pix_fmt} now{', which holds all of it' if same else ''}"
    yield MediaPoint("format", same, old.pix_fmt if old.pix_fmt == new.pix_fmt else both)
    yield _point("pixel shape", old.sample_aspect or "1", new.sample_aspect or "1")
    yield _point("rotation", old.matrix or "none", new.matrix or "none")
    if old.colour:
        for name, told, now in zip(COLOURS, old.colour, new.colour, strict=True):
            nothing = 1 if name == "range" else 2  # a range that is not told is the limited one
            if (told or nothing) != nothing or now not in (0, nothing):
                yield _point(f"colour {name}", told, now)
    yield _point("interlaced", old.interlaced, new.interlaced)
    if old.mastering or old.light:
        yield _point("HDR", (old.mastering, old.light), (new.mastering, new.light))


def _of_streams(
    old: Path, new: Path, plan: Plan, audio: str, grain: Fraction
) -> Iterator[MediaPoint]:
    (tracks, chapters, metadata), (others, new_chapters, new_metadata) = (
        _read(old, plan, audio),
        _read(new, None, "copy"),
    )
    offset = _offset(tracks, others)
    for number, track in enumerate(tracks):
        name = f"stream {number} ({track.kind}, {track.codec})"
        if number >= len(others):
            yield MediaPoint(name, False, "it is missing")
            continue
        yield _of_track(name, track, others[number], offset, grain)
    if len(others) > len(tracks):
        yield MediaPoint("streams", False, f"{len(others) - len(tracks)} more than before")
    yield _point("chapters", chapters, new_chapters)
    lost = sorted(
        key
        for key, text in metadata.items()
        if key != tags.COMMENT and new_metadata.get(key) != text
    )
    if not new_metadata.get(tags.COMMENT, "").startswith(metadata.get(tags.COMMENT, "")):
        lost.append(tags.COMMENT)
    said = f"changed: {', '.join(lost)}" if lost else f"{len(metadata)} tags"
    yield MediaPoint("tags", not lost, said)


def _offset(old: Sequence[_Track], new: Sequence[_Track]) -> Fraction:
    for a, b in zip(old, new, strict=False):
        if a.times and b.times:
            return b.times[0] - a.times[0]
    return Fraction(0)


def _of_track(name: str, old: _Track, new: _Track, offset: Fraction, grain: Fraction) -> MediaPoint:
    if (old.kind, old.codec, old.language) != (new.kind, new.codec, new.language):
        return MediaPoint(name, False, f"{new.kind}, {new.codec}, {new.language} now")
    if old.digest != new.digest:
        return MediaPoint(
            name, False, f"its {old.packets} packets are {new.packets} now, or hold something else"
        )
    if old.disposition != new.disposition:
        return MediaPoint(name, False, f"it is for something else: {new.disposition}")
    pairs = zip(old.times, new.times, strict=True)
    worst = max((abs(b - a - offset) for a, b in pairs), default=Fraction(0))
    if worst > grain:
        return MediaPoint(name, False, f"it is {float(worst) * 1000:.3g} ms away from the pictures")
    return MediaPoint(name, True, f"{old.packets} packets, {old.language or 'no language'}")


def _read(
    path: Path, plan: Plan | None, audio: str
) -> tuple[list[_Track], list[tuple[str, float, float]], dict[str, str]]:
    """The copied streams of a clip, its chapters, and its tags; what a plan leaves out is not."""
    start = Fraction(plan.start) if plan else Fraction(0)
    end = Fraction(plan.end) - start if plan and plan.end is not None else None
    with opened(path) as source:
        own = picture_stream(source, path)
        wanted = [
            stream
            for stream in source.streams
            if stream.index != own.index
            and stream.type in ("audio", "subtitle")
            and not (stream.type == "audio" and audio == "none")
        ]
        sums = {stream.index: hashlib.sha256() for stream in wanted}
        times: dict[int, list[Fraction]] = {stream.index: [] for stream in wanted}
        for packet in source.demux(wanted) if wanted else ():
            if packet.size == 0:
                continue
            begins = packet.pts if packet.pts is not None else packet.dts
            at = Fraction(0)
            if begins is not None:
                at = (begins - round(start / packet.time_base)) * packet.time_base
            if (start and at < 0) or (end is not None and at >= end):
                continue
            sums[packet.stream.index].update(bytes(packet))
            times[packet.stream.index].append(at)
        tracks = [
            _Track(
                stream.type,
                _codec(stream),
                _language(stream),
                int(stream.disposition),
                len(times[stream.index]),
                sums[stream.index].hexdigest(),
                times[stream.index],
            )
            for stream in wanted
        ]
        chapters = []
        for chapter in source.chapters():
            unit = chapter["time_base"]
            begin, finish = chapter["start"] * unit - start, chapter["end"] * unit - start
            finish = finish if end is None else min(finish, end)
            if finish > max(begin, 0):
                title = chapter["metadata"].get("title", "")
                chapters.append((title, round(float(max(begin, 0)), 3), round(float(finish), 3)))
        metadata = {
            key.lower(): text
            for key, text in source.metadata.items()
            if key.lower() not in OF_THE_FILE and key.upper() != tags.XMP
            and not key.lower().startswith(OF_THE_PICTURES)
        }  # fmt: skip
    return tracks, chapters, metadata


def _codec(stream: Any) -> str:
    name = str(stream.codec_context.codec.canonical_name) if stream.codec_context else "unknown"
    return "mp3" if name in ("mp1", "mp2") else name  # which MP4 does not tell apart


def _language(stream: Any) -> str:
    language = str(stream.metadata.get("language", ""))
    return "" if language == "und" else LANGUAGES.get(language, language)


def _of_disclosure(path: Path, clip: Clip) -> MediaPoint:
    from facke_core.images.provenance import read_disclosure

    read = read_disclosure if clip.kind == "pictures" else tags.read_disclosure
    said = read(path).get("digital_source_type", "")
    return MediaPoint("disclosure", bool(said), said or "it does not say that it is synthetic")
