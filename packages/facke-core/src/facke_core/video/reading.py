"""Decoding a part of a clip: the very frames that were seen when all of it was decoded.

Decoding begins at a frame before the part at which it can begin. Not every container finds such a
frame, and not every decoder shows the same from there on, so each frame is compared with the sum
that :func:`~facke_core.video.media.scan` made of it. Where one differs, decoding begins anew at the
beginning of the clip.
"""

from __future__ import annotations

import bisect
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from facke_core.environment import require
from facke_core.errors import ImageError
from facke_core.video import animations
from facke_core.video.media import Clip, decoder_of, explaining, first_plane, opened, picture_stream

__all__: list[str] = []

T = TypeVar("T")


def frames_of(path: Path, clip: Clip, part: range) -> Generator[tuple[int, Any], None, None]:
    """The frames of a part of a clip: the number of each, and the frame as it was decoded.

    Raises:
        ImageError: it cannot be read, or not as before.
    """
    if clip.kind == "pictures":
        yield from animations.frames_of(path, part)
        return
    after = part.start
    for begin in dict.fromkeys((_begin(clip, part.start), None)):
        with closing(_from(path, clip, begin)) as frames:
            for index, frame in frames:
                if index < after:
                    continue
                if index > after or first_plane(frame) != clip.sums[index]:
                    break
                yield index, frame
                after = index + 1
                if after == part.stop:
                    return
    raise ImageError(
        f"{path} changed while it was read, or it is damaged: frame {after} is not what it was "
        "before. Copy the clip to a local disk, or convert it with another program."
    )


def _begin(clip: Clip, first: int) -> int | None:
    """The frame at which to begin: the last but one possible; None for the beginning of the file.

    One more is decoded than needed, because what follows the last may need what stood before it.
    """
    at = bisect.bisect_right(clip.keys, first) - 2
    return clip.keys[at] if at > 0 and clip.timed else None


def _from(path: Path, clip: Clip, begin: int | None) -> Generator[tuple[int, Any], None, None]:
    """All frames from one on, or from the beginning; their numbers by their times."""
    av = require("av")
    numbers = {time: index for index, time in enumerate(clip.times)}
    with opened(path) as container:
        stream = picture_stream(container, path)
        decoder = decoder_of(stream)
        if begin is not None:
            container.seek(clip.times[begin], stream=stream)
        counted = 0
        with explaining(path):
            for packet in container.demux(stream):
                try:
                    frames = decoder.decode(packet if packet.size else None)
                except (av.EOFError, av.BlockingIOError):
                    continue
                except av.FFmpegError:
                    if begin is None:
                        raise
                    return
                for frame in frames:
                    if begin is None:
                        index: int | None = counted
                        counted += 1
                    else:
                        index = numbers.get(frame.pts)
                    if index is not None and index < len(clip.times):
                        yield index, frame


class _End:
    """What a thread says when nothing more comes."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """Yield what another thread takes from ``items``, at most ``size`` ahead.

    The thread ends with the generator. What it raises is raised here.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(size)
    stop = threading.Event()

    def run() -> None:
        end = _End(None)
        try:
            for item in items:
                if not _offer(waiting, item, stop):
                    break
        except BaseException as error:
            end = _End(error)
        finally:
            if close := getattr(items, "close", None):
                close()
            _offer(waiting, end, stop)

    thread = threading.Thread(target=run, daemon=True, name="facke-decode")
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _offer(waiting: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.05)
            return True
        except queue.Full:
            continue
    return False


class Behind:
    """A thread that works off what it is given, in order, at most ``size`` behind.

    Leaving the ``with`` block waits until all is done; on an error the rest is left undone.
    """

    def __init__(self, work: Callable[..., None], size: int) -> None:
        self._work = work
        self._waiting: queue.Queue[Any] = queue.Queue(size)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="facke-encode")

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def put(self, *item: Any) -> None:
        """Give one more; raises what the work raised before."""
        if not _offer(self._waiting, item, self._stop):
            self._raise()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            _offer(self._waiting, (), self._stop)
        else:
            self._stop.set()
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    item = self._waiting.get(timeout=0.05)
                except queue.Empty:
                    continue
                if not item:
                    return
                self._work(*item)
        except BaseException as error:
            self._error = error
            self._stop.set()
