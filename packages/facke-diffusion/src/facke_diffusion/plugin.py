"""The plugin: the method and the converter of facke-diffusion."""

from __future__ import annotations

from facke_core import Bundled, ConverterSpec, MethodSpec, hookimpl

__all__: list[str] = []

RECIPES = ("ddpm-64", "ddpm-128", "ddpm-256", "ddpm-finetune", "ddpm-mini")

DENOISER = {
    "image_size": 32,
    "model_channels": 32,
    "channel_mult": [1, 1],
    "attention_resolutions": [],
    "num_head_channels": 32,
}
CONFORMANCE = {"ilvr": {"tiny": DENOISER, "settings": {"steps": 6, "factor": 4}}}
"""Small sizes in which ``facke plugins check`` checks the method."""


@hookimpl
def facke_methods() -> list[MethodSpec]:
    """The method ILVR."""
    return [
        MethodSpec(
            name="ilvr",
            summary="ILVR: a face DDPM, steered by the target's low frequencies, many passes",
            config="facke_diffusion.ddpm:DDPMConfig",
            build="facke_diffusion.ilvr:build",
            objective="facke_diffusion.objective:objective",
            recipes={name: f"facke_diffusion:recipes/{name}.json" for name in RECIPES},
            weights={"mini": Bundled("facke_diffusion:weights/ddpm-mini")},
            paper="arXiv:2108.02938",
            license="Apache-2.0",
            rank=5,
        )
    ]


@hookimpl
def facke_converters() -> list[ConverterSpec]:
    """The converter of guided-diffusion's checkpoints."""
    return [
        ConverterSpec(
            name="guided-diffusion",
            summary="U-Nets of guided-diffusion, ILVR, P2 (ffhq_10m.pt) and Facke's DDPM",
            target="facke_diffusion.kinds:guided_diffusion",
        )
    ]
