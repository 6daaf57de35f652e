"""The contract of a face detector, on a real photograph.

``portrait.jpg`` is a part of NASA's portrait of the astronaut Eileen Collins, which is in the
public domain (NASA Great Images database, https://flic.kr/p/r9qvLn).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.protocols import FaceDetector
from facke_core.references import unavailable
from facke_core.testing.assertions import (
    doing,
    leaves_alone,
    leaves_randomness_alone,
    require,
)
from facke_core.testing.specs import SpecChecks
from facke_core.types import Face

__all__: list[str] = []

LANDMARKS = ((107.1, 100.4), (150.1, 103.0), (126.6, 130.5), (106.1, 139.2), (149.0, 140.1))
"""Eyes, nose and mouth corners (x, y) in pixels of ``portrait.jpg``, image-left first."""


def portrait() -> Tensor:
    """A photo (3, 256, 256) in [0, 1] of one face, which is about 90 pixels wide."""
    from facke_core.images.io import read_image

    return read_image(Path(__file__).with_name("portrait.jpg")).image


class DetectorConformance(SpecChecks):
    """Everything that facke relies on in a face detector. Name a registered one."""

    kind = "detector"
    detector: ClassVar[str] = ""
    """The registered name."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Keywords of ``build``."""
    tolerance = 0.3
    """Largest error of a landmark, in distances of the eyes."""

    def make(self) -> FaceDetector:
        """The detector under test; skips where it cannot be used."""
        spec = self.the_spec()
        reason = unavailable(spec.available)
        if reason:
            pytest.skip(f"{spec.name} cannot be used here: {reason}")
        with doing("The detector cannot be built. Correct the target DetectorSpec.build."):
            detector: FaceDetector = self.the_registry().resolve(spec.build)(**self.settings)
        return detector

    def made(self) -> FaceDetector:
        """The detector, built once per check."""
        if not hasattr(self, "_made"):
            self._made = self.make()
        return self._made

    def detect(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W), checked to be a list of them."""
        with doing(f"The detector fails on a photo {tuple(photo.shape)}. Correct its __call__."):
            faces = self.made()(photo)
        require(
            isinstance(faces, list) and all(isinstance(face, Face) for face in faces),
            f"The detector returns {type(faces).__name__}. Return a list of facke_core.Face; an "
            "empty one where there is no face.",
        )
        return faces

    def one(self, photo: Tensor) -> Face:
        """The only face of a photo (3, H, W)."""
        faces = self.detect(photo)
        require(
            len(faces) == 1,
            f"{len(faces)} faces were found in a photo (3, {photo.shape[1]}, {photo.shape[2]}) of "
            "one face. Photos are RGB in 0 to 1 and (3, H, W); check the conversion to what the "
            "network takes, and remove double detections.",
        )
        return faces[0]

    # -- checks ----------------------------------------------------------------------------------

    def test_it_satisfies_the_protocol(self) -> None:
        """The error for a photo without a face names the threshold."""
        detector = self.made()
        require(
            isinstance(detector, FaceDetector) and isinstance(detector.threshold, float),
            "The detector lacks a member of facke_core.protocols.FaceDetector: it needs threshold "
            "(a float) and __call__.",
        )

    def test_boxes_are_pixels_x0_y0_x1_y1(self) -> None:
        """Boxes in fractions, or with width and height, crop another place."""
        face = self.one(portrait())
        require(
            face.box.shape == (4,) and face.box.dtype == torch.float32,
            f"The box is {tuple(face.box.shape)} {face.box.dtype}, not (4,) float32. Convert it.",
        )
        x0, y0, x1, y1 = face.box.tolist()
        require(
            x1 - x0 > 40 and y1 - y0 > 40 and x1 <= 230 and y1 <= 240,
            f"The box {[round(v) for v in (x0, y0, x1, y1)]} does not frame the face at about "
            "[83, 69, 175, 177]. Return pixels of the photo as x0, y0, x1, y1.",
        )
        inside = face.landmarks
        require(
            bool((inside > face.box[:2]).all()) and bool((inside < face.box[2:]).all()),
            "Landmarks lie outside of the box. Return pixels of the photo as x0, y0, x1, y1.",
        )

    def test_landmarks_are_eyes_nose_and_mouth_corners(self) -> None:
        """Alignment maps the five points to a template: in another order faces are turned over."""
        face = self.one(portrait())
        require(
            face.landmarks.shape == (5, 2) and face.landmarks.dtype == torch.float32,
            f"Landmarks are {tuple(face.landmarks.shape)} {face.landmarks.dtype}, not (5, 2) "
            "float32. Convert them.",
        )
        expected = torch.tensor(LANDMARKS)
        unit = float((expected[0] - expected[1]).norm())
        error = float((face.landmarks - expected).norm(dim=1).max()) / unit
        require(
            error < self.tolerance,
            f"A landmark is {error:.2f} eye distances away from where it should be. The order is "
            "eye, eye, nose, mouth corner, mouth corner, each pair from the left of the picture; "
            "coordinates are x, y in pixels of the photo.",
        )

    def test_a_mirrored_photo_keeps_the_order(self) -> None:
        """Image-left first is a rule about the picture, not about the person."""
        photo = portrait()
        points = self.one(photo.flip(2)).landmarks
        require(
            bool(points[0, 0] < points[1, 0]) and bool(points[3, 0] < points[4, 0]),
            "In a mirrored photo the right eye or mouth corner comes first. Sort each pair by x.",
        )

    def test_positions_follow_the_face(self) -> None:
        """Networks see a resized photo; their answers have to come back to its pixels."""
        photo = portrait()
        before = self.one(photo).landmarks
        moved = self.one(F.pad(photo, (90, 30, 60, 0), value=0.4)).landmarks
        error = float((moved - before - torch.tensor([90.0, 60.0])).norm(dim=1).max())
        require(
            error < 10,
            f"With a margin around the photo, landmarks are {error:.0f} pixels off. Scale and "
            "shift the network's answers back to the photo, x by its width and y by its height.",
        )
        large = F.interpolate(photo[None], scale_factor=2.0, mode="bilinear")[0]
        error = float((self.one(large).landmarks / 2 - before).norm(dim=1).max())
        require(
            error < 10,
            f"In a photo of twice the size, landmarks are {error:.0f} pixels off. Scale the "
            "network's answers back to the photo.",
        )

    def test_the_largest_face_comes_first(self) -> None:
        """The largest face, which is swapped if nobody names another, is the first of the list."""
        small = portrait()[:, 30:220, 30:220]
        large = F.interpolate(small[None], scale_factor=2.0, mode="bilinear")[0]
        photo = torch.full((3, 400, 600), 0.4)
        photo[:, 100:290, 5:195], photo[:, 10:390, 210:590] = small, large
        for picture in (photo, photo.flip(2)):
            faces = self.detect(picture)
            require(
                len(faces) == 2,
                f"{len(faces)} faces were found in a photo of two. Look for a limit of one face.",
            )
            areas = [float((face.box[2:] - face.box[:2]).prod()) for face in faces]
            require(
                areas[0] > areas[1],
                "The smaller face comes first. Sort by the area of the box, largest first.",
            )

    def test_scores_are_at_least_the_threshold(self) -> None:
        """Scores are shown to users and compared with the threshold."""
        score = self.one(portrait()).score
        require(
            isinstance(score, float) and self.made().threshold <= score <= 1,
            f"The score is {score!r}, not a float from the threshold {self.made().threshold} to 1. "
            "Convert logits to probabilities, and drop what is below.",
        )

    def test_no_face_is_an_empty_list(self) -> None:
        """Facke raises NoFaceError itself, with the name of the file."""
        noise = torch.rand(3, 120, 180, generator=torch.Generator().manual_seed(0))
        for name, photo in (
            ("black", torch.zeros(3, 128, 128)),
            ("white", torch.ones(3, 100, 150)),
            ("noise", noise),
            ("8 pixels", torch.full((3, 8, 8), 0.5)),
        ):
            faces = self.detect(photo)
            require(
                faces == [],
                f"{len(faces)} faces were found in a picture without any ({name}). Raise the "
                "threshold, and apply it.",
            )

    def test_odd_sizes_and_layouts_are_taken(self) -> None:
        """Photos have any size, and crops of them are no contiguous tensors."""
        photo = portrait()
        expected = self.one(photo).landmarks
        wide = torch.cat([photo, photo], dim=2)[:, :, :256]
        last = photo.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        for name, picture in (("sliced", wide), ("channels_last", last)):
            error = float((self.one(picture).landmarks - expected).abs().max())
            require(
                error < 1e-3,
                f"A {name} photo gives other landmarks. Use contiguous() before numpy() or view().",
            )
        self.one(photo[:, 1:250, 3:246])
        self.detect(photo[:, :33, :])

    def test_it_leaves_the_photo_alone(self) -> None:
        """The result is pasted into this photo."""
        photo = portrait()
        self.made()
        with leaves_alone("The detector", [photo]), leaves_randomness_alone("The detector"):
            self.detect(photo)

    def test_it_repeats(self) -> None:
        """Detectors for video track by default: a photo may not depend on the one before."""
        photo = portrait()
        before = self.one(photo).landmarks
        self.detect(photo.flip(2))
        require(
            torch.equal(before, self.one(photo).landmarks),
            "The same photo gives other landmarks after another photo. Switch tracking off.",
        )
