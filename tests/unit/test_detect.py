"""Face detectors: MediaPipe on real photographs, YuNet's decoding with made-up networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import building
from facke_core.building import make_detector
from facke_core.errors import FackeWarning, UnavailableError, UnknownNameError
from facke_core.faces import graphs
from facke_core.faces.detect import (
    MediaPipeDetector,
    YuNetDetector,
    build_mediapipe,
    build_yunet,
    fetch_yunet,
    yunet_available,
)
from facke_core.faces.graphs import mediapipe_available
from facke_core.plugins.core import facke_face_detectors
from facke_core.plugins.specs import DetectorSpec

EYES = torch.tensor([[203.0, 101.0], [246.5, 103.5]])
"""The astronaut's irises, read off the photo by eye to about 2 px."""


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    """(3, 512, 512): one face, 92 px wide, looking at the camera."""
    data = pytest.importorskip("skimage.data")
    photo: Tensor = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    return photo


@pytest.fixture(scope="module")
def mediapipe() -> MediaPipeDetector:
    pytest.importorskip("mediapipe")
    return build_mediapipe()


# MediaPipe


def test_a_face_has_a_box_five_points_and_a_mesh(
    mediapipe: MediaPipeDetector, astronaut: Tensor
) -> None:
    (face,) = mediapipe(astronaut)
    assert face.box.dtype == face.landmarks.dtype == torch.float32
    assert (face.landmarks[:2] - EYES).norm(dim=1).max() < 3
    assert face.landmarks[3, 0] < face.landmarks[2, 0] < face.landmarks[4, 0]
    assert face.landmarks[2, 1] < face.landmarks[3:, 1].min()
    assert face.mesh is not None
    assert face.mesh.shape == (478, 2)
    assert (face.mesh >= face.box[:2]).all()
    assert (face.mesh <= face.box[2:]).all()
    assert 0.6 < face.score <= 1
    assert 0 < mediapipe.threshold < 1


def test_positions_follow_the_face_through_the_photo(
    mediapipe: MediaPipeDetector, astronaut: Tensor
) -> None:
    eyes = mediapipe(astronaut)[0].landmarks[:2]
    shifted = mediapipe(F.pad(astronaut, (300, 0, 200, 0)))[0].landmarks[:2]
    assert (shifted - eyes - torch.tensor([300, 200])).norm(dim=1).max() < 2
    mirrored = mediapipe(astronaut.flip(2))[0].landmarks[:2]
    assert (mirrored[:, 0] + eyes.flip(0)[:, 0] - 511).abs().max() < 2


@pytest.mark.parametrize(("width", "size"), [(2400, 512), (3000, 300)])
def test_a_face_that_is_tiny_in_its_photo_is_found(
    mediapipe: MediaPipeDetector, astronaut: Tensor, width: int, size: int
) -> None:
    photo = torch.full((3, width * 3 // 4, width), 0.5)
    small = F.interpolate(astronaut[None], (size, size), mode="bilinear", antialias=True)[0]
    photo[:, 700 : 700 + size, 1500 : 1500 + size] = small
    (face,) = mediapipe(photo)
    expected = (EYES + 0.5) * size / 512 - 0.5 + torch.tensor([1500, 700])
    assert (face.landmarks[:2] - expected).norm(dim=1).max() < 3


def test_several_faces_come_largest_first(mediapipe: MediaPipeDetector, astronaut: Tensor) -> None:
    head = astronaut[:, :220, 100:350]
    photo = torch.full((3, 440, 900), 0.5)
    photo[:, 100:320, 20:270] = head
    photo[:, :440, 350:850] = F.interpolate(head[None], scale_factor=2, mode="bilinear")[0]
    faces = mediapipe(photo)
    assert len(faces) == 2
    assert faces[0].landmarks[2, 0] > 400
    assert len(build_mediapipe(max_faces=1)(photo)) == 1


def test_every_london_face_is_found_once(mediapipe: MediaPipeDetector, shared: Path) -> None:
    from facke_core.images.io import read_image

    files = sorted((shared / "faces" / "images" / "open" / "london").glob("*/*.jpg"))[::20]
    assert files
    for file in files:
        assert len(mediapipe(read_image(file).image)) == 1


def test_nothing_is_written_to_stderr(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    code = (
        "import torch; from facke_core.faces.detect import build_mediapipe\n"
        "detector = build_mediapipe(); detector(torch.rand(3, 64, 64)); detector.close()\n"
        "import sys; print('said', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == "said\n"
    assert run.stdout == ""


def test_a_missing_mediapipe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert 'pip install "facke-core[faces]"' in mediapipe_available()
    with pytest.raises(UnavailableError, match=r"facke-core\[faces\]"):
        build_mediapipe()


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(graphs, "_solutions", broken)
    assert "libGL.so.1" in mediapipe_available()
    assert "apt-get install" in mediapipe_available()


# YuNet


class OneFace(nn.Module):
    """Answers as YuNet would for one face at a known anchor, and notes what it was shown."""

    def __init__(self, points: Tensor, score: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.points, self.score = points, score
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        from kornia.models.yunet.processors import PriorBox

        self.seen = x
        h, w = x.shape[2:]
        priors = PriorBox(
            [list(a) for a in YuNetDetector.ANCHORS], list(YuNetDetector.STEPS), False, (h, w)
        )()
        n = len(priors)
        loc, conf, iou = torch.zeros(1, n, 14), torch.zeros(1, n, 2), torch.zeros(1, n, 1)
        where = (self.points + 0.5) / torch.tensor([w, h])
        size = where[1] - where[0]
        for i, shift in ((n // 2, 0.0), (n // 2 + 1, 0.3)):  # the second is the same face again
            centre, extent = priors[i, :2], priors[i, 2:]
            loc[0, i, :2] = ((where[0] + where[1]) / 2 - centre) / 0.1 / extent
            loc[0, i, 2:4] = torch.log(size / extent) / 0.2
            loc[0, i, 4:] = ((where[2:] - centre) / 0.1 / extent).flatten()
            conf[0, i, 1] = self.score - shift / 2
            iou[0, i, 0] = self.score
        return {"loc": loc, "conf": conf, "iou": iou}


POINTS = torch.tensor([[30.0, 20], [90, 100], [45, 50], [75, 50], [60, 65], [48, 80], [72, 80]])


def test_yunet_decodes_box_points_and_score() -> None:
    network = OneFace(POINTS, 0.9)
    photo = torch.rand(3, 150, 200)
    (face,) = YuNetDetector(network, max_side=640)(photo)
    assert torch.allclose(face.box, POINTS[:2].flatten(), atol=1e-3)
    assert torch.allclose(face.landmarks, POINTS[2:], atol=1e-3)
    assert face.score == pytest.approx(0.9)
    assert face.mesh is None
    assert network.seen.shape == (1, 3, 192, 256)
    assert torch.allclose(network.seen[0, :, :150, :200], photo.flip(0) * 255)


def test_yunet_scales_large_photos_and_its_answers() -> None:
    (face,) = YuNetDetector(OneFace(POINTS, 0.9), max_side=200)(torch.rand(3, 600, 800))
    assert torch.allclose(face.landmarks, (POINTS[2:] + 0.5) * 4 - 0.5, atol=1e-3)


def test_yunet_drops_what_is_below_its_threshold() -> None:
    assert YuNetDetector(OneFace(POINTS, 0.6), threshold=0.7)(torch.rand(3, 64, 64)) == []


def test_yunet_is_kept_as_safetensors_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kornia.models import yunet

    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    assert "fetch_yunet()" in yunet_available()
    with pytest.raises(UnavailableError, match=r"fetch_yunet\(\)"):
        build_yunet()

    torch.manual_seed(0)
    made = yunet.YuNet("test", pretrained=False)
    monkeypatch.setattr(yunet, "YuNet", lambda phase, pretrained: made)
    assert fetch_yunet().parent == tmp_path
    monkeypatch.undo()
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    assert yunet_available() == ""
    detector = build_yunet(threshold=0.0)
    for key, value in detector.network.state_dict().items():
        assert torch.equal(value, made.state_dict()[key])
    assert isinstance(detector(torch.rand(3, 90, 70)), list)

    (tmp_path / "yunet.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(yunet, "YuNet", lambda phase, pretrained: made)
    with pytest.warns(FackeWarning, match="is damaged"):
        build_yunet()
    assert (tmp_path / "yunet.safetensors").stat().st_size > 1000


def test_a_failed_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kornia.models import yunet

    def offline(phase: str, pretrained: bool) -> Any:
        raise OSError("name resolution failed")

    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    monkeypatch.setattr(yunet, "YuNet", offline)
    with pytest.raises(UnavailableError, match="name resolution failed"):
        fetch_yunet()
    assert not any(tmp_path.iterdir())


# The choice


class Shelf:
    """As much of a registry as the choice needs."""

    def __init__(self, **reasons: str) -> None:
        self.detectors = {
            name: DetectorSpec(name=name, summary="", build=f"m:{name}", available=reason)
            for name, reason in reasons.items()
        }

    def resolve(self, target: str) -> Any:
        return lambda **settings: (target, settings)


def test_the_first_detector_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "unavailable", lambda reason: reason)
    shelf: Any = Shelf(one="is missing. Run: pip install one", two="", three="")
    first: object = make_detector(registry=shelf, threshold=0.2)
    assert first == ("m:two", {"threshold": 0.2})
    named: object = make_detector("three", registry=shelf)
    assert named == ("m:three", {})
    with pytest.raises(UnavailableError, match=r"one: is missing\. Run"):
        make_detector("one", registry=shelf)
    none: Any = Shelf(one="is missing", two="is broken")
    with pytest.raises(UnavailableError, match="one: is missing; two: is broken"):
        make_detector(registry=none)


def test_core_registers_both_detectors() -> None:
    from facke_core.plugins.registry import Registry

    registry = Registry()
    registry.register(sys.modules["facke_core.plugins.core"], "facke-core")
    assert [spec.name for spec in facke_face_detectors()] == ["mediapipe", "yunet"]
    pytest.importorskip("mediapipe")
    assert isinstance(make_detector(registry=registry), MediaPipeDetector)
    with pytest.raises(UnknownNameError, match="Did you mean 'yunet'"):
        make_detector("yunets", registry=registry)
