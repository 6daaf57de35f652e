"""The work of a preparation: one photograph in, an aligned crop and its vectors out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from facke_core.errors import FackeWarning, ImageError, NoFaceError, OutOfMemoryError
from facke_core.faces.align import align, transform_points
from facke_core.faces.doubts import MOST_AWAY, turned_away
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import Alignment
from facke_core.images.files import explaining_memory
from facke_core.images.io import read_image, resize
from facke_core.prepare.photos import file_key
from facke_core.protocols import FaceDetector, IdentityEncoder

__all__: list[str] = []

MIN_EYE_DISTANCE = 18
"""Least distance of the eyes in pixels of the photograph; below, a crop would be mostly
interpolation."""
VERSION = 3
"""Version of the way from a photograph to a crop. Since 2, heads are found as they are turned;
since 3, the whole mesh is kept."""
DETECTOR = "mediapipe"
"""Name of the detector, which is one that gives a mesh."""

UNREADABLE, NO_FACE, SMALL, TURNED, NOT_SQUARE = REASONS = (
    "unreadable",
    "no face",
    "face too small",
    "face turned away",
    "not square",
)
"""Reasons why a picture is left out. Their order is part of the format of a dataset."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The way in which crops are made."""

    alignment: Alignment
    aligned: bool = False
    """True where the pictures are aligned crops already, and are only brought to the size."""

    def digest(self) -> str:
        """SHA-256 of all that decides a crop beside the file, as 64 hexadecimal digits.

        Crops of the same digest need not be made again.
        """
        about: dict[str, Any] = {"version": VERSION, "aligned": self.aligned}
        alignment = self.alignment
        about["alignment"] = [alignment.template, alignment.size]
        if not self.aligned:
            about["alignment"] += [alignment.border, alignment.antialias]
            about["detector"] = [DETECTOR, _version()]
            about["limits"] = [MIN_EYE_DISTANCE, MOST_AWAY]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class Job(NamedTuple):
    """A photograph to make a crop from, or a crop of which only the vectors are missing."""

    path: str
    key: bytes
    crop: Array | None = None


class Portrait(NamedTuple):
    """The yield of a photograph."""

    crop: Array
    """Crop (3, S, S) uint8 RGB."""
    mesh: Array | None
    """Points (478, 2) float32 of the face mesh, in pixels of the crop."""
    embedding: Array
    """Vectors (2, D) float32 of the crop and of its mirror image."""


class Done(NamedTuple):
    """The answer of a worker."""

    portrait: Portrait | None
    reason: str = ""
    """One of :data:`REASONS` where there is no portrait."""
    passing: bool = False
    """True where the file could not be read this time, for a reason that is not in its content."""
    decoding: float = 0.0
    """Seconds for reading and decoding the file."""
    seconds: float = 0.0
    """Seconds for the whole job."""


class Portraits:
    """Makes portraits one at a time, with one thread: a result depends on nothing but its file.

    Args:
        photos: the folder that paths are relative to.
        preparation: the way in which crops are made.
        encoder: ``{"name": ..., **settings}``.
    """

    def __init__(self, photos: Path, preparation: Preparation, encoder: Mapping[str, Any]) -> None:
        self.photos, self.preparation, self.settings = photos, preparation, encoder
        self._encoder: IdentityEncoder | None = None
        self._detector: FaceDetector | None = None

    def __call__(self, job: Job) -> Done:
        """Do a job; a picture that cannot be used is an answer, too.

        Raises:
            FackeError: the encoder or the detector cannot be used; never because of the picture.
        """
        begin = time.perf_counter()
        if job.crop is not None:
            embedding = self._embed(torch.from_numpy(job.crop))
            known = Portrait(job.crop, None, embedding)
            return Done(known, seconds=time.perf_counter() - begin)
        path, photo, reason, passing = self.photos / job.path, None, "", False
        try:
            if file_key(path) != job.key:
                raise OSError("it changed while the others were read")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FackeWarning)  # of colour profiles
                photo = read_image(path).image
        except (ImageError, OSError, OutOfMemoryError) as error:
            reason, passing = UNREADABLE, _may_pass(error)
        decoding = time.perf_counter() - begin
        try:
            with explaining_memory(str(path)):
                made = self._make(photo) if photo is not None else reason
        except OutOfMemoryError:
            made, passing = UNREADABLE, True
        portrait, reason = (None, made) if isinstance(made, str) else (made, "")
        return Done(portrait, reason, passing, decoding, time.perf_counter() - begin)

    def _make(self, photo: Tensor) -> Portrait | str:
        size = self.preparation.alignment.size
        if self.preparation.aligned:
            if photo.shape[1] != photo.shape[2]:
                return NOT_SQUARE
            crop = _bytes(resize(photo[None], (size, size))[0])
            return Portrait(crop.numpy(), None, self._embed(crop))
        if self._detector is None:
            from facke_core.building import make_detector

            self._detector = make_detector(DETECTOR)
        faces = self._detector(photo)
        if not faces:
            return NO_FACE
        face = faces[0]
        if float((face.landmarks[1] - face.landmarks[0]).norm()) < MIN_EYE_DISTANCE:
            return SMALL
        if turned_away(face.landmarks) > MOST_AWAY:
            return TURNED
        try:
            aligned = align(photo, face, self.preparation.alignment)
        except NoFaceError:
            return NO_FACE
        assert face.mesh is not None
        mesh = transform_points(aligned.matrix[None], face.mesh[None])[0].float()
        crop = _bytes(aligned.crop)
        return Portrait(crop.numpy(), mesh.numpy(), self._embed(crop))

    def _embed(self, crop: Tensor) -> Array:
        """The vectors (2, D) of a crop (3, S, S) uint8 and of its mirror image.

        They are made of the bytes, so that vectors made later are those made now.
        """
        if self._encoder is None:
            from facke_core.building import load_encoder

            self._encoder = load_encoder(self.settings)
        face, spec = crop.float() / 255, self._encoder.spec
        with torch.inference_mode():
            both = torch.stack([face, face.flip(-1)])
            framed = retemplate(both, self.preparation.alignment, spec.template, spec.input_size)
            return self._encoder(framed).float().numpy()


def _version() -> str:
    try:
        return version(DETECTOR)
    except PackageNotFoundError:  # which the first photograph reports
        return ""


def _may_pass(error: Exception) -> bool:
    """Tell whether something else than the content of the file is to blame."""
    cause = error.__cause__ if isinstance(error, ImageError) else error
    if isinstance(error, ImageError) and isinstance(cause, OSError):
        return cause.errno is not None  # decoders raise OSError without a number
    return isinstance(cause, OSError | OutOfMemoryError)


def _bytes(crop: Tensor) -> Tensor:
    return (crop.clamp(0, 1) * 255).round().byte().contiguous()


_portraits: Portraits | None = None


def start_worker(
    folder: str, photos: Path, preparation: Preparation, encoder: Mapping[str, Any]
) -> None:
    """Make this process a worker that works in ``folder`` and ends with its parent."""
    global _portraits
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the work
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.chdir(folder)
    torch.set_num_threads(1)
    _portraits = Portraits(photos, preparation, encoder)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed; nobody would read an answer


def answer(job: Job) -> Done:
    """Do a job in a worker, after :func:`start_worker`."""
    assert _portraits is not None
    return _portraits(job)
