"""A clip is the same file however often its work was interrupted, and whoever did its segments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import clips
from facke_core.errors import DataError, ImageError, UsageError
from facke_core.video import reading, timing
from facke_core.video.media import scan
from facke_core.video.reading import ahead, frames_of
from facke_core.video.work import ClipReport, Watch, change_clip

FRAMES = 30


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of five frames, and margins of two."""
    monkeypatch.setattr(timing, "SECONDS", Fraction(1, 5))
    monkeypatch.setattr("facke_core.video.segments.MARGIN", 2)


def changed(path: Path, out: Path, change: Any = None, **options: Any) -> ClipReport:
    change = change or clips.Inverted(skip=7)
    return change_clip(path, out, change, about={"x": 1}, request=clips.REQUEST, **options)


class Stopping(clips.Inverted):
    """It stops at a frame as Ctrl-C would."""

    def __init__(self, at: int) -> None:
        super().__init__(skip=7)
        self.at = at

    def change(self, frames: Any) -> Any:
        for each in super().change(frames):
            if each.index == self.at:
                raise KeyboardInterrupt
            yield each


def test_a_work_that_was_stopped_goes_on_to_the_same_file(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=FRAMES, sounds=1)
    report = changed(path, tmp_path / "whole.mp4")
    assert (report.segments, report.kept) == (6, 0)
    out = tmp_path / "out.mp4"
    for at in (13, 22):
        with pytest.raises(KeyboardInterrupt):
            changed(path, out, Stopping(at), resume=True)
        assert not out.exists()
    unfinished = tmp_path / "out.mp4.unfinished"
    assert sorted(file.name for file in unfinished.glob("*.packets"))[-1] == "000003.packets"
    with pytest.raises(UsageError, match="is unfinished"):
        changed(path, out)
    other = clips.clip(tmp_path / "b.mp4", frames=FRAMES)
    with pytest.raises(UsageError, match="clip is different"):
        changed(other, out, resume=True)
    (unfinished / "000001.packets").write_bytes(b"damaged")
    told: list[tuple[int, int]] = []
    watch = Watch(on_progress=lambda _, done, total: told.append((done, total)))
    report = changed(path, out, resume=True, watch=watch)
    assert (report.segments, report.kept) == (6, 3)
    assert told[0] == (15, FRAMES)
    assert told[-1] == (FRAMES, FRAMES)
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not unfinished.exists()


def test_what_stops_before_the_first_segment_leaves_nothing(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=FRAMES)
    with pytest.raises(KeyboardInterrupt):
        changed(path, tmp_path / "out.mp4", Stopping(2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def backwards(work: Any, parts: Sequence[range]) -> Iterator[tuple[range, Mapping[str, Any]]]:
    """An engine that does the last part first, each as another process would."""
    for part in reversed(parts):
        yield part, json.loads(json.dumps(work.open(1)(part)))


@pytest.mark.parametrize("codec", ["libx264", "ffv1", "libvpx-vp9"])
def test_another_engine_makes_the_same_file(codec: str, tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mkv", codec=codec, frames=FRAMES, gop=7)
    changed(path, tmp_path / "here.mkv")
    changed(path, tmp_path / "there.mkv", engine=backwards)
    assert (tmp_path / "here.mkv").read_bytes() == (tmp_path / "there.mkv").read_bytes()


KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {"options": {"bf": "3"}},
    "open.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "a.mkv": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "a.webm": {"codec": "libvpx-vp9"},
    "a.avi": {"codec": "mpeg4", "unit": Fraction(1, 25), "times": lambda number: number},
    "a.mpg": {"codec": "mpeg2video", "unit": Fraction(1, 25), "times": lambda number: number},
    "a.ts": {"unit": Fraction(1, 25), "times": lambda number: number},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_part_holds_the_frames_that_all_of_the_clip_holds(name: str, tmp_path: Path) -> None:
    path = clips.clip(tmp_path / name, frames=FRAMES, gop=6, **KINDS[name])
    clip = scan(path)
    assert len(clip.times) == FRAMES
    whole = {index: frame.to_ndarray(format="rgb24") for index, frame in
             frames_of(path, clip, range(FRAMES))}  # fmt: skip
    assert list(whole) == list(range(FRAMES))
    for part in (range(5), range(13, 17), range(19, 30), range(29, 30)):
        shown = dict(frames_of(path, clip, part))
        assert list(shown) == list(part)
        for index, frame in shown.items():
            assert (frame.to_ndarray(format="rgb24") == whole[index]).all()


def test_a_place_that_cannot_be_found_is_looked_for_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.clip(tmp_path / "a.mkv", frames=FRAMES, gop=6)
    clip = scan(path)
    monkeypatch.setattr(reading, "_begin", lambda clip, first: clip.times[-1] and 24)
    assert list(dict(frames_of(path, clip, range(10, 13)))) == [10, 11, 12]
    clip.sums[11] += 1
    with pytest.raises(ImageError, match="frame 11 is not what it was"):
        list(frames_of(path, clip, range(10, 13)))


def test_two_jobs_do_not_work_on_one_clip(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=3)

    class Second(clips.Inverted):
        def change(self, frames: Any) -> Any:
            with pytest.raises(DataError, match="Another job of facke"):
                changed(path, tmp_path / "b.mp4")
            return super().change(frames)

    changed(path, tmp_path / "b.mp4", Second())


def give(behind: reading.Behind, count: int) -> None:
    with behind:
        for _ in range(count):
            behind.put(0)


def test_what_a_thread_raises_is_raised_and_it_ends_with_its_reader() -> None:
    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            ended.append(True)

    ended: list[bool] = []
    reader = ahead(items(), 2)
    assert next(reader) == 0
    reader.close()
    assert ended == [True]
    with pytest.raises(ZeroDivisionError):
        list(ahead((1 // number for number in (1, 0)), 2))
    with pytest.raises(ZeroDivisionError):
        give(reading.Behind(lambda n: 1 // n, 1), 9)


# -- in another process --------------------------------------------------------------------------

WORK = """
import resource, signal, sys, time
from fractions import Fraction
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import clips, torch
from facke_core.errors import FackeError
from facke_core.video import timing
from facke_core.video.work import change_clip

torch.set_num_threads(1)
timing.SECONDS = Fraction(1, 5)


class Slow(clips.Inverted):
    def change(self, frames):
        for each in super().change(frames):
            time.sleep(float(sys.argv[4]))
            yield each


def work(path, out):
    return change_clip(path, out, Slow(skip=7), about={"x": 1}, request=clips.REQUEST, resume=True)

"""
KILLED = """
print("begins", flush=True)
work(Path(sys.argv[2]), Path(sys.argv[3]))
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, folder = Path(sys.argv[2]), Path(sys.argv[3])
work(path, folder / "out.mkv")
whole = (folder / "out.mkv").stat().st_size
for share in (0.01, 0.1, 0.3, 0.6, 0.9, 1 - 1 / whole, 1.0):
    (folder / "out.mkv").unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(whole * share), -1))
    try:
        work(path, folder / "out.mkv")
        said = "ok"
    except FackeError as error:
        said = "told" if "cannot be written" in str(error) else str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    print(share, said, (folder / "out.mkv").exists(), sep=",")
(folder / "out.mkv").unlink()
work(path, folder / "out.mkv")
print((folder / "out.mkv").stat().st_size == whole, len(list(folder.iterdir())))
"""


def process(code: str, path: Path, out: Path, delay: float = 0.0) -> subprocess.Popen[str]:
    tests = str(Path(clips.__file__).parent)
    command = [sys.executable, "-c", WORK + code, tests, str(path), str(out), str(delay)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_a_killed_work_goes_on_to_the_same_frames(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=FRAMES, sounds=1)
    changed(path, tmp_path / "whole.mp4")
    out, rng = tmp_path / "out.mp4", random.Random(0)
    for _ in range(2):
        child = process(KILLED, path, out, 0.03)
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        time.sleep(rng.uniform(0.1, 1.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not out.exists() or child.returncode == 0
        out.unlink(missing_ok=True)
    changed(path, out, resume=True)
    assert clips.grid(out) == clips.grid(tmp_path / "whole.mp4")
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"a.mp4", "whole.mp4", "out.mp4"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_file_that_may_not_be_as_long_is_an_error_and_no_clip(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mkv", frames=15, options={"crf": "1"})
    (tmp_path / "disk").mkdir()
    child = process(FULL, path, tmp_path / "disk")
    lines = child.communicate(timeout=120)[0].splitlines()
    assert child.returncode == 0
    assert lines[-1] == "True 1"
    for line in lines[:-1]:
        share, said, there = line.split(",")
        assert (said, there) == (("ok", "True") if share == "1.0" else ("told", "False"))
    assert len(lines) == 8
