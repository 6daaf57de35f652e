"""Small stand-ins: drawn faces, an encoder and a detector that cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.faces.templates import Alignment, template_points
from facke_core.identity.frozen import FrozenEncoder
from facke_core.types import Face, FaceBatch, IdentityEncoderSpec

__all__ = ["face_batch"]


def faces(count: int = 3, size: int = 64, seed: int = 0) -> Tensor:
    """Draw faces (count, 3, size, size) in [0, 1], framed as by the ``ffhq`` template.

    No two are alike: skin, hair, eyes, mouth, light and background differ. ``size`` may be odd.
    Everything follows from ``seed``.
    """
    noise = torch.Generator().manual_seed(1000 + seed)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(shape or (1,)), 1, 1, generator=noise)

    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def ellipse(cx: Tensor | float, cy: Tensor | float, rx: Tensor | float, ry: float) -> Tensor:
        distance = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2).sqrt()
        return torch.sigmoid(12 * (1 - distance))

    image = draw(0.15, 0.75, 3) * (0.8 + 0.4 * x) + 0.1 * y
    light = 0.75 + draw(-0.3, 0.3) * (x - 0.5) + draw(0.0, 0.2)
    for colour, shape in (
        (draw(0.05, 0.6, 3), ellipse(0.5, 0.45, draw(0.36, 0.44), 0.45)),  # hair
        (
            draw(0.45, 0.85, 3) * torch.tensor([1.0, 0.85, 0.75]).view(3, 1, 1) * light,
            ellipse(0.5, 0.6, draw(0.28, 0.36), 0.36),
        ),
        (torch.full((count, 3, 1, 1), 0.9), ellipse(0.377, 0.469, draw(0.05, 0.07), 0.03)),
        (torch.full((count, 3, 1, 1), 0.9), ellipse(0.623, 0.469, draw(0.05, 0.07), 0.03)),
        (draw(0.0, 0.4, 3), ellipse(0.377, 0.469, 0.025, 0.025)),
        (draw(0.0, 0.4, 3), ellipse(0.623, 0.469, 0.025, 0.025)),
        (draw(0.3, 0.6, 3), ellipse(0.501, 0.6, draw(0.02, 0.04), 0.05)),
        (draw(0.3, 0.7, 3), ellipse(0.502, 0.725, draw(0.09, 0.14), 0.03)),
    ):
        image = torch.lerp(image.expand(count, 3, size, size), colour, shape)
    grain = 0.02 * torch.randn(count, 3, size, size, generator=noise)
    return (image + grain).clamp(0.02, 0.98)


def identities(count: int = 3, dim: int = 8, seed: int = 0) -> Tensor:
    """Draw unit vectors (count, dim), which follow from ``seed``."""
    noise = torch.Generator().manual_seed(2000 + seed)
    return F.normalize(torch.randn(count, dim, generator=noise), dim=1)


class TinyEncoder(FrozenEncoder):
    """An identity encoder of one linear layer on the crop at 8 x 8 pixels, without its mean."""

    def __init__(self, dim: int = 8) -> None:
        noise = torch.Generator().manual_seed(3)
        linear = nn.Linear(3 * 8 * 8, dim)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=noise))
            linear.bias.copy_(0.1 * torch.randn(linear.bias.shape, generator=noise))
        spec = IdentityEncoderSpec(name="tiny", embedding_dim=dim, input_size=(8, 8), template="")
        super().__init__(linear, spec)

    def forward(self, face: Tensor) -> Tensor:
        """Embeddings (B, dim), unit norm, of crops (B, 3, H, W) in [0, 1]."""
        small = F.adaptive_avg_pool2d(face.float(), 8).flatten(1)
        return F.normalize(self.network(small - small.mean(1, keepdim=True)).float(), dim=1)


class TinyDetector:
    """Finds one face in the middle of any photo, and none where all pixels are alike."""

    threshold = 0.5

    def __call__(self, photo: Tensor) -> list[Face]:
        """The face of a photo (3, H, W) that :func:`faces` drew."""
        height, width = photo.shape[1:]
        if min(height, width) < 16 or float(photo.std()) < 1e-3:
            return []
        points = template_points("ffhq", (height, width)).float()
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = torch.tensor([0.15, 0.1, 0.85, 0.95]) * side
        box = box + torch.tensor([left, top, left, top])
        return [Face(box=box, landmarks=points, score=0.9)]


def alignment(size: int) -> Alignment:
    """The framing of :func:`faces` of this size."""
    return Alignment(template="ffhq", size=size)


def face_batch(
    count: int, size: int, encoder: Callable[[Tensor], Tensor] | None = None
) -> FaceBatch:
    """A training batch of drawn faces: every other sample is of one person, where the reference is
    the target. ``identity`` is (count, 0) without an encoder."""
    source, target = faces(count, size, seed=5), faces(count, size, seed=6)
    identity = torch.zeros(count, 0) if encoder is None else encoder(source).detach()
    return FaceBatch(source, target, identity, torch.arange(count) % 2 == 0, target.clone())
