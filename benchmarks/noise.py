"""A dataset of noise: enough to train on, and made without photographs."""

from __future__ import annotations

from pathlib import Path

import torch

from facke_core.data.crops import CropSet
from facke_core.data.mesh import OVAL_RING, POINTS

SIZE = 64
ENCODER = {"name": "dlib-resnet29"}


def alignment(size: int = SIZE) -> dict[str, object]:
    """What a recipe has to say to be trained on it."""
    return {"template": "simswap_frontal", "size": size}


def noise_set(folder: Path, n: int = 12, size: int = SIZE) -> Path:
    """A crop set of n crops in a folder, two of each person, with outlines and landmarks."""
    from facke_core import load_encoder
    from facke_core.identity.digest import encoder_digest

    rng = torch.Generator().manual_seed(0)
    angle = torch.arange(len(OVAL_RING)) * (2 * torch.pi / len(OVAL_RING))
    ring = size / 2 + size / 3 * torch.stack([angle.sin(), -angle.cos()], dim=1)
    points = (torch.rand(len(POINTS), 2, generator=rng) * 40 + 12) * (size / SIZE)
    CropSet(
        images=torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8),
        ring=ring.expand(n, -1, -1).contiguous(),
        points=points + torch.randn(n, len(POINTS), 2, generator=rng),
        embeddings=torch.nn.functional.normalize(torch.randn(n, 2, 128, generator=rng), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.ones(n),
        info={
            "name": "noise",
            "identity_encoder": ENCODER,
            "encoder_digest": encoder_digest(load_encoder(ENCODER), ENCODER),
            "alignment": alignment(size),
        },
    ).save(folder)
    return folder
