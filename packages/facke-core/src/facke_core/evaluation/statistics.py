"""Means, intervals and areas, in float64 and without regard to the order of the values.

They need numpy alone. Nothing is random but the bootstrap, which has a generator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Estimate", "estimate", "frechet_distance", "verification_auc"]

REPLICATES = 1000
"""Number of draws of the bootstrap."""
LEVEL = 0.95
"""Share of the draws that the interval holds."""
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over pairs, with its interval."""

    value: float | None
    """Mean; None where no pair has a value."""
    low: float | None = None
    """Lower end of the bootstrap interval; None where it cannot be had."""
    high: float | None = None
    """Upper end of the bootstrap interval; None where it cannot be had."""
    n: int
    """Number of pairs with a value."""
    missing: int = 0
    """Number of pairs without one."""


def estimate(
    values: Sequence[float | None],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Estimate:
    """Estimate the mean of one metric, with its 95 % interval.

    Pairs share their people, so they are not independent: 3,540 pairs of 60 faces tell less than
    3,540 pairs of strangers. The interval is that of the pigeonhole bootstrap (Owen 2007): source
    and target people are drawn with replacement, and a pair counts as often as its source times as
    often as its target was drawn. It needs two of each.

    Args:
        values: one per pair; None is left out and counted.
        sources: the person of each source.
        targets: the person of each target.
        seed: seed of the bootstrap.
        replicates: number of draws.
    """
    rows = sorted(
        (source, target, value)
        for source, target, value in zip(sources, targets, values, strict=True)
        if value is not None
    )
    missing = len(values) - len(rows)
    if not rows:
        return Estimate(value=None, n=0, missing=missing)
    mean = math.fsum(value for _, _, value in rows) / len(rows)
    low, high = _interval(rows, seed, replicates)
    return Estimate(value=mean, low=low, high=high, n=len(rows), missing=missing)


def _interval(
    rows: list[tuple[str, str, float]], seed: int, replicates: int
) -> tuple[float | None, float | None]:
    sources, i = np.unique([source for source, _, _ in rows], return_inverse=True)
    targets, j = np.unique([target for _, target, _ in rows], return_inverse=True)
    if len(sources) < 2 or len(targets) < 2:
        return None, None
    x = np.array([value for _, _, value in rows], np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    means = []
    for _ in range(replicates):
        u = rng.multinomial(len(sources), np.full(len(sources), 1 / len(sources)))
        v = rng.multinomial(len(targets), np.full(len(targets), 1 / len(targets)))
        weight = u[i] * v[j]
        if total := int(weight.sum()):  # with few pairs, none of them may have been drawn
            means.append(float((weight * x).sum() / total))
    if not means:
        return None, None
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def verification_auc(same: Sequence[float], different: Sequence[float]) -> float | None:
    """The share of (same, different) pairs in which the same person has the higher cosine.

    It is the area under the ROC curve; ties count half. None where one of the two is empty.
    """
    if not same or not different:
        return None
    a, b = np.sort(np.asarray(same, np.float64)), np.sort(np.asarray(different, np.float64))
    below = np.searchsorted(b, a, side="left")
    not_above = np.searchsorted(b, a, side="right")
    return float((int(below.sum()) + int(not_above.sum())) / (2 * len(a) * len(b)))


def frechet_distance(a: Numbers, b: Numbers) -> float:
    """The squared Fréchet distance of two Gaussians fitted to features (N, D) and (M, D).

    That is ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` (Heusel et al., arXiv:1706.08500),
    with means m and covariances S (divided by N - 1) in float64. The bias falls with 1/N: compare
    only sets of equal size.

    Raises:
        ValueError: fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two rows, got {len(a)} and {len(b)}")
    # sorted, so that the sums do not depend on the order of the rows
    a, b = (x[np.lexsort(x.T)].astype(np.float64) for x in (a, b))
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = _square_root(cov_a)
    cross = _roots(np.linalg.eigvalsh(root @ cov_b @ root))
    between = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    spread = float(np.trace(cov_a) + np.trace(cov_b) - 2 * cross.sum())
    return max(between + spread, 0.0)


def kernel_distance(a: Numbers, b: Numbers) -> float:
    """The unbiased squared kernel distance of the distributions of features (N, D) and (M, D).

    That is the squared maximum mean discrepancy with the kernel ``(x . y / D + 1)^3`` (KID,
    Binkowski et al., arXiv:1801.01401), in float64, over all pairs of rows. It is 0 on average for
    two samples of one distribution, of whatever size, and so can be below 0.

    Raises:
        ValueError: fewer than two rows.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(f"a mean over pairs needs two rows, got {n} and {m}")
    # sorted, so that the sums do not depend on the order of the rows
    a, b = (x[np.lexsort(x.T)].astype(np.float64) for x in (a, b))

    def kernel(x: Numbers, y: Numbers) -> Numbers:
        cube: Numbers = (x @ y.T / x.shape[1] + 1) ** 3
        return cube

    within = [float(k.sum() - np.trace(k)) for k in (kernel(a, a), kernel(b, b))]
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * float(kernel(a, b).mean())


def _square_root(matrix: Numbers) -> Numbers:
    values, vectors = np.linalg.eigh(matrix)
    root: Numbers = (vectors * _roots(values)) @ vectors.T
    return root


def _roots(values: Numbers) -> Numbers:
    """The square roots of eigenvalues; those that are rounding errors count as 0, not as their much
    larger roots."""
    small = abs(values).max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    roots: Numbers = np.sqrt(np.where(values > small, values, 0.0))
    return roots
