"""The arithmetic of Facke's own benchmark, so that its tables can be read.

Its script adds the *mean* of each batch and divides by the number of *images*: every value is too
small by the batch size, which is 32 in all its command lines. Reconstruction is measured in
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
from facke_core.evaluation.rows import rounded
from facke_core.evaluation.runner import Evaluator
from facke_core.evaluation.session import EvaluationSession
from facke_core.jobs.pairs import PairSet, Progress, SwapPair
from facke_core.losses.functional import identity_loss
from facke_core.nn.normalize import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Facke2022Report", "Units", "run_facke2022"]

BATCH = 32
NAMES = ("ID Loss", "ID Retrieval", "Recon Loss")


class Units(NamedTuple):
    """How a loader of the original normalises RGB in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def enter(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> these units."""
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in self)
        return (image - mean) / std

    def leave(self, image: Tensor) -> Tensor:
        """The inverse of :meth:`enter`."""
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in self)
        return image * std + mean


IMAGENET = Units(IMAGENET_MEAN, IMAGENET_STD)
"""Of every method but those with a :class:`RescaledSampler`."""


@runtime_checkable
class RescaledSampler(Protocol):
    """A sampler whose original returned results in its loader's units, so that Facke's benchmark
    normalised them twice."""

    @property
    def loader_units(self) -> Units:
        """By which that loader normalises, slips included."""
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
    """The three metrics of one batch as the script computes them, one value per sample (B,).

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
    """Sum of the batch means, divided by the number of images."""
    batches = [values[i : i + batch_size] for i in range(0, len(values), batch_size)]
    return math.fsum(math.fsum(batch) / len(batch) for batch in batches) / len(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facke2022Report:
    """The three metrics of the paper's Table 1, in its scale and as means."""

    name: str
    images: int
    batch_size: int = BATCH
    as_published: Mapping[str, float | None]
    mean: Mapping[str, float | None]
    notes: Sequence[str] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_facke2022(
    evaluator: Evaluator,
    pairs: PairSet,
    *,
    batch_size: int = BATCH,
    on_progress: Progress | None = None,
) -> Facke2022Report:
    """Measure a pipeline as Facke's benchmark would.

    Raises:
        UsageError: there is no judge or no training encoder.
        DataError: no pair can be swapped.
    """
    for role, argument in (("judge", "judge"), ("trainer", "encoder")):
        if role not in evaluator.encoders:
            raise UsageError(
                f"The protocol facke2022 compares identities by two recognisers, and the {role} "
                f"is missing. Name one with `{argument}=...`."
            )
    rows: list[dict[str, float]] = []
    with evaluator.session(pairs) as session:

        def measured(pair: SwapPair) -> dict[str, float]:
            for one in pair:
                session.ready(one)
            usable = all(session.pictures.usable(one) for one in pair)
            return _values(evaluator, session, pair) if usable else {}

        for start in range(0, len(pairs), batch_size):
            rows += session.map(measured, pairs.pairs[start : start + batch_size])
            if on_progress:
                on_progress("pairs", len(rows), len(pairs))
    found = {name: [row[name] for row in rows if row] for name in NAMES}
    n = len(found[NAMES[0]])
    if not n:
        raise DataError("No pair could be swapped: no face was found in the pictures.")
    skipped = len(rows) - n
    notes = [_conditions(evaluator)]
    if skipped:
        notes.append(f"{skipped} pairs skipped: no face was found in a picture")
    return Facke2022Report(
        name=evaluator.name,
        images=n,
        batch_size=batch_size,
        as_published={k: rounded(as_published(v, batch_size)) for k, v in found.items()},
        mean={k: rounded(math.fsum(v) / n) for k, v in found.items()},
        notes=notes,
        protocol=evaluator.protocol(pairs),
    )


def _fits(evaluator: Evaluator) -> bool:
    """Whether the judge's vectors can take the place of the generator's identity."""
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
        """What the model of the original would have returned."""
        return units.enter(image[None]) if twice else image[None]

    def seen(normalised: Tensor) -> Tensor:
        """What an encoder that normalises for ImageNet by itself must get to see that."""
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
