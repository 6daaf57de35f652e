"""State dicts of guided-diffusion, and the configuration of the network they belong to.

Pure functions from a dict; reading checkpoint files is another matter. Weights that were trained by
others keep their own licences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facke_core.config import from_dict
from facke_core.errors import WeightsError
from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_diffusion.unet import MULTIPLIERS

__all__ = ["from_guided_diffusion"]


def from_guided_diffusion(
    state: Mapping[str, Tensor], **known: Any
) -> tuple[DDPMConfig, dict[str, Tensor]]:
    """Find the configuration that fits a U-Net of guided-diffusion (also of ILVR and Facke), and
    its tensors for :class:`~facke_diffusion.ddpm.DDPMGenerator`.

    The names stay. Widths, blocks, attention, variance and classes are read from the shapes. The
    picture size is the one whose usual ``channel_mult`` these weights have. Shapes do not tell
    the heads of the attention, nor the schedule: those are guided-diffusion's for its published
    models, the defaults of :class:`~facke_diffusion.ddpm.DDPMConfig`.

    Args:
        state: the state dict, key -> tensor.
        known: settings of :class:`~facke_diffusion.ddpm.DDPMConfig` that differ, such as
            ``image_size=256`` or ``schedule="cosine"``.

    Raises:
        WeightsError: keys or shapes are not those of such a network.
        ConfigError: a setting that does not exist or does not fit.
    """
    try:
        settings = _settings(state, known.get("image_size"))
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(
            f"These weights are not of guided-diffusion's U-Net ({error} is missing or odd). Give "
            "the plain state dict of one, such as that of ffhq_10m.pt."
        ) from error
    config = from_dict(DDPMConfig, settings | known, where="generator")
    with torch.device("meta"):
        expected = DDPMGenerator(config).state_dict()
    wrong = [
        f"{key} is {_shape(state, key)} instead of {_shape(expected, key)}"
        for key in sorted(state.keys() | expected.keys())
        if _shape(state, key) != _shape(expected, key)
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors of these weights do not fit the U-Net that they look like: "
            f"{wrong[0]}. If it was made with other flags, give them as settings."
        )
    return config, dict(state)


def _shape(state: Mapping[str, Tensor], key: str) -> str:
    return str(tuple(state[key].shape)) if key in state else "nothing"


def _settings(state: Mapping[str, Tensor], image_size: int | None) -> dict[str, Any]:
    width = state["time_embed.0.weight"].shape[1]
    ups = [
        key for key in state if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.bias", key)
    ]
    ups += [key for key in state if re.fullmatch(r"output_blocks\.\d+\.[12]\.conv\.bias", key)]
    levels = len(ups) + 1
    stages = {key.split(".")[1] for key in state if key.startswith("output_blocks.")}
    blocks = len(stages) // levels - 1
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    multipliers = tuple(
        len(state[f"input_blocks.{first}.0.out_layers.0.bias"]) / width for first in firsts
    )
    usual = {multiplier: size for size, multiplier in MULTIPLIERS.items()}
    size = image_size or usual.get(multipliers)
    if size is None:
        raise WeightsError(
            f"No picture size is usual for the widths of these weights, {width} times "
            f"{multipliers}. Give image_size."
        )
    emb = state["input_blocks.1.0.emb_layers.1.bias"]
    return {
        "image_size": size,
        "model_channels": width,
        "channel_mult": () if usual.get(multipliers) == size else multipliers,
        "num_res_blocks": blocks,
        "attention_resolutions": tuple(
            size // 2**level
            for level, first in enumerate(firsts)
            if f"input_blocks.{first}.1.qkv.bias" in state
        ),
        "resblock_updown": not any(key.endswith(".op.bias") for key in state),
        "use_scale_shift_norm": len(emb) == 2 * round(multipliers[0] * width),
        "learn_sigma": len(state["out.2.bias"]) == 6,
        "num_classes": len(state["label_emb.weight"]) if "label_emb.weight" in state else 0,
    }
