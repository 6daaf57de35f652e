"""Clips of every kind come out as they went in, but for what was changed, or are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import clips
from facke_core.errors import FackeError, ImageError, NoFaceError, UnavailableError, UsageError
from facke_core.images.provenance import read_disclosure
from facke_core.video import tags
from facke_core.video.kinds import is_clip, is_stream
from facke_core.video.media import scan
from facke_core.video.timing import plan_of
from facke_core.video.verify import verify_media
from facke_core.video.work import ClipReport, ClipSettings, change_clip

HDR = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
ILDCT = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
VFR: dict[str, Any] = {
    "unit": Fraction(1, 1000),
    "times": lambda number: 40 * number + 7 * (number % 3),
}
CORPUS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain, with two sounds, chapters and tags": (
        "a.mp4",
        "b.mp4",
        {"sounds": 2, "chapters": True, "metadata": {"title": "T", "comment": "mine"}},
    ),
    "variable frame rate, with subtitles": ("a.mkv", "b.mkv", {**VFR, "sounds": 1, "subtitles": 1}),
    "from MP4 to MKV": ("a.mp4", "b.mkv", {"sounds": 1}),
    "from MP4 to MOV": ("a.mp4", "b.mov", {"sounds": 2}),
    "lying on its side": ("a.mp4", "b.mp4", {"turn": 90}),
    "pixels that are no squares": ("a.mp4", "b.mp4", {"aspect": Fraction(4, 3)}),
    "odd size": ("a.webm", "b.webm", {"codec": "libvpx-vp9", "size": (95, 63)}),
    "odd size in H.264": ("a.webm", "b.mp4", {"codec": "libvpx-vp9", "size": (95, 63)}),
    "10 bits": ("a.mkv", "b.mkv", {"form": "yuv420p10le"}),
    "HDR": (
        "a.mp4",
        "b.mp4",
        {
            "codec": "libx265",
            "form": "yuv420p10le",
            "colour": (1, 9, 16, 9),
            "options": {"x265-params": f"log-level=none:hdr10=1:{HDR}:max-cll=1000,400"},
        },
    ),
    "full range": ("a.mp4", "b.mp4", {"form": "yuvj420p", "colour": (2, 1, 1, 1)}),
    "one frame": ("a.mp4", "b.mp4", {"frames": 1}),
    "4:4:4": ("a.mkv", "b.mkv", {"form": "yuv444p"}),
    "interlaced": ("a.mp4", "b.mp4", {"options": ILDCT, "field_order": 2}),
    "AVI": ("a.avi", "b.mp4", {"codec": "mpeg4"}),
    "program stream": ("a.mpg", "b.mkv", {"codec": "mpeg2video", "times": lambda n: 512 * n}),
    "transparent, as FFV1": (
        "a.webm",
        "b.mkv",
        {"codec": "libvpx-vp9", "form": "yuva420p", "options": {"auto-alt-ref": "0"}},
    ),
    "RGB": ("a.mkv", "b.mkv", {"codec": "ffv1", "form": "bgr0"}),
}


def changed(
    path: Path, out: Path, change: Callable[[int | None], Any] | None = None, **options: Any
) -> ClipReport:
    names = ClipSettings.__dataclass_fields__
    settings = ClipSettings(**{k: v for k, v in options.items() if k in names})
    rest = {k: v for k, v in options.items() if k not in names}
    change = change or clips.Inverted()
    return change_clip(
        path, out, change, about={}, request=clips.REQUEST, settings=settings, **rest
    )


def lost(before: Path, after: Path, **settings: Any) -> list[Any]:
    points = verify_media(before, after, settings=ClipSettings(**settings))
    assert len(points) >= 6
    return [point for point in points if not point.kept]


@pytest.mark.parametrize("name", CORPUS)
def test_a_clip_keeps_everything(name: str, tmp_path: Path) -> None:
    before, after, how = CORPUS[name]
    if before.endswith(".mpg"):
        how = {**how, "unit": Fraction(1, 25), "times": lambda number: number}
    path = clips.clip(tmp_path / before, **how)
    codec = "ffv1" if "FFV1" in name else None
    report = changed(path, tmp_path / after, codec=codec)
    assert report.changes == ()
    assert lost(path, tmp_path / after) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([before, after])
    assert clips.grid(path) != clips.grid(tmp_path / after)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animated_picture_keeps_its_delays_and_its_loop(ending: str, tmp_path: Path) -> None:
    path, out = clips.animation(tmp_path / f"a.{ending}"), tmp_path / f"b.{ending}"
    assert is_clip(path)
    changed(path, out)
    assert lost(path, out) == []
    with Image.open(out) as picture:
        delays = []
        for number in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(number)
            picture.load()
            delays.append(round(picture.info["duration"]))
        assert delays == [40, 60, 80, 100, 120]
        assert picture.info["loop"] == 3
    assert read_disclosure(out)["method"] == "none"


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_transparency_of_animated_pictures_stays(ending: str, tmp_path: Path) -> None:
    path, out = clips.animation(tmp_path / f"a.{ending}", alpha=True), tmp_path / f"b.{ending}"
    changed(path, out)
    assert lost(path, out) == []
    for number in range(5):
        with Image.open(path) as before, Image.open(out) as after:
            before.seek(number)
            after.seek(number)
            alpha = [np.asarray(each.convert("RGBA"))[..., 3] for each in (before, after)]
            assert np.array_equal(alpha[0], alpha[1])


def planes(path: Path) -> list[list[np.ndarray[Any, Any]]]:
    from facke_core.video.pixels import planes_of, working

    with av.open(str(path)) as source:
        return [[p.copy() for p in planes_of(working(f))] for f in source.decode(video=0)]


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "bgr0", "bgra"])
def test_without_loss_not_one_sample_outside_the_changed_part_differs(
    form: str, tmp_path: Path
) -> None:
    path = clips.clip(tmp_path / "a.mkv", codec="ffv1", form=form, frames=4, size=(95, 63))
    out = tmp_path / "b.mkv"
    changed(path, out, clips.Inverted(skip=3))
    for number, (before, after) in enumerate(zip(planes(path), planes(out), strict=True)):
        for old, new in zip(before, after, strict=True):
            height, width = old.shape
            y = np.arange(height)[:, None] * -(-63 // height)
            x = np.arange(width)[None] * -(-95 // width)
            # a sample of chroma belongs to all pixels that it covers
            inside = (y + -(-63 // height) > 63 // 4) & (y < 63 // 2)
            inside = inside & (x + -(-95 // width) > 95 // 4) & (x < 95 // 2)
            assert np.array_equal(old[~inside], new[~inside])
        same = number % 3 == 1
        assert np.array_equal(before[0], after[0]) == same
        if not same and form not in ("bgr0", "bgra"):
            top = 2 ** (10 if "10" in form else 8) - 1
            low = (16 * (top + 1) // 256, 235 * (top + 1) // 256)
            part = (slice(63 // 4 + 2, 63 // 2 - 2), slice(95 // 4 + 2, 95 // 2 - 2))
            mirrored = sum(low) - before[0][part].astype(int)
            assert np.abs(after[0][part].astype(int) - mirrored).max() <= 0.03 * top


def test_whoever_changes_a_clip_sees_it_upright_and_it_stays_on_its_side(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Look(clips.Inverted):
        def change(self, frames: Any) -> Any:
            kept = list(frames)
            seen.extend(frame.image for frame in kept)
            return super().change(iter(kept))

    path = clips.clip(tmp_path / "a.mp4", turn=90, frames=2)
    changed(path, tmp_path / "b.mp4", Look())
    assert seen[0].shape == (3, clips.WIDTH, clips.HEIGHT)
    stored = np.rot90(clips.picture(0), 1)  # counter-clockwise, as the turn is meant
    assert np.abs(seen[0].permute(1, 2, 0).numpy() * 255 - stored).mean() < 12
    with av.open(str(tmp_path / "b.mp4")) as source:
        assert next(source.decode(video=0)).rotation == 90


def test_a_part_of_a_clip_begins_at_nought_with_its_own_sound(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", sounds=1, frames=25, chapters=True)
    out = tmp_path / "b.mp4"
    report = changed(path, out, start=0.2, end=0.6)
    assert report.frames == 10
    assert lost(path, out, start=0.2, end=0.6) == []
    assert lost(path, out) != []


@pytest.mark.parametrize(("fps", "frames"), [(50, 24), (10, 5), (29.97, 15)])
def test_another_rate_shows_frames_again_or_leaves_some_out(
    fps: float, frames: int, tmp_path: Path
) -> None:
    path, out = clips.clip(tmp_path / "a.mp4", sounds=1), tmp_path / "b.mp4"
    assert changed(path, out, fps=fps).frames == frames
    assert lost(path, out, fps=fps) == []


def test_the_times_of_a_plan_are_those_of_the_clip() -> None:
    clip: Any = {
        "kind": "stream",
        "container": "mp4",
        "codec": "h264",
        "pix_fmt": "yuv420p",
        "width": 8,
        "height": 8,
        "time_base": "1/1000",
        "rate": "25",
        "times": [0, 40, 90, 200, 10_050, 20_000, 20_010],
        "last": 40,
        "sums": [],
        "keys": [0],
    }
    from facke_core.video.media import Clip

    plan = plan_of(Clip(**clip))
    assert plan.times == clip["times"]
    assert plan.parts == [range(4), range(4, 5), range(5, 7)]
    cut = plan_of(Clip(**clip), start=0.05, end=0.3)
    assert (cut.first, cut.times, cut.last) == (2, [40, 150], 9850)
    with pytest.raises(UsageError, match="ends at"):
        plan_of(Clip(**clip), start=30)
    with pytest.raises(UsageError, match="leave nothing"):
        plan_of(Clip(**clip), start=2, end=1)


# -- refusals ------------------------------------------------------------------------------------


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        for frame in clips._tone(0.2, 220):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def refused(path: Path, out: Path, **options: Any) -> str:
    """The message, which is one line and says what to do; nothing is left behind."""
    there = {file.name for file in out.parent.iterdir()}
    with pytest.raises(FackeError) as caught:
        changed(path, out, **options)
    assert "\n" not in str(caught.value)
    assert {file.name for file in out.parent.iterdir()} == there
    return str(caught.value)


def test_what_is_no_whole_clip_is_refused_with_the_reason(tmp_path: Path) -> None:
    mp4 = clips.clip(tmp_path / "a.mp4", frames=40)
    mkv = clips.clip(tmp_path / "a.mkv", frames=60, **VFR)
    out = tmp_path / "b.mp4"
    assert "does not exist" in refused(tmp_path / "none.mp4", out)
    assert "is a folder" in refused(tmp_path, out)
    (tmp_path / "empty.mp4").touch()
    assert "empty (0 bytes)" in refused(tmp_path / "empty.mp4", out)
    (tmp_path / "text.mp4").write_text("hello, this is no clip at all\n" * 99)
    assert "no clip that can be read" in refused(tmp_path / "text.mp4", out)
    assert "incomplete" in refused(clips.truncated(mp4, tmp_path / "cut.mp4", 0.5), out)
    cut = refused(clips.truncated(mkv, tmp_path / "cut.mkv", 0.4), out)
    assert "header promises" in cut
    assert "`end=" in cut
    assert "no video stream: it holds audio" in refused(sound_only(tmp_path / "a.m4a"), out)


def test_what_is_left_of_a_clip_that_was_cut_off_can_be_used(tmp_path: Path) -> None:
    mkv = clips.clip(tmp_path / "a.mkv", frames=60, **VFR)
    cut = clips.truncated(mkv, tmp_path / "cut.mkv", 0.5)
    assert changed(cut, tmp_path / "b.mp4", end=0.5).frames == 13


def test_a_damaged_frame_is_told_with_its_time(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mkv", codec="ffv1", frames=20, gop=1)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    assert "is damaged after 0." in refused(path, tmp_path / "b.mkv")


def test_impossible_wishes_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", sounds=1)
    subtitled = clips.clip(tmp_path / "s.mkv", subtitles=True)
    assert "'divx' does not exist" in refused(path, tmp_path / "b.mp4", codec="divx")
    assert "cannot hold ffv1" in refused(path, tmp_path / "b.webm", codec="ffv1")
    assert "extension '.avi' is none of" in refused(path, tmp_path / "b.avi")
    assert "has no crf" in refused(path, tmp_path / "b.mkv", codec="ffv1", crf=3)
    assert "crf=99 is not possible" in refused(path, tmp_path / "b.mp4", crf=99)
    assert "fps=0 is not possible" in refused(path, tmp_path / "b.mp4", fps=0)
    assert "cannot hold stream 1 of the clip (subtitle" in refused(subtitled, tmp_path / "b.mp4")
    assert "(audio, aac), which is copied" in refused(path, tmp_path / "b.webm")
    assert "cannot hold stream 1 of the clip (audio" in refused(path, tmp_path / "b.gif")
    assert "is the clip itself" in refused(path, path, overwrite=True)
    (tmp_path / "there.mp4").touch()
    assert "exists already" in refused(path, tmp_path / "there.mp4")
    alpha = clips.clip(
        tmp_path / "t.webm",
        codec="libvpx-vp9",
        form="yuva420p",
        options={"auto-alt-ref": "0"},
    )
    assert "keeps no transparency here" in refused(alpha, tmp_path / "b.webm")


def test_a_clip_without_a_face_is_not_copied(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4")
    with pytest.raises(NoFaceError, match="any of the 12 frames"):
        changed(path, tmp_path / "b.mp4", clips.Inverted(never=True))
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_what_cannot_be_kept_is_announced_and_found_again(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mkv", codec="ffv1", form="yuv420p12le", frames=3)
    with pytest.warns(UserWarning, match="yuv420p12le becomes yuv420p10le"):
        report = changed(path, tmp_path / "b.mp4", codec="h264")
    assert "fewer bits" in report.changes[0]
    assert [point.name for point in lost(path, tmp_path / "b.mp4")] == ["format"]


def test_files_are_told_by_their_content(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4")
    wrong = path.rename(tmp_path / "a.jpg")
    assert is_stream(wrong)
    assert changed(wrong, tmp_path / "b.mp4").frames == 12
    picture = tmp_path / "p.mp4"
    Image.fromarray(clips.picture(0)).save(picture, format="PNG")
    still = tmp_path / "s.gif"
    Image.fromarray(clips.picture(0)).save(still)
    avif = tmp_path / "a.avif"
    Image.fromarray(clips.picture(0)).save(avif)
    for each in (picture, still, avif, tmp_path, tmp_path / "none.mp4"):
        assert not is_clip(each), each
    for ending in ("mkv", "webm", "avi", "mpg", "ts", "mov"):
        codec = {"webm": "libvpx-vp9", "mpg": "mpeg2video", "avi": "mpeg4"}.get(ending, "libx264")
        made = clips.clip(
            tmp_path / f"c.{ending}",
            codec=codec,
            frames=3,
            unit=Fraction(1, 25),
            times=lambda number: number,
        )
        assert is_clip(made.rename(tmp_path / f"{ending}.bin")), ending


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnavailableError, match=r'pip install "facke-core\[video\]"'):
        scan(path)


# -- disclosure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
def test_a_clip_says_that_it_is_synthetic(ending: str, tmp_path: Path) -> None:
    path, out = clips.clip(tmp_path / "a.mkv", frames=3), tmp_path / f"b.{ending}"
    assert tags.read_disclosure(path) == {}
    changed(path, out)
    said = tags.read_disclosure(out)
    assert said["digital_source_type"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert (said["method"], said["seed"]) == ("none", "3")
    with av.open(str(out)) as source:
        comment = {key.lower(): text for key, text in source.metadata.items()}["comment"]
    assert comment.startswith("Synthetic: faces were swapped by facke")


def test_the_comment_of_the_clip_stands_before_ours(tmp_path: Path) -> None:
    path = clips.clip(tmp_path / "a.mp4", frames=2, metadata={"comment": "mine", "make": "Me"})
    changed(path, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as source:
        assert source.metadata["comment"].startswith("mine | Synthetic")
    assert clips.boxes(tmp_path / "b.mp4")[-1] == "uuid"
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x10ftypisom" * 3)
    with pytest.raises(ImageError, match="no clip"):
        tags.read_disclosure(tmp_path / "c.mp4")
