"""Faces of clips: followed from frame to frame, known by who they are, and steady."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facke_core.building import make_detector
from facke_core.faces.boxes import bounds
from facke_core.faces.choosing import FaceChoice
from facke_core.faces.detect import FIVE_POINTS
from facke_core.faces.mesh import EYE_RINGS, face_mesh
from facke_core.faces.portrait import Giver, giver
from facke_core.faces.templates import Alignment
from facke_core.identity.people import DIM, Players, seen_as
from facke_core.images.io import read_image
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import Method
from facke_core.sampling import SinglePass
from facke_core.types import Blend, Face
from facke_core.video.frames import Changed
from facke_core.video.people import BATCH, followed
from facke_core.video.steady import REACH, steady, steady_mask
from facke_core.video.tracks import GAP, Tracker
from moving import Head, backdrop, clip, head, put
from standins import ColourEncoder, FunctionDetector, FunctionGenerator

SIZE = 32
RED, GREEN = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])


# What trembles


def face_of(mesh: Tensor) -> Face:
    return Face(bounds(mesh), mesh[list(FIVE_POINTS)], 0.9, mesh)


POINTS = face_mesh().points[:, :2].float()
POINTS = POINTS * 100 / float(POINTS[:, 0].max() - POINTS[:, 0].min())
"""A mesh that is 100 pixels wide."""


def seen(truth: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Meshes as MediaPipe finds them, with errors of 0.25 % of the width, a third of it common."""
    rng = torch.Generator().manual_seed(seed)
    return [
        mesh + 0.15 * torch.randn(478, 2, generator=rng) + 0.1 * torch.randn(1, 2, generator=rng)
        for mesh in truth
    ]


def filtered(meshes: list[Tensor]) -> list[Tensor]:
    faces = dict(enumerate(map(face_of, meshes)))
    result = []
    for place in faces:
        around = {i - place: face for i, face in faces.items() if abs(i - place) <= REACH}
        mesh = steady(around).mesh
        assert mesh is not None
        result.append(mesh)
    return result


def jitter(meshes: list[Tensor]) -> float:
    x = torch.stack(meshes)
    return float((x[2:] - 2 * x[1:-1] + x[:-2]).square().mean().sqrt())


def error(meshes: list[Tensor], truth: list[Tensor]) -> float:
    return float((torch.stack(meshes) - torch.stack(truth)).square().mean().sqrt())


def test_a_still_face_trembles_a_quarter_as_much() -> None:
    meshes = seen([POINTS] * 40)
    assert jitter(filtered(meshes)) < 0.25 * jitter(meshes)


@pytest.mark.parametrize("step", [0.5, 3.0])
def test_a_face_that_moves_evenly_is_where_it_is(step: float) -> None:
    truth = [POINTS + torch.tensor([step * i, 0]) for i in range(40)]
    result = filtered(seen(truth))
    inner = slice(REACH, -REACH)
    behind = torch.stack(truth)[inner] - torch.stack(result)[inner]
    assert abs(float(behind[..., 0].mean())) < 0.02 * step + 0.02  # in pixels: no lag
    assert jitter(result[inner]) < 0.25 * jitter(seen(truth)[inner])


def test_a_sudden_start_is_seen_in_its_frame() -> None:
    truth = [POINTS + torch.tensor([max(i - 20, 0) * 6.0, 0]) for i in range(40)]
    (result, known) = filtered(truth)[19:23], truth[19:23]
    assert max(error([a], [b]) for a, b in zip(result, known, strict=True)) < 0.5


def test_a_blink_is_not_smoothed_away_by_the_stillness_of_the_face() -> None:
    upper = [point for ring in EYE_RINGS for point in ring[1:8]]
    lids = torch.zeros(478, 2)
    lids[upper, 1] = 5.0
    truth = [POINTS + (lids if 18 <= i < 21 else 0) for i in range(40)]
    result = torch.stack(filtered(seen(truth))) - POINTS
    assert float(result[18:21, upper, 1].mean()) > 4
    away = torch.ones(478, dtype=torch.bool)
    away[upper] = False
    assert float(result[:, away].abs().mean()) < 0.2


def test_other_detectors_faces_are_filtered_by_their_five_points() -> None:
    rng = torch.Generator().manual_seed(0)
    faces = [
        face_of(POINTS + 0.3 * torch.randn(478, 2, generator=rng))._replace(mesh=None)
        for _ in range(2 * REACH + 1)
    ]
    result = steady({i - REACH: face for i, face in enumerate(faces)})
    assert result.mesh is None
    still = face_of(POINTS)
    before = (faces[REACH].landmarks - still.landmarks).norm()
    assert float((result.landmarks - still.landmarks).norm()) < 0.6 * float(before)


def test_masks_of_single_frames_do_not_count_where_nothing_moves() -> None:
    off, on = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    still = [torch.full((3, 64, 64), 0.5)] * 5
    flickers = [off, off, on, off, off]
    assert float(steady_mask(flickers, still, 2).max()) == 0
    assert float(steady_mask([1 - mask for mask in flickers], still, 2).min()) == 1
    assert torch.equal(steady_mask(flickers[2:4], still[:2], 0), on)
    passing = [*still[:2], still[2] + 0.3, *still[3:]]
    assert float(steady_mask(flickers, passing, 2).min()) == 1


# Stand-ins: whose face it is, is a colour


def colours(detector: Any) -> SwapPipeline:
    """A pipeline that paints faces with the identity of the source."""

    def painted(x: Tensor, identity: Tensor) -> Tensor:
        return x * 0 + identity[:, :, None, None]

    return SwapPipeline(
        Method(FunctionGenerator(painted, SIZE, identity_dim=3), SinglePass()),
        identity_encoder=ColourEncoder(name="colour", dim=3, size=24, template="arcface"),
        detector=detector,
        alignment=Alignment(template="arcface", size=SIZE),
        registry=Registry(),
        blend=Blend(occlusion=False, grain=False, color=False),
    )


def painter(pipeline: SwapPipeline, colour: Tensor) -> Giver:
    photo = colour.view(3, 1, 1).expand(3, 200, 200).contiguous()
    return giver([pipeline.align(photo, face_of(POINTS + 100))], [None], colour)


def everybody(pipeline: SwapPipeline) -> Players:
    return Players(torch.zeros(0, DIM), [], painter(pipeline, RED))


def spots(*centres: tuple[float, float], size: float = 40) -> Tensor:
    """A frame that says where its faces are: each is a spot, of its own lightness."""
    frame = torch.full((3, 120, 240), 0.3)
    for number, (x, y) in enumerate(centres, 1):
        frame[:, int(y), int(x)] = 0.5 + number / 20 + size / 1000
    return frame


def spotted(frame: Tensor) -> list[Face]:
    """The faces that :func:`spots` drew."""
    faces = []
    for y, x in (frame[0] > 0.45).nonzero().tolist():
        mesh = POINTS * 0.4 + torch.tensor([x, y])
        faces.append(face_of(mesh.float()))
    return faces


def run(pipeline: SwapPipeline, frames: list[Tensor], **options: Any) -> list[Changed]:
    change = followed(pipeline, options.pop("players", None) or everybody(pipeline), **options)
    return list(change(clip(frames)))


def painted_at(changed: Changed, frame: Tensor, x: float, y: float) -> bool:
    return bool((changed.image - frame)[:, int(y) + 3, int(x)].abs().max() > 0.1)


# From frame to frame


def test_every_frame_comes_back_in_its_order() -> None:
    frames = [spots((60, 60))] * 5 + [spots()] * 14 + [spots((60, 60))] * 3
    result = run(colours(FunctionDetector(spotted)), frames)
    assert [each.index for each in result] == list(range(22))
    is_new = [each.mask is not None for each in result]
    assert is_new == [True] * 5 + [False] * 14 + [True] * 3
    for each, frame in zip(result, frames, strict=True):
        if each.mask is None:
            assert torch.equal(each.image, (frame * 255).round() / 255)
        else:
            still = each.mask.expand(3, -1, -1) == 0
            assert torch.equal(each.image[still], ((frame * 255).round() / 255)[still])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9, 17])
def test_clips_of_any_length_come_back_whole(count: int) -> None:
    result = run(colours(FunctionDetector(spotted)), [spots((60, 60))] * count)
    assert [each.index for each in result] == list(range(count))
    assert all(each.mask is not None for each in result)


def test_faces_go_through_the_generator_in_batches() -> None:
    sizes: list[int] = []
    pipeline = colours(FunctionDetector(spotted))
    pipeline.method.generator.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda module, x: sizes.append(len(x[0]))
    )
    run(pipeline, [spots((60, 60))] * 20)
    assert sizes == [BATCH, BATCH, 20 - 2 * BATCH]


@pytest.mark.parametrize("missed", [1, GAP, GAP + 1])
def test_short_gaps_are_filled_and_long_ones_are_not(missed: int) -> None:
    frames = [spots((60 + i, 60)) for i in range(24)]
    gap = range(10, 10 + missed)
    for i in gap:
        frames[i][1] += 0.05  # which makes the detector blind

    def found(frame: Tensor) -> list[Face]:
        return [] if float(frame[1].median()) > 0.32 else spotted(frame)

    result = run(colours(FunctionDetector(found)), frames)
    filled = [result[i].mask is not None for i in gap]
    assert filled == [missed <= GAP] * missed


def test_a_cut_ends_every_track() -> None:
    rng = torch.Generator().manual_seed(0)
    scenes = [backdrop(120, 240, seed) for seed in (1, 2)]
    frames = []
    for i in range(12):
        frame = scenes[i // 6] * 0.4
        frame[:, 60, 60] = 0.9
        frames.append(frame + 0.01 * torch.randn(frame.shape, generator=rng))
    tracker = Tracker(colours(FunctionDetector(spotted)).detect, every=False, known=False)
    tracks = [set(sight.faces) for sight in tracker.sights(clip(frames))]
    assert tracks == [{0}] * 6 + [{1}] * 6


def test_who_is_chosen_stays_chosen_while_sizes_tremble() -> None:
    wobble = torch.Generator().manual_seed(3)

    def found(frame: Tensor) -> list[Face]:
        return sorted(
            (
                face_of(POINTS * (0.4 + 0.02 * float(torch.rand(1, generator=wobble))) + place)
                for place in (torch.tensor([60.0, 60]), torch.tensor([180.0, 60]))
            ),
            key=lambda face: -float((face.box[2:] - face.box[:2]).prod()),
        )

    frames = [spots()] * 30
    result = run(colours(FunctionDetector(found)), frames)
    on_the_left = {bool(each.mask is not None and each.mask[:, :, :120].any()) for each in result}
    assert len(on_the_left) == 1


@pytest.mark.parametrize(
    ("choice", "where"), [("left", [0]), ("right", [1]), ("all", [0, 1]), (2, [1]), ([3], [])]
)
def test_faces_of_clips_are_chosen_as_those_of_photographs(
    choice: FaceChoice, where: list[int]
) -> None:
    def found(frame: Tensor) -> list[Face]:
        return [
            face_of(POINTS * 0.5 + torch.tensor([60.0, 60])),
            face_of(POINTS * 0.4 + torch.tensor([180.0, 60])),
        ]

    (changed,) = run(colours(FunctionDetector(found)), [spots()], face=choice)
    mask = torch.zeros(1, 120, 240) if changed.mask is None else changed.mask
    halves = [bool(mask[:, :, :120].any()), bool(mask[:, :, 120:].any())]
    assert [i for i, is_new in enumerate(halves) if is_new] == where


def test_a_part_of_a_clip_is_what_it_is_within_the_whole() -> None:
    rng = torch.Generator().manual_seed(0)

    def found(frame: Tensor) -> list[Face]:
        return [
            face_of(f.mesh + 0.1 * (frame[0, :2, :1].T - 0.3) * 100)  # it trembles as the pixels do
            for f in spotted(frame)
            if f.mesh is not None
        ]

    frames = []
    for i in range(60):
        frame = spots((60 + i, 60))
        frame[:, :2, :1] += 0.05 * torch.randn(1, 2, 1, generator=rng)
        frames.append(frame)
    pipeline = colours(FunctionDetector(found))
    change = followed(pipeline, everybody(pipeline))
    whole = list(change(clip(frames)))
    part = list(change(frame for frame in clip(frames) if 20 <= frame.index < 60))
    for each in part[12:]:
        assert torch.equal(each.image, whole[each.index].image)


# People who cross


@pytest.fixture(scope="module")
def heads(shared: Path) -> tuple[Head, Head, Tensor]:
    """Two heads, and who they are, from other photographs of them."""
    detector = make_detector()
    made, known = [], []
    for who in ("L002", "L006"):
        folder = shared / "faces" / "images" / "open" / "london" / who
        made.append(head(read_image(folder / "smiling.jpg").image[:, 170:850, 220:820], 110))
        other = read_image(folder / "neutral.jpg").image
        known.append(seen_as(other, detector(other)[:1]))
    return made[0], made[1], torch.cat(known)


def test_two_people_who_cross_keep_their_own_faces(heads: tuple[Head, Head, Tensor]) -> None:
    one, two, references = heads
    pipeline = colours(make_detector())
    players = Players(references, [painter(pipeline, RED), painter(pipeline, GREEN)], None)
    scene, frames, places = backdrop(150, 330), [], []
    for i in range(36):
        left, right = 10 + 6 * i, 225 - 6 * i
        frames.append(put(put(scene, two, right, 22), one, left, 18))  # one passes before two
        places.append((left + 48, right + 48))
    result = run(pipeline, frames, players=players)
    painted, apart = 0, 0
    for each, (first, second) in zip(result, places, strict=True):
        if each.mask is None:
            continue
        red = (each.mask[0] > 0.9) & (each.image[0] > 0.9) & (each.image[1] < 0.1)
        green = (each.mask[0] > 0.9) & (each.image[1] > 0.9) & (each.image[0] < 0.1)
        for colour, own, other in ((red, first, second), (green, second, first)):
            columns = colour.any(0).nonzero().flatten().float()
            if not len(columns):
                continue
            painted += 1
            middle = float(columns.mean())
            assert abs(middle - own) < 30, (each.index, middle, own, other)
        if abs(first - second) > 90:
            apart += 1
            assert red.any(), each.index
            assert green.any(), each.index
    assert painted > 55
    assert apart > 16


def test_a_person_is_swapped_at_the_times_of_a_plan_only(heads: tuple[Head, Head, Tensor]) -> None:
    one, _, references = heads
    pipeline = colours(make_detector())
    players = Players(references[:1], [painter(pipeline, RED)], None, during=[[(0.1, 0.2)]])
    frames = [put(backdrop(150, 160), one, 30, 20)] * 10
    result = run(pipeline, frames, players=players)
    assert [each.mask is not None for each in result] == [0.1 <= i / 25 <= 0.2 for i in range(10)]
