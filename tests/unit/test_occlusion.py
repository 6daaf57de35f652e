"""What lies before a face: drawn things, the network that sees them, and swaps that keep them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core.building import make_detector
from facke_core.data.occluders import KINDS, Occluder, draw
from facke_core.errors import VerificationError
from facke_core.faces import occlusion as module
from facke_core.faces.align import align, meshes
from facke_core.faces.occlusion import occlusion
from facke_core.faces.paste import face_hull
from facke_core.faces.templates import Alignment
from facke_core.images.io import read_image, to_pil
from facke_core.types import AlignedFace, Face
from standins import meshes as drawn_meshes

SIZE = 128


def texture(rng: random.Random) -> Image.Image:
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    return to_pil(noise)


def mesh() -> Tensor:
    return drawn_meshes(1, SIZE, torch.Generator().manual_seed(0))[0]


def thing(seed: int) -> Occluder:
    return draw(mesh(), SIZE, random.Random(seed), texture)


def test_a_drawn_thing_follows_from_its_seed_alone() -> None:
    random.seed(5)
    first = thing(3)
    random.seed(6)
    for a, b in zip(first, thing(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.alpha, thing(4).alpha)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_covers_what_it_says_and_shades_the_rest(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facke_core.data.occluders.KINDS", {kind: 1})
    rng = torch.Generator().manual_seed(0)
    crop, covered = torch.rand(3, SIZE, SIZE, generator=rng), 0.0
    for seed in range(8):
        drawn = thing(seed)
        for tensor in drawn:
            assert tensor.min() >= 0
            assert tensor.max() <= 1
        result = drawn.over(crop)
        whole, none = (drawn.alpha > 0.999)[0], (drawn.alpha == 0)[0]
        torch.testing.assert_close(result[:, whole], drawn.colour[:, whole])
        torch.testing.assert_close(result[:, none], (crop * drawn.shade)[:, none])
        covered += float(drawn.alpha.mean())
    assert 0.002 < covered / 8 < 0.6


def test_before_a_grey_portrait_things_are_grey_and_before_a_toned_one_toned() -> None:
    rng = torch.Generator().manual_seed(0)
    grey = torch.rand(1, SIZE, SIZE, generator=rng).expand(3, -1, -1)
    sepia = grey * torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    for seed in range(6):
        over = thing(seed).over(grey)
        assert (over.amax(0) - over.amin(0)).max() < 1e-5
        toned = thing(seed).over(sepia)
        assert (toned[1] - 0.8 * toned[0]).mean().abs() < 0.005


# -- the network -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples() -> dict[str, tuple[Tensor, Face]]:
    """The two bundled portraits and their faces."""
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    detector = make_detector("mediapipe")
    photos = {
        name: read_image(sample_or_path(f"sample:{name}")).image for name in ("collins", "hopper")
    }
    return {name: (photo, detector(photo)[0]) for name, photo in photos.items()}


def seen(photo: Tensor, face: Face, template: str, size: int) -> Tensor:
    aligned = align(photo, face, Alignment(template=template, size=size))
    return occlusion(photo, [aligned], size)[0]


def test_what_is_drawn_before_a_real_face_is_seen(samples: dict[str, tuple[Tensor, Face]]) -> None:
    """Mostly: 12 things before two faces that the network has never seen."""
    both = either = bare = 0.0
    for photo, face in samples.values():
        framing = Alignment(template="simswap_frontal", size=SIZE)
        aligned = align(photo, face, framing)
        points = meshes([aligned])
        assert points is not None
        hull = face_hull(aligned, SIZE) > 0.5
        for seed in range(6):
            drawn = draw(points[0], SIZE, random.Random(seed), texture)
            crop = drawn.over(aligned.crop)
            # the crop as a photo of its own
            there = Face(face.box, _moved(face.landmarks, aligned), 0.9, points[0])
            found = seen(crop, there, "simswap_frontal", SIZE) > 0.5
            label = drawn.alpha > 0.5
            both += float((found & label & hull).sum())
            either += float(((found | label) & hull).sum())
        bare += float((seen(photo, face, "simswap_frontal", SIZE) > 0.5)[hull].float().mean())
    assert both / either > 0.5
    assert bare / len(samples) < 0.2  # a fringe, and glasses


def _moved(points: Tensor, aligned: AlignedFace) -> Tensor:
    return points @ aligned.matrix[:, :2].T + aligned.matrix[:, 2]


def test_the_framing_of_the_method_changes_nothing_but_the_frame(
    samples: dict[str, tuple[Tensor, Face]],
) -> None:
    photo, face = samples["hopper"]
    small = seen(photo, face, "ffhq", 128)
    large = seen(photo, face, "ffhq", 256)
    assert small.shape == (1, 128, 128)
    reduced = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert (small - reduced).abs().mean() < 0.05


def test_what_lies_outside_of_the_photo_is_covered(
    samples: dict[str, tuple[Tensor, Face]],
) -> None:
    """A source that is cut off lends no black."""
    photo, face = samples["hopper"]
    assert face.mesh is not None
    cut = int(face.landmarks[2, 0])  # at the tip of the nose
    framing = Alignment(template="ffhq", size=SIZE)
    whole, half = (
        occlusion(part, [align(part, face, framing)], SIZE)[0] > 0.5
        for part in (photo, photo[..., :cut])
    )
    assert half[..., -SIZE // 3 :].all()
    assert not whole[..., -SIZE // 3 :].all()
    assert (half[..., : SIZE // 4] == whole[..., : SIZE // 4]).float().mean() > 0.9


def test_eyes_that_coincide_have_no_glasses_and_are_no_fault(
    samples: dict[str, tuple[Tensor, Face]],
) -> None:
    photo, face = samples["hopper"]
    assert face.mesh is not None
    mesh = face.mesh.clone()
    mesh[468:] = mesh[468]
    assert seen(photo, face._replace(mesh=mesh), "ffhq", 64).isfinite().all()


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIGEST", "0" * 64)
    module._network.cache_clear()
    with pytest.raises(VerificationError, match="damaged"):
        module._network()
    module._network.cache_clear()


def test_the_weights_are_small() -> None:
    assert (Path(module.__file__).parent / module.WEIGHTS).stat().st_size < 1_500_000
