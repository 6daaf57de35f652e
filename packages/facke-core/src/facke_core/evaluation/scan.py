"""The choice of a checkpoint as Facke's paper makes it: all on a few pairs, the best on many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from facke_core.errors import DataError, FackeWarning, UsageError, VerificationError
from facke_core.evaluation.metrics import id_retrieval, recon_l1_imagenet
from facke_core.evaluation.runner import Evaluator
from facke_core.evaluation.statistics import Estimate
from facke_core.jobs.pairs import PairSet
from facke_core.types import Progress
from facke_core.weights.checkpoints import complete

__all__ = ["ScanReport", "scan"]

T = TypeVar("T")
RETRIEVAL, RECON, SUM = "id-retrieval", "recon-l1-imagenet", "sum"
CRITERIA = (RETRIEVAL, RECON, SUM)
"""Names of the criteria. The lowest value wins, the first of equals."""
Values = Mapping[str, float | None]
"""Criterion -> mean over pairs; None where a pair has no value, as after a training that
diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """The best checkpoints of a run, by three criteria."""

    coarse: Mapping[str, Values]
    """Checkpoint -> criterion -> mean over the coarse pairs."""
    winners: Mapping[str, str]
    """Criterion -> checkpoint."""
    fine: Mapping[str, Values]
    """Winner -> criterion -> mean over the fine pairs."""
    coarse_pairs: int
    fine_pairs: int

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def thinned(items: Sequence[T], skip: int) -> list[T]:
    """Take every ``skip``-th item counted from the end, and the first."""
    kept = list(items[::-1][::skip][::-1])
    return kept if not items or kept[0] is items[0] else [items[0], *kept]


def winners(values: Mapping[str, Values]) -> dict[str, str]:
    """Find the name with the lowest value of each criterion; the first of equals.

    Raises:
        DataError: no name has a value.
    """

    def best(key: str) -> str:
        by_name = {
            name: value for name, means in values.items() if (value := means[key]) is not None
        }
        if not by_name:
            raise DataError(
                f"No checkpoint has a value of {key} for every pair: their results are not finite "
                "numbers. Train again, for example with a lower learning rate."
            )
        return min(by_name, key=lambda name: by_name[name])

    return {key: best(key) for key in CRITERIA}


def scan(
    run: Path,
    evaluator: Callable[[str], Evaluator],
    pairs: PairSet,
    *,
    coarse: int,
    fine: int | None = None,
    skip: int = 1,
    batch_size: int = 8,
    on_progress: Progress | None = None,
) -> ScanReport:
    """Measure the checkpoints of a training run: all on a few pairs, the best on many.

    Args:
        run: the folder of the run.
        evaluator: makes an evaluator of :func:`metrics` for a checkpoint's folder.
        pairs: the pairs, of which the first are taken.
        coarse: number of pairs for every checkpoint.
        fine: number of pairs for the winners; default: all.
        skip: measure every ``skip``-th checkpoint (:func:`thinned`).
        batch_size: pairs in work at a time.
        on_progress: called after each checkpoint.

    Raises:
        UsageError: the folder holds no checkpoint.
        DataError: none of them gives finite values.
    """
    checkpoints = thinned(complete(run), skip)
    if not checkpoints:
        raise UsageError(f"{run} holds no checkpoint. Give the folder of a run of facke train.")

    def measured(what: str, folders: Sequence[Path], some: PairSet) -> dict[str, Values]:
        values: dict[str, Values] = {}
        for done, folder in enumerate(folders, 1):
            means: list[float | None] = [None, None]
            try:
                report = evaluator(str(folder.resolve())).run(some, batch_size=batch_size)
                means = [_mean(report.summary[name]) for name in (RETRIEVAL, RECON)]
            except VerificationError as error:  # a training that diverged
                warnings.warn(f"{folder.name} is left out: {error}", FackeWarning, stacklevel=3)
            both = [value for value in means if value is not None]
            total = sum(both) if len(both) == len(means) else None
            values[folder.name] = dict(zip(CRITERIA, [*means, total], strict=True))
            if on_progress:
                on_progress(what, done, len(folders))
        return values

    first, rest = pairs.first(coarse), pairs.first(fine)
    values = measured("coarse", checkpoints, first)
    best = winners(values)
    chosen = [folder for folder in checkpoints if folder.name in best.values()]
    return ScanReport(
        coarse=values,
        winners=best,
        fine=measured("fine", chosen, rest),
        coarse_pairs=len(first),
        fine_pairs=len(rest),
    )


def _mean(estimate: Estimate) -> float | None:
    return None if estimate.missing else estimate.value


def metrics() -> list[Any]:
    """The metrics of a scan: ID Retrieval, and reconstruction in the paper's units."""
    return [id_retrieval(), recon_l1_imagenet()]
