"""Metrics: one value per swapped pair, or one per set of them.

A metric says what it needs, and the runner computes that once for all of them. Plugins add their
own through ``facke_metrics``; ``MetricSpec.build`` is the target of a function without arguments
that returns a :class:`Metric` or a :class:`SetMetric`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from facke_core.evaluation.statistics import frechet_distance, kernel_distance
from facke_core.losses.functional import identity_loss, reconstruction_l1
from facke_core.types import AlignedFace, Face

__all__ = ["Covered", "Identities", "Metric", "Need", "SetMetric", "SwappedPairs"]

Need = Literal["self", "swap", "photo", "faces", "covered", "trainer", "judge", "features", "clip"]
"""A part of a swap that a metric can read. ``self``: swap(x, x) of the source. ``swap``: the result
crop. ``photo``: the result in its photo. ``faces``: the face found in that. ``covered``: swaps onto
the target with things before its face, which take several times as long. ``trainer``: identities by
the encoder that the model was trained with. ``judge``: identities by an encoder that had no part in
that. ``features``: vectors of the crops by :mod:`facke_core.evaluation.features`. ``clip``: what
moves from frame to frame (:mod:`facke_core.evaluation.clips`)."""
MAX_PSNR = 100.0
"""PSNR of identical pictures, in dB."""
TIE = 1e-9
"""Largest difference of cosines that count as equal: those of one picture under two names, for
example."""


class Identities(NamedTuple):
    """The vectors of one recogniser for B pairs, of unit norm and length D."""

    source: Tensor
    """Vectors (B, D) of the sources."""
    target: Tensor
    """Vectors (B, D) of the targets."""
    result: Tensor
    """Vectors (B, D) of the results."""
    gallery: Tensor
    """Vectors (G, D) of all different source pictures of the evaluation."""
    people: Tensor
    """Persons (G,) int64 on the pictures of the gallery."""
    own: Tensor
    """Persons (B,) int64 on the sources of these pairs."""


class Covered(NamedTuple):
    """One target with K things before its face, one at a time, around the face: h x w pixels."""

    target: Tensor
    """Parts (K, 3, h, w) of the target photo, with the things in it."""
    result: Tensor
    """The same parts of the finished photos."""
    share: Tensor
    """The share (K, 1, h, w) in [0, 1] of each pixel inside the face's outline that is covered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedPairs:
    """B swaps. What no metric of an evaluation needs is None or empty."""

    source: Tensor
    """Crops (B, 3, S, S) of the sources in [0, 1]."""
    target: Tensor
    """Crops (B, 3, S, S) of the targets in [0, 1]."""
    result: Tensor | None = None
    """Crops (B, 3, S, S) that the generator made."""
    reconstruction: Tensor | None = None
    """Crops (B, 3, S, S) of swap(source, source)."""
    pasted: Tensor | None = None
    """Crops (B, 3, S, S) of the finished photos, where the targets' were cut out."""
    photos: Sequence[Tensor] = ()
    """B finished photos (3, H, W); for crops, which are not pasted, the result with a margin."""
    target_photos: Sequence[Tensor] = ()
    """B target photos (3, H, W)."""
    shares: Sequence[Tensor | None] = ()
    """The share (1, H, W) in [0, 1] of each pixel of ``photos`` that is the swapped face; None for
    crops."""
    covered: Sequence[Covered | None] = ()
    """B targets with things before their faces, swapped; None for crops and without a mesh."""
    aligned: Sequence[AlignedFace] = ()
    """B target faces as the generator saw them."""
    target_faces: Sequence[Face | None] = ()
    """B faces in the target photos, in their pixels."""
    result_faces: Sequence[Face | None] = ()
    """B faces in ``photos``; None where the detector finds none."""
    identities: Mapping[str, Identities] | None = None
    """Vectors by ``trainer``, ``judge`` and ``features``."""


@runtime_checkable
class Metric(Protocol):
    """A metric with one value per pair, which may not depend on the other pairs of a call.

    ``name`` is the registered one; an empty ``unit`` means that the values have none.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]:
        """The parts of :class:`SwappedPairs` that it reads, out of :data:`Need`."""
        ...

    def __call__(self, pairs: SwappedPairs) -> Tensor:
        """The values (B,) float of pairs; NaN where the metric has none for a pair."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """A metric with one value for all pairs together, from the vectors of ``judge`` or of
    ``features``, or for those of a clip, from ``clip``, as it ``needs``; its properties are those
    of :class:`Metric`."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]: ...
    def of_set(self, results: Tensor, real: Tensor) -> float | None:
        """The value for vectors of the results (N, D) and of the real pictures (M, D).

        None where there are too few for one.
        """
        ...


AnyMetric = Metric | SetMetric


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPair:
    """A metric that a function computes: from pairs to values (B,)."""

    name: str
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str]
    function: Callable[[SwappedPairs], Tensor]

    def __call__(self, pairs: SwappedPairs) -> Tensor:
        return self.function(pairs).double()


def given(value: Tensor | None) -> Tensor:
    assert value is not None, "the runner computes what a metric needs"
    return value.double()


def _by(pairs: SwappedPairs, role: str) -> Identities:
    assert pairs.identities is not None, "the runner computes what a metric needs"
    seen = pairs.identities[role]
    return Identities(*(x.double() if x.is_floating_point() else x for x in seen))


# -- reconstruction --------------------------------------------------------------------------------


def recon_l1() -> PerPair:
    """Reconstruction: the mean of ``|swap(x, x) - x|``, in [0, 1]."""

    def measure(pairs: SwappedPairs) -> Tensor:
        return reconstruction_l1(given(pairs.reconstruction), pairs.source.double())

    return PerPair(name="recon-l1", unit="of 1", needs=frozenset({"self"}), function=measure)


def recon_l1_imagenet() -> PerPair:
    """Reconstruction in ImageNet standard deviations, the unit of Facke's paper."""

    def measure(pairs: SwappedPairs) -> Tensor:
        rebuilt, source = given(pairs.reconstruction), pairs.source.double()
        return reconstruction_l1(rebuilt, source, units="imagenet")

    return replace(recon_l1(), name="recon-l1-imagenet", unit="std", function=measure)


def psnr() -> PerPair:
    """The PSNR of swap(x, x) against x in dB; at most :data:`MAX_PSNR`."""

    def measure(pairs: SwappedPairs) -> Tensor:
        error = given(pairs.reconstruction) - pairs.source.double()
        mse = error.square().mean((1, 2, 3)).clamp(min=10 ** (-MAX_PSNR / 10))
        return -10 * mse.log10()

    return PerPair(
        name="psnr", unit="dB", higher_is_better=True, needs=frozenset({"self"}), function=measure
    )


def ssim() -> PerPair:
    """The SSIM (Wang et al., IEEE TIP 2004) of swap(x, x) and x, with a Gaussian window of 11
    pixels; mean over pixels and channels."""

    def measure(pairs: SwappedPairs) -> Tensor:
        from kornia.metrics import ssim as ssim_map

        similarity: Tensor = ssim_map(given(pairs.reconstruction), pairs.source.double(), 11)
        return similarity.mean((1, 2, 3))

    return PerPair(name="ssim", higher_is_better=True, needs=frozenset({"self"}), function=measure)


# -- identity --------------------------------------------------------------------------------------


def id_loss() -> PerPair:
    """The identity loss ``1 - cos(E(result), E(source))`` of the crops, E the training encoder."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "trainer")
        return identity_loss(seen.result, seen.source)

    return PerPair(name="id-loss", needs=frozenset({"trainer"}), function=measure)


def id_retrieval() -> PerPair:
    """Facke's ID Retrieval as its code has it: ``1 - cos(J(result), J(source))``, J the judge."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return identity_loss(seen.result, seen.source)

    return PerPair(name="id-retrieval", needs=frozenset({"judge"}), function=measure)


def id_retrieval_l2() -> PerPair:
    """Facke's ID Retrieval as its text has it: ``|J(result) - J(source)|`` of the judge's unit
    vectors."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return (seen.result - seen.source).norm(dim=1)

    return PerPair(name="id-retrieval-l2", needs=frozenset({"judge"}), function=measure)


def id_gain() -> PerPair:
    """The gain in identity ``cos(J(result), J(source)) - cos(J(target), J(source))``, J the judge:
    0 for a copy of the target."""

    def measure(pairs: SwappedPairs) -> Tensor:
        seen = _by(pairs, "judge")
        return ((seen.result - seen.target) * seen.source).sum(1)

    return PerPair(
        name="id-gain", higher_is_better=True, needs=frozenset({"judge"}), function=measure
    )


def rank_of_source(seen: Identities) -> Tensor:
    """The rank (B,) int64 of the source's person among all people, 1 for the most similar.

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
    """The share of results whose nearest person of all sources is the source's, by the judge."""
    return _retrieval(1)


def retrieval_top5() -> PerPair:
    """The share of results with the source's among the five nearest people, by the judge."""
    return _retrieval(5)


# -- sets ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSets:
    """A metric that compares two sets of vectors by a function, which needs two of each."""

    name: str
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str]
    scale: float
    """What the values are multiplied with, to be easy to read."""
    function: Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], float]

    def of_set(self, results: Tensor, real: Tensor) -> float | None:
        """The value for vectors of results (N, D) and of real pictures (M, D).

        None with fewer than two of either.
        """
        if min(len(results), len(real)) < 2:
            return None
        return self.scale * self.function(results.numpy(), real.numpy())


def frechet() -> OfSets:
    """The Fréchet distance between results and real pictures, in the judge's vectors times 100.

    The formula of FID with another network, so its values compare with none that are called FID.
    """
    needs = frozenset({"judge"})
    return OfSets(name="frechet", needs=needs, scale=100, function=frechet_distance)


def kid() -> OfSets:
    """The kernel distance between result crops and real crops, times 1000, in the features of
    :mod:`facke_core.evaluation.features`.

    The formula of KID with another network, so its values compare with none that are called KID.
    """
    needs = frozenset({"features"})
    return OfSets(name="kid", needs=needs, scale=1000, function=kernel_distance)
