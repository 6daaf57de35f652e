"""The plugin: the methods and the converter of facke-vae."""

from __future__ import annotations

from typing import Any

from facke_core import Bundled, ConverterSpec, MethodSpec, hookimpl

__all__: list[str] = []

NETWORK = {"image_size": 96, "identity_dim": 8, "channels": [4, 8, 8], "num_id_blocks": 1}
SMALL = ("discriminator.width=4", "batch_size=4", "precision=float32")
CONFORMANCE = {"cvae": {"tiny": NETWORK}, "cvae-gan": {"tiny": NETWORK, "training": SMALL}}
"""Small sizes in which ``facke plugins check`` checks the methods."""


def _recipes(*names: str) -> dict[str, str]:
    return {name: f"facke_vae:recipes/{name}.json" for name in names}


@hookimpl
def facke_methods() -> list[MethodSpec]:
    """The methods CVAE and CVAE-GAN."""
    network: dict[str, Any] = {
        "config": "facke_vae.cvae:CVAEConfig",
        "build": "facke_vae.cvae:build",
        "objective": "facke_vae.objective:objective",
        "paper": "arXiv:2206.11203",
    }
    return [
        MethodSpec(
            name="cvae",
            summary="CVAE: a variational latent between encoder and ID blocks, one pass",
            recipes=_recipes("cvae", "cvae-1d", "cvae-id"),
            **network,
        ),
        MethodSpec(
            name="cvae-gan",
            summary="CVAE-GAN: the CVAE trained against a discriminator, one pass",
            recipes=_recipes("cvae-gan", "cvae-gan-ig", "cvae-gan-c", "cvae-gan-mini"),
            weights={"mini": Bundled("facke_vae:weights/cvae-gan-mini")},
            license="Apache-2.0",
            rank=10,
            **network,
        ),
    ]


@hookimpl
def facke_converters() -> list[ConverterSpec]:
    """The converter of Facke's checkpoints."""
    return [
        ConverterSpec(
            name="facke-cvae",
            summary="CVAE and CVAE-GAN of Facke: a run's folder with M1, E, M2 and D (D1, D2)",
            target="facke_vae.kinds:facke_cvae",
        )
    ]
