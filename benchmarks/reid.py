"""The judge of the benchmarks: facke's ``reid-0095`` with the weights of ``$FACKE_SHARED/faces``.

These are half as exact as those that ``--judge reid-0095`` fetches, so they have a name of their
own, and a registry that knows it is made by hand::

    from reid import NAME, registry
    load_encoder(NAME, registry=registry())

:class:`Judge` is the same with a detector of its own, that of ``judges.py``. No model of facke is
conditioned on this network or trained with it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting

import torch
from common import missing, shared
from safetensors.torch import load_file
from torch import Tensor

from facke_core import EncoderSpec, Registry, hookimpl
from facke_core.evaluation.judges import Recogniser
from facke_core.faces.reframe import reframe
from facke_core.faces.templates import Alignment
from facke_core.identity import reid_0095
from facke_core.identity.operations import Operation, OperationNetwork
from facke_core.types import Face

NAME = "reid-0095-half"
FILE = "judges.py"
SIZE = reid_0095.SIZE


def _judges() -> Any:
    spec = importlib.util.spec_from_file_location("judges", shared() / "faces" / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network() -> OperationNetwork:
    """The network, from a list of operations (``graph.json``) and their constants."""
    folder = shared() / "faces" / "nets" / "recog_omz_face_reid_0095"
    listed = json.loads((folder / "graph.json").read_text("utf-8"))
    return OperationNetwork(
        [Operation(o["op"], o["out"], tuple(o["inputs"]), o["attrs"]) for o in listed],
        load_file(folder / "model.safetensors"),
        input_size=(3, SIZE, SIZE),
        source="graph.json",
        sizes={o["out"]: tuple(o["out_shape"]) for o in listed if o["out_shape"]},
    )


class Reid0095(reid_0095.Reid0095):
    """Crops (B, 3, H, W) in [0, 1], aligned to ``arcface`` -> unit vectors (B, 256).

    Figures of earlier versions were made with that framing.
    """

    def __init__(self) -> None:
        super().__init__(network())
        self.spec = replace(self.spec, name=NAME, input_size=(224, 224), template="arcface")

    def forward(self, face: Tensor) -> Tensor:
        return self.of_chips(reframe(face, "arcface", reid_0095.TEMPLATE, SIZE))

    def of_chips(self, chips: Tensor) -> Tensor:
        """The same for (B, 3, 128, 128), framed as the network wants it."""
        return super().forward(chips)


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
        template = self.module.SPHERE_96x112 * [SIZE / 96, SIZE / 112]
        chip = self.module.crop(_pixels(photo), points, template, (SIZE, SIZE))
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
