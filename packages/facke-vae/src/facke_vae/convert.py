"""State dicts of the original system under this package's names.

Pure functions from dicts to a dict; reading checkpoint files is another matter. Weights that were
trained by others keep their own licences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from facke_core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__: list[str] = []

_RULES = {
    "M1": [(r"emb\.(\d)\.(.+)", "condition.paint.{0}.{1}", 0)],
    "E": [
        (r"conv1\.(\d)\.(.+)", "stem.{0}.{1}", -1),
        (r"down(\d)\.(.+)", "down.{0}.{1}", -1),
        (r"(mu|log_var)\.(.+)", "{0}.{1}", 0),
    ],
    "M2": [
        (r"ID_blocks\.(\d+)\.(conv[12])\.1\.(.+)", "id_blocks.{0}.{1}.{2}", 0),
        (r"ID_blocks\.(\d+)\.(adain[12]\.linear\..+)", "id_blocks.{0}.{1}", 0),
    ],
    "D": [
        (r"up(\d)\.(\d)\.(.+)", "up.{0}.{1}.{2}", -1),
        (r"conv2\.(\d)\.(.+)", "head.{0}.{1}", -1),
    ],
}
"""Part of the original -> patterns, each with the new name and the change of its leading numbers.
They count from 1 there, or have the padding or upsampling as number 0, which are no modules
here."""


def from_facke(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Rename Facke's ``M1``, ``E``, ``M2`` and ``D``, one state dict each, for
    :class:`facke_vae.cvae.CVAEGenerator` (``FACKE_224``).

    Raises:
        WeightsError: a part is missing, or its keys are not those of this network.
    """
    if parts.keys() != _RULES.keys():
        raise WeightsError(
            f"A CVAE of Facke has the parts {', '.join(_RULES)}, but got "
            f"{', '.join(sorted(parts)) or 'none'}. Give the state dict of each."
        )
    return {
        _renamed(part, key): value for part, state in parts.items() for key, value in state.items()
    }


def _renamed(part: str, key: str) -> str:
    for pattern, name, change in _RULES[part]:
        if match := re.fullmatch(pattern, key):
            return name.format(
                *(str(int(g) + change) if g.isdecimal() else g for g in match.groups())
            )
    raise WeightsError(
        f"These weights are not of the expected network: {part} has the unknown name {key!r}. "
        "Check which system and which of its networks (M1, E, M2, D) they come from."
    )
