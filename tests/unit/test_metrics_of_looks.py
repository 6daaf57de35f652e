"""Metrics of how a swap looks: what was planted in a picture is what they tell, and nothing else.

The planted cases are changes of a real portrait, whose faces MediaPipe finds again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.color import rgb_to_lab
from swappers import colours, network, write_pairs
from torch import Tensor

import facke_cli.samples
from facke_core.evaluation import appearance, attributes
from facke_core.evaluation.appearance import around
from facke_core.evaluation.ciede2000 import difference
from facke_core.evaluation.clips import flicker
from facke_core.evaluation.covered import THINGS, covered
from facke_core.evaluation.metrics import Covered, SwappedPairs, kid
from facke_core.evaluation.pictures import Loaded
from facke_core.evaluation.report import diff
from facke_core.evaluation.runner import Evaluator, make_metrics
from facke_core.evaluation.statistics import Estimate, kernel_distance
from facke_core.faces.align import align
from facke_core.faces.detect import build_mediapipe
from facke_core.faces.mesh import face_mesh
from facke_core.faces.paste import paste
from facke_core.faces.smooth import blurred
from facke_core.faces.templates import Alignment
from facke_core.images.io import read_image, to_pil
from facke_core.jobs.pairs import PairSet, read_pairs
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import Method
from facke_core.types import AlignedFace, Blend, Face, SwapInputs
from standins import FunctionSampler

SAMPLES = Path(facke_cli.samples.__file__).parent
SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
"""The test pairs of Sharma, Wu and Dalal (2005), table 1: two colours and their difference."""


# -- formulas --------------------------------------------------------------------------------------


def test_the_colour_difference_is_that_of_the_published_pairs() -> None:
    rows = torch.tensor(
        [[float(x) for x in line.split()] for line in SHARMA.split("\n") if line],
        dtype=torch.float64,
    )
    a, b, expected = rows[:, :3], rows[:, 3:6], rows[:, 6]
    assert len(rows) == 34
    assert torch.allclose(difference(a, b), expected, atol=5e-5, rtol=0)
    assert torch.allclose(difference(b, a), expected, atol=5e-5, rtol=0)


def test_the_kernel_distance_is_the_mean_over_pairs_of_rows() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(1, 2, size=(9, 5))

    def kernel(x: Any, y: Any) -> float:
        return (math.fsum(x * y) / 5 + 1) ** 3

    def within(rows: Any) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return math.fsum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = math.fsum(kernel(x, y) for x in a for y in b) / 63
    expected = within(a) + within(b) - 2 * between
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(b, a[::-1]) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(a[::-1], b) == kernel_distance(a, b)
    single = kernel_distance(a.astype(np.float32), b.astype(np.float32))
    assert single == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="two rows, got 1 and 9"):
        kernel_distance(a[:1], b)
    assert kid().of_set(torch.zeros(1, 5), torch.zeros(9, 5)) is None


def test_the_kernel_distance_has_no_bias() -> None:
    """Samples of one distribution have a mean of 0, however small they are."""
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(5, 4)), rng.normal(size=(8, 4))) for _ in range(2000)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(2000)
    assert kernel_distance(rng.normal(size=(200, 4)), rng.normal(1, 1, size=(200, 4))) > 1


# -- meshes that are known exactly -----------------------------------------------------------------


def mesh_face(change: dict[int, tuple[float, float]] | None = None) -> Face:
    """The mean face, 100 pixels between the irises, with some points moved, in these."""
    mesh = (100 * face_mesh().points[:, :2] + 200).float()
    for point, move in (change or {}).items():
        mesh[point] += torch.tensor(move)
    return Face(torch.zeros(4), mesh[[468, 473, 1, 61, 291]], 1.0, mesh)


def between(a: Face | None, b: Face | None) -> dict[str, float]:
    crop = torch.zeros(1, 3, 8, 8)
    pairs = SwappedPairs(source=crop, target=crop, target_faces=[a], result_faces=[b])
    return {name: float(getattr(attributes, name)()(pairs)) for name in ("gaze", "lids", "mouth")}


def test_eyes_and_mouth_are_in_percent_of_their_widths() -> None:
    still = mesh_face()
    assert between(still, still) == {"gaze": 0, "lids": 0, "mouth": 0}
    mesh = still.mesh
    assert mesh is not None
    eyes = [float((mesh[a] - mesh[b]).norm()) for a, b in ((33, 133), (362, 263))]
    lips = float((mesh[61] - mesh[291]).norm())
    looks = between(still, mesh_face({468: (3.0, 0), 473: (0, 4.0)}))
    expected = 100 * (3 / eyes[0] + 4 / eyes[1]) / 2
    assert looks == {"gaze": pytest.approx(expected, rel=1e-3), "lids": 0, "mouth": 0}
    lids = (145, 144, 153)
    blink = between(still, mesh_face(dict.fromkeys(lids, (0, 5.0))))
    assert blink["lids"] == pytest.approx(100 * 5 / eyes[0] / 2, rel=0.05)
    assert blink["gaze"] == blink["mouth"] == 0
    lower = (178, 87, 14, 317, 402)
    opened = between(still, mesh_face(dict.fromkeys(lower, (0, 6.0))))
    assert opened["mouth"] == pytest.approx(100 * 6 / lips, rel=0.05)
    assert opened["gaze"] == opened["lids"] == 0


def test_eyes_and_mouth_need_meshes() -> None:
    still = mesh_face()
    for other in (None, still._replace(mesh=None)):
        for pair in ((still, other), (other, still)):
            assert all(math.isnan(value) for value in between(*pair).values())


# -- a portrait, changed ---------------------------------------------------------------------------


@cache
def detector() -> Any:
    return build_mediapipe()


def pipeline(function: Callable[..., Tensor], **options: Any) -> SwapPipeline:
    """Results are ``function(inputs)``."""
    return SwapPipeline(
        Method(network(), FunctionSampler(lambda generator, inputs, rng: function(inputs))),
        identity_encoder=colours(0),
        detector=detector(),
        alignment=Alignment(template="simswap_frontal", size=32),
        registry=Registry(),
        **options,
    )


@cache
def portrait(name: str = "collins.png") -> tuple[Tensor, AlignedFace]:
    photo = read_image(SAMPLES / name).image
    face = detector()(photo)[0]
    return photo, align(photo, face, Alignment(template="simswap_frontal", size=256))


def measured(result: Tensor, share: Tensor | None = None) -> dict[str, float]:
    """What the metrics of looks say of a finished photo of the first portrait."""
    photo, aligned = portrait()
    if share is None:
        share = paste(photo, aligned.crop, aligned, color=False, grain=False).share
    seen = detector()(result)
    crop = aligned.crop[None]
    pairs = SwappedPairs(
        source=crop,
        target=crop,
        photos=[result],
        target_photos=[photo],
        shares=[share],
        aligned=[aligned],
        target_faces=[aligned.face],
        result_faces=[seen[0] if seen else None],
    )
    metrics = [appearance.sharpness(), appearance.seam()]
    metrics += [attributes.gaze(), attributes.lids(), attributes.mouth()]
    return {metric.name: float(metric(pairs)) for metric in metrics}


def moved(photo: Tensor, shift: Tensor) -> Tensor:
    """The photo (3, H, W) with every pixel moved by ``shift`` (2, H, W), in pixels."""
    height, width = photo.shape[1:]
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    places = torch.stack([(x - shift[0] + 0.5) / width, (y - shift[1] + 0.5) / height], -1)
    return F.grid_sample(
        photo[None], 2 * places[None] - 1, "bicubic", padding_mode="border", align_corners=False
    )[0].clamp(0, 1)


def bump(photo: Tensor, middle: Tensor, radius: float) -> Tensor:
    """1 in the middle (2,), falling smoothly to 0 at the radius: (H, W)."""
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in photo.shape[1:]), indexing="ij")
    distance = torch.hypot(x - middle[0], y - middle[1]) / radius
    return (1 - distance.square()).clamp(0, 1)


def test_a_copy_of_the_target_has_nothing_to_complain_about() -> None:
    photo, _ = portrait()
    assert measured(photo) == {"sharpness": 1, "seam": 0, "gaze": 0, "lids": 0, "mouth": 0}


def test_a_copy_of_the_source_is_seen_by_all() -> None:
    photo, aligned = portrait()
    crop = portrait("hopper.jpg")[1].crop
    pasted = paste(photo, crop, aligned, color=False, grain=False)
    values = measured(*pasted)
    assert values["seam"] > 3
    assert values["gaze"] + values["lids"] + values["mouth"] > 5
    # matched colours leave less of a seam
    assert measured(*paste(photo, crop, aligned))["seam"] < values["seam"] - 1


def test_a_blurred_face_is_not_sharp_and_noise_is_too_sharp() -> None:
    photo, aligned = portrait()
    width = around(aligned.face, photo).width
    values = [measured(blurred(photo[None], share * width)[0]) for share in (0.005, 0.02)]
    assert 1 > values[0]["sharpness"] > 2 * values[1]["sharpness"]
    assert values[1]["sharpness"] < 0.4
    assert values[1]["seam"] < 1.5
    noise = torch.Generator().manual_seed(0)
    noisy = (photo + 0.1 * torch.randn(photo.shape, generator=noise)).clamp(0, 1)
    assert measured(noisy)["sharpness"] > 1.5


def test_a_moved_photo_keeps_its_gaze_and_its_sharpness() -> None:
    photo, aligned = portrait()
    pixels = round(0.03 * around(aligned.face, photo).width)
    values = measured(photo.roll((pixels, pixels), (1, 2)))
    assert values["sharpness"] == pytest.approx(1, abs=0.05)
    assert max(values["gaze"], values["lids"], values["mouth"]) < 2.5
    assert values["seam"] > 0.3


def test_the_seam_is_the_difference_in_colour_along_it() -> None:
    photo, aligned = portrait()
    share = paste(photo, aligned.crop, aligned, color=False, grain=False).share
    tint = torch.tensor([0.03, 0.0, -0.03]).view(3, 1, 1)
    everywhere = measured((photo + tint).clamp(0, 1), share)
    a, b = (rgb_to_lab(x).movedim(0, -1) for x in (photo, (photo + tint).clamp(0, 1)))
    here = around(aligned.face, photo)
    ring = (here.of(share)[0] > 0.2) & (here.of(share)[0] < 0.8)
    whole = float(
        difference(*(here.of(x.movedim(-1, 0)).movedim(0, -1)[ring] for x in (a, b))).mean()
    )
    assert everywhere["seam"] == pytest.approx(whole, rel=0.15)
    assert everywhere["sharpness"] == pytest.approx(1, abs=0.02)
    # inside of the mask alone, half of the ring has it
    inside = measured(photo + (share > 0.5) * tint, share)
    assert inside["seam"] == pytest.approx(everywhere["seam"] / 2, rel=0.2)
    # and in the middle of the face, none
    width = round(0.1 * here.width)
    middle = -F.max_pool2d(-(share > 0.5).float(), 2 * width + 1, 1, width)
    assert measured(photo + middle * tint, share)["seam"] < 0.1 * everywhere["seam"]
    assert math.isnan(measured(photo, torch.zeros_like(share))["seam"])


def test_a_look_aside_is_seen_by_the_gaze_alone() -> None:
    photo, aligned = portrait()
    mesh = aligned.face.mesh
    assert mesh is not None
    shift = torch.zeros(2, *photo.shape[1:])
    for a, b, iris in ((33, 133, 468), (362, 263, 473)):
        width = float((mesh[a] - mesh[b]).norm())
        shift[0] += 0.16 * width * bump(photo, mesh[iris], 0.45 * width)
    values = measured(moved(photo, shift))
    assert values["gaze"] > 6
    assert values["gaze"] > 3 * max(values["lids"], values["mouth"])
    assert values["seam"] < 0.1


def test_an_opened_mouth_is_seen_by_the_mouth_alone() -> None:
    photo, aligned = portrait()
    mesh = aligned.face.mesh
    assert mesh is not None
    middle, width = (mesh[13] + mesh[14]) / 2, float((mesh[61] - mesh[291]).norm())
    y = torch.arange(float(photo.shape[1]))[:, None]
    x = torch.arange(float(photo.shape[2]))[None, :]
    narrow = (1 - ((x - middle[0]) / (0.5 * width)).square()).clamp(0, 1)
    drop, below = 0.3 * width * narrow, y > middle[1]
    shift = torch.zeros(2, *photo.shape[1:])
    shift[1] = drop * below * (1 - (y - middle[1] - drop) / (2 * width)).clamp(0, 1)
    gap = below & (y < middle[1] + drop)
    dark = torch.tensor([0.2, 0.06, 0.06]).view(3, 1, 1)
    values = measured(torch.where(gap, dark, moved(photo, shift)))
    assert values["mouth"] > 8
    assert values["mouth"] > 3 * max(values["gaze"], values["lids"])


# -- things before the face ------------------------------------------------------------------------


def lost(swapper: SwapPipeline, function: Callable[[Loaded], Tensor]) -> float:
    """The metric of things before the first portrait's face."""
    photo, _ = portrait()
    face = detector()(photo)[0]
    target = Loaded(photo, swapper.align(photo, face))
    crop = target.aligned.crop[None]
    things = covered(swapper, target, function)
    assert things is not None
    assert len(things.share) == len(THINGS)
    assert all(float(share.mean()) > 0.02 for share in things.share), "each hides something"
    return float(appearance.occluders()(SwappedPairs(source=crop, target=crop, covered=[things])))


def test_things_before_the_face_are_lost_without_a_look_for_them() -> None:
    flat = torch.full((3, 32, 32), 0.6)
    plain = {"color": False, "grain": False}
    blind = lost(
        pipeline(lambda inputs: inputs.target, blend=Blend(occlusion=False, **plain)),
        lambda taker: flat,
    )
    looking = pipeline(lambda inputs: inputs.target, blend=Blend(**plain))
    assert blind < 20
    assert lost(looking, lambda taker: flat) > blind + 5


def test_the_thing_itself_is_what_the_swap_is_given_and_copies_are_close() -> None:
    swapper = pipeline(lambda inputs: inputs.target, blend=Blend(color=False, grain=False))
    seen: list[Tensor] = []

    def copied(taker: Loaded) -> Tensor:
        seen.append(taker.aligned.crop)
        assert taker.occlusion is not None
        return taker.aligned.crop

    assert lost(swapper, copied) > 25
    bare = swapper.align(portrait()[0], portrait()[1].face).crop
    assert all(float((crop - bare).abs().mean()) > 0.01 for crop in seen)
    assert len({float(crop.sum()) for crop in seen}) == len(THINGS)


def test_things_that_stay_as_they_are_have_the_most() -> None:
    crop = torch.zeros(1, 3, 8, 8)
    target, share = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    share[:, :, :4] = 1
    worse = target.clone()
    worse[1, :, :4] += 0.1
    worse[:, :, 4:] += 0.5  # beside the things

    def value(things: Covered | None) -> float:
        pairs = SwappedPairs(source=crop, target=crop, covered=[things])
        return float(appearance.occluders()(pairs))

    most = -10 * math.log10(appearance.ROUNDING)
    assert value(Covered(target, target, share)) == pytest.approx(most)
    assert value(Covered(target, worse, share)) == pytest.approx((most + 20) / 2, abs=0.01)
    assert math.isnan(value(None))


def test_a_target_without_a_mesh_has_no_things() -> None:
    photo, aligned = portrait()
    swapper = pipeline(lambda inputs: inputs.target)
    bare = Loaded(photo, aligned._replace(face=aligned.face._replace(mesh=None)))
    assert covered(swapper, bare, lambda taker: taker.aligned.crop) is None


# -- whole evaluations -----------------------------------------------------------------------------

NAMES = ["sharpness", "gaze", "lids", "mouth", "seam", "occluders", "kid"]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    for name in ("collins.png", "hopper.jpg"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    pairs = [("collins.png", "hopper.jpg"), ("hopper.jpg", "collins.png")]
    return write_pairs(tmp_path / "pairs.csv", [*pairs, ("hopper.jpg", "hopper.jpg")])


def test_batch_size_order_and_resume_change_nothing(tmp_path: Path, pairs_file: Path) -> None:
    swapper = pipeline(lambda inputs: (inputs.source + inputs.target) / 2)
    pairs = read_pairs(pairs_file)

    def evaluator(workers: int = 1) -> Evaluator:
        return Evaluator(swapper, make_metrics(NAMES, default_registry()), workers=workers)

    first = evaluator().run(pairs, batch_size=1)
    assert all(value.n == 3 and value.missing == 0 for value in first.summary.values())
    assert "features" in first.protocol["encoders"]
    again = evaluator(2).run(pairs, batch_size=3)
    assert diff([first], [again], 0) == []
    evaluator().run(pairs.first(1), out=tmp_path / "out")
    backwards = replace(pairs, pairs=pairs.pairs[::-1])
    report = evaluator().run(backwards, out=tmp_path / "out", resume=True)
    assert report.run["pairs_computed"] == 2
    assert [row.values for row in report.rows[::-1]] == [row.values for row in first.rows]
    assert report.summary["kid"] == first.summary["kid"]


def test_crops_of_features_tell_drawn_from_real(pairs_file: Path) -> None:
    """Results that are real pictures are near to real pictures, blurred ones are not."""
    pairs = read_pairs(pairs_file)
    metrics = make_metrics(["kid"], default_registry())
    copies = Evaluator(pipeline(lambda inputs: inputs.target), metrics).run(pairs)
    flat = pipeline(lambda inputs: blurred(inputs.target, 4.0), blend=Blend(grain=False))
    soft = Evaluator(flat, metrics).run(pairs)
    values = [report.summary["kid"].value for report in (copies, soft)]
    assert values[0] is not None
    assert values[1] is not None
    assert values[1] > values[0] + 50


def test_all_metrics_are_those_that_swap_once() -> None:
    registry = default_registry()
    assert {m.name for m in make_metrics((), registry)} == {*registry.metrics} - {"occluders"}


# -- clips -----------------------------------------------------------------------------------------


def frames(folder: Path, count: int = 5) -> None:
    """A clip of the first portrait, which nods a little, as PNG files."""
    photo, _ = portrait()
    for number in range(count):
        picture = photo.roll(2 * number, 1) * (1 - 0.01 * number)
        to_pil(picture).save(folder / f"{number}.png")


def clip_pairs(
    folder: Path,
    order: Sequence[int],
    clips: Sequence[str],
    sources: Sequence[str] = ("hopper.jpg",),
) -> PairSet:
    file = folder / "clips.csv"
    lines = [f"{name},{number}.png,{clips[number]}" for name in sources for number in order]
    file.write_text("\n".join(["source,target,clip", *lines, "hopper.jpg,hopper.jpg,"]))
    (folder / "hopper.jpg").write_bytes((SAMPLES / "hopper.jpg").read_bytes())
    return read_pairs(file)


def flickering(inputs: SwapInputs) -> Tensor:
    """The target, lighter or darker by what it shows."""
    wave = torch.sin(1000 * inputs.target.mean((1, 2, 3), keepdim=True))
    return (inputs.target + 0.1 * wave).clamp(0, 1)


def test_a_flickering_clip_moves_more_than_its_target(tmp_path: Path) -> None:
    frames(tmp_path)
    pairs = clip_pairs(tmp_path, range(5), ["one"] * 5)
    assert [pair.target.clip for pair in pairs.pairs] == [*["one"] * 5, ""]
    metrics = make_metrics(["flicker"], default_registry())
    plain = Blend(color=False, grain=False, occlusion=False)

    def value(function: Callable[..., Tensor], pairs: PairSet = pairs) -> Estimate:
        return Evaluator(pipeline(function, blend=plain), metrics).run(pairs).summary["flicker"]

    copied = value(lambda inputs: inputs.target)
    assert copied.n == 1
    assert copied.value == pytest.approx(1, abs=0.1)
    shaken = value(flickering)
    assert shaken.value is not None
    assert shaken.value > 1.5
    # the order of frames and another clip beside it change nothing
    assert value(flickering, clip_pairs(tmp_path, [3, 1, 4, 0, 2], ["one"] * 5)) == shaken
    two = value(flickering, clip_pairs(tmp_path, range(5), ["one"] * 3 + ["two"] * 2))
    assert two.n == 2
    (tmp_path / "other.png").write_bytes((SAMPLES / "collins.png").read_bytes())
    both = value(
        flickering, clip_pairs(tmp_path, range(5), ["one"] * 5, ["hopper.jpg", "other.png"])
    )
    assert both.n == 2, "one clip for each source"
    none = value(flickering, clip_pairs(tmp_path, range(5), [""] * 5))
    assert (none.value, none.n) == (None, 0)
    assert clip_pairs(tmp_path, range(5), [""] * 5).digest != pairs.digest


def test_clips_are_put_together_from_rows_that_were_kept(tmp_path: Path) -> None:
    frames(tmp_path, 4)
    swapper = pipeline(flickering, blend=Blend(grain=False, occlusion=False))
    pairs = clip_pairs(tmp_path, range(4), ["one"] * 4)
    metrics = make_metrics(["flicker"], default_registry())
    whole = Evaluator(swapper, metrics).run(pairs)
    Evaluator(swapper, metrics).run(pairs.first(2), out=tmp_path / "out")
    report = Evaluator(swapper, metrics).run(pairs, out=tmp_path / "out", resume=True)
    assert report.run["pairs_computed"] == 3
    assert diff([whole], [report], 0) == []


def test_flicker_is_the_ratio_of_standard_deviations() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(8, 6, generator=rng)
    metric = flicker()
    assert metric.of_set(3 * real + 1, real) == pytest.approx(3, rel=1e-5)
    assert metric.of_set(real.flip(0), real) == pytest.approx(1)
    assert metric.of_set(real, real[:1]) is None
    assert metric.of_set(real, real[:1].expand(8, -1)) is None
