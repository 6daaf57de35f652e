"""The pipeline with small real networks and a detector that knows where the faces are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from facke_core.errors import (
    CompatibilityError,
    ImageError,
    NoFaceError,
    UsageError,
    WeightsError,
)
from facke_core.faces.templates import Alignment, template_points
from facke_core.images.provenance import read_disclosure
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import FaceDetector, Method
from facke_core.results import SwapResult
from facke_core.sampling import SinglePass, check_compatible
from facke_core.types import Blend, Face
from standins import (
    ColourEncoder,
    FunctionDetector,
    FunctionGenerator,
    FunctionSampler,
    PlainSampler,
    registry_of,
    shapes_seen_by,
)

SIZE = 32


def tint() -> FunctionGenerator:
    """Colours the target with the identity: enough of a face swap to see who went where."""

    def coloured(x: Tensor, identity: Tensor) -> Tensor:
        share: Any = generator.share
        return x * (1 - share) + identity[:, :, None, None].clamp(0, 1) * share

    generator = FunctionGenerator(coloured, SIZE, identity_dim=3)
    generator.share = nn.Parameter(torch.tensor(0.75))
    return generator


def mean_colour(template: str = "arcface", dim: int = 3) -> ColourEncoder:
    return ColourEncoder(name="mean-colour", dim=dim, size=24, template=template)


def face_at(x: float, y: float, size: float) -> Face:
    points = (template_points("arcface", 100) / 100 * size + torch.tensor([x, y])).float()
    return Face(torch.tensor([x, y, x + size, y + size]), points, 0.9)


FACES: dict[tuple[int, ...], list[Face]] = {
    (3, 90, 80): [face_at(10, 10, 60)],
    (3, 150, 260): [face_at(150, 30, 90), face_at(20, 50, 60), face_at(100, 5, 30)],
}
"""The faces in each photo, which is known by its shape."""


@pytest.fixture
def detector() -> FunctionDetector:
    return FunctionDetector(lambda photo: FACES.get(tuple(photo.shape), []))


def make(detector: FaceDetector, **changes: Any) -> SwapPipeline:
    parts: dict[str, Any] = {
        "method": Method(tint(), SinglePass()),
        "identity_encoder": mean_colour(),
        "blend": Blend(occlusion=False),
        "detector": detector,
        "alignment": Alignment(template="arcface", size=SIZE),
        "registry": Registry(),
    }
    method = changes.pop("method", parts.pop("method"))
    return SwapPipeline(method, **{**parts, **changes})


@pytest.fixture
def red() -> Tensor:
    """A source photo with one face, all red."""
    return torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 90, 80).contiguous()


@pytest.fixture
def group() -> Tensor:
    """A target photo with three faces."""
    return 0.5 + 0.1 * torch.rand(3, 150, 260, generator=torch.Generator().manual_seed(0))


def changed(result: SwapResult, photo: Tensor, face: Face) -> bool:
    x, y = ((face.box[:2] + face.box[2:]) / 2).long().tolist()
    return bool((result.image[:, y, x] - photo[:, y, x]).abs().max() > 0)


# The whole way


def test_the_largest_face_is_swapped_and_nothing_else(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    before = group.clone()
    result = make(detector)(red, group)
    faces = FACES[(3, 150, 260)]
    assert [changed(result, group, f) for f in faces] == [True, False, False]
    assert torch.equal(result.image[:, :, :120], group[:, :, :120])
    assert torch.equal(group, before)
    assert result.image.shape == group.shape
    assert result.image.dtype == torch.float32
    assert 0 <= float(result.image.min()) <= float(result.image.max()) <= 1
    assert len(result.faces) == 1
    assert torch.equal(result.faces[0].landmarks, faces[0].landmarks)


def test_all_faces_are_swapped_in_one_batch(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    generator = tint()
    seen = shapes_seen_by(generator)
    result = make(detector, method=Method(generator, SinglePass()))(red, group, face="all")
    assert all(changed(result, group, f) for f in FACES[(3, 150, 260)])
    assert [shape[0] for shape in seen] == [3]
    assert len(result.faces) == 3


def test_many_targets_are_swapped_as_each_is_alone(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    pipeline = make(detector)
    batches = shapes_seen_by(pipeline.method.generator)
    sources = shapes_seen_by(pipeline.identity_encoder)
    targets = [group, red, group.flip(0)]
    results = list(pipeline.swap_many(red, iter(targets), face="all", batch_size=2))
    assert [len(result.faces) for result in results] == [3, 1, 3]
    for result, target in zip(results, targets, strict=True):
        assert torch.equal(result.image, make(detector)(red, target, face="all").image)
    assert [shape[0] for shape in batches] == [4, 3], "the faces of two photos go together"
    assert len(sources) == 1, "the source is looked at once"


def test_a_face_behind_another_leaves_it_as_it_would_be_alone(red: Tensor) -> None:
    faces = [face_at(60, 30, 90), face_at(110, 35, 70)]
    pipeline = make(FunctionDetector(lambda _: faces))
    photo = torch.rand(3, 150, 260)
    giver = make(FunctionDetector(lambda image: faces[:1]))
    alone = giver(photo, photo).image
    both = pipeline(photo, photo, face="all", source_face=1).image
    rear = pipeline(photo, photo, face=2, source_face=1).image
    middle = (slice(None), slice(50, 100), slice(75, 120))  # of the face in front
    assert torch.equal(both[middle], alone[middle])
    assert torch.equal(rear[middle], photo[middle])
    assert not torch.equal(rear, photo)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_bad_targets_are_told_and_the_others_go_on(
    tmp_path: Path, batch_size: int, detector: FaceDetector, red: Tensor
) -> None:
    pipeline, good = make(detector), red
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    targets: list[Any] = [
        good,
        tmp_path / "cut.png",
        torch.zeros(3, 40, 40),
        good,
        tmp_path / "gone.png",
    ]
    told: dict[int, type[Exception]] = {}
    results = list(
        pipeline.swap_many(
            red,
            targets,
            batch_size=batch_size,
            on_error=lambda number, error: told.update({number: type(error)}),
        )
    )
    assert told == {1: ImageError, 2: NoFaceError, 4: ImageError}
    alone = pipeline(red, good).image
    assert [torch.allclose(result.image, alone, atol=1e-6) for result in results] == [True, True]
    with pytest.raises(ImageError):
        list(pipeline.swap_many(red, targets, batch_size=batch_size))


def test_targets_are_read_as_they_are_needed(detector: FaceDetector, red: Tensor) -> None:
    pipeline = make(detector)
    results = pipeline.swap_many(red, [red, torch.zeros(3, 40, 40)], batch_size=1)
    assert next(results).faces
    with pytest.raises(NoFaceError):
        next(results)
    with pytest.raises(UsageError, match="batch_size=0"):
        next(pipeline.swap_many(red, [red], batch_size=0))


def test_a_face_is_chosen_by_its_number(detector: FaceDetector, red: Tensor, group: Tensor) -> None:
    result = make(detector)(red, group, face=2)
    faces = FACES[(3, 150, 260)]
    assert [changed(result, group, f) for f in faces] == [False, True, False]


def test_every_kind_of_image_gives_the_same_result(
    detector: FaceDetector, tmp_path: Path, red: Tensor, group: Tensor
) -> None:
    pipeline = make(detector)
    array = (group * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "target.png")
    source = Image.new("RGB", (80, 90), (255, 0, 0))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    results = [
        pipeline(source, target).image
        for target in (tmp_path / "target.png", Image.fromarray(array), array, tensor)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_transparency_of_the_target_is_kept(detector: FaceDetector, red: Tensor) -> None:
    rgba = np.full((90, 80, 4), 128, np.uint8)
    rgba[..., 3] = np.arange(80)
    result = make(detector)(red, rgba)
    assert result.alpha is not None
    assert torch.equal(result.alpha[0, 7] * 255, torch.arange(80.0))
    assert result.to_pil().mode == "RGBA"


def test_times_of_all_stages_are_reported(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    seconds = make(detector)(red, group).seconds
    stages = ["detect", "align", "occlusion", "encode", "generate", "paste"]
    assert list(seconds) == [*stages, "total"]
    assert all(seconds[stage] > 0 for stage in stages)
    assert seconds["total"] >= sum(seconds[stage] for stage in stages)


def test_a_saved_result_says_what_it_is(
    detector: FaceDetector, tmp_path: Path, red: Tensor, group: Tensor
) -> None:
    source: Any = SimpleNamespace(
        config=SimpleNamespace(method="tint"), name="tint.best", revision="abc"
    )
    result = make(detector, source=source)(red, group, seed=5)
    result.save(str(tmp_path / "out.png"))
    said = read_disclosure(tmp_path / "out.png")
    assert said["digital_source_type"].endswith("compositeWithTrainedAlgorithmicMedia")
    expected = {"method": "tint", "weights": "tint.best", "revision": "abc", "seed": "5"}
    assert expected.items() <= said.items()


def test_hooks_see_full_pictures_only(detector: FaceDetector, red: Tensor, group: Tensor) -> None:
    seen = []

    def blacken(result: SwapResult, request: Any) -> SwapResult:
        seen.append(request.method)
        return replace(result, image=torch.zeros_like(result.image))

    pipeline = make(detector, registry=registry_of("watermark", facke_result=blacken))
    assert pipeline(red, group).image.max() == 0
    assert seen == ["FunctionGenerator"]
    crops = torch.rand(2, 3, SIZE, SIZE)
    assert pipeline.swap_crops(crops, crops).max() > 0
    assert pipeline.swap_files(crops[0], crops[1]).image.max() > 0
    assert seen == ["FunctionGenerator"]


# What can go wrong


def test_a_photo_without_a_face_is_named(
    detector: FaceDetector, red: Tensor, tmp_path: Path
) -> None:
    Image.new("RGB", (77, 55)).save(tmp_path / "empty.png")
    pipeline = make(detector)
    message = r"No face was found in .*empty.png \(77 x 55 pixels; the detector's threshold is 0.6"
    with pytest.raises(NoFaceError, match=message):
        pipeline(tmp_path / "empty.png", red)
    with pytest.raises(NoFaceError, match=message):
        pipeline(red, tmp_path / "empty.png", face="all")


def test_a_missing_face_says_how_many_there_are(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    with pytest.raises(NoFaceError, match=r"no face 4 in .* there are 3 faces"):
        make(detector)(red, group, face=4)
    with pytest.raises(NoFaceError, match=r"no face 2 in .* there is 1 face"):
        make(detector)(red, red, face=2)


@pytest.mark.parametrize("face", [0, -1, "biggest", True, 1.0])
def test_impossible_choices_are_explained(
    detector: FaceDetector, red: Tensor, group: Tensor, face: Any
) -> None:
    with pytest.raises(UsageError, match="'left', 'right', or a number from 1"):
        make(detector)(red, group, face=face)


def test_parts_that_do_not_fit_are_refused(detector: FaceDetector) -> None:
    with pytest.raises(CompatibilityError, match="'mean-colour' gives 4"):
        make(detector, identity_encoder=mean_colour(dim=4))
    with pytest.raises(CompatibilityError, match="no identity encoder was given"):
        make(detector, identity_encoder=None)
    with pytest.raises(CompatibilityError, match="timestep is missing"):
        make(
            detector,
            method=Method(
                FunctionGenerator(lambda x: x, SIZE, identity_dim=3, conditions=["timestep"]),
                SinglePass(),
            ),
        )
    with pytest.raises(CompatibilityError, match=r"size=32\)"):
        make(detector, alignment=Alignment(template="arcface", size=64))
    check_compatible(tint(), SinglePass(), mean_colour())


# Randomness


def test_a_seed_repeats_a_result_and_the_global_state_is_left_alone(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    pipeline = make(detector, method=Method(tint(), PlainSampler(noise=0.1)))
    state = torch.get_rng_state()
    first, second, other = (pipeline(red, group, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, second.image)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.request.seed == 1
    assert first.request.settings == {"picture": "result", "noise": 0.1, "strength": 1.0}
    with pytest.raises(UsageError, match="seed=-1"):
        pipeline(red, group, seed=-1)


def test_a_seed_that_was_drawn_repeats_the_result(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    pipeline = make(detector, method=Method(tint(), PlainSampler(noise=0.1)))
    result = pipeline(red, group)
    assert result.request.seed is not None
    again = pipeline(red, group, seed=result.request.seed)
    assert torch.equal(result.image, again.image)


def test_a_method_without_noise_names_no_seed(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    first, second = (make(detector)(red, group) for _ in range(2))
    assert first.request.seed is None
    assert torch.equal(first.image, second.image)


# The stages alone


def test_the_encoder_sees_crops_in_its_own_framing(detector: FaceDetector) -> None:
    crops = torch.rand(2, 3, SIZE, SIZE)
    other = mean_colour("ffhq")
    seen = shapes_seen_by(other)
    identity = make(detector, identity_encoder=other).encode(crops)
    assert seen == [(2, 3, 24, 24)]
    assert torch.allclose(identity.norm(dim=1), torch.ones(2))
    own = mean_colour()
    seen = shapes_seen_by(own)
    make(detector, identity_encoder=own).encode(crops)
    assert seen == [(2, 3, SIZE, SIZE)]


def test_a_batch_gives_what_its_crops_give_alone(detector: FaceDetector) -> None:
    pipeline = make(detector)
    source, target = torch.rand(3, 3, SIZE, SIZE), torch.rand(3, 3, SIZE, SIZE)
    together = pipeline.swap_crops(source, target)
    for i in range(3):
        alone = pipeline.swap_crops(source[i : i + 1], target[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)
    identity = pipeline.encode(source)
    assert torch.equal(pipeline.swap_crops(source, target, identity=identity), together)


def test_results_are_ordinary_tensors(detector: FaceDetector, red: Tensor, group: Tensor) -> None:
    pipeline = make(detector)
    crops = pipeline.swap_crops(torch.rand(1, 3, SIZE, SIZE), torch.rand(1, 3, SIZE, SIZE))
    for tensor in (crops, pipeline(red, group).image, pipeline.encode(crops)):
        assert not tensor.requires_grad
        tensor.add_(0.0)
        assert (tensor * torch.ones(1, requires_grad=True)).sum().requires_grad


def test_a_generator_in_half_precision_gets_what_it_takes(detector: FaceDetector) -> None:
    pipeline = make(detector, method=Method(tint().bfloat16(), SinglePass()))
    assert pipeline.dtype == torch.bfloat16
    result = pipeline.swap_crops(torch.rand(1, 3, SIZE, SIZE), torch.rand(1, 3, SIZE, SIZE))
    assert result.dtype == torch.float32


def test_aligned_crops_are_swapped_without_a_detector(detector: FaceDetector) -> None:
    pipeline = make(detector)
    source, target = torch.rand(3, SIZE, SIZE), torch.rand(3, SIZE, SIZE)
    result = pipeline.swap_files(source, target, seed=3)
    assert torch.equal(result.image, pipeline.swap_crops(source[None], target[None])[0])
    assert result.request.seed == 3
    assert result.faces == ()
    assert pipeline.swap_files(torch.rand(3, 100, 100), target).image.shape == (3, SIZE, SIZE)
    with pytest.raises(ImageError, match="40 x 30 pixels, but aligned crops are square"):
        pipeline.swap_files(source, torch.rand(3, 30, 40))


def test_a_method_without_identity_needs_no_encoder(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    mirror = FunctionGenerator(lambda x: x.flip(3), SIZE)
    pipeline = make(detector, method=Method(mirror, SinglePass()), identity_encoder=None)
    crop = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(pipeline.swap_crops(crop, crop), crop.flip(3))
    assert pipeline(red, group).image.shape == group.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_agree(detector: FaceDetector, red: Tensor, group: Tensor) -> None:
    method = Method(tint().cuda(), SinglePass())
    encoder = mean_colour().cuda()
    cuda = make(detector, method=method, identity_encoder=encoder, device="cuda")(red, group)
    assert cuda.image.device.type == "cpu"
    assert (cuda.image - make(detector)(red, group).image).abs().max() < 1e-4


# Numbers that are none


def spoilt(x: Tensor, identity: Tensor) -> Tensor:
    image = x.clone()
    image[-1, 0, 0, 0] = float("nan")
    return image


def test_results_that_are_not_finite_are_refused_and_the_method_is_named(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    generator = FunctionGenerator(spoilt, SIZE, identity_dim=3)
    sampler = FunctionSampler(lambda g, i, _: g(i.target, identity=i.identity).image)
    swapper = make(detector, method=Method(generator, sampler))
    with pytest.raises(WeightsError, match=r"'FunctionGenerator' .*not finite .* 1 of 3 faces"):
        swapper(red, group, face="all")
    with pytest.raises(WeightsError, match="backend torch"):
        swapper.swap_files(torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE))
    face = swapper.align(group, FACES[(3, 150, 260)][0])
    with pytest.raises(WeightsError, match="not finite"):
        swapper.paste(group, torch.full((3, SIZE, SIZE), float("inf")), face)


def test_identities_that_are_not_finite_are_refused_and_the_encoder_is_named(
    detector: FaceDetector, red: Tensor, group: Tensor
) -> None:
    encoder = mean_colour()
    encoder.scale.fill_(float("nan"))
    with pytest.raises(WeightsError, match="'mean-colour' computed numbers that are not finite"):
        make(detector, identity_encoder=encoder)(red, group)


def test_a_picture_of_a_hook_that_is_not_finite_is_not_written(
    detector: FaceDetector, red: Tensor, group: Tensor, tmp_path: Path
) -> None:
    result = make(detector)(red, group)
    result = replace(result, image=result.image / 0)
    with pytest.raises(ImageError, match="not finite"):
        result.save(str(tmp_path / "out.png"))
    assert not list(tmp_path.iterdir())
