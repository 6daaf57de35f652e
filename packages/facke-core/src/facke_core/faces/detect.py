"""Face detectors behind one protocol: MediaPipe (offline) and YuNet (weights fetched once).

A detector takes a photo (3, H, W), RGB in [0, 1], and returns :class:`~facke_core.types.Face`
tuples, largest first, in pixels with centres at integers. It never touches the network.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core._files import write_bytes
from facke_core.environment import cache_folder
from facke_core.errors import UnavailableError, WeightsError
from facke_core.types import Face

if TYPE_CHECKING:
    pass

__all__ = ["MediaPipeDetector", "YuNetDetector", "fetch_yunet"]

Pixels = np.ndarray[Any, Any]

FIVE_POINTS = (468, 473, 1, 61, 291)
"""Iris centres, nose tip and mouth corners among MediaPipe's 478 points, image-left first."""


# MediaPipe


def mediapipe_available() -> str:
    """The reason why the detector cannot be used here, and what to do; empty if it can."""
    if importlib.util.find_spec("mediapipe") is None:
        return 'the package mediapipe is not installed. Run: pip install "facke-core[faces]"'
    try:
        _solutions()
    except Exception as error:  # a missing system library surfaces as one of many types
        reason = f"mediapipe cannot be used: {error}. "
        if "lib" in str(error) and ".so" in str(error):
            return reason + "Install the system library, e.g.: apt-get install libgl1 libegl1"
        return reason + 'Run: pip install --force-reinstall "facke-core[faces]"'
    return ""


def _solutions() -> Any:
    with _quiet(), _without_pyplot():
        import mediapipe
        from mediapipe.python import solutions

    models = Path(mediapipe.__file__).parent / "modules"
    if not (models / "face_landmark" / "face_landmark_with_attention.tflite").is_file():
        raise ImportError("this version carries no models (0.10.14 is the last one that does)")
    return solutions


@contextmanager
def _without_pyplot() -> Iterator[None]:
    """Keep mediapipe from importing matplotlib for its drawing helpers: half of its import."""
    names = ("matplotlib", "matplotlib.pyplot")
    if any(name in sys.modules for name in names):
        yield
        return
    stand_ins = {name: types.ModuleType(name) for name in names}
    stand_ins["matplotlib"].pyplot = stand_ins["matplotlib.pyplot"]  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def build_mediapipe(*, threshold: float = 0.6, max_faces: int = 64) -> MediaPipeDetector:
    """Make MediaPipe's detector with its mesh.

    Args:
        threshold: lowest score of a face, 0 to 1.
        max_faces: how many faces of a photo are kept, largest first.

    Raises:
        UnavailableError: mediapipe is not installed or cannot be loaded.
    """
    reason = mediapipe_available()
    if reason:
        raise UnavailableError(f"{reason[0].upper()}{reason[1:]}")
    return MediaPipeDetector(threshold=threshold, max_faces=max_faces)


class MediaPipeDetector:
    """MediaPipe's short- and full-range detectors, then its mesh on a crop around each face.

    Where the whole photo shows no face, overlapping tiles of it are searched, so that small
    faces are found; they are not looked for beside larger ones. What the mesh does not confirm
    is no face. Deterministic.
    """

    TILINGS = (1, 2, 4)
    """Tiles per side of the photo, tried in this order until a face is found."""
    SMALLEST_TILE = 256
    """Sides of the photo, in pixels per tile, below which a tiling is not tried."""
    CROPS = (2.0, 3.0, 1.5)
    """Sides of the crop for the mesh, in sides of the box, tried in this order until it fits."""

    def __init__(self, *, threshold: float = 0.6, max_faces: int = 64) -> None:
        self.threshold = threshold
        self.max_faces = max_faces
        solutions = _solutions()
        with _quiet():
            self._detectors = [
                solutions.face_detection.FaceDetection(
                    model_selection=model, min_detection_confidence=threshold
                )
                for model in (0, 1)  # short and full range
            ]
            self._mesh = solutions.face_mesh.FaceMesh(
                static_image_mode=True,
                refine_landmarks=True,
                max_num_faces=4,
                min_detection_confidence=min(threshold, 0.5),
            )
            for graph in (*self._detectors, self._mesh):  # their threads write while they start
                _run(graph, np.zeros((64, 64, 3), np.uint8))

    def close(self) -> None:
        """Free the graphs; the detector cannot be used afterwards."""
        for graph in (*self._detectors, self._mesh):
            graph.close()

    def __call__(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W) in [0, 1], largest first, each with its mesh."""
        pixels = np.ascontiguousarray(
            photo.detach().cpu().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        )
        for tiles in self.TILINGS:
            if tiles > 1 and min(pixels.shape[:2]) < tiles * self.SMALLEST_TILE:
                break
            faces = [
                face
                for box, score in self._boxes(pixels, tiles)
                if (face := self._face(pixels, box, score)) is not None
            ]
            if faces:
                boxes = torch.stack([face.box for face in faces])
                kept = _distinct(boxes, [face.score for face in faces])
                return _largest_first([faces[i] for i in kept])[: self.max_faces]
        return []

    def _boxes(self, pixels: Pixels, tiles: int) -> list[tuple[Tensor, float]]:
        """Boxes and scores of the whole photo (``tiles`` 1) or of half-overlapping tiles."""
        height, width = pixels.shape[:2]
        h, w = -(-height // tiles), -(-width // tiles)
        boxes: list[Tensor] = []
        scores: list[float] = []
        for i in range(2 * tiles - 1):
            for j in range(2 * tiles - 1):
                y, x = min(i * h // 2, height - h), min(j * w // 2, width - w)
                tile = np.ascontiguousarray(pixels[y : y + h, x : x + w])
                for graph in self._detectors:
                    for detection in _run(graph, tile).detections or ():
                        box = detection.location_data.relative_bounding_box
                        x0, y0 = x + box.xmin * w - 0.5, y + box.ymin * h - 0.5
                        edges = [x0, y0, x0 + box.width * w, y0 + box.height * h]
                        boxes.append(torch.tensor(edges))
                        scores.append(float(detection.score[0]))
        if not boxes:
            return []
        return [(boxes[i], scores[i]) for i in _distinct(torch.stack(boxes), scores)]

    def _face(self, pixels: Pixels, box: Tensor, score: float) -> Face | None:
        """The face in ``box`` with its mesh, or None where the mesh does not fit."""
        for factor in self.CROPS:
            crop, x, y = _square(pixels, box, factor)
            size = crop.shape[0]
            best, overlap = None, 0.3
            for candidate in _run(self._mesh, crop).multi_face_landmarks or ():
                points = torch.tensor([(p.x, p.y) for p in candidate.landmark]) * size
                mesh = points + torch.tensor([x - 0.5, y - 0.5])
                common = _overlap(_bounds(mesh), box)
                if common > overlap:
                    best, overlap = mesh, common
            if best is not None:
                return Face(_bounds(best), best[list(FIVE_POINTS)], score, best)
        return None


def _run(graph: Any, pixels: Pixels) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="google.protobuf")
        return graph.process(pixels)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard what C++ threads write to the process's stderr: logs that no option silences."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _square(pixels: Pixels, box: Tensor, factor: float) -> tuple[Pixels, int, int]:
    """A square around a box, black beyond the photo, and its corner (x, y)."""
    x0, y0, x1, y1 = box.tolist()
    size = max(round(factor * max(x1 - x0, y1 - y0)), 8)
    x, y = round((x0 + x1 - size) / 2), round((y0 + y1 - size) / 2)
    height, width = pixels.shape[:2]
    crop = np.zeros((size, size, 3), np.uint8)
    top, bottom = max(y, 0), min(y + size, height)
    left, right = max(x, 0), min(x + size, width)
    if top < bottom and left < right:
        crop[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
    return crop, x, y


def _bounds(points: Tensor) -> Tensor:
    return torch.cat([points.amin(0), points.amax(0)])


def _overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes."""
    common = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
    return float(common / union.clamp(min=1e-9))


def _distinct(boxes: Tensor, scores: Sequence[float]) -> list[int]:
    """Indices that remain of boxes (N, 4) that show the same face: the best score of each."""
    from kornia.geometry.bbox import nms

    kept: list[int] = nms(boxes, torch.tensor(scores), 0.3).tolist()
    return kept


def _largest_first(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))


# YuNet


def _yunet_file() -> Path:
    return cache_folder() / "yunet.safetensors"


def yunet_available() -> str:
    """The reason why the detector cannot be used here, and what to do; empty if it can."""
    if _yunet_file().is_file():
        return ""
    return (
        "the weights of YuNet were not fetched yet. With a network, run once: "
        "python -c 'from facke_core.faces.detect import fetch_yunet; fetch_yunet()'"
    )


def fetch_yunet() -> Path:
    """Download kornia's YuNet weights and keep them as safetensors. Uses the network.

    Raises:
        UnavailableError: the download failed, or the weights cannot be kept.
    """
    from kornia.models.yunet import YuNet
    from safetensors.torch import save

    try:
        state = YuNet("test", pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"The weights of YuNet cannot be downloaded: {error}. Check the network, "
            'or use the offline detector: pip install "facke-core[faces]"'
        ) from error
    file = _yunet_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save({key: value.contiguous() for key, value in state.items()}))
    except OSError as error:
        raise UnavailableError(
            f"The weights of YuNet cannot be kept: {error}. Make room, or let FACKE_CACHE name "
            "another folder."
        ) from error
    return file


def build_yunet(
    *, threshold: float = 0.7, max_side: int = 640, device: str = "cpu"
) -> YuNetDetector:
    """Make YuNet with the weights that :func:`fetch_yunet` kept.

    Args:
        threshold: lowest score of a face, 0 to 1.
        max_side: pixels to which the longer side of a photo is reduced first.
        device: the torch device of the network.

    Raises:
        UnavailableError: they were not fetched.
        WeightsError: the file is damaged.
    """
    from kornia.models.yunet import YuNet
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    reason = yunet_available()
    if reason:
        raise UnavailableError(f"{reason[0].upper()}{reason[1:]}")
    network = YuNet("test", pretrained=False)
    try:
        network.load_state_dict(load_file(_yunet_file()))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{_yunet_file()} does not hold YuNet's weights: {error}. Delete it and fetch again."
        ) from error
    return YuNetDetector(network.to(device), threshold=threshold, max_side=max_side)


class YuNetDetector:
    """A detector that finds box, score and five points, no mesh: kornia's YuNet (Wu et al. 2023).

    The photo is reduced to ``max_side`` pixels first: faces from about 10 to 300 of those pixels
    are found.
    """

    ANCHORS = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    STEPS = (8, 16, 32, 64)
    VARIANCES = (0.1, 0.2)

    def __init__(self, network: nn.Module, *, threshold: float = 0.7, max_side: int = 640) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold = threshold
        self.max_side = max_side

    @torch.no_grad()
    def __call__(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W) in [0, 1], largest first, without meshes."""
        from kornia.models.yunet.processors import PriorBox, decode

        height, width = photo.shape[1:]
        scale = min(self.max_side / max(height, width), 1.0)
        h, w = max(round(height * scale), 1), max(round(width * scale), 1)
        image = photo[None].to(next(self.network.parameters()).device)
        image = F.interpolate(image, (h, w), mode="bilinear", antialias=True)
        image = F.pad(image.flip(1) * 255, (0, -w % 64, 0, -h % 64))  # BGR, whole cells
        output = self.network(image)
        padded = (image.shape[2], image.shape[3])
        priors = PriorBox(list(map(list, self.ANCHORS)), list(self.STEPS), False, padded)
        decoded = decode(output["loc"][0].cpu(), priors(), list(self.VARIANCES))
        scores = (output["conf"][0, :, 1] * output["iou"][0, :, 0].clamp(0, 1)).sqrt().cpu()
        keep = scores > self.threshold
        if not bool(keep.any()):
            return []
        # from fractions of the padded picture to pixels of the photo, centres at integers
        points = decoded[keep].view(-1, 7, 2) * torch.tensor([padded[1], padded[0]])
        points = points * torch.tensor([width / w, height / h]) - 0.5
        boxes, certain = points[:, :2].reshape(-1, 4), scores[keep].tolist()
        faces = [Face(boxes[i], points[i, 2:], certain[i]) for i in _distinct(boxes, certain)]
        return _largest_first(faces)
