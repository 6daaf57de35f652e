"""The metric ``artefacts``: how much a face looks swapped, without anything to compare it with.

``tools/train_artefacts.py`` trained the network on portraits and swaps of them. It is frozen: two
reports compare as long as their protocols have the same digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from facke_core.errors import NoFaceError
from facke_core.evaluation.metrics import SwappedPairs
from facke_core.faces.align import align
from facke_core.faces.templates import Alignment
from facke_core.nn.artefacts import ArtefactNet
from facke_core.nn.bundled import bundled
from facke_core.types import Face

__all__: list[str] = []

FRAMING = Alignment(template="simswap_frontal", size=128)
"""The framing in which the network looks at faces."""
DIGEST = "8f55a6407a7f44d5e290566c87530f68b74c6cd3d5f2dc9aeeef0679235a7f3e"
"""SHA-256 of the bundled weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """The mean logit of the network over the face of the finished photo, where the target's was;
    the higher, the more it looks like a swap."""

    name: str = "artefacts"
    unit: str = "logit"
    higher_is_better: bool = False
    needs: frozenset[str] = frozenset({"photo"})
    digest: str = DIGEST
    """SHA-256 of the network, for the protocol of a report."""

    def __call__(self, pairs: SwappedPairs) -> Tensor:
        """The logits (B,); NaN where the landmarks are no face."""
        faces = (aligned.face for aligned in pairs.aligned)
        values = [score(photo, face) for photo, face in zip(pairs.photos, faces, strict=True)]
        return torch.tensor(values, dtype=torch.float64)


@torch.inference_mode()
def score(photo: Tensor, face: Face) -> float:
    """The logit of one face of a photo (3, H, W) in [0, 1]; above 0 it looks swapped."""
    try:
        crop = align(photo, face, FRAMING).crop
    except NoFaceError:
        return float("nan")
    return float(_network()(crop[None].float().cpu()))


@lru_cache(maxsize=1)
def _network() -> ArtefactNet:
    return bundled(ArtefactNet, "facke_core.evaluation", "artefacts.safetensors", DIGEST)


def artefacts() -> Artefacts:
    """The metric :class:`Artefacts`, as ``MetricSpec.build`` names it."""
    return Artefacts()
