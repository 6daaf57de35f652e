"""Describes the method ``mobile``.

facke imports this module to list methods: it names everything else as strings.
"""

from __future__ import annotations

from typing import Any

from facke_core import Bundled, MethodSpec, hookimpl

TINY: dict[str, Any] = {
    "image_size": 64,
    "identity_dim": 128,  # the teacher's
    "channels": [4, 8, 8],
    "num_id_blocks": 1,
    "hidden": 8,
}
CONFORMANCE = {"mobile": {"tiny": TINY}}
"""Sizes for ``facke plugins check``."""


@hookimpl
def facke_methods() -> list[MethodSpec]:
    return [
        MethodSpec(
            name="mobile",
            summary="a small network with kernels made for each source; learned from SimSwap",
            config="facke_mobile.method:MobileConfig",
            build="facke_mobile.method:build",
            objective="facke_mobile.training:objective",
            recipes={"mobile": "facke_mobile:recipes/mobile.json"},
            weights={"tiny": Bundled("facke_mobile:weights/mobile-tiny")},
            paper="arXiv:2201.03808",
            license="Apache-2.0",
        )
    ]
