"""Small stand-ins that cost nothing: drawn faces and one network or detector of each kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.faces.mesh import face_mesh
from facke_core.faces.templates import Alignment, template_points
from facke_core.identity.frozen import FrozenEncoder
from facke_core.types import (
    DiscriminatorOutput,
    Face,
    FaceBatch,
    GeneratorOutput,
    GeneratorSpec,
    IdentityEncoderSpec,
)

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
    """An identity encoder of one linear layer on the crop at 8 x 8 pixels, without its mean.

    Args:
        dim: numbers of an embedding.
        name: what its spec calls it.
        template: what the crops are to be aligned to; empty: it takes any.
        size: side in pixels of the crops that its spec asks for; it takes any.
        seed: what its weights follow from.
    """

    def __init__(
        self, dim: int = 8, *, name: str = "tiny", template: str = "", size: int = 8, seed: int = 3
    ) -> None:
        noise = torch.Generator().manual_seed(seed)
        linear = nn.Linear(3 * 8 * 8, dim)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=noise))
            linear.bias.copy_(0.1 * torch.randn(linear.bias.shape, generator=noise))
        spec = IdentityEncoderSpec(
            name=name, embedding_dim=dim, input_size=(size, size), template=template
        )
        super().__init__(linear, spec)

    def forward(self, face: Tensor) -> Tensor:
        """Embeddings (B, dim), unit norm, of crops (B, 3, H, W) in [0, 1]."""
        small = F.adaptive_avg_pool2d(face.float(), 8).flatten(1)
        return F.normalize(self.network(small - small.mean(1, keepdim=True)).float(), dim=1)


class TinyGenerator(nn.Module):
    """A generator of two convolutions: target and identity in, picture out.

    Args:
        image_size: side of its crops in pixels.
        identity_dim: numbers of an identity.
        width: channels between the convolutions.
        norm: whether batch normalisation follows the first one.
        dropout: share of its values that training drops.
    """

    def __init__(
        self,
        image_size: int = 32,
        identity_dim: int = 8,
        *,
        width: int = 8,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size, self.identity_dim = image_size, identity_dim
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.mix = nn.Linear(identity_dim, width)
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def spec(self) -> GeneratorSpec:
        """It takes the identity and nothing else."""
        return GeneratorSpec(
            image_size=self.image_size,
            identity_dim=self.identity_dim,
            conditions=frozenset({"identity"}),
        )

    def features(self, x: Tensor, identity: Tensor) -> Tensor:
        """What lies between the convolutions: (B, width, S, S)."""
        x = self.dropout(self.norm(self.stem(x)))
        return F.leaky_relu(x + self.mix(identity)[..., None, None], 0.2)

    def draw(self, h: Tensor) -> Tensor:
        """The picture (B, 3, S, S) in [0, 1] of features (B, width, S, S)."""
        return torch.sigmoid(self.head(h))

    def forward(self, x: Tensor, *, identity: Tensor) -> GeneratorOutput:
        """Targets (B, 3, S, S) in [0, 1] and identities (B, identity_dim) to results."""
        return GeneratorOutput(image=self.draw(self.features(x, identity)), aux={})


class TinyDiscriminator(nn.Module):
    """A discriminator of two convolutions on every scale, without batch statistics.

    It is smooth, so that second derivatives can be compared with numerical ones.
    """

    def __init__(self, num_scales: int = 1) -> None:
        super().__init__()
        self.num_scales = num_scales
        self.first = nn.ModuleList(
            nn.Conv2d(3, 8, 4, stride=2, padding=1) for _ in range(num_scales)
        )
        self.last = nn.ModuleList(nn.Conv2d(8, 1, 3, padding=1) for _ in range(num_scales))

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Logits (B, 1, S/2, S/2) and features (B, 8, S/2, S/2) of images (B, 3, S, S), per scale;
        each scale halves the picture of the one before."""
        logits: list[Tensor] = []
        features: list[list[Tensor]] = []
        for first, last in zip(self.first, self.last, strict=True):
            features.append([torch.tanh(first(image))])
            logits.append(last(features[-1][0]))
            image = F.avg_pool2d(image, 2)
        return DiscriminatorOutput(logits, features)


class TinyDetector:
    """A detector of one face in the middle of any photo, and of none where all pixels are alike.

    Args:
        template: what the photo is a crop of, if it is square.
        mesh: give the face a mesh.
    """

    threshold = 0.5

    def __init__(self, template: str = "ffhq", *, mesh: bool = False) -> None:
        self.template, self.mesh = template, mesh

    def __call__(self, photo: Tensor) -> list[Face]:
        """The face of a photo (3, H, W) that :func:`faces` drew."""
        height, width = photo.shape[1:]
        if min(height, width) < 16 or float(photo.std()) < 1e-3:
            return []
        points = template_points(self.template, (height, width)).float()
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = torch.tensor([0.15, 0.1, 0.85, 0.95]) * side
        box = box + torch.tensor([left, top, left, top])
        mesh = face_meshes(1, side)[0] + torch.tensor([left, top]) if self.mesh else None
        return [Face(box=box, landmarks=points, score=0.9, mesh=mesh)]


def face_meshes(count: int, size: int, seed: int = 0) -> Tensor:
    """Meshes (count, 478, 2) in pixels of :func:`faces` of this size, each a little different."""
    rng = torch.Generator().manual_seed(seed)
    mean = face_mesh().points[:, :2].float() * size / 4 + torch.tensor([0.5, 0.47]) * size
    jitter = torch.randn(count, 1, 2, generator=rng) * size / 100
    return mean * (1 + 0.02 * torch.randn(count, 1, 1, generator=rng)) + jitter


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
