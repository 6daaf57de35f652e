"""Calibration: a recogniser shows how well it tells real people apart, before it judges swaps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from facke_core.errors import FackeWarning, ImageError
from facke_core.evaluation.clock import pool
from facke_core.evaluation.judges import Recogniser
from facke_core.evaluation.rows import rounded
from facke_core.evaluation.statistics import verification_auc
from facke_core.images.io import read_image
from facke_core.jobs.pairs import PictureRef, SamePair
from facke_core.pipeline import SwapPipeline
from facke_core.types import Progress

__all__: list[str] = []


def calibrate(
    pipeline: SwapPipeline,
    encoders: Mapping[str, Recogniser],
    pairs: Sequence[SamePair],
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the cosines of real pairs of photographs, by each encoder.

    Faces are found by the pipeline's detector, and aligned for each encoder as results are.

    Returns:
        Name of the encoder -> ``auc`` (the area under the ROC curve: the chance that a pair of one
        person has the higher cosine than a pair of two), numbers of pairs ``same`` and
        ``different``, mean cosines ``same_mean`` and ``different_mean``, and ``undetected``: pairs
        that are left out because a picture shows no face.
    """
    pictures = {picture.key: picture for pair in pairs for picture in (pair.a, pair.b)}

    def look(picture: PictureRef) -> dict[str, Tensor]:
        """Role -> vector; empty where no face is found."""
        assert picture.path is not None, "calibration takes photographs"
        try:
            photo = read_image(picture.path).image
        except ImageError as error:
            warnings.warn(f"Left out of the calibration: {error}", FackeWarning, stacklevel=2)
            return {}
        faces = pipeline.detect(photo)
        if not faces:
            return {}
        # the training encoder sees crops of the generator's framing
        return {
            role: encoder.of_crop(pipeline.align(photo, faces[0]).crop, pipeline.alignment)
            if role == "trainer"
            else encoder.of_photo(photo, faces[0], pipeline.alignment)
            for role, encoder in encoders.items()
        }

    seen: dict[str, dict[str, Tensor]] = {}
    with pool(workers) as threads:
        for key, vectors in zip(pictures, threads.map(look, pictures.values()), strict=True):
            seen[key] = vectors
            if on_progress:
                on_progress("calibration", len(seen), len(pictures))
    return {
        encoder.name: _verification(
            {key: vectors[role].double() for key, vectors in seen.items() if vectors}, pairs
        )
        for role, encoder in encoders.items()
    }


def _verification(vectors: Mapping[str, Tensor], pairs: Sequence[SamePair]) -> dict[str, Any]:
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
