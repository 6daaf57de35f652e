"""``facke swap`` for several people, ``facke plan`` and ``facke evaluate video``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from facke_cli.giving import given
from facke_cli.samples import sample_or_path
from facke_core.errors import UsageError

Facke = Callable[..., Any]
HOPPER, COLLINS = (sample_or_path(f"sample:{name}") for name in ("hopper", "collins"))
SWAP = ("swap", "--method", "pyramid", "--no-occlusion")
SIDE = 200


def picture(path: Path) -> PIL.Image.Image:
    return PIL.Image.open(path).convert("RGB").resize((SIDE, SIDE))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Hopper on the left and Collins on the right."""
    both = PIL.Image.new("RGB", (2 * SIDE, SIDE))
    for place, path in enumerate((HOPPER, COLLINS)):
        both.paste(picture(path), (place * SIDE, 0))
    both.save(tmp_path / "two.png")
    return tmp_path / "two.png"


@pytest.fixture
def clip(tmp_path: Path, two: Path) -> Path:
    """Both, for twelve frames."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 2 * SIDE, SIDE, "bgr0"
        for _ in range(12):
            frame = av.VideoFrame.from_image(PIL.Image.open(two))
            file.mux(stream.encode(frame.reformat(format="bgr0")))
        file.mux(stream.encode(None))
    return tmp_path / "clip.mkv"


def halves(before: Path, after: Path) -> list[bool]:
    """Whether the left and the right half were changed."""
    one, other = (np.asarray(PIL.Image.open(p).convert("RGB"), float) for p in (before, after))
    far = np.abs(one - other).max((0, 2))
    return [bool(far[:SIDE].max() > 5), bool(far[SIDE:].max() > 5)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["two.png", "--map", f"{HOPPER}={COLLINS}"], [True, False]),
        (["two.png", "--map", f"{COLLINS}={HOPPER}", "--map", f"{HOPPER}={COLLINS}"], [True, True]),
        ([str(HOPPER), "two.png", "--keep", f"{HOPPER}", "--face", "all"], [False, True]),
        ([str(HOPPER), "two.png", "--face", "left"], [True, False]),
        ([str(HOPPER), "two.png", "--face", "right"], [False, True]),
    ],
)
def test_who_becomes_whom_is_said_by_pictures_or_places(
    facke: Facke, tmp_path: Path, two: Path, options: list[str], expected: list[bool]
) -> None:
    run = facke(*SWAP, *options, "-o", "out.png")
    assert run.code == 0, run.err
    assert halves(two, tmp_path / "out.png") == expected


def test_several_pictures_are_one_source_that_is_kept(
    facke: Facke, tmp_path: Path, two: Path
) -> None:
    picture(COLLINS).save(tmp_path / "a.png")
    picture(COLLINS).rotate(5).save(tmp_path / "b.png")
    target = ("two.png", "--face", "left")
    run = facke(
        *SWAP, "--source", "a.png", "b.png", *target, "-o", "1.png", "--save-face", "c.safetensors"
    )
    assert run.code == 0, run.err
    run = facke(*SWAP, "c.safetensors", *target, "-o", "2.png")
    assert run.code == 0, run.err
    one, other = (np.asarray(PIL.Image.open(tmp_path / f"{n}.png"), float) for n in (1, 2))
    assert np.abs(one - other).max() <= 1
    assert halves(two, tmp_path / "1.png") == [True, False]
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(folder / name)
    facke(*SWAP, "both", *target, "-o", "3.png")
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "3.png"), float), one)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["two.png"], "two.png is the only picture"),
        (["two.png", "--map", "a.png"], "Give two pictures: REF=SOURCE"),
        (["two.png", "--plan", "p.json", "--keep", "a.png"], "Leave SOURCE, --map and --keep out"),
        (["a.png", "two.png", "--save-face", "a.pt"], "Let it end in .safetensors"),
        (["nobody.png", "two.png"], "nobody.png does not exist"),
        ([str(HOPPER), "two.png", "--face", "middle"], "Use largest, all, left, right"),
        ([str(HOPPER), str(COLLINS), "two.png", "--crop"], "--crop takes one SOURCE"),
    ],
)
def test_who_cannot_be_meant_is_said_in_a_sentence(
    facke: Facke, two: Path, words: list[str], says: str
) -> None:
    run = facke(*SWAP, *words, "-o", "out.png")
    assert run.code == 2
    assert says in run.err
    assert len(run.err.strip().splitlines()) == 1


def test_names_may_hold_an_equals_sign(tmp_path: Path) -> None:
    for name in ("a=b.png", "c.png"):
        (tmp_path / name).touch()
    who, target = given(["t.png"], [], [f"{tmp_path}/a=b.png={tmp_path}/c.png"], [], None)
    assert who.people == [(tmp_path / "a=b.png", tmp_path / "c.png")]
    assert target == Path("t.png")
    with pytest.raises(UsageError, match="REF=SOURCE"):
        given(["t.png"], [], ["=c.png"], [], None)


def test_a_plan_is_edited_and_applied_the_same_each_time(
    facke: Facke, tmp_path: Path, clip: Path, two: Path
) -> None:
    run = facke("plan", "clip.mkv", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert [each["name"] for each in report["people"]] == ["person 1", "person 2"]
    plan = tmp_path / report["plan"]
    assert PIL.Image.open(tmp_path / report["sheet"]).height == 2 * 160 + 4
    assert "overwrite it with --force" in facke("plan", "clip.mkv").err
    assert "swaps nobody" in facke(*SWAP, "--plan", plan.name, "clip.mkv", "-o", "o.mkv").err
    values = json.loads(plan.read_text())
    values["people"][0] |= {"source": str(HOPPER), "during": [[0.3, 0.6]]}
    plan.write_text(json.dumps(values))
    digests = set()
    for name in ("1.mkv", "2.mkv"):
        run = facke(*SWAP, "--plan", plan.name, "clip.mkv", "-o", name, "--json")
        assert run.code == 0, run.err
        assert json.loads(run.out)["frames_swapped"] == 4
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    run = facke("evaluate", "video", "clip.mkv", "1.mkv", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert (report["frames"], report["jitter_before"]) == (12, 0)
    assert report["changed"] == 4
