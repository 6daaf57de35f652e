"""Checkpoints of Facke's CVAE and CVAE-GAN, recognised by names and shapes."""

from __future__ import annotations

import math

from facke_core.convert.kinds import AS_SIMSWAP, Checkpoint, Converted, State, fits
from facke_core.errors import WeightsError
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.weights.layout import WeightsConfig
from facke_vae.convert import from_facke

__all__: list[str] = []

_PARTS = {
    "M1": "emb.0.weight",
    "E": "mu.0.weight",
    "M2": "ID_blocks.0.adain1.linear.weight",
    "D": "conv2.2.running_mean",
}
"""Part of a CVAE -> a name that only it has (Facke's SimSwap has those of E, M2 and D in one)."""
_NOTICE = (
    "Facke's repository is MIT, but its weights derive from VGGFace2-HQ (CC BY-NC 4.0) and from "
    "SimSwap's ArcFace: treat them as non-commercial."
)


def facke_cvae(checkpoint: Checkpoint) -> Converted | None:
    """Convert the folder ``checkpoints/NAME`` of a run, with a file of one label for each part.

    Raises:
        WeightsError: it is one part alone, or one is missing.
    """
    parts = checkpoint.parts
    if not parts.keys() & _PARTS.keys() - {"D"}:
        _refuse_single(checkpoint)
        return None
    missing = [name for name, key in _PARTS.items() if key not in parts.get(name, {})]
    if missing:
        raise WeightsError(
            f"{checkpoint.path} looks like a CVAE of Facke, but {', '.join(missing)} is missing or "
            "something else. Give the folder of the run, with all parts at the same label."
        )
    source = str(checkpoint.path)
    pixels, identity_dim = parts["M1"]["emb.0.weight"].shape
    judges = [parts[name] for name in ("D1", "D2") if name in parts]
    extra: dict[str, State] = {}
    if judges:
        extra["discriminator"] = {
            f"scales.{k}.{key}": value
            for k, judge in enumerate(judges)
            for key, value in judge.items()
        }
        fits(
            lambda: MultiScalePatchDiscriminator(num_scales=len(judges)),
            extra["discriminator"],
            source=source,
            built_by=f"{len(judges)} patch discriminators",
        )
    size = math.isqrt(pixels)
    kind = "CVAE-GAN" if judges else "CVAE"
    return Converted(
        summary=f"generator of Facke's {kind}, {size} px",
        tensors=from_facke({name: parts[name] for name in _PARTS}),
        extra=extra,
        config=WeightsConfig(
            method="cvae-gan" if judges else "cvae",
            generator={
                "image_size": size,
                "identity_dim": identity_dim,
                "condition": "linear-map",
                "noise": "uniform",
                "heads": "bn-relu",
                "log_var_range": (-30.0, 20.0),
                **checkpoint.settings,
            },
            identity_encoder={"name": "arcface", "resize": "nearest"},
            alignment={**AS_SIMSWAP, "size": size},
        ),
        license="CC-BY-NC-4.0",
        notice=_NOTICE,
    )


def _refuse_single(checkpoint: Checkpoint) -> None:
    state = checkpoint.only()
    parts = [name for name, key in _PARTS.items() if key in state]
    if len(parts) == 1:
        raise WeightsError(
            f"{checkpoint.path} is the part {parts[0]} of a CVAE of Facke. Give the folder of the "
            "run, checkpoints/NAME, which holds M1, E, M2 and D; `label` picks the files."
        )
