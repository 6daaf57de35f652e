"""Face detectors behind one protocol: MediaPipe (offline) and YuNet (weights fetched once).

A detector takes a photo (3, H, W), RGB in [0, 1], and returns :class:`~facke_core.types.Face`
tuples, largest first, in pixels with centres at integers. It never touches the network.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import _cache, _tensors
from facke_core.environment import cache_folder
from facke_core.errors import FackeWarning, UnavailableError
from facke_core.faces.boxes import (
    FITS,
    Pixels,
    bounds,
    covered,
    distinct,
    largest_first,
    overlap,
    square,
    turned_box,
    turned_face,
    windows,
)
from facke_core.faces.doubts import MISFIT, MISFIT_OVERLAP, UNSURE, UNSURE_SCORE, WHICH_WAY
from facke_core.faces.graphs import Found, mediapipe_available, shared_graphs
from facke_core.types import Face

__all__ = ["MediaPipeDetector", "YuNetDetector", "fetch_yunet"]

FIVE_POINTS = (468, 473, 1, 61, 291)
"""Iris centres, nose tip and mouth corners among MediaPipe's 478 points, image-left first."""
QUARTERS = (0, 1, 3, 2)
"""Quarter turns of a photo against the clock, in the order in which they are tried."""
SEEN = 0.1
"""Least that both detectors make of a face from near; of them, see ``_liking``."""
BETTER, LEANING, LESS, SAME_WAY, ASKEW = 0.1, 50.0, 0.3, 60.0, 45.0
"""A face counts as turned where they make so much more of it that way; a face whose
eyes lie askew by so many degrees counts so much less; two finds of angles closer than that are the
same; and of those, the one from the other side is better where the head is turned so far."""


# MediaPipe


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

    Called, it looks at the whole photo; where that shows no face, at overlapping tiles, so that
    small faces are found, and then at the photo on its sides and on its head. What is found first
    is the answer: small faces beside larger ones are for :meth:`all_faces`. What the mesh does not
    confirm is no face. Deterministic.

    Any number of threads may call it: detectors of one threshold share MediaPipe's graphs, which
    serve one thread at a time (:mod:`facke_core.faces.graphs`). It can be pickled and copied.
    """

    TILINGS = (1, 2, 4)
    """Tiles per side of the photo, tried in this order until a face is found."""
    SMALLEST_TILE = 256
    """Sides of the photo, in pixels per tile, below which a tiling is not tried."""
    STRIPS = (3, 100)
    """A photo so many times as long as it is wide, or as wide as it is high, is searched in squares
    as well."""
    CROPS = (2.0, 3.0, 1.5)
    """Sides of the crop for the mesh, in sides of the box, tried in this order until it fits."""
    SURE = 0.88
    """Score from which a face is taken to be upright, as it seems. Of 85 upside-down heads that
    were taken for upright ones, none had more than 0.84."""

    def __init__(self, *, threshold: float = 0.6, max_faces: int = 64) -> None:
        self.threshold = threshold
        self.max_faces = max_faces
        self._graphs = shared_graphs(threshold)

    def close(self) -> None:
        """Free the graphs, unless another detector uses them; a later call builds them again."""
        self._graphs.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), threshold=self.threshold, max_faces=self.max_faces), ()

    def __call__(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W) in [0, 1], largest first, each with its mesh."""
        pixels = _pixels(photo)
        for quarters in QUARTERS:
            turned = np.rot90(pixels, quarters)
            for tiles in self._tilings(pixels, most=4 if quarters == 0 else 2):
                if faces := self._faces(turned, tiles, ()):
                    return self._finished(
                        [turned_face(face, turned.shape, -quarters) for face in faces]
                    )
        return []

    def glance(self, photo: Tensor) -> list[Face]:
        """The upright faces of a photo (3, H, W) that are not small, largest first, at one look."""
        return self._finished(self._faces(_pixels(photo), 1, ()))

    def all_faces(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W) in [0, 1], largest first: those of the whole photo, of all
        its tiles, and of the photo on its sides and on its head. Takes ten times as long."""
        pixels = _pixels(photo)
        faces: list[Face] = []
        for quarters in QUARTERS:
            turned = np.rot90(pixels, quarters)
            most = 4 if quarters == 0 else 1 if faces else 2
            for tiles in self._tilings(pixels, most=most):
                known = [turned_box(face.box, pixels.shape, quarters) for face in faces]
                more = self._faces(turned, tiles, known)
                faces += [turned_face(face, turned.shape, -quarters) for face in more]
        return self._finished(faces)

    def _finished(self, faces: list[Face]) -> list[Face]:
        return largest_first(faces)[: self.max_faces]

    def _tilings(self, pixels: Pixels, *, most: int) -> Iterator[int]:
        """Tiles per side; 0 stands for squares along the longer one."""
        short, long = sorted(pixels.shape[:2])
        for tiles in self.TILINGS:
            if tiles == 1 or (tiles <= most and short >= tiles * self.SMALLEST_TILE):
                yield tiles
        least, largest = self.STRIPS
        if most > 1 and short >= self.SMALLEST_TILE and least * short < long <= largest * short:
            yield 0

    def _faces(self, pixels: Pixels, tiles: int, known: Sequence[Tensor]) -> list[Face]:
        """The faces of a tiling, without those that cover a known box."""
        candidates = [
            (box, score)
            for box, score in self._boxes(pixels, tiles)
            if not any(covered(box, other) for other in known)
        ]
        looked_at = [
            self._right_way_up(pixels, self._face(pixels, box, score), box)
            for box, score in candidates
        ]
        faces = [
            face
            for face in looked_at
            if face is not None and not any(covered(face.box, other) for other in known)
        ]
        if not faces:
            return []
        kept = distinct(torch.stack([face.box for face in faces]), [face.score for face in faces])
        return [faces[i] for i in kept]

    def _boxes(self, pixels: Pixels, tiles: int) -> list[tuple[Tensor, float]]:
        """Boxes and scores of the whole photo (``tiles`` 1) or of half-overlapping tiles."""
        boxes: list[Tensor] = []
        scores: list[float] = []
        for y, x, h, w in windows(pixels.shape, tiles):
            tile = np.ascontiguousarray(pixels[y : y + h, x : x + w])
            for detections in self._graphs.boxes(tile, self):
                boxes += [_edges(detection, y, x, h, w) for detection in detections]
                scores += [detection.score for detection in detections]
        if not boxes:
            return []
        return [(boxes[i], scores[i]) for i in distinct(torch.stack(boxes), scores)]

    def _face(self, pixels: Pixels, box: Tensor, score: float) -> Face | None:
        """The face in ``box`` with its mesh, or None where the mesh does not fit."""
        for factor in self.CROPS:
            crop, x, y, size = square(pixels, box, factor)
            best, closest = None, FITS
            for candidate in self._graphs.meshes(crop, self):
                mesh = candidate * size + torch.tensor([x - 0.5, y - 0.5])
                common = overlap(bounds(mesh), box)
                if common > closest:
                    best, closest = mesh, common
            if best is not None:
                doubts = [UNSURE.format(score)] if score < UNSURE_SCORE else []
                doubts += [MISFIT] if closest < MISFIT_OVERLAP else []
                points = best[list(FIVE_POINTS)]
                return Face(bounds(best), points, score, best, tuple(doubts))
        return None

    def _right_way_up(self, pixels: Pixels, face: Face | None, box: Tensor) -> Face | None:
        """The face, as its head is turned; None if it is none.

        An inverted head can pass for an upright one. So an unsure face is looked at from all four
        sides, and the one counts from which both detectors like it best. What they do not see from
        near, from any side, is no face.
        """
        if face is None or face.score >= self.SURE:
            return face
        likings = []
        for quarters in range(4):
            here = turned_box(box, pixels.shape, quarters)
            likings.append(self._liking(np.rot90(pixels, quarters), here))
        best = max(range(4), key=lambda quarters: likings[quarters][0])
        total, there, score = likings[best]
        if total < SEEN or there is None:
            return None
        if best == 0:
            return face
        turned = np.rot90(pixels, best)
        other = self._face(turned, there, score)
        clear = total >= likings[0][0] + BETTER
        if other is not None:
            other = turned_face(other, turned.shape, -best)
            if abs((other.angle - face.angle + 180) % 360 - 180) < SAME_WAY:
                return face if abs(face.angle) < ASKEW else other
            if clear:
                return other
        return face._replace(doubts=(*face.doubts, WHICH_WAY))

    def _liking(self, pixels: Pixels, here: Tensor) -> tuple[float, Tensor | None, float]:
        """How sure both detectors are of an upright face in the box ``here``, from 0 to 2, the box
        of the surer one, and its score.

        Their scores count by the fourth power: one that is sure is right more often than two that
        are not.
        """
        crop, x, y, size = square(pixels, here, self.CROPS[0])
        total, best, score = 0.0, None, 0.0
        for detections in self._graphs.boxes(crop, self):
            fitting = [
                (detection, edges)
                for detection in detections
                if overlap(edges := _edges(detection, y, x, size, size), here) > FITS
            ]
            if not fitting:
                continue
            detection, edges = max(fitting, key=lambda pair: pair[0].score)
            x0, y0, x1, y1 = detection.eyes
            leaning = abs(math.degrees(math.atan2(y1 - y0, x1 - x0))) > LEANING
            total += max(detection.score - (LESS if leaning else 0.0), 0.0) ** 4
            if detection.score > score:
                best, score = edges, detection.score
        return total, best, score


def _pixels(photo: Tensor) -> Pixels:
    return np.ascontiguousarray(
        photo.detach().cpu().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    )


def _edges(found: Found, y: int, x: int, h: int, w: int) -> Tensor:
    """The box in pixels of the photo, of which a tile at (x, y) was looked at."""
    left, upper, width, height = found.box
    x0, y0 = x + left * w - 0.5, y + upper * h - 0.5
    return torch.tensor([x0, y0, x0 + width * w, y0 + height * h])


# YuNet


_YUNET = "yunet.safetensors"


def _yunet_file() -> Path:
    return cache_folder() / _YUNET


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
    content = save({key: value.contiguous() for key, value in state.items()})
    file = _cache.write(_YUNET, content)
    if file is None:
        raise UnavailableError(
            "The weights of YuNet cannot be kept. Make room, or let FACKE_CACHE name another "
            "folder."
        )
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
        UnavailableError: they were not fetched, or are damaged and cannot be fetched again.

    Warns:
        FackeWarning: they were damaged and are fetched again.
    """
    from kornia.models.yunet import YuNet

    reason = yunet_available()
    if reason:
        raise UnavailableError(f"{reason[0].upper()}{reason[1:]}")
    kept = _cache.read(_YUNET)
    if kept is None:
        warnings.warn(
            f"{_yunet_file()} is damaged. The weights of YuNet are fetched again.",
            FackeWarning,
            stacklevel=2,
        )
        kept = bytearray(fetch_yunet().read_bytes())
    network = YuNet("test", pretrained=False)
    network.load_state_dict(_tensors.parse(kept)[0])
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
        faces = [Face(boxes[i], points[i, 2:], certain[i]) for i in distinct(boxes, certain)]
        return largest_first(faces)
