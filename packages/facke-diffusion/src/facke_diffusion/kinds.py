"""Checkpoints of guided-diffusion's U-Net, recognised by names and shapes."""

from __future__ import annotations

from facke_core.config import to_dict
from facke_core.convert.kinds import AS_SIMSWAP, Checkpoint, Converted
from facke_core.weights.layout import WeightsConfig
from facke_diffusion.convert import from_guided_diffusion
from facke_diffusion.ddpm import FFHQ_256, DDPMConfig

__all__: list[str] = []

_FFHQ = (
    "guided-diffusion, ilvr_adm and P2-weighting are MIT; ffhq_10m.pt and what is fine-tuned from "
    "it derive from FFHQ (CC BY-NC-SA): treat them as non-commercial."
)


def guided_diffusion(checkpoint: Checkpoint) -> Converted | None:
    """Convert a state dict of guided-diffusion's U-Net, or the part ``DDPM`` of a run of Facke.

    Raises:
        WeightsError: shapes are not those of such a network.
    """
    state = checkpoint.only("DDPM")
    if "time_embed.0.weight" not in state or "input_blocks.0.0.weight" not in state:
        return None
    config, tensors = from_guided_diffusion(state, **checkpoint.settings)
    # the shapes are those of the FFHQ network, so heads and schedule are known as well
    known = config == FFHQ_256
    defaults = to_dict(DDPMConfig())
    changed = {key: value for key, value in to_dict(config).items() if value != defaults[key]}
    facke = "DDPM" in checkpoint.parts
    alignment = {**AS_SIMSWAP, "template": "simswap" if facke else "ffhq"}
    notes = (
        "Names and shapes do not tell its attention heads and its schedule: those of the FFHQ "
        "model were taken. Others: `settings=['generator.num_head_channels=64']` and the like.",
    )
    return Converted(
        summary=f"U-Net of guided-diffusion, {config.image_size} px",
        tensors=tensors,
        config=WeightsConfig(
            method="ilvr",
            generator={"image_size": config.image_size, **changed},
            alignment={**alignment, "size": config.image_size},
        ),
        license="CC-BY-NC-SA-4.0" if known else "",
        notice=_FFHQ,
        notes=() if known else notes,
    )
