"""A dataset of noise: enough to train on, and made without photographs."""

from __future__ import annotations

from pathlib import Path

import torch

from facke_core.data.crops import CropSet
from facke_core.faces.mesh import face_mesh

SIZE = 64
ENCODER = {"name": "dlib-resnet29"}


def alignment(size: int = SIZE) -> dict[str, object]:
    """What a recipe has to say to be trained on it."""
    return {"template": "simswap_frontal", "size": size}


def noise_set(folder: Path, n: int = 12, size: int = SIZE) -> Path:
    """A crop set of n crops in a folder, two of each person, with face meshes."""
    from facke_core import load_encoder
    from facke_core.identity.digest import encoder_digest

    rng = torch.Generator().manual_seed(0)
    mean = face_mesh().points[:, :2].float() * size / 4 + torch.tensor([0.5, 0.45]) * size
    CropSet(
        images=torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8),
        mesh=mean + torch.randn(n, len(mean), 2, generator=rng) * size / 400,
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
