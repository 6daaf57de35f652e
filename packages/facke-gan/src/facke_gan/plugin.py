"""The plugin: the methods and converters of facke-gan."""

from __future__ import annotations

from typing import Any

from facke_core import Bundled, ConverterSpec, MethodSpec, hookimpl

__all__: list[str] = []

RECIPES = (
    "simswap-224",
    "simswap-224-ofm",
    "simswap-224-wbfm",
    "simswap-224-nfm",
    "simswap-224-ig",
    "simswap-224-ig-ofm",
    "simswap-224-ig-wbfm",
    "simswap-224-ig-nfm",
    "simswap-512",
    "simswap-projected",
    "simswap-mini-start",
    "simswap-mini",
)
FUSE = ("fuse-128", "fuse-128-gan", "fuse-192", "fuse-256")

NETWORK = {"image_size": 96, "identity_dim": 8, "channels": [4, 8, 8], "num_id_blocks": 1}
SMALL = ("discriminator.width=4", "batch_size=4", "precision=float32")
CONFORMANCE: dict[str, dict[str, Any]] = {
    "simswap": {"tiny": NETWORK, "training": SMALL},
    "fuse": {
        "tiny": {
            "image_size": 64,
            "network_size": 32,
            "identity_dim": 8,
            "channels": [8, 8, 8],
            "num_blocks": 2,
        },
        "training": ("batch_size=4", "precision=float32"),
    },
    "warp": {"tiny": {"image_size": 64}, "settings": {"fallback": "none"}},
}
"""Small sizes in which ``facke plugins check`` checks the methods."""


@hookimpl
def facke_methods() -> list[MethodSpec]:
    """The methods SimSwap, fuse and warp."""
    return [
        MethodSpec(
            name="simswap",
            summary="SimSwap: AdaIN ID blocks and weak feature matching, one pass",
            config="facke_gan.simswap:SimSwapConfig",
            build="facke_gan.simswap:build",
            objective="facke_gan.simswap:objective",
            recipes={name: f"facke_gan:recipes/{name}.json" for name in RECIPES},
            weights={"mini": Bundled("facke_gan:weights/simswap-mini")},
            paper="arXiv:2106.06340",
            license="Apache-2.0",
            rank=20,
        ),
        MethodSpec(
            name="fuse",
            summary="the source's own pixels, and a network that makes them fit",
            config="facke_gan.fuse:FuseConfig",
            build="facke_gan.fuse:build",
            objective="facke_gan.fuse:objective",
            recipes={name: f"facke_gan:recipes/{name}.json" for name in FUSE},
            weights={"mini": Bundled("facke_gan:weights/fuse-mini")},
            license="Apache-2.0",
            rank=30,
        ),
        MethodSpec(
            name="warp",
            summary="the source's own pixels, bent by the face mesh; no network, no weights",
            config="facke_gan.warp:WarpConfig",
            build="facke_gan.warp:build",
            default_config={},
        ),
    ]


@hookimpl
def facke_converters() -> list[ConverterSpec]:
    """The converters of the checkpoints of SimSwap and Facke."""
    return [
        ConverterSpec(
            name="simswap",
            summary="generator of the official SimSwap: 224, 512, deep; with its discriminators",
            target="facke_gan.kinds:simswap",
        ),
        ConverterSpec(
            name="simswap-fix",
            summary="the same from its train.py: linear output (tensors look like the 224 ones)",
            target="facke_gan.kinds:simswap_fix",
            guess=False,
        ),
        ConverterSpec(
            name="facke-simswap",
            summary="SimSwap of Facke: G, or a run's folder with G, D1 and D2",
            target="facke_gan.kinds:facke_simswap",
        ),
        ConverterSpec(
            name="discriminator",
            summary="a patch discriminator of SimSwap or Facke, or SimSwap's projected one, alone",
            target="facke_gan.kinds:discriminator",
        ),
        ConverterSpec(
            name="face-parsing",
            summary="BiSeNet, 79999_iter.pth (face parsing)",
            target="facke_gan.kinds:face_parsing",
        ),
    ]
