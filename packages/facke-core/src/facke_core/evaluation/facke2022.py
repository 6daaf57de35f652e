"""The protocol ``facke2022``: the arithmetic of Facke's own benchmark, to read its tables by.

Its script (``benchmark.py`` of Ailon-Island/Facke) adds the *mean* of each batch and divides by the
number of *images*: every value is too small by the batch size, which is 32 in all its command
lines. Reconstruction is measured in
normalised units, and with the judge's embedding of the source in the place of the identity that the
generator was trained on. Results that are in the loader's units already, as those of diffusion, are
normalised once more before anything is measured: samplers of such methods say so themselves
(:class:`RescaledSampler`).

Crops are measured, as there: nothing is detected or pasted. The pairs are those that are given; the
original's were not the same for all rows of its table (docs/reproduction.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from facke_core.errors import DataError, UsageError
from facke_core.evaluation.rows import check_batch, rounded
from facke_core.evaluation.runner import Evaluator
from facke_core.evaluation.session import EvaluationSession
from facke_core.jobs.pairs import PairSet, SwapPair
from facke_core.losses.functional import identity_loss
from facke_core.nn.normalize import IMAGENET_MEAN, IMAGENET_STD
from facke_core.types import Progress

__all__ = ["Facke2022Report", "Units", "run_facke2022"]

BATCH = 32
NAMES = ("ID Loss", "ID Retrieval", "Recon Loss")


class Units(NamedTuple):
    """The mean and standard deviation per channel by which a loader of the original normalises RGB
    in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def enter(self, image: Tensor) -> Tensor:
        """Bring images (B, 3, H, W) in [0, 1] to these units: ``(image - mean) / std``."""
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in self)
        return (image - mean) / std

    def leave(self, image: Tensor) -> Tensor:
        """Bring images (B, 3, H, W) in these units back to [0, 1]: ``image * std + mean``."""
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in self)
        return image * std + mean


IMAGENET = Units(IMAGENET_MEAN, IMAGENET_STD)
"""The units of every method but those with a :class:`RescaledSampler`."""


@runtime_checkable
class RescaledSampler(Protocol):
    """A sampler whose original returned results in its loader's units, so that Facke's benchmark
    normalised them twice."""

    @property
    def loader_units(self) -> Units:
        """The units to which that loader normalises, slips included."""
        ...


def batch_values(
    *,
    source: Tensor,
    rebuilt: Tensor,
    units: Units,
    latent: Tensor,
    trainer_result: Tensor,
    judge_source: Tensor,
    judge_result: Tensor,
) -> dict[str, Tensor]:
    """Compute the three metrics of one batch as the script does, one value per sample (B,).

    Args:
        source: (B, 3, H, W) in the loader's units.
        rebuilt: (B, 3, H, W), the output of the self-swap as the model gives it; it is normalised
            here.
        units: the loader's.
        latent: (B, D), the training encoder's embedding of the source.
        trainer_result: (B, D), of the normalised result.
        judge_source: (B, E).
        judge_result: (B, E), of the normalised result.
    """
    return {
        "ID Loss": identity_loss(trainer_result, latent),
        "ID Retrieval": identity_loss(judge_result, judge_source),
        "Recon Loss": (source - units.enter(rebuilt)).abs().flatten(1).mean(1),
    }


def as_published(values: Sequence[float], batch_size: int = BATCH) -> float:
    """Return the sum of the batch means, divided by the number of images."""
    batches = [values[i : i + batch_size] for i in range(0, len(values), batch_size)]
    return math.fsum(math.fsum(batch) / len(batch) for batch in batches) / len(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facke2022Report:
    """The three metrics of the paper's Table 1, in its scale and as means."""

    name: str
    """What the weights are called."""
    images: int
    """Pairs that were measured."""
    batch_size: int = BATCH
    """Pairs per batch, by which the values as published are too small."""
    as_published: Mapping[str, float | None]
    """Metric -> value in the scale of the tables; None where it is not finite."""
    mean: Mapping[str, float | None]
    """Metric -> mean over the images."""
    notes: Sequence[str] = ()
    """What the values depend on besides: units, identity, pairs that were skipped."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What else decides the values: pairs, encoders, alignment, seed."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def run_facke2022(
    evaluator: Evaluator,
    pairs: PairSet,
    *,
    batch_size: int = BATCH,
    on_progress: Progress | None = None,
) -> Facke2022Report:
    """Measure a pipeline as Facke's benchmark would.

    Noise follows from the evaluator's seed and the two pictures of a pair alone.

    Args:
        evaluator: a pipeline with both recognisers, the judge and the encoder of the training.
        pairs: whose face goes where.
        batch_size: that of the script.
        on_progress: called after each batch.

    Raises:
        UsageError: there is no judge or no training encoder, or a ``batch_size`` that is none.
        DataError: no pair can be swapped.
    """
    check_batch(batch_size)
    for role, argument in (("judge", "judge"), ("trainer", "encoder")):
        if role not in evaluator.encoders:
            raise UsageError(
                f"The protocol facke2022 compares identities by two recognisers, and the {role} "
                f"is missing. Name one with `{argument}=...`."
            )
    rows: list[dict[str, float]] = []
    with evaluator.session(pairs) as session:

        def measured(pair: SwapPair) -> dict[str, float]:
            for picture in pair[:2]:
                session.ready(picture)
            usable = all(session.pictures.usable(picture) for picture in pair[:2])
            return _values(evaluator, session, pair) if usable else {}

        for start in range(0, len(pairs), batch_size):
            rows += session.map(measured, pairs.pairs[start : start + batch_size])
            if on_progress:
                on_progress("pairs", len(rows), len(pairs))
    by_metric = {name: [row[name] for row in rows if row] for name in NAMES}
    n = len(by_metric[NAMES[0]])
    if not n:
        raise DataError("No pair could be swapped: no face was found in the pictures.")
    skipped = len(rows) - n
    notes = [_conditions(evaluator)]
    if skipped:
        notes.append(f"{skipped} pairs skipped: no face was found in a picture, or it is damaged")
    if any(pair.reference for pair in pairs.pairs):
        notes.append("results are compared with the sources, as in the script, not the references")
    return Facke2022Report(
        name=evaluator.name,
        images=n,
        batch_size=batch_size,
        as_published={k: rounded(as_published(v, batch_size)) for k, v in by_metric.items()},
        mean={k: rounded(math.fsum(v) / n) for k, v in by_metric.items()},
        notes=notes,
        protocol=evaluator.protocol(pairs),
    )


def _fits(evaluator: Evaluator) -> bool:
    """Tell whether the judge's vectors can take the place of the generator's identity."""
    wanted = evaluator.pipeline.method.generator.spec.identity_dim
    return wanted == evaluator.encoders["judge"].encoder.spec.embedding_dim


def _conditions(evaluator: Evaluator) -> str:
    spec = evaluator.pipeline.method.generator.spec
    if isinstance(evaluator.pipeline.method.sampler, RescaledSampler):
        return "results are normalised twice, as the script does for this method"
    if not spec.identity_dim:
        return "the method takes no identity"
    if _fits(evaluator):
        return "the self-swap is conditioned on the judge's embedding, as in the script"
    dim = evaluator.encoders["judge"].encoder.spec.embedding_dim
    return (
        "the self-swap is conditioned on the model's own identity: the judge's embedding, which "
        f"the script takes, has {dim} numbers, and the generator takes {spec.identity_dim}"
    )


@torch.inference_mode()
def _values(evaluator: Evaluator, session: EvaluationSession, pair: SwapPair) -> dict[str, float]:
    pipeline, encoders = evaluator.pipeline, evaluator.encoders
    sampler, units, twice = pipeline.method.sampler, IMAGENET, False
    if isinstance(sampler, RescaledSampler):
        units, twice = sampler.loader_units, True
    source = session.pictures.load(pair.source).aligned.crop

    def output(image: Tensor) -> Tensor:
        """Return what the model of the original would have returned."""
        return units.enter(image[None]) if twice else image[None]

    def seen(normalised: Tensor) -> Tensor:
        """Return what an encoder that normalises for ImageNet by itself must get, to see this."""
        return IMAGENET.leave(normalised)[0]

    def look(role: str, crop: Tensor) -> Tensor:
        return encoders[role].of_crop(crop, pipeline.alignment)[None]

    result = seen(units.enter(output(session.swap(pair.source, pair.target))))
    judged = look("judge", seen(units.enter(source[None])))
    identity = judged[0] if _fits(evaluator) else None
    values = batch_values(
        source=units.enter(source[None]),
        rebuilt=output(session.swap(pair.source, pair.source, identity=identity)),
        units=units,
        latent=session.pictures.known(pair.source).vectors["trainer"][None],
        trainer_result=look("trainer", result),
        judge_source=judged,
        judge_result=look("judge", result),
    )
    return {name: float(value) for name, value in values.items()}
