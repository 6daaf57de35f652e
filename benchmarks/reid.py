"""The judge of the benchmarks: the recogniser ``reid_0095`` of ``$FACKE_SHARED/faces/judges.py``.

No model of facke is conditioned on it or trained with it. It is not part of facke; a registry that
knows it is made by hand::

    from reid import registry
    load_encoder("reid-0095", registry=registry())
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import EncoderSpec, Registry, hookimpl
from facke_core.identity.resample import reframe
from facke_core.types import IdentityEncoderSpec

NAME = "reid-0095"
SIZE = 128


def shared() -> Path:
    """``$FACKE_SHARED``, or ``shared`` beside the checkout."""
    return Path(os.environ.get("FACKE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


class Reid0095(nn.Module):
    """Crops (B, 3, H, W) in [0, 1], aligned to ``arcface`` -> unit vectors (B, 256)."""

    def __init__(self) -> None:
        super().__init__()
        path = shared() / "faces" / "judges.py"
        spec = importlib.util.spec_from_file_location("judges", path)
        assert spec is not None
        assert spec.loader is not None
        judges = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(judges)
        self._graph = judges.Graph(judges.NETS / "recog_omz_face_reid_0095")
        for index, (name, tensor) in enumerate(sorted(self._graph.tensors.items())):
            if tensor.is_floating_point():  # parameters are what tells one network from another
                self.register_parameter(f"tensor{index}", nn.Parameter(tensor, requires_grad=False))
                self._graph.tensors[name] = tensor
        points: Any = judges.SPHERE_96x112 * [SIZE / 96, SIZE / 112]
        self._points = tuple((float(x), float(y)) for x, y in points)
        self.spec = IdentityEncoderSpec(
            name=NAME, embedding_dim=256, input_size=(224, 224), template="arcface"
        )

    def forward(self, face: Tensor) -> Tensor:
        framed = reframe(face.cpu(), "arcface", self._points, (SIZE, SIZE)).flip(1)
        rows = [self._graph(x[None] * 255)[0].flatten(1) for x in framed]
        return F.normalize(torch.cat(rows), dim=1)


def available() -> str:
    """An empty string, or why the judge cannot be used here."""
    if (shared() / "faces" / "judges.py").is_file():
        return ""
    return f"the judges are not in {shared()}/faces. Set FACKE_SHARED."


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
