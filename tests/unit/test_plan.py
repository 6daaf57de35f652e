"""Plans of clips: the people in them, and whom they become; and how steady clips are."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facke_core.building import make_detector
from facke_core.config import write_json
from facke_core.errors import ConfigError, NoFaceError, UsageError
from facke_core.evaluation.steadiness import steadiness
from facke_core.faces.boxes import bounds
from facke_core.faces.detect import FIVE_POINTS
from facke_core.faces.mesh import face_mesh
from facke_core.identity.people import SAME, Cast
from facke_core.images.io import read_image
from facke_core.types import Face
from facke_core.video.plan import people_of, read_plan
from moving import backdrop, clip, head, put
from standins import FunctionDetector


@pytest.fixture(scope="module")
def planned(shared: Path) -> tuple[Any, Tensor]:
    """The plan of a clip in which one person comes after another, and the sheet."""
    london = shared / "faces" / "images" / "open" / "london"
    heads = [
        head(read_image(london / who / f"{mood}.jpg").image[:, 170:850, 220:820], 110)
        for who, mood in (("L002", "neutral"), ("L002", "smiling"), ("L006", "neutral"))
    ]
    scene = backdrop(150, 260)
    one = [put(scene, heads[i // 12], 20 + i, 20) for i in range(24)]
    two = [put(one[-1], heads[2], 140, 20)] * 12
    detector = make_detector()

    def detect(photo: Tensor, *, every: bool = False) -> list[Face]:
        assert every
        return detector(photo)

    return people_of(clip([*one, *two]), detect, name="a clip")


def test_everybody_is_found_once_the_longest_seen_first(planned: tuple[Any, Tensor]) -> None:
    cut, sheet = planned
    assert [person.name for person in cut.people] == ["person 1", "person 2"]
    (first,), (second,) = (person.seen for person in cut.people)
    assert first[0] == 0
    assert first[1] >= 1.2
    assert second[0] >= 0.96
    assert all(person.source is None for person in cut.people)
    assert sheet.shape[1] == 2 * 160 + 4
    assert float(sheet[:, :100, :160].mean()) < 0.95  # somebody is there


def written(planned: tuple[Any, Tensor], folder: Path, **first: Any) -> Path:
    values = asdict(planned[0])
    values["people"][0] |= first
    file = folder / "plan.json"
    write_json(file, values)
    return file


def test_a_plan_is_a_cast_of_the_people_that_it_found(
    planned: tuple[Any, Tensor], tmp_path: Path
) -> None:
    file = written(planned, tmp_path, source="eve.jpg", during=[[0.5, 1]])
    cast = read_plan(file)
    assert isinstance(cast, Cast)
    (one, source), (two, kept) = cast.people
    assert (source, kept) == (str(tmp_path / "eve.jpg"), None)
    assert cast.during == [[(0.5, 1)], None]
    assert abs(float(one.norm()) - 1) < 1e-5
    assert float(one @ two) < SAME


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({}, UsageError, "swaps nobody"),
        ({"source": "a.jpg", "during": [[2, 1]]}, ConfigError, r"during: \[2.*no time from and to"),
        ({"source": "a.jpg", "face": "abc"}, ConfigError, "face: it is not what the plan had"),
        (
            {"source": "a.jpg", "face": base64.b64encode(b"\0" * 256).decode()},
            ConfigError,
            "face: it is not what the plan had",
        ),
        ({"sauce": "a.jpg"}, ConfigError, "sauce"),
    ],
)
def test_plans_that_make_no_sense_are_refused(
    planned: tuple[Any, Tensor], tmp_path: Path, change: Any, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        read_plan(written(planned, tmp_path, **change))


def test_plans_of_other_encoders_and_other_files_are_refused(
    planned: tuple[Any, Tensor], tmp_path: Path
) -> None:
    file = written(planned, tmp_path, source="a.jpg")
    values = json.loads(file.read_text())
    write_json(file, values | {"encoder": "0" * 64})
    with pytest.raises(ConfigError, match="another version of the encoder"):
        read_plan(file)
    write_json(file, {"facke": "plan 2"})
    with pytest.raises(ConfigError, match="is no plan of a clip"):
        read_plan(file)


def test_a_clip_without_people_has_no_plan() -> None:
    frames = clip([torch.zeros(3, 40, 40)] * 3)
    with pytest.raises(NoFaceError, match="No face was found in nothing"):
        people_of(frames, lambda photo, every: [], name="nothing")


# How steady


MESH = face_mesh().points[:, :2].float() * 20 + 60


def at_the_corner(photo: Tensor) -> list[Face]:
    """A face whose place is written into the first pixel of a photo."""
    mesh = MESH + 20 * (photo[:1, 0, 0] - 0.5)
    return [Face(bounds(mesh), mesh[list(FIVE_POINTS)], 0.9, mesh)]


def frames_with(places: list[float], light: list[float]) -> Any:
    frames = []
    for place, share in zip(places, light, strict=True):
        frame = torch.full((3, 120, 120), 0.5 + share)
        frame[:, 0, 0] = 0.5 + place / 20
        frames.append(frame)
    return clip(frames)


def test_even_movement_is_no_jitter_and_trembling_is() -> None:
    detector = FunctionDetector(at_the_corner)

    def detect(photo: Tensor, *, quick: bool = False, every: bool = False) -> list[Face]:
        return detector(photo)

    even, trembling = [i / 2 for i in range(12)], [(-1) ** i / 2 for i in range(12)]
    lit = [0.1 * (-1) ** i for i in range(12)]
    found = steadiness(frames_with(even, [0] * 12), frames_with(trembling, lit), detect)
    width = float((bounds(MESH)[2:] - bounds(MESH)[:2]).max())
    assert (found.frames, found.faces, found.changed) == (12, 12, 12)
    assert found.jitter_before == pytest.approx(0, abs=0.2)  # bytes are whole
    assert found.jitter == pytest.approx(100 * 2**0.5 / width, rel=0.1)  # by x and y
    assert found.flicker_before == pytest.approx(0, abs=0.1)
    assert found.flicker == pytest.approx(0.2 * 255, rel=0.05)


def test_clips_without_faces_are_not_measured() -> None:
    with pytest.raises(NoFaceError, match="in three frames in a row"):
        steadiness(clip([torch.zeros(3, 40, 40)]), clip([]), lambda photo, **_: [])
