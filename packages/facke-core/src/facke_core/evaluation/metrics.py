"""What is measured: one value per swapped pair, or one per set of them.

A metric says what it needs, and the runner computes that once for all of them. Plugins add their
own through ``facke_metrics``; ``MetricSpec.build`` is the target of a function without arguments
that returns a :class:`Metric` or a :class:`SetMetric`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from facke_core.evaluation import geometry
from facke_core.evaluation.statistics import frechet_distance
from facke_core.faces.paste import face_mask
from facke_core.losses.functional import identity_loss, reconstruction_l1
from facke_core.types import AlignedFace, Face

__all__ = [
    "EDGE",
    "MAX_PSNR",
    "AnyMetric",
    "Frechet",
    "Identities",
    "Metric",
    "Need",
    "PerPair",
    "SetMetric",
    "SwappedPairs",
    "background",
    "expression_error",
    "frechet",
    "id_gain",
    "id_loss",
    "id_retrieval",
    "id_retrieval_l2",
    "pose_error",
    "psnr",
    "rank_of_source",
    "recon_l1",
    "recon_l1_imagenet",
    "retrieval_top1",
    "retrieval_top5",
    "ssim",
]

Need = Literal["self", "swap", "photo", "faces", "trainer", "judge"]
"""``self``: swap(x, x) of the source. ``swap``: the result crop. ``photo``: the result in its
photo. ``faces``: the face found in that. ``trainer``: identities by the encoder that the model was
trained with. ``judge``: identities by an encoder that had no part in that."""
MAX_PSNR = 100.0
"""What identical pictures get, in dB."""
TIE = 1e-9
"""Cosines that are closer are equal: one picture under two names, for example."""
EDGE = 1e-3
"""Width of the fade of the face's outline, so that it is a line."""


class Identities(NamedTuple):
    """What one recogniser says, unit vectors of D numbers."""

    source: Tensor
    """(B, D)"""
    target: Tensor
    """(B, D)"""
    result: Tensor
    """(B, D)"""
    gallery: Tensor
    """(G, D): all different source pictures of the evaluation."""
    people: Tensor
    """(G,) int64: who is on them."""
    own: Tensor
    """(B,) int64: who is on the sources of these pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedPairs:
    """B swaps. What no metric of an evaluation needs is None or empty."""

    source: Tensor
    """(B, 3, S, S) crops in [0, 1]."""
    target: Tensor
    """(B, 3, S, S)"""
    result: Tensor | None = None
    """(B, 3, S, S): what the generator made."""
    reconstruction: Tensor | None = None
    """(B, 3, S, S): swap(source, source)."""
    pasted: Tensor | None = None
    """(B, 3, S, S): the finished photo, where the target's crop was cut out."""
    photos: Sequence[Tensor] = ()
    """B finished photos (3, H, W); for crops, which are not pasted, the result with a margin."""
    aligned: Sequence[AlignedFace] = ()
    """B target faces as the generator saw them."""
    target_faces: Sequence[Face | None] = ()
    """B faces in the target photos, in their pixels."""
    result_faces: Sequence[Face | None] = ()
    """B faces in ``photos``; None where the detector finds none."""
    identities: Mapping[str, Identities] | None = None
    """``trainer`` and ``judge``."""


@runtime_checkable
class Metric(Protocol):
    """One value per pair. It may not depend on the other pairs of a call."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]:
        """Of :data:`Need`."""
        ...

    def __call__(self, pairs: SwappedPairs) -> Tensor:
        """(B,) float; NaN where the metric has no value for a pair."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """One value for all pairs together, from the judge's vectors."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]: ...
    def of_set(self, results: Tensor, real: Tensor) -> float | None:
        """From vectors of the results (N, D) and of the real pictures (M, D)."""
        ...


AnyMetric = Metric | SetMetric


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPair:
    """A metric out of a function."""

    name: str
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str]
    function: Callable[[SwappedPairs], Tensor]

    def __call__(self, pairs: SwappedPairs) -> Tensor:
        return self.function(pairs).double()


def _given(value: Tensor | None) -> Tensor:
    assert value is not None, "the runner computes what a metric needs"
    return value.double()


def _by(pairs: SwappedPairs, role: str) -> Identities:
    assert pairs.identities is not None, "the runner computes what a metric needs"
    seen = pairs.identities[role]
    return Identities(*(x.double() if x.is_floating_point() else x for x in seen))


# -- reconstruction --------------------------------------------------------------------------------


def recon_l1() -> PerPair:
    """Mean ``|swap(x, x) - x|`` in [0, 1]."""

    def measure(pairs: SwappedPairs) -> Tensor:
        return reconstruction_l1(_given(pairs.reconstruction), pairs.source.double())

    return PerPair(name="recon-l1", unit="of 1", needs=frozenset({"self"}), function=measure)


def recon_l1_imagenet() -> PerPair:
    """The same in ImageNet standard deviations, the unit of Facke's paper."""

    def measure(pairs: SwappedPairs) -> Tensor:
        rebuilt, source = _given(pairs.reconstruction), pairs.source.double()
        return reconstruction_l1(rebuilt, source, units="imagenet")

    return replace(recon_l1(), name="recon-l1-imagenet", unit="std", function=measure)


def psnr() -> PerPair:
    """PSNR of swap(x, x) against x in dB; at most :data:`MAX_PSNR`."""

    def measure(pairs: SwappedPairs) -> Tensor:
        error = _given(pairs.reconstruction) - pairs.source.double()
        mse = error.square().mean((1, 2, 3)).clamp(min=10 ** (-MAX_PSNR / 10))
        return -10 * mse.log10()

    return PerPair(
        name="psnr", unit="dB", higher_is_better=True, needs=frozenset({"self"}), function=measure
    )


def ssim() -> PerPair:
    """SSIM (Wang et al. 2004) of swap(x, x) and x: a Gaussian window of 11 pixels, mean over
    pixels and channels."""

    def measure(pairs: SwappedPairs) -> Tensor:
        from kornia.metrics import ssim as ssim_map

        similarity: Tensor = ssim_map(_given(pairs.reconstruction), pairs.source.double(), 11)
        return similarity.mean((1, 2, 3))

    return PerPair(name="ssim", higher_is_better=True, needs=frozenset({"self"}), function=measure)


# -- identity --------------------------------------------------------------------------------------


def id_loss() -> PerPair:
    """``1 - cos(E(result), E(source))`` of the crops, E the training encoder."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "trainer")
        return identity_loss(seen.result, seen.source)

    return PerPair(name="id-loss", needs=frozenset({"trainer"}), function=measure)


def id_retrieval() -> PerPair:
    """``1 - cos(J(result), J(source))`` by the judge: Facke's ID Retrieval as its code has it."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return identity_loss(seen.result, seen.source)

    return PerPair(name="id-retrieval", needs=frozenset({"judge"}), function=measure)


def id_retrieval_l2() -> PerPair:
    """``|J(result) - J(source)|`` of unit vectors by the judge: ID Retrieval as the paper says."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return (seen.result - seen.source).norm(dim=1)

    return PerPair(name="id-retrieval-l2", needs=frozenset({"judge"}), function=measure)


def id_gain() -> PerPair:
    """``cos(J(result), J(source)) - cos(J(target), J(source))``: 0 for a copy of the target."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return ((seen.result - seen.target) * seen.source).sum(1)

    return PerPair(
        name="id-gain", higher_is_better=True, needs=frozenset({"judge"}), function=measure
    )


def rank_of_source(seen: Identities) -> Tensor:
    """(B,) int64: the place of the source's person among all, 1 for the most similar.

    A person is as similar as the most similar of their pictures; ties count against the source.
    """
    cosine = seen.result @ seen.gallery.T
    people = int(seen.people.max()) + 1
    best = cosine.new_full((len(cosine), people), -torch.inf)
    best = best.scatter_reduce(1, seen.people.expand(len(cosine), -1), cosine, "amax")
    own = best.gather(1, seen.own[:, None])
    return (best > own - TIE).sum(1)


def _retrieval(k: int) -> PerPair:
    def measure(pairs: SwappedPairs) -> Tensor:
        return rank_of_source(_by(pairs, "judge")) <= k

    return PerPair(
        name=f"retrieval-top{k}",
        unit="share",
        higher_is_better=True,
        needs=frozenset({"judge"}),
        function=measure,
    )


def retrieval_top1() -> PerPair:
    """Whether the source's is the nearest of all source people to the result, by the judge."""
    return _retrieval(1)


def retrieval_top5() -> PerPair:
    """Whether the source's is among the five nearest."""
    return _retrieval(5)


# -- what should stay the target's -----------------------------------------------------------------


def pose_error() -> PerPair:
    """The angle between the heads in target and result, in degrees."""

    def measure(pairs: SwappedPairs) -> Tensor:
        return _of_faces(
            pairs, lambda a, b: geometry.angle_between(geometry.head_pose(a), geometry.head_pose(b))
        )

    return PerPair(name="pose-error", unit="degrees", needs=frozenset({"faces"}), function=measure)


def expression_error() -> PerPair:
    """Mean distance of the points of eyes, brows and lips in target and result, in percent of the
    distance of the irises, after the pose was removed. Needs a detector with a mesh."""

    def between(a: Face, b: Face) -> float:
        target, result = geometry.expression(a), geometry.expression(b)
        if target is None or result is None:
            return float("nan")
        return 100 * float((target - result).norm(dim=1).mean())

    return PerPair(
        name="expression-error",
        unit="% of eye distance",
        needs=frozenset({"faces"}),
        function=lambda pairs: _of_faces(pairs, between),
    )


def _of_faces(pairs: SwappedPairs, between: Callable[[Face, Face], float]) -> Tensor:
    values = [
        float("nan") if target is None or result is None else between(target, result)
        for target, result in zip(pairs.target_faces, pairs.result_faces, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def background() -> PerPair:
    """Mean absolute change in [0, 1] of the pixels of the target's crop that lie outside of its
    face."""

    def measure(pairs: SwappedPairs) -> Tensor:
        change = (_given(pairs.pasted) - pairs.target.double()).abs().mean(1, keepdim=True)
        size = change.shape[-1]
        faces = [
            aligned if face is None else aligned._replace(face=face)
            for aligned, face in zip(pairs.aligned, pairs.target_faces, strict=True)
        ]
        inside = torch.stack([face_mask(face, size, feather=EDGE) for face in faces])
        outside = (inside < 0.5).double()
        return (change * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3))

    return PerPair(
        name="background", unit="of 1", needs=frozenset({"photo", "faces"}), function=measure
    )


# -- sets ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Frechet:
    """The Fréchet distance between results and real pictures, in the judge's vectors times 100.

    The formula of FID with another network, so its values compare with none that are called FID.
    """

    name: str = "frechet"
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str] = frozenset({"judge"})

    def of_set(self, results: Tensor, real: Tensor) -> float | None:
        """None with fewer than two of either."""
        if min(len(results), len(real)) < 2:
            return None
        return 100 * frechet_distance(results.numpy(), real.numpy())


def frechet() -> Frechet:
    """See :class:`Frechet`."""
    return Frechet()
