"""Heads that lie or stand on their heads, groups, and pictures with very long sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import Face, load
from facke_core.building import every_face
from facke_core.errors import FackeWarning
from facke_core.faces.boxes import overlap, turned_face, turned_points
from facke_core.faces.detect import MediaPipeDetector, build_mediapipe
from facke_core.faces.doubts import AWAY, SHADED, looked_over
from facke_core.images.io import read_image, resize, to_pil

pytest.importorskip("mediapipe", reason="the detector is not installed")


@pytest.fixture(scope="module")
def detector() -> Iterator[MediaPipeDetector]:
    with build_mediapipe() as made:
        yield made


@pytest.fixture(scope="module", params=["collins", "hopper"])
def portrait(request: pytest.FixtureRequest) -> Tensor:
    """A square portrait (3, 500, 500)."""
    return square(request.param, 500)


def square(name: str, side: int) -> Tensor:
    image = read_image(sample_or_path(f"sample:{name}")).image
    width = min(image.shape[1:])
    return resize(image[None, :, :width, :width], (side, side))[0]


def turned(photo: Tensor, degrees: float) -> Tensor:
    """The photo turned with the clock, on a grey canvas where all of it has room."""
    image = to_pil(photo).rotate(
        -degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(127, 127, 127)
    )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def between(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("degrees", range(0, 360, 45))
def test_a_face_is_found_as_its_head_is_turned(
    detector: MediaPipeDetector, portrait: Tensor, degrees: int
) -> None:
    (upright,) = detector(portrait)
    (face,) = detector(turned(portrait, degrees))
    assert between(face.angle, upright.angle + degrees) < 12
    expected = (upright.box[2:] - upright.box[:2]).mean()
    eyes = (upright.landmarks[1] - upright.landmarks[0]).norm()
    assert abs((face.landmarks[1] - face.landmarks[0]).norm() / eyes - 1) < 0.15
    assert face.mesh is not None
    assert abs((face.box[2:] - face.box[:2]).mean() / expected - 1) < 0.4
    chin, forehead = face.mesh[152], face.mesh[10]
    down = torch.tensor([-math.sin(math.radians(face.angle)), math.cos(math.radians(face.angle))])
    assert (chin - forehead) @ down > 0


def test_quarter_turns_give_the_same_crop(detector: MediaPipeDetector, portrait: Tensor) -> None:
    pipeline = load("simswap")
    upright = pipeline.align(portrait, pipeline.detect(portrait)[0]).crop
    for quarters in (1, 2, 3):
        photo = torch.rot90(portrait, quarters, (1, 2)).contiguous()
        crop = pipeline.align(photo, pipeline.detect(photo)[0]).crop
        assert (crop - upright).abs().mean() < 0.05


def test_an_upright_face_is_looked_at_once(
    detector: MediaPipeDetector, portrait: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    run = detector._graphs.run

    def counted(which: int, *rest: object) -> object:
        calls.append(which)
        return run(which, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(detector._graphs, "run", counted)
    (face,) = detector(portrait)
    assert face.score > detector.SURE
    assert sorted(calls) == [0, 1, 2]


def test_turning_points_back_is_where_they_were() -> None:
    points = torch.tensor([[0.0, 0.0], [6.0, 2.0], [3.0, 1.5]])
    picture = torch.zeros(3, 7, dtype=torch.long)
    picture[2, 6] = 1
    for quarters in range(4):
        there = turned_points(points, (3, 7), quarters)
        shown = torch.rot90(picture, quarters)
        x, y = there[1].long().tolist()
        assert shown[y, x] == 1
        assert torch.equal(turned_points(there, shown.shape, -quarters), points)
    face = Face(torch.zeros(4), points, 0.9, points)
    assert turned_face(face, (3, 7), 4) is face


# groups


def group(width: int, height: int, heads: list[tuple[str, int, int, int]]) -> Tensor:
    """Portraits (name, side, x, y) on grey; a face is about 0.37 or 0.45 of the side."""
    photo = torch.full((3, height, width), 0.5)
    for name, side, x, y in heads:
        photo[:, y : y + side, x : x + side] = square(name, side)
    return photo


def one_large_six_small() -> Tensor:
    small = [
        (("collins", "hopper")[n % 2], 300, 760 + 330 * (n % 3), 40 + 420 * (n // 3))
        for n in range(6)
    ]
    return group(1920, 1280, [("hopper", 720, 10, 300), *small])


def test_small_faces_beside_a_large_one_are_found(detector: MediaPipeDetector) -> None:
    photo = one_large_six_small()
    faces = detector.all_faces(photo)
    assert len(faces) == 7
    areas = [float((face.box[2:] - face.box[:2]).prod()) for face in faces]
    assert all(a >= b for a, b in pairwise(areas))
    assert all(overlap(a.box, b.box) < 0.1 for a, b in pairwise(faces))


@pytest.mark.parametrize(("side", "columns", "rows"), [(240, 4, 3), (190, 5, 4)])
def test_everybody_of_a_large_group_is_found(
    detector: MediaPipeDetector, side: int, columns: int, rows: int
) -> None:
    heads = [
        (("collins", "hopper")[(i + j) % 2], side, 40 + i * 1840 // columns, 30 + j * 1220 // rows)
        for i in range(columns)
        for j in range(rows)
    ]
    assert len(detector.all_faces(group(1920, 1280, heads))) == columns * rows


def test_what_is_found_first_stays_as_it_is(detector: MediaPipeDetector, portrait: Tensor) -> None:
    photo = F.pad(portrait, (0, 400, 0, 300), value=0.5)
    (first,) = detector(photo)
    (same,) = detector.all_faces(photo)
    assert torch.equal(first.box, same.box)
    assert first.mesh is not None
    assert same.mesh is not None
    assert torch.equal(first.mesh, same.mesh)


def test_an_inverted_head_in_a_group_is_found_inverted(detector: MediaPipeDetector) -> None:
    photo = group(1200, 700, [("collins", 500, 40, 100), ("hopper", 500, 640, 100)])
    photo[:, 100:600, 640:1140] = photo[:, 100:600, 640:1140].flip(1, 2)
    left, right = sorted(detector.all_faces(photo), key=lambda face: float(face.box[0]))
    assert between(left.angle, 0) < 12
    assert between(right.angle, 180) < 12


def test_a_detector_that_cannot_look_on_is_just_called() -> None:
    face = Face(torch.tensor([0.0, 0, 9, 9]), torch.rand(5, 2), 0.9)

    class Plain:
        threshold = 0.5

        def __call__(self, photo: Tensor) -> list[Face]:
            return [face]

    assert every_face(Plain(), torch.zeros(3, 9, 9)) == [face]


# doubts


def test_a_face_of_twenty_pixels_is_doubtful() -> None:
    small = torch.tensor([[6.0, 8], [14, 8], [10, 12], [7, 16], [13, 16]])
    (doubt,) = looked_over(Face(torch.zeros(4), small, 0.9)).doubts
    assert doubt == "it is only about 18 pixels wide"
    assert looked_over(Face(torch.zeros(4), 2 * small, 0.9)).doubts == ()


def test_a_head_turned_far_to_the_side_is_doubtful() -> None:
    points = torch.tensor([[10.0, 10], [30, 10], [28.5, 20], [14, 30], [26, 30]])
    assert looked_over(Face(torch.zeros(4), points, 0.9)).doubts == (AWAY,)
    points[2, 0] = 26
    assert looked_over(Face(torch.zeros(4), points, 0.9)).doubts == ()


EYES = {
    "collins": [[203, 101], [246, 103], [223, 131], [202, 139], [245, 140]],
    "hopper": [[222, 191], [305, 187], [268, 247], [233, 280], [302, 276]],
}
"""The landmarks of the two samples."""
GLASS = {"black": (15, 15, 15, 250), "brown": (60, 40, 25, 235), "clear": (255, 255, 255, 25)}


def _wearing(name: str, glass: str, *, eyes: Sequence[int] = (0, 1)) -> Tensor:
    """A sample with drawn glasses, or a glass over one eye."""
    picture = Image.open(sample_or_path(f"sample:{name}")).convert("RGBA")
    over = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw, points = ImageDraw.Draw(over), EYES[name]
    apart = points[1][0] - points[0][0]
    for x, y in (points[eye] for eye in eyes):
        box = [x - 0.4 * apart, y - 0.25 * apart, x + 0.4 * apart, y + 0.33 * apart]
        draw.ellipse(box, fill=GLASS[glass], outline=(20, 20, 20, 255), width=3)
    shown = Image.alpha_composite(picture, over).convert("RGB")
    return torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("name", EYES)
def test_dark_glasses_over_both_eyes_are_doubtful_and_ordinary_ones_are_not(name: str) -> None:
    face = Face(torch.zeros(4), torch.tensor(EYES[name]).float(), 0.9)

    def doubts(photo: Tensor, points: Tensor = face.landmarks) -> tuple[str, ...]:
        return looked_over(face._replace(landmarks=points), photo).doubts

    black = _wearing(name, "black")
    assert doubts(black) == doubts(_wearing(name, "brown")) == (SHADED,)
    assert doubts(black * 0.4) == (SHADED,)
    turned = torch.rot90(black, 1, (1, 2))
    points = torch.stack([face.landmarks[:, 1], black.shape[2] - 1 - face.landmarks[:, 0]], 1)
    assert doubts(turned, points) == (SHADED,)
    for plain in (
        _wearing(name, "clear"),
        _wearing(name, "black", eyes=()),
        _wearing(name, "black", eyes=[0]),
        _wearing(name, "black", eyes=()) * 0.3,
        torch.zeros_like(black),
    ):
        assert doubts(plain) == ()
    small = F.interpolate(black[None], scale_factor=0.1, mode="area")[0]
    assert SHADED not in doubts(small, face.landmarks / 10)
    assert doubts(black, face.landmarks * 0) == doubts(black, face.landmarks / 0) == ()


def test_a_doubtful_face_is_swapped_with_a_warning(portrait: Tensor) -> None:
    pipeline = load("simswap")
    found = pipeline.detect(portrait)
    doubtful = found[0]._replace(doubts=("it smiles",))

    class Doubting:
        threshold = 0.5

        def __call__(self, photo: Tensor) -> list[Face]:
            return [doubtful]

    pipeline.detector = Doubting()
    with pytest.warns(FackeWarning, match=r"The face at \(\d+, \d+\) in .* is doubtful: it smiles"):
        result = pipeline(portrait, portrait)
    assert result.faces[0].doubts == ("it smiles",)
    assert result.source is not None
    assert result.source.doubts == ("it smiles",)


# very long sides


@pytest.mark.parametrize("shape", [(2, 32767), (32767, 2), (2, 70000), (40000, 40)])
def test_very_long_sides_end_no_process(
    detector: MediaPipeDetector, shape: tuple[int, int]
) -> None:
    assert detector(torch.full((3, *shape), 0.5)) == []
    assert detector.all_faces(torch.full((3, *shape), 0.5)) == []


def test_a_face_in_a_panorama_is_found(detector: MediaPipeDetector) -> None:
    photo = torch.full((3, 500, 34000), 0.5)
    photo[:, :, 20100:20600] = square("collins", 500)
    (face,) = detector(photo)
    (alone,) = detector(square("collins", 500))
    assert (face.landmarks - alone.landmarks - torch.tensor([20100.0, 0])).abs().max() < 8
    assert len(detector.all_faces(photo)) == 1
