"""Checkpoints of SimSwap and of Facke's SimSwap, recognised by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from facke_core.convert.kinds import AS_SIMSWAP, Checkpoint, Converted, State, fits
from facke_core.errors import WeightsError
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.weights.layout import WeightsConfig
from facke_gan.convert import (
    from_discriminators,
    from_facke,
    from_official,
    from_official_projected,
)
from facke_gan.projected import ProjectedDiscriminator

__all__: list[str] = []

_LICENSE = "CC-BY-NC-4.0"
_OFFICIAL = (
    "The official SimSwap and its weights: CC BY-NC 4.0, for academic and non-commercial use only."
)
_FACKE = (
    "Facke's repository is MIT, but its networks derive from SimSwap (CC BY-NC 4.0) and its "
    "weights from VGGFace2-HQ (CC BY-NC 4.0): treat them as non-commercial."
)
_LINEAR = {"normalization": "imagenet", "output": "imagenet"}


def simswap(checkpoint: Checkpoint) -> Converted | None:
    """Convert ``*_net_G.pth`` of the official SimSwap, or a folder with it and ``*_net_D*.pth``.

    Raises:
        WeightsError: it is no whole generator, or the discriminators are of another network.
    """
    return _official(checkpoint, linear=False)


def simswap_fix(checkpoint: Checkpoint) -> Converted | None:
    """Convert what the official ``train.py`` has trained: names and shapes are those of
    :func:`simswap`, but the output is linear and the input normalised for ImageNet."""
    return _official(checkpoint, linear=True)


def _official(checkpoint: Checkpoint, *, linear: bool) -> Converted | None:
    state = _generator(checkpoint)
    if "first_layer.1.weight" not in state or "last_layer.1.weight" not in state:
        return None
    large, deep = "down0.0.weight" in state, "down4.0.weight" in state
    shape: dict[str, Any] = _shape(state, "first_layer", "BottleNeck")
    notes: tuple[str, ...] = ()
    if large:
        name = "512 px"
    elif deep:
        name, linear = "deep", True
        notes = (
            "Deep networks come from train.py, whose output is linear. For one of fs_networks add "
            "`settings=['generator.output=tanh', 'generator.normalization=none']`.",
        )
    else:
        name = "224 px"
        if not linear:
            notes = (
                "The tensors of train.py (since 2022) have the same names and shapes. If the "
                "results look washed out, this is one: `kind='simswap-fix'`.",
            )
    size = 512 if large or deep else 224
    return _converted(
        checkpoint,
        summary=f"generator of the official SimSwap, {name}{', linear output' * linear}",
        tensors=from_official(state),
        generator={"image_size": size, **shape, **(_LINEAR if linear else {})},
        alignment={**AS_SIMSWAP, "template": "ffhq" if size == 512 else "simswap"},
        notice=_OFFICIAL,
        notes=notes,
    )


def facke_simswap(checkpoint: Checkpoint) -> Converted | None:
    """Convert ``checkpoints/NAME/G/LABEL.pth`` of Facke, or the folder ``checkpoints/NAME``."""
    state = _generator(checkpoint)
    if "conv1.1.weight" not in state or "ID_blocks.0.adain1.linear.weight" not in state:
        return None
    return _converted(
        checkpoint,
        summary="generator of Facke's SimSwap, 224 px",
        tensors=from_facke(state),
        generator={
            "image_size": 224,
            "normalization": "imagenet",
            "output": "bn-tanh",
            **_shape(state, "conv1", "ID_blocks"),
        },
        alignment=AS_SIMSWAP,
        notice=_FACKE,
    )


def discriminator(checkpoint: Checkpoint) -> Converted | None:
    """Convert a discriminator without its generator, a patch one or the projected one."""
    if len(checkpoint.parts) != 1 or not checkpoint.only("D", "D1", "D2"):
        return None
    state = checkpoint.only("D", "D1", "D2")
    if not _is_patch(state) and not _is_projected(state):
        return None
    checkpoint.no_settings()
    what, tensors = discriminators(checkpoint, {"D": state})
    build = "MultiScalePatchDiscriminator(num_scales=1)"
    if _is_projected(state):
        build = "facke_gan.projected.ProjectedDiscriminator()"
    return Converted(
        summary=f"{what}, without its generator",
        extra={"discriminator": tensors},
        usage=f'{build}.load_state_dict(load_file("{{folder}}/discriminator.safetensors"))',
        license=_LICENSE,
        notice=f"{_OFFICIAL} {_FACKE}",
    )


def discriminators(checkpoint: Checkpoint, parts: Mapping[str, State]) -> tuple[str, State]:
    """Convert the discriminators of a checkpoint: a name for them, and their tensors.

    Args:
        checkpoint: names the file in messages.
        parts: the state dict of each, by name.

    Raises:
        WeightsError: they are of another network.
    """
    source = str(checkpoint.path)
    if all(_is_projected(state) for state in parts.values()) and len(parts) == 1:
        (state,) = parts.values()
        tensors = from_official_projected(state)
        fits(ProjectedDiscriminator, tensors, source=source, built_by="the projected discriminator")
        return "projected discriminator", tensors
    if not all(_is_patch(state) for state in parts.values()):
        raise WeightsError(
            f"{source}: {', '.join(parts)} is none of SimSwap's discriminators. Take it out of the "
            "folder, or give the generator's file alone."
        )
    tensors = from_discriminators(*(parts[name] for name in sorted(parts)))
    fits(
        lambda: MultiScalePatchDiscriminator(num_scales=len(parts)),
        tensors,
        source=source,
        built_by=f"{len(parts)} patch discriminators",
    )
    return f"{len(parts)} patch discriminator{'s' * (len(parts) > 1)}", tensors


def _generator(checkpoint: Checkpoint) -> State:
    return checkpoint.parts.get("G") or checkpoint.only()


def _is_patch(state: State) -> bool:
    return "down1.0.weight" in state and "conv2.0.bias" in state and "conv1.0.weight" in state


def _is_projected(state: State) -> bool:
    return any(name.startswith("discriminator.mini_discs.") for name in state)


def _shape(state: State, stem: str, blocks: str) -> dict[str, Any]:
    """Read channels, number of ID blocks and length of the identity from a generator's tensors.

    Raises:
        WeightsError: there are none.
    """
    downs = sorted(
        (int(match[1]), len(value))
        for name, value in state.items()
        if (match := re.fullmatch(r"down(\d{1,2})\.0\.weight", name))
    )
    linears = [
        value
        for name, value in state.items()
        if name.startswith(f"{blocks}.0.") and name.endswith(".linear.weight")
    ]
    if not linears or linears[0].ndim != 2 or not downs:
        raise WeightsError(
            "A generator of SimSwap has ID blocks and halvings; this one lacks them."
        )
    return {
        "channels": (len(state[f"{stem}.1.weight"]), *(width for _, width in downs)),
        "num_id_blocks": len({name.split(".")[1] for name in state if name.startswith(blocks)}),
        "identity_dim": linears[0].shape[1],
    }


def _converted(
    checkpoint: Checkpoint,
    *,
    summary: str,
    tensors: State,
    generator: Mapping[str, Any],
    alignment: Mapping[str, Any],
    notice: str,
    notes: tuple[str, ...] = (),
) -> Converted:
    generator = {**generator, **checkpoint.settings}
    others = {name: state for name, state in checkpoint.parts.items() if name not in ("", "G")}
    extra: dict[str, State] = {}
    if others:
        what, extra["discriminator"] = discriminators(checkpoint, others)
        summary += f", with {what}"
    return Converted(
        summary=summary,
        tensors=tensors,
        extra=extra,
        config=WeightsConfig(
            method="simswap",
            generator=generator,
            identity_encoder={"name": "arcface", "resize": "nearest"},
            alignment={**alignment, "size": generator["image_size"]},
        ),
        license=_LICENSE,
        notice=notice,
        notes=notes,
    )


_CELEBA = (
    "face-parsing.PyTorch is MIT; trained on CelebAMask-HQ, whose licence allows no commercial use."
)


def face_parsing(checkpoint: Checkpoint) -> Converted | None:
    """Convert ``79999_iter.pth`` of face-parsing.PyTorch (BiSeNet)."""
    from facke_gan.original.parsing import FaceParser

    state = checkpoint.only()
    if "cp.arm16.conv_atten.weight" not in state:
        return None
    checkpoint.no_settings()
    fits(FaceParser, state, source=str(checkpoint.path), built_by="BiSeNet with 19 classes")
    return Converted(
        summary="BiSeNet, face parsing into 19 classes",
        tensors=state,
        usage='facke_gan.original.parsing.load_parser("{folder}")',
        license="MIT",
        notice=_CELEBA,
    )
