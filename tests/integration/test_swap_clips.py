"""Clips and folders on the command line: swapped, looked at, compared, gone on with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import clips
from facke_cli import clips as commands
from facke_core import load
from facke_core.errors import NoFaceError, UsageError
from facke_core.jobs.engines import RayEngine
from facke_core.video.frames import Frame
from facke_core.video.swapping import swapped

METHOD = ["--method", "cvae-gan", "--seed", 3]


def hopper(path: Path, *, frames: int = 4, **options: Any) -> Path:
    """A clip of a portrait that moves, grey in its last frame."""
    face = np.asarray(Image.open("hopper.jpg").convert("RGB").resize((160, 200)))

    def make(number: int) -> Any:
        canvas = np.full((200, 200, 3), 90, np.uint8)
        if number < frames - 1:
            canvas[:, 4 * number : 4 * number + 160] = face
        return av.VideoFrame.from_ndarray(canvas, "rgb24").reformat(format="yuv420p")

    return clips.clip(path, frames=frames, size=(200, 200), make=make, **options)


def test_a_clip_is_swapped_told_and_compared(facke: Callable[..., Any], samples: Path) -> None:
    hopper(samples / "in.mp4", frames=3, sounds=1, metadata={"title": "Admiral"})
    command = ["swap", "collins.png", "in.mp4", "-o", "out.mp4", *METHOD]
    done = facke(*command, "--json", "--previews", "seen")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["frames"], report["frames_swapped"], report["segments"]) == (3, 2, 1)
    assert (report["codec"], report["seed"], report["not_kept"]) == ("h264", 3, [])
    assert [path.name for path in Path("seen").iterdir()] == ["frame-000000.jpg"]
    assert "synthetic" in facke("inspect", "out.mp4").out
    assert "synthetic" in facke("inspect", "seen/frame-000000.jpg").out
    same = facke("verify-media", "in.mp4", "out.mp4")
    assert same.code == 0, same.out
    assert "kept  tags" in same.out
    other = facke("verify-media", "none.mp4", "out.mp4")
    assert (other.code, "none.mp4 does not exist" in other.err) == (2, True)
    again = facke(*command)
    assert (again.code, "--force" in again.err) == (2, True)
    clips.clip(samples / "other.mp4", frames=5)
    lost = facke("verify-media", "in.mp4", "other.mp4", "--json")
    assert lost.code == 3
    assert {each["name"] for each in json.loads(lost.out)["points"] if not each["kept"]} >= {
        *("frames", "duration", "size", "disclosure", "tags")
    }


def test_a_frame_of_a_clip_is_what_a_picture_would_be(
    facke: Callable[..., Any], samples: Path
) -> None:
    swapper = load("cvae-gan")
    face = Image.open("hopper.jpg").convert("RGB").resize((160, 200))
    photo = torch.from_numpy(np.array(face))
    frame = Frame(0, 0.0, photo.permute(2, 0, 1).float() / 255)
    wall = Frame(1, 0.1, torch.full((3, 99, 99), 0.5))
    beside = Frame(2, 0.2, frame.image, inside=False)
    one, none = swapped(swapper, "collins.png", seed=3)(iter([frame, wall, beside]))
    single = swapper("collins.png", frame.image, seed=3)
    assert torch.equal(one.image, single.image)
    assert one.mask is not None
    assert none.mask is None
    assert torch.equal(none.image, wall.image)


def test_bad_clips_and_sources_are_one_line(facke: Callable[..., Any], samples: Path) -> None:
    path = hopper(samples / "in.mp4")
    clips.clip(samples / "empty.mp4", frames=2)
    Image.new("RGB", (200, 200), "gray").save("wall.png")
    (samples / "zero.mp4").touch()
    for words, said in (
        (["wall.png", path], "wall.png ("),
        (["collins.png", "empty.mp4"], "in any of the 2 frames"),
        (["collins.png", "zero.mp4"], "is empty (0 bytes)"),
        (["collins.png", path, "--codec", "divx"], "'divx' does not exist"),
        (["collins.png", path, "--start", 99], "another --start"),
        (["collins.png", path, "--crop"], "--crop cannot be used with a clip"),
        (["collins.png", "hopper.jpg", "--fps", 5], "--fps cannot be used with a picture"),
        (["collins.png", "hopper.jpg", "--resume"], "belong to --pairs, folders and clips"),
    ):
        done = facke("swap", *words, "-o", "out.mp4", "--quiet", *METHOD)
        assert (done.code, done.out) == (2, ""), words
        assert said in done.err, words
        assert done.err.count("\n") == 1
        assert not list(samples.glob("out*"))
    with pytest.raises(UsageError, match="audio"):
        load("cvae-gan").video("collins.png", path, "out.mp4", audio="loud")
    with pytest.raises(NoFaceError):
        load("cvae-gan").video("collins.png", "empty.mp4", "out.mp4")


def test_who_interrupts_is_told_how_to_go_on(
    facke: Callable[..., Any], samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper(samples / "in.mp4", frames=3)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("facke_core.video.swapping.change_by", stop)
    done = facke("swap", "collins.png", "in.mp4", "-o", "out.mp4", *METHOD)
    assert done.code == 130
    assert "Go on with: facke swap collins.png in.mp4 -o out.mp4 --method" in done.err
    assert done.err.rstrip().endswith("--resume")
    assert facke("swap", "--nonsense").code == 2


def test_of_an_animated_picture_a_still_one_is_made_where_out_cannot_move(samples: Path) -> None:
    moving = clips.animation(samples / "a.gif")
    assert commands.becomes_clip(moving, Path("o.gif"))
    assert commands.becomes_clip(moving, Path("o.mp4"))
    assert not commands.becomes_clip(moving, Path("o.jpg"))
    assert not commands.becomes_clip(samples / "hopper.jpg", Path("o.png"))


def test_a_folder_becomes_a_folder_with_the_same_names(
    facke: Callable[..., Any], samples: Path
) -> None:
    face = Image.open("hopper.jpg").convert("RGB")
    (samples / "in" / "a" / "b").mkdir(parents=True)
    face.resize((160, 200)).save("in/x.jpg")
    face.resize((160, 200)).save("in/a/b/y.bmp")
    Image.new("RGB", (200, 200), "gray").save("in/wall.png")
    (samples / "in" / "notes.txt").touch()
    command = ["swap", "collins.png", "in", "-o", "out", *METHOD]
    done = facke(*command)
    assert done.code == 0, done.err
    assert "out: 2 pictures by cvae-gan, 1 skipped" in done.out
    assert "wall.png skipped: No face was found" in done.err
    made = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")}
    assert made == {"x.jpg", "a/b/y.bmp.png", "swaps.csv", "run.json", "done/000000.json"}
    with Path("out/swaps.csv").open(newline="") as file:
        rows = {row["target"]: row for row in csv.DictReader(file)}
    assert "No face" in rows["wall.png"]["skipped"]
    assert (facke(*command).code, facke(*command, "--resume").code) == (2, 0)
    inside = facke(*command[:4], "in/out", *METHOD)
    assert (inside.code, "lies in the folder" in inside.err) == (2, True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine."""
    ray = pytest.importorskip("ray", reason="needs Ray (extra: ray)")
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", num_cpus=2)
    yield
    ray.shutdown()


def test_ray_makes_the_same_clip(facke: Callable[..., Any], samples: Path, cluster: None) -> None:
    unit = Fraction(1, 1000)
    hopper(samples / "in.mp4", frames=3, unit=unit, times=lambda number: 11000 * number, sounds=1)
    command = ["swap", "collins.png", "in.mp4", *METHOD]
    before = torch.get_num_threads()
    torch.set_num_threads(RayEngine().threads)  # of an actor
    try:
        here = facke(*command, "-o", "here.mp4", "--json")
    finally:
        torch.set_num_threads(before)
    assert json.loads(here.out)["segments"] == 3
    there = facke(*command, "-o", "there.mp4", "--engine", "ray", "--json")
    assert there.code == 0, there.err
    assert Path("here.mp4").read_bytes() == Path("there.mp4").read_bytes()
