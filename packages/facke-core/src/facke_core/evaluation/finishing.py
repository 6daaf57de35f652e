"""Result crops become finished photos, and are cut out of these again."""

from __future__ import annotations

from dataclasses import replace

from facke_core.evaluation.metrics import SwappedPairs
from facke_core.evaluation.pictures import Loaded, PictureStore, unpacked
from facke_core.faces.align import warp
from facke_core.jobs.pairs import PictureRef
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock

__all__: list[str] = []


def finished(
    swapped: SwappedPairs,
    picture: PictureRef,
    target: Loaded,
    pipeline: SwapPipeline,
    pictures: PictureStore,
    clock: StageClock,
) -> SwappedPairs:
    """A swap onto a picture, with its photos: the result is pasted, but for crops of a dataset,
    which get a margin."""
    assert swapped.result is not None
    before = unpacked(target.photo)
    if picture.path is None:
        photo, share, crop = pictures.framed(swapped.result[0]), None, swapped.result
    else:
        with clock.stage("paste"):
            photo, share = pipeline.paste(
                before, swapped.result[0], target.aligned, occlusion=target.occlusion
            )
        with clock.stage("measure"):
            framing, there = pipeline.alignment, target.aligned.matrix[None]
            crop = warp(
                photo[None], there, framing.size, border=framing.border, antialias=framing.antialias
            )
    return replace(swapped, photos=[photo], target_photos=[before], shares=[share], pasted=crop)
