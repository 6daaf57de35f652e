"""How well a recogniser tells real people apart, before it judges swaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from facke_core.data.images import read_image
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.pairs import Picture, Progress, SamePair
from facke_core.evaluation.rows import rounded
from facke_core.evaluation.statistics import verification_auc
from facke_core.pipeline import SwapPipeline


def calibrate(
    pipeline: SwapPipeline,
    encoders: Mapping[str, Recogniser],
    pairs: Sequence[SamePair],
    *,
    on_progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Cosines of real pairs of photographs, by each encoder.

    Faces are found by the pipeline's detector, and aligned for each encoder as results are.

    Returns:
        Name of the encoder -> ``auc`` (the area under the ROC curve: the chance that a pair of one
        person has the higher cosine than a pair of two), numbers of pairs ``same`` and
        ``different``, mean cosines ``same_mean`` and ``different_mean``, and ``undetected``: pairs
        that are left out because a picture shows no face.
    """
    vectors: dict[str, dict[str, torch.Tensor]] = {name: {} for name in encoders}
    pictures = {one.key: one for pair in pairs for one in (pair.a, pair.b)}
    for done, picture in enumerate(pictures.values(), 1):
        _look(pipeline, encoders, picture, vectors)
        if on_progress:
            on_progress("calibration", done, len(pictures))
    return {recogniser.name: _found(vectors[role], pairs) for role, recogniser in encoders.items()}


def _look(
    pipeline: SwapPipeline,
    encoders: Mapping[str, Recogniser],
    picture: Picture,
    vectors: dict[str, dict[str, torch.Tensor]],
) -> None:
    assert isinstance(picture.path, Path), "calibration takes photographs"
    photo = read_image(picture.path).image
    faces = pipeline.detect(photo)
    if not faces:
        return
    for role, recogniser in encoders.items():
        if role == "trainer":  # it sees crops of the generator's framing
            crop = pipeline.align(photo, faces[0]).crop
            found = recogniser.of_crop(crop, pipeline.alignment)
        else:
            found = recogniser.of_photo(photo, faces[0], pipeline.alignment)
        vectors[role][picture.key] = found.double()


def _found(vectors: Mapping[str, torch.Tensor], pairs: Sequence[SamePair]) -> dict[str, Any]:
    cosines: dict[bool, list[float]] = {True: [], False: []}
    undetected = 0
    for pair in pairs:
        a, b = vectors.get(pair.a.key), vectors.get(pair.b.key)
        if a is None or b is None:
            undetected += 1
        else:
            cosines[pair.same].append(float(a @ b))
    same, different = cosines[True], cosines[False]
    auc = verification_auc(same, different)
    return {
        "auc": None if auc is None else rounded(auc),
        "same": len(same),
        "different": len(different),
        "same_mean": rounded(sum(same) / len(same)) if same else None,
        "different_mean": rounded(sum(different) / len(different)) if different else None,
        "undetected": undetected,
    }
