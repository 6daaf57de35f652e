"""``facke matrix``: every source on every target, or every pair by every method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from facke_cli.samples import sample_or_path
from facke_core.images.provenance import read_disclosure

Facke = Callable[..., Any]
FOUR = ("matrix", "--method", "pyramid", "--size", 40, "--no-labels")
RED, GREY, BLUE = (200, 0, 0), (90, 90, 90), (0, 0, 200)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder of flat squares, and one file that is no picture beside them."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, color in {"a-red": RED, "b-blue": BLUE}.items():
        PIL.Image.new("RGB", (150, 150), color).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no picture")
    PIL.Image.new("RGB", (150, 150), GREY).save(tmp_path / "grey.png")
    return folder


def cells(path: Path, size: int = 40) -> list[list[tuple[int, ...]]]:
    """The colours in the middles of the cells."""
    pixels = np.asarray(PIL.Image.open(path).convert("RGB"))
    middles = pixels[size // 2 :: size + 4, size // 2 :: size + 4]
    return [[tuple(int(v) for v in pixel) for pixel in row] for row in middles]


def test_sources_meet_targets(facke: Facke, crops: Path, tmp_path: Path) -> None:
    run = facke(*FOUR, "--crop", "--sources", crops, "--targets", "grey.png", "-o", "out.png")
    assert run.code == 0, run.err
    white = (255, 255, 255)
    # the pyramid puts the source's colours on the target
    assert cells(tmp_path / "out.png") == [[white, GREY], [RED, RED], [BLUE, BLUE]]
    assert run.out.startswith("out.png: 84 x 128 pixels, 2 swaps by pyramid in ")


def test_several_methods_stand_beside_each_pair(facke: Facke, crops: Path, tmp_path: Path) -> None:
    words = ["--sources", "grey.png", "--targets", crops / "a-red.png", crops / "b-blue.png"]
    words += ["--methods", "pyramid", "simswap", "--crop", "--size", 40, "--no-labels"]
    # simswap has no such setting, and would refuse it
    run = facke("matrix", *words, "--set", "pyramid.strength=0", "--json", "-o", "out.png")
    assert run.code == 0, run.err
    assert [one["method"] for one in json.loads(run.out)["columns"]] == ["pyramid", "simswap"]
    found = cells(tmp_path / "out.png")
    assert [row[:3] for row in found] == [[GREY, RED, RED], [GREY, BLUE, BLUE]]
    assert len(found[0]) == 4
    assert read_disclosure(tmp_path / "out.png")["method"] == "pyramid, simswap"


def test_heads_are_cut_out_and_photographs_are_not(facke: Facke, tmp_path: Path) -> None:
    words = [*FOUR, "--sources", "sample:collins", "--targets", "sample:hopper", "--seed", 3]
    assert facke(*words, "-o", "heads.png").code == 0
    assert facke(*words, "-o", "photos.png", "--photos").code == 0
    heads, photos = (
        np.asarray(PIL.Image.open(tmp_path / name).convert("RGB"), float)[:, 44:]
        for name in ("heads.png", "photos.png")
    )
    before, after = heads[:40], heads[44:]
    assert np.abs(before - after).mean() > 2, "the face was swapped"
    # hopper.jpg is 512 x 600: whole photographs leave white at the sides
    assert photos[:, :2].min() == 255
    assert heads[:, :2].min() < 250


def test_a_matrix_says_that_it_is_synthetic(facke: Facke, tmp_path: Path) -> None:
    words = [*FOUR, "--sources", "sample:collins", "--targets", "sample:hopper", "--seed", 3]
    assert facke(*words, "-o", "out.jpg").code == 0
    found = read_disclosure(tmp_path / "out.jpg")
    assert found["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert (found["method"], found["seed"]) == ("pyramid", "3")


def test_cells_without_a_face_stay_white(facke: Facke, crops: Path, tmp_path: Path) -> None:
    words = [*FOUR, "--sources", "sample:collins", "grey.png", "--targets", "sample:hopper"]
    run = facke(*words, "-o", "out.png", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["swaps"] == 1
    (missing,) = report["missing"]
    assert (missing["source"], "grey.png" in missing["reason"]) == ("grey.png", True)
    assert "1 cells are white: no face was found in grey.png" in run.err
    found = cells(tmp_path / "out.png")
    assert found[2] == [GREY, (255, 255, 255)], "the picture itself is shown"
    assert found[1][1] != (255, 255, 255)


@pytest.mark.parametrize("view", ["--heads", "--photos", "--crop"])
def test_a_damaged_picture_costs_its_cells_only(
    view: str, facke: Facke, crops: Path, tmp_path: Path
) -> None:
    """Files that systems put beside pictures are not even looked at."""
    for name in ("._a-red.png", "@eaDir/a-red.png"):
        (crops / name).parent.mkdir(exist_ok=True)
        (crops / name).write_bytes(b"Mac OS X")
    whole = (crops / "a-red.png").read_bytes()
    (crops / "cut.png").write_bytes(whole[: len(whole) // 2])
    (crops / "text.png").write_text("no picture")
    if view != "--crop":
        for name in ("a-red.png", "b-blue.png"):
            shutil.copy(sample_or_path("sample:collins"), crops / name)
    words = [*FOUR, view, "--seed", 3, "--sources", crops, "--targets", crops, "--json"]
    run = facke(*words, "-o", "out.png")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert (report["swaps"], len(report["missing"])) == (4, 12)
    assert {Path(one["source"]).name for one in report["missing"]} == {
        *("a-red.png", "b-blue.png", "cut.png", "text.png")
    }
    assert "12 cells are white: " in run.err
    assert "cut.png is damaged or incomplete" in run.err
    assert "text.png is not an image" in run.err
    assert "._a" not in run.err + run.out
    found, white = cells(tmp_path / "out.png"), (255, 255, 255)
    assert [row[3:] for row in found] == [[white, white]] * 5
    assert found[3:] == [[white] * 5] * 2
    assert white not in [color for row in found[1:3] for color in row[:3]]


def test_a_damaged_picture_costs_its_row(facke: Facke, crops: Path, tmp_path: Path) -> None:
    (crops / "cut.png").write_bytes(b"\x89PNG")
    words = ["--sources", "grey.png", "--targets", crops, "--methods", "pyramid", "simswap"]
    words += ["--crop", "--size", 40, "--no-labels", "--json", "-o", "out.png"]
    run = facke("matrix", *words)
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["swaps"] == 4
    assert [one["name"] for one in report["missing"]] == ["pyramid", "simswap"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--sources", "grey.png", "--targets", "grey.png"], ["Not one of 1", "grey.png"]),
        (["--sources", "none", "--targets", "grey.png"], ["none does not exist"]),
        (["--sources", "empty", "--targets", "grey.png"], ["empty holds no picture"]),
        (["--sources", "cut.png", "--targets", "grey.png", "--crop"], ["cut.png", "damaged"]),
        (
            ["--sources", "crops", "--targets", "crops", "grey.png", "--weights", "pyramid.x"],
            ["Unknown weights 'x'"],
        ),
        (
            ["--sources", "crops", "--targets", "crops", "--size", "4096", "--crop"],
            ["12296 x 12296", "megapixels"],
        ),
        (["--sources", "crops", "--targets", "crops", "--seed", "1", "2"], ["unexpected"]),
    ],
)
def test_what_cannot_be_drawn_is_explained(
    words: list[str], messages: list[str], facke: Facke, crops: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    whole = (crops / "a-red.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    run = facke("matrix", "--method", "pyramid", *words, "-o", "out.png")
    assert run.code == 2
    for message in messages:
        assert message in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "out.png").exists()


def test_several_methods_need_pairs(facke: Facke, crops: Path, tmp_path: Path) -> None:
    words = ["--sources", crops, "grey.png", "--targets", crops, "--methods", "pyramid", "simswap"]
    run = facke("matrix", *words, "-o", "out.png")
    assert run.code == 2
    assert "3 sources and 2 targets are no pairs" in run.err
    run = facke("matrix", *words, "--weights", "mini", "-o", "out.png")
    assert run.code == 2
    assert "do not go together" in run.err
