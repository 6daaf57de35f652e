"""Describes the method ``pyramid``.

facke imports this module to list methods: it names everything else as strings.
"""

from __future__ import annotations

from facke_core import MethodSpec, hookimpl


@hookimpl
def facke_methods() -> list[MethodSpec]:
    return [
        MethodSpec(
            name="pyramid",
            summary="the source bent to the target's landmarks, blended band by band; no weights",
            config="facke_pyramid.method:PyramidConfig",
            build="facke_pyramid.method:build",
            default_config={"image_size": 256},
            license="Apache-2.0",
        )
    ]
