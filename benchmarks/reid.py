"""The judge of the benchmarks: the recogniser ``reid_0095`` of ``$FACKE_SHARED/faces/judges.py``.

No model of facke is conditioned on it or trained with it. It is not part of facke; a registry that
knows it is made by hand::

    from reid import registry
    load_encoder("reid-0095", registry=registry())

:class:`Judge` is the same with a detector of its own, also of that file.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting

import torch
import torch.nn.functional as F
from common import missing, shared
from torch import Tensor, nn

from facke_core import EncoderSpec, Registry, hookimpl
from facke_core.evaluation.judges import Recogniser
from facke_core.faces.reframe import reframe
from facke_core.faces.templates import Alignment
from facke_core.types import Face, IdentityEncoderSpec

NAME = "reid-0095"
SIZE = 128
FILE = "judges.py"


def _judges() -> Any:
    spec = importlib.util.spec_from_file_location("judges", shared() / "faces" / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reid0095(nn.Module):
    """Crops (B, 3, H, W) in [0, 1], aligned to ``arcface`` -> unit vectors (B, 256)."""

    def __init__(self) -> None:
        super().__init__()
        judges = _judges()
        self._graph = judges.Graph(judges.NETS / "recog_omz_face_reid_0095")
        for index, (name, tensor) in enumerate(sorted(self._graph.tensors.items())):
            if tensor.is_floating_point():  # parameters are what tells one network from another
                self.register_parameter(f"tensor{index}", nn.Parameter(tensor, requires_grad=False))
                self._graph.tensors[name] = tensor
        self.template: Any = judges.SPHERE_96x112 * [SIZE / 96, SIZE / 112]
        """(5, 2): where the five points are in what the network sees."""
        self.spec = IdentityEncoderSpec(
            name=NAME, embedding_dim=256, input_size=(224, 224), template="arcface"
        )

    def forward(self, face: Tensor) -> Tensor:
        points = tuple((float(x), float(y)) for x, y in self.template)
        return self.of_chips(reframe(face.cpu(), "arcface", points, (SIZE, SIZE)))

    def of_chips(self, chips: Tensor) -> Tensor:
        """The same for (B, 3, 128, 128), framed as the network wants it."""
        rows = [self._graph(x[None] * 255)[0].flatten(1) for x in chips.flip(1)]
        return F.normalize(torch.cat(rows), dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Recogniser):
    """The recogniser that looks for the face itself, as ``judges.py`` does.

    With it, nothing that a pipeline found decides what the judge sees, unless it finds no face.
    """

    encoder: Reid0095
    module: Any = field(repr=False)
    """``judges.py``."""
    judges: Any = field(repr=False)

    def find(self, photo: Tensor) -> Face | None:
        """The largest face of a photo (3, H, W) in [0, 1]."""
        faces = self.judges.detect(_pixels(photo))
        if not faces:
            return None
        box, points = (torch.from_numpy(faces[0][key]).double() for key in ("box", "landmarks"))
        return Face(box, points, faces[0]["score"])

    def cut(self, photo: Tensor, face: Face, alignment: Alignment) -> Tensor:
        """(1, 3, 128, 128): the judge's own face of the photo; ``face`` where it finds none."""
        points = (self.find(photo) or face).landmarks.double().numpy()
        chip = self.module.crop(_pixels(photo), points, self.encoder.template, (SIZE, SIZE))
        return torch.from_numpy(chip).permute(2, 0, 1)[None].float() / 255

    def of_cut(self, crop: Tensor) -> Tensor:
        """(256,) of what :meth:`cut` returned."""
        with torch.inference_mode():
            return self.encoder.of_chips(crop)[0]


def judge() -> Judge:
    """Loads the judge."""
    import cv2

    cv2.setNumThreads(1)  # several pictures are judged at a time
    module = _judges()
    return Judge(encoder=Reid0095(), settings={"name": NAME}, module=module, judges=module.Judges())


def _pixels(photo: Tensor) -> Any:
    """(3, H, W) in [0, 1] as an array (H, W, 3) of uint8."""
    return (photo.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def available() -> str:
    """An empty string, or why the judge cannot be used here."""
    return missing(FILE)


class _Plugin:
    @hookimpl
    def facke_identity_encoders(self) -> list[EncoderSpec]:
        return [
            EncoderSpec(
                name=NAME,
                summary="the recogniser of the benchmarks",
                build="reid:Reid0095",
                available="reid:available",
            )
        ]


def registry() -> Registry:
    """Everything installed, and the judge."""
    found = Registry().discover()
    found.register(_Plugin(), "benchmarks")
    return found
