"""State dicts of the original systems under this package's names.

Pure functions from dict to dict; reading checkpoint files is another matter. Weights that were
trained by others keep their own licences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from facke_core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__: list[str] = []

_INDEXED = re.compile(r"(down|up)(\d+)\.(\d+)\.(.+)")
_ID_CONV = re.compile(r"(\d+)\.(conv[12])\.1\.(.+)")
_PROJECTED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"feature_network\.pretrained\.layer(\d)\.(.+)", r"backbone.\1."),
        (r"feature_network\.scratch\.layer(\d)_ccm\.(\w+)", r"ccm.\1."),
        (r"feature_network\.scratch\.layer(\d)_csm\.out_conv\.(\w+)", r"csm.\1."),
        (r"discriminator\.mini_discs\.(\d)\.main\.(\d)\.main\.(\d)\.(\w+)", r"heads.\1.\2.\3."),
        (r"discriminator\.mini_discs\.(\d)\.main\.(\d)\.(\w+)", r"heads.\1.\2."),
    )
]
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}
_ID_LINEAR = re.compile(r"(\d+)\.(?:style|adain)([12])\.(linear\..+)")


def from_facke(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename Facke's ``G`` for :class:`facke_gan.simswap.SimSwapGenerator` (``FACKE_224``).

    Raises:
        WeightsError: the keys are not those of this network.
    """
    return _generator(state, "conv1", "conv2", "ID_blocks", ups_descend=False)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the official SimSwap's generators, 224, ``fix``, ``deep`` and 512, for
    :class:`facke_gan.simswap.SimSwapGenerator` (``OFFICIAL_*``).

    Raises:
        WeightsError: the keys are not those of this network.
    """
    return _generator(state, "first_layer", "last_layer", "BottleNeck", ups_descend=True)


def from_discriminators(*states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the patch discriminators D1, D2, ... of either system for
    :class:`facke_core.nn.discriminators.MultiScalePatchDiscriminator`."""
    return {
        f"scales.{k}.{key}": value for k, state in enumerate(states) for key, value in state.items()
    }


def from_official_projected(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the official projected discriminator for
    :class:`facke_gan.projected.ProjectedDiscriminator`.

    Raises:
        WeightsError: the keys are not those of this network.
    """

    def rename(key: str) -> str | None:
        for pattern, name in _PROJECTED:
            if match := pattern.fullmatch(key):
                leaf = match.groups()[-1]
                return match.expand(name) + _SPECTRAL.get(leaf, leaf)
        return None

    return _renamed(state, rename)


def _generator(
    state: Mapping[str, Tensor], stem: str, head: str, blocks: str, *, ups_descend: bool
) -> dict[str, Tensor]:
    numbers: dict[str, list[int]] = {}
    for kind in ("down", "up"):
        indices = {int(m[2]) for key in state if (m := _INDEXED.fullmatch(key)) and m[1] == kind}
        numbers[kind] = sorted(indices, reverse=ups_descend and kind == "up")

    def rename(key: str) -> str | None:
        part, _, rest = key.partition(".")
        if part in (stem, head):
            # Index 0 of these two is the padding, which our convolutions do themselves.
            index, _, leaf = rest.partition(".")
            return f"{'stem' if part == stem else 'head'}.{int(index) - 1}.{leaf}"
        if match := _INDEXED.fullmatch(key):
            kind, number, index, leaf = match.groups()
            # Index 0 of an up block is the upsampling.
            layer = int(index) - (kind == "up")
            return f"{kind}.{numbers[kind].index(int(number))}.{layer}.{leaf}"
        if part == blocks and (match := _ID_CONV.fullmatch(rest)):
            return f"id_blocks.{match[1]}.{match[2]}.{match[3]}"
        if part == blocks and (match := _ID_LINEAR.fullmatch(rest)):
            return f"id_blocks.{match[1]}.adain{match[2]}.{match[3]}"
        return None

    return _renamed(state, rename)


def _renamed(state: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    names = {key: rename(key) for key in state}
    unknown = [key for key, name in names.items() if name is None]
    if unknown or not state:
        raise WeightsError(
            f"These weights are not of the expected network: {_listed(unknown)}. Check which "
            "system and which of its networks (G, D1, D2, ...) they come from."
        )
    return {name: state[key] for key, name in names.items() if name is not None}


def _listed(keys: Sequence[str]) -> str:
    if not keys:
        return "there is no tensor"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"unknown names {', '.join(keys[:3])}{more}"
