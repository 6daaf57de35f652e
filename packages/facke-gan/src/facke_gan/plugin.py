"""What facke-gan contributes."""

from __future__ import annotations

from facke_core import Bundled, MethodSpec, hookimpl


@hookimpl
def facke_methods() -> list[MethodSpec]:
    return [
        MethodSpec(
            name="simswap",
            summary="SimSwap: AdaIN ID blocks and weak feature matching, one pass",
            config="facke_gan.simswap:SimSwapConfig",
            build="facke_gan.simswap:build",
            objective="facke_gan.simswap:objective",
            recipes={
                "simswap-mini": "facke_gan:recipes/simswap-mini.json",
                "simswap-mini-start": "facke_gan:recipes/simswap-mini-start.json",
            },
            weights={"mini": Bundled("facke_gan:weights/simswap-mini")},
            paper="arXiv:2106.06340",
            license="Apache-2.0",
        )
    ]
