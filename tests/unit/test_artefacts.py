"""The artefact score: photographs look less swapped than composites, whatever their quality."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from swappers import dataset, evaluator
from torch import Tensor
from torch.nn import functional as F

from facke_core import default_registry
from facke_core.data.composite import composite
from facke_core.errors import VerificationError
from facke_core.evaluation import artefacts as module
from facke_core.evaluation.artefacts import FRAMING, artefacts, score
from facke_core.evaluation.metrics import PerPair, SwappedPairs
from facke_core.evaluation.runner import make_metrics
from facke_core.evaluation.statistics import verification_auc
from facke_core.faces.align import align, transform_points
from facke_core.faces.areas import inside
from facke_core.faces.detect import build_mediapipe
from facke_core.faces.mesh import OVAL_RING, POINTS
from facke_core.images.io import read_image, to_pil
from facke_core.jobs.pairs import pairs_of_dataset
from facke_core.types import AlignedFace, Face


@pytest.fixture(scope="module")
def faces(shared: Path) -> list[AlignedFace]:
    """Faces of the London set, none of whom the network has seen, in crops with their meshes."""
    detector, found = build_mediapipe(), []
    london = shared / "faces" / "images" / "open" / "london"
    for path in sorted(london.glob("*/neutral.jpg"))[::2]:
        photo = read_image(path).image
        seen = align(photo, detector(photo)[0], FRAMING)
        assert seen.face.mesh is not None
        matrix = seen.matrix[None].double()
        mesh, points = (
            transform_points(matrix, x[None].double())[0].float()
            for x in (seen.face.mesh, seen.face.landmarks)
        )
        box = torch.cat([mesh.amin(0), mesh.amax(0)])
        found.append(AlignedFace(seen.crop, torch.eye(2, 3), Face(box, points, 1.0, mesh=mesh)))
    return found


def scores(
    faces: list[AlignedFace], change: Callable[[Tensor], Tensor] = lambda x: x
) -> list[float]:
    return [score(change(face.crop), face.face) for face in faces]


def composites(faces: list[AlignedFace]) -> list[AlignedFace]:
    """Each face with the inner face of the next."""
    meshes = torch.stack([face.face.mesh for face in faces if face.face.mesh is not None])
    photos = torch.stack([face.crop for face in faces])
    size = photos.shape[-1]
    made = composite(
        photos,
        meshes[:, list(POINTS)],
        torch.stack([inside(mesh, (OVAL_RING,), size) for mesh in meshes]),
        photos.roll(1, 0),
        meshes.roll(1, 0)[:, list(POINTS)],
        geometry=torch.full((len(photos),), 0.5),
        softness=7,
    )
    return [face._replace(crop=crop) for face, crop in zip(faces, made, strict=True)]


def jpeg(picture: Tensor) -> Tensor:
    stream = io.BytesIO()
    to_pil(picture).save(stream, "JPEG", quality=60)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).float() / 255


def smaller(picture: Tensor) -> Tensor:
    small = F.interpolate(picture[None], scale_factor=0.5, mode="area")
    return F.interpolate(small, scale_factor=2, mode="bicubic")[0].clamp(0, 1)


@pytest.mark.parametrize("change", [lambda x: x, jpeg, smaller], ids=["plain", "jpeg", "smaller"])
def test_composites_look_more_swapped_than_photographs(
    faces: list[AlignedFace], change: Callable[[Tensor], Tensor]
) -> None:
    real, fake = scores(faces, change), scores(composites(faces), change)
    area = verification_auc(fake, real)
    assert area is not None
    assert area > 0.75
    assert sum(fake) / len(fake) > sum(real) / len(real) + 1


def test_the_score_of_a_face_depends_on_nothing_else(faces: list[AlignedFace]) -> None:
    photos = [face.crop for face in faces[:3]]
    together = SwappedPairs(
        source=torch.stack(photos), target=torch.stack(photos), photos=photos, aligned=faces[:3]
    )
    assert artefacts()(together).tolist() == scores(faces[:3])
    wide = F.pad(photos[0][None], (40, 7, 3, 60), mode="replicate")[0]
    face = faces[0].face
    moved = face._replace(landmarks=face.landmarks + torch.tensor([40.0, 3.0]))
    assert score(wide, moved) == pytest.approx(scores(faces[:1])[0], abs=0.2)


def test_landmarks_that_are_no_face_have_no_score() -> None:
    face = Face(torch.zeros(4), torch.zeros(5, 2), 1.0)
    assert np.isnan(score(torch.rand(3, 64, 64), face))


def test_the_metric_is_registered_and_its_network_is_in_the_protocol() -> None:
    (metric,) = make_metrics(["artefacts"], default_registry())
    assert not metric.higher_is_better
    pairs = pairs_of_dataset(dataset(), 3)
    one = evaluator("target", artefacts())
    assert one.protocol(pairs)["networks"] == {"artefacts": module.DIGEST}
    first, again = one.run(pairs, batch_size=1), one.run(pairs, batch_size=3)
    assert first.summary["artefacts"] == again.summary["artefacts"]
    assert first.summary["artefacts"].n == 3


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIGEST", "0" * 64)
    module._network.cache_clear()
    with pytest.raises(VerificationError, match=r"artefacts\.safetensors .* is damaged"):
        score(torch.rand(3, 64, 64), Face(torch.zeros(4), torch.rand(5, 2) * 64, 1.0))
    module._network.cache_clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned(PerPair):
    digest: str


def test_the_network_of_any_metric_that_names_its_digest_is_in_the_protocol() -> None:
    own = Pinned(
        name="own", needs=frozenset(), function=lambda pairs: torch.zeros(1), digest="0" * 64
    )
    pairs = pairs_of_dataset(dataset(), 3)
    assert evaluator("target", own).protocol(pairs)["networks"] == {"own": "0" * 64}
