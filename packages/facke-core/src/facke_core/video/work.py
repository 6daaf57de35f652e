"""The work of changing a clip: look at all of it, make its segments, put them together.

While it lasts there is a folder ``OUT.unfinished`` with what is finished. It goes with the last
step, in which OUT appears.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from facke_core._files import leftovers, one_job, sha256_of
from facke_core._version import __version__
from facke_core.config import from_dict, read_json, write_json
from facke_core.errors import (
    ConfigError,
    FackeWarning,
    ImageError,
    NoFaceError,
    UsageError,
    check_choice,
    first_line,
)
from facke_core.types import Progress, SwapRequest
from facke_core.video import animations, codecs, kinds, media, segments, writing
from facke_core.video.frames import Change, Changed
from facke_core.video.media import Clip
from facke_core.video.segments import ClipWork, Segment
from facke_core.video.timing import Plan, plan_of

__all__: list[str] = []

AUDIO = ("copy", "none")
RUN = "run.json"
UNFINISHED = ".unfinished"


class Engine(Protocol):
    """A way to do work in parts, as :class:`facke_core.jobs.engines.Engine`."""

    def __call__(
        self, work: Any, parts: Sequence[range]
    ) -> Iterator[tuple[range, Mapping[str, Any]]]:
        """Do the parts, and yield each with its result as it is done, in any order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """What is written of a clip, and how."""

    start: float | None = None
    """Seconds; what is shown before is left out."""
    end: float | None = None
    """Seconds; what is shown from there on is left out."""
    fps: float | None = None
    """Frames per second. None: each frame at its own time."""
    codec: str | None = None
    """One of :data:`facke_core.video.codecs.ENCODERS`. None: the clip's own, or H.264."""
    crf: int | None = None
    """Constant quality; lower is better. None: :data:`facke_core.video.codecs.CRF`."""
    audio: str = "copy"
    """``copy``, or ``none`` to leave sound out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReport:
    """What became of a clip."""

    output: str
    frames: int
    """Frames that were written."""
    changed: int
    """Frames that were changed."""
    segments: int
    kept: int
    """Segments that an interrupted work had finished."""
    codec: str
    pix_fmt: str
    changes: tuple[str, ...] = ()
    """What the format of the pictures does not keep, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who hears how far the work has come. Only the process that does the work itself tells of
    single frames."""

    on_progress: Progress | None = None
    """Called with the number of frames that are done."""
    on_frame: Callable[[Changed], None] | None = None
    """Called with each frame that was changed."""
    done: list[int] = field(default_factory=lambda: [0])


def look(path: Path, end: float | None = None) -> Clip:
    """Look at all of a clip: see :func:`facke_core.video.media.scan`."""
    if kinds.is_animated(path):
        return animations.scan(path)
    return media.scan(path, end)


def change_clip(
    path: Path,
    out: Path,
    change: Callable[[int | None], Change],
    *,
    about: Mapping[str, Any],
    request: SwapRequest,
    settings: ClipSettings | None = None,
    engine: Engine | None = None,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> ClipReport:
    """Change the frames of a clip and write it; everything else stays as it was.

    Args:
        path: the clip.
        out: where to; the end of its name chooses the container.
        change: a function of the number of threads that returns what changes the frames. With an
            engine it has to be one that can be pickled.
        about: what decides the pictures besides the clip, as plain values.
        request: the disclosure.
        settings: what is written, and how.
        engine: who makes the segments; None: this process.
        resume: go on with what an interrupted work left.
        overwrite: replace a file that is there.
        watch: who hears how far it has come.

    Raises:
        ImageError: the clip cannot be read, or OUT not be written.
        NoFaceError: no frame was changed; nothing is written.
        UsageError: settings that are not possible, or of another work that is unfinished.
        DataError: another job is at work on OUT.
    """
    settings, watch = settings or ClipSettings(), watch or Watch()
    check_choice("audio", settings.audio, AUDIO)
    check_out(path, out, overwrite=overwrite)
    folder = unfinished(out)
    with one_job(out, beside=True), _explained(out), _emptied(folder):
        leftovers(out.parent if str(out.parent) else Path(), remove=True)
        run = {"clip": sha256_of(path), **about, "settings": asdict(settings), "by": __version__}
        _begin(folder, run, out, resume=resume)
        clip, plan = _looked(path, folder, settings)
        encoding = codecs.choose(clip, out, settings.codec, settings.crf)
        lost = writing.check_streams(path, clip, encoding, out, settings.audio)
        changes = (*encoding.changes, *lost)
        for each in changes:
            warnings.warn(f"{out}: {each}.", FackeWarning, stacklevel=2)
        work = ClipWork(
            clip=str(path.resolve()), folder=str(folder.resolve()), encoding=encoding, change=change
        )
        kept = _kept(work, plan)
        done = _done(work, clip, plan, kept, engine, watch)
        changed = sum(segment.changed for segment in done)
        if not changed:
            shutil.rmtree(folder, ignore_errors=True)
            raise NoFaceError(
                f"No face to swap was found in any of the {len(plan.times)} frames of {path}, so "
                "nothing is written: it would be a copy. Use a clip that shows such a face, not in "
                "full profile."
            )
        writing.write(
            path,
            out,
            clip=clip,
            plan=plan,
            encoding=encoding,
            folder=work.folder,
            segments=done,
            request=request,
            audio=settings.audio,
        )
        shutil.rmtree(folder, ignore_errors=True)
    return ClipReport(
        output=str(out),
        frames=sum(segment.frames for segment in done),
        changed=changed,
        segments=len(done),
        kept=len(kept),
        codec=encoding.container.lower() if encoding.animated else encoding.codec,
        pix_fmt=encoding.pix_fmt,
        changes=changes,
    )


def unfinished(out: Path) -> Path:
    """The folder of a work that is not finished."""
    return out.with_name(f"{out.name}{UNFINISHED}")


def check_out(path: Path, out: Path, *, overwrite: bool) -> None:
    """Refuse a clip that is not there, and a place where nothing can be written.

    Raises:
        ImageError: no such clip, or OUT cannot be written or is there already.
        UsageError: both are the same file.
    """
    codecs.container_of(out)
    if out.is_dir():
        raise ImageError(f"{out} is a folder. Give the name of a file in it.")
    if not out.parent.is_dir():
        raise ImageError(
            f"{out} cannot be written: the folder {out.parent} does not exist. Make it first."
        )
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(
            f"OUT {out} is the clip itself, which stays as it is. Choose another name."
        )
    if out.exists() and not overwrite:
        raise ImageError(
            f"{out} exists already. Choose another name, or overwrite it with `overwrite=True`."
        )
    media.check_file(path)


class _explained:
    """Turn what a disk refuses into an ImageError."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if isinstance(error, OSError):
            raise ImageError(
                f"{self._out} cannot be written: {error.strerror or first_line(error)}. Make room "
                "or choose another place; what is finished is kept, go on with `resume=True`."
            ) from error


def _begin(folder: Path, run: Mapping[str, Any], out: Path, *, resume: bool) -> None:
    """Make the folder of the work, or refuse one of another work."""
    plain = _plain(run)
    if not _holds_segments(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_json(folder / RUN, plain)
        return
    leftovers(folder, remove=True)
    with suppress(ConfigError):
        before = read_json(folder / RUN)
        if other := sorted(key for key in {*plain, *before} if plain.get(key) != before.get(key)):
            raise UsageError(
                f"{folder} belongs to another work on {out}: {', '.join(other)} "
                f"{'is' if len(other) == 1 else 'are'} different. Delete the folder, or choose "
                "another name."
            )
        if not resume:
            raise UsageError(
                f"{out} is unfinished: {folder} holds a part of it. Go on with `resume=True`, or "
                "delete the folder."
            )
        return
    raise UsageError(f"{folder / RUN} is damaged. Delete the folder {folder} and begin anew.")


def _holds_segments(folder: Path) -> bool:
    return any(folder.glob("*.packets"))


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Take the folder of the work away where it ends before the first segment."""
    try:
        yield
    except BaseException:
        if not _holds_segments(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _plain(run: Mapping[str, Any]) -> dict[str, Any]:
    import json

    values: dict[str, Any] = json.loads(json.dumps(run, default=str))
    return values


def _looked(path: Path, folder: Path, settings: ClipSettings) -> tuple[Clip, Plan]:
    """What is in the clip and what is written of it, as it was found before or is now."""
    clip_file, plan_file = folder / segments.SCAN, folder / segments.PLAN
    if clip_file.exists() and plan_file.exists():
        with suppress(ConfigError):
            clip = from_dict(Clip, read_json(clip_file), where="")
            return clip, from_dict(Plan, read_json(plan_file), where="")
    clip = look(path, settings.end)
    plan = plan_of(clip, start=settings.start, end=settings.end, fps=settings.fps)
    write_json(clip_file, asdict(clip))
    write_json(plan_file, asdict(plan))
    return clip, plan


def _kept(work: ClipWork, plan: Plan) -> dict[int, Segment]:
    numbers = range(len(plan.parts))
    there = {number: segments.kept(work.folder, number) for number in numbers}
    return {number: segment for number, segment in there.items() if segment is not None}


def _done(
    work: ClipWork,
    clip: Clip,
    plan: Plan,
    kept: Mapping[int, Segment],
    engine: Engine | None,
    watch: Watch,
) -> list[Segment]:
    """Make the segments that are missing; return all."""
    total, done = len(plan.times), dict(kept)
    missing = [number for number in range(len(plan.parts)) if number not in kept]
    count = sum(segment.frames for segment in kept.values())

    def tell(frames: int) -> None:
        nonlocal count
        count += frames
        if watch.on_progress:
            watch.on_progress("frames", count, total)

    def on_frame(changed: Changed, frames: int) -> None:
        tell(frames)
        if watch.on_frame:
            watch.on_frame(changed)

    tell(0)  # from which whoever hears it counts
    if engine is None:
        for segment in segments.here(work, clip, plan, missing, on_frame):
            done[segment.number] = segment
    else:
        for _, result in engine(work, [range(number, number + 1) for number in missing]):
            for row in result["segments"]:
                done[row["number"]] = Segment(**row)
                tell(row["frames"])
    return [done[number] for number in sorted(done)]
