"""A person as a source: what several photographs show, in memory and as a ``.safetensors`` file.

Networks get the mean of the identities of all photographs. Methods that use the source's pixels get
the photograph whose head is turned most like the target's and is least covered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facke_core import _json, _tensors
from facke_core._files import write_bytes
from facke_core.errors import ImageError, UsageError
from facke_core.faces.mesh import SIZE
from facke_core.faces.paste import face_hull
from facke_core.faces.pose import Pose, angle_between, head_pose
from facke_core.images.io import Photo, resize
from facke_core.types import AlignedFace, Face

__all__ = ["Portrait"]

SUFFIX = ".safetensors"
KIND = "facke face 1"
"""What the metadata of a file call it."""
AROUND = 4.0
"""Side of the part of a photograph that is kept, in sides of the face: no framing shows more."""
LARGEST = 1536
"""Largest side in pixels of what is kept of a photograph."""
MOST = 64
"""Most photographs of one person."""
COVERED = 100.0
"""Degrees of turning that count as much as a face that is wholly covered."""
CLEARLY = 15.0
"""Degrees by which another photograph has to be nearer to take the place of one in a clip."""


class View(NamedTuple):
    """One photograph of a person, and where the face is in it."""

    photo: Photo
    face: Face


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A person as a source, of one photograph or more. :class:`~facke_core.pipeline.SwapPipeline`
    makes it, and takes it wherever it takes a source::

        anna = swapper.portrait(["anna-1.jpg", "anna-2.jpg"])
        anna.save("anna.safetensors")
        swapper("anna.safetensors", "target.jpg").save("out.png")

    It holds, of each photograph, the pixels around the head and the places of the face, so that any
    method can use it, and the identity by one encoder, which another encoder computes anew.
    """

    views: tuple[View, ...]
    encoder: str = ""
    """Digest of the identity encoder of :attr:`identities`; empty: there are none."""
    identities: Tensor | None = None
    """Embeddings (V, D) of the photographs, unit norm."""

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write a ``.safetensors`` file. It holds pixels of the photographs: it is as private as
        they are.

        Args:
            path: where to.
            overwrite: replace a file that is there.

        Raises:
            ImageError: it cannot be written, or is there already and ``overwrite`` is False.
            UsageError: the name does not end in ``.safetensors``.
        """
        from safetensors.torch import save

        file = Path(path)
        check_name(file)
        if file.exists() and not overwrite:
            raise ImageError(f"{file} is there already. Overwrite it, or choose another name.")
        tensors: dict[str, Tensor] = {}
        for number, view in enumerate(self.views):
            photo, face = cut_out(view)
            tensors[f"photo.{number}"] = (photo * 255).round().to(torch.uint8).contiguous()
            tensors[f"box.{number}"] = face.box.float().contiguous()
            tensors[f"landmarks.{number}"] = face.landmarks.float().contiguous()
            if face.mesh is not None:
                tensors[f"mesh.{number}"] = face.mesh.float().contiguous()
        if self.identities is not None:
            tensors["identities"] = self.identities.float().contiguous()
        about = [{"score": view.face.score, "doubts": view.face.doubts} for view in self.views]
        kept = {"facke": KIND, "encoder": self.encoder, "views": json.dumps(about)}
        try:
            write_bytes(file, save(tensors, kept))
        except OSError as error:
            raise ImageError(
                f"{file} cannot be written: {error.strerror}. Check the free space and the rights, "
                "or choose another place."
            ) from error

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Portrait:
        """Read what :meth:`save` wrote; nothing in it is executed.

        Raises:
            ImageError: it cannot be read, or is something else.
        """
        file = Path(path)
        try:
            held = _tensors.read(file)
            return cls._of(file, held.tensors, held.metadata)
        except OSError as error:
            raise ImageError(
                f"{file} cannot be read: {error.strerror or error}. Check the path."
            ) from error
        except ValueError as error:
            raise ImageError(
                f"{file} is no face that facke saved: {error}. Give photographs, or save the face "
                "again."
            ) from error

    @classmethod
    def _of(cls, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Portrait:
        if metadata.get("facke") != KIND:
            raise ValueError("its metadata do not say so")
        about = _json.parse(metadata.get("views", ""))
        if not isinstance(about, list) or not 1 <= len(about) <= MOST:
            raise ValueError(f"it has not between 1 and {MOST} views")
        views = [_view(file, tensors, number, each) for number, each in enumerate(about)]
        encoder, identities = metadata.get("encoder", ""), tensors.pop("identities", None)
        if identities is not None:
            _check(identities, "identities", (len(views), None), torch.float32)
            if not bool(((identities.norm(dim=1) - 1).abs() < 1e-3).all()):
                raise ValueError("its identities are not of unit norm")
        if tensors:
            raise ValueError(f"it holds {next(iter(tensors))[:60]!r}")
        if bool(encoder) != (identities is not None):
            raise ValueError("it has identities, or an encoder, but not both")
        return cls(views=tuple(views), encoder=encoder, identities=identities)


def check_name(file: Path) -> None:
    """Raise UsageError unless the name of a face's file ends as it should."""
    if file.suffix.lower() != SUFFIX:
        raise UsageError(f"{file} is no name for a saved face. Let it end in {SUFFIX}.")


def cut_out(view: View) -> tuple[Tensor, Face]:
    """The part (3, h, w) of a photograph around the head, and the face in it."""
    photo, face = view.photo.image, view.face
    height, width = photo.shape[1:]
    x0, y0, x1, y1 = face.box.tolist()
    reach = AROUND / 2 * max(x1 - x0, y1 - y0)
    left, right = max(int((x0 + x1) / 2 - reach), 0), min(int((x0 + x1) / 2 + reach) + 1, width)
    top, bottom = max(int((y0 + y1) / 2 - reach), 0), min(int((y0 + y1) / 2 + reach) + 1, height)
    part = photo[:, top:bottom, left:right]
    scale = min(LARGEST / max(part.shape[1:]), 1.0)
    if scale < 1:
        size = round(part.shape[1] * scale), round(part.shape[2] * scale)
        part = resize(part[None], size)[0]
    corner = torch.tensor([left, top], dtype=torch.float32)

    def moved(points: Tensor) -> Tensor:
        return (points.float() - corner + 0.5) * scale - 0.5

    return part, face._replace(
        box=moved(face.box.view(2, 2)).flatten(),
        landmarks=moved(face.landmarks),
        mesh=None if face.mesh is None else moved(face.mesh),
    )


def _view(file: Path, tensors: dict[str, Tensor], number: int, about: Any) -> View:
    """Take one photograph out of what a file holds."""
    photo = tensors.pop(f"photo.{number}", None)
    if photo is None or not isinstance(about, dict) or about.keys() != {"score", "doubts"}:
        raise ValueError(f"its view {number} is not complete")
    _check(photo, "photo", (3, None, None), torch.uint8)
    if max(photo.shape) > LARGEST or min(photo.shape) < 3:
        raise ValueError(f"its photo {number} has the shape {list(photo.shape)}")
    shapes = {"box": (4,), "landmarks": (5, 2), "mesh": (SIZE, 2)}
    points = {name: tensors.pop(f"{name}.{number}", None) for name in shapes}
    for name, shape in shapes.items():
        if (values := points[name]) is not None:
            _check(values, name, shape, torch.float32)
        elif name != "mesh":
            raise ValueError(f"its view {number} has no {name}")
    score, doubts = about["score"], about["doubts"]
    if not isinstance(score, float | int) or not (
        isinstance(doubts, list) and all(isinstance(doubt, str) for doubt in doubts)
    ):
        raise ValueError(f"its view {number} has no score, or doubts that are no texts")
    face = Face(points["box"], points["landmarks"], float(score), points["mesh"], tuple(doubts))  # type: ignore[arg-type]
    return View(Photo(photo.float() / 255, None, f"view {number + 1} of {file}"), face)


def _check(values: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> None:
    fits = values.dim() == len(shape) and all(
        want in (None, have) for want, have in zip(shape, values.shape, strict=True)
    )
    if not fits or values.dtype != dtype or not bool(values.isfinite().all()):
        raise ValueError(f"its {name} has the shape {list(values.shape)}, or numbers that are none")


class Giver(NamedTuple):
    """A source as a swap uses it."""

    views: Sequence[AlignedFace]
    hidden: Tensor | None
    """The share (V, 1, M, M) of each pixel of the views that something covers; None: nobody looked.
    """
    identity: Tensor
    """Identity (1, D), unit norm."""
    poses: Sequence[Pose]

    def nearest(self, target: Pose, before: int | None = None) -> int:
        """The number of the view whose head is turned most like the target's, and that is least
        covered.

        Args:
            target: the pose of the target.
            before: the view of the frame before, which stays unless another is clearly nearer.
        """
        if len(self.views) == 1:
            return 0
        costs = [angle_between(pose, target) for pose in self.poses]
        if self.hidden is not None:
            for number, (view, hidden) in enumerate(zip(self.views, self.hidden, strict=True)):
                hull = face_hull(view, hidden.shape[-1])
                costs[number] += COVERED * float((hidden * hull).sum() / hull.sum().clamp(min=1))
        if before is not None:
            costs[before] -= CLEARLY
        return costs.index(min(costs))


def giver(views: Sequence[AlignedFace], hidden: Sequence[Tensor | None], identity: Tensor) -> Giver:
    """A source of its views, what covers each (1, 1, M, M), and its identity."""
    known = [each for each in hidden if each is not None]
    covers = torch.cat(known) if len(known) == len(views) else None
    return Giver(views, covers, identity, [head_pose(view.face) for view in views])
