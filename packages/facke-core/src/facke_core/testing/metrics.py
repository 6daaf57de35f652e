"""The contract of a metric of ``facke evaluate``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.evaluation.metrics import (
    AnyMetric,
    Covered,
    Identities,
    Metric,
    Need,
    SetMetric,
    SwappedPairs,
)
from facke_core.faces.mesh import POINTS
from facke_core.faces.pose import mean_face
from facke_core.testing.assertions import (
    doing,
    leaves_alone,
    leaves_randomness_alone,
    require,
)
from facke_core.testing.fakes import faces, identities
from facke_core.testing.specs import SpecChecks
from facke_core.types import AlignedFace, Face

__all__: list[str] = []

COUNT = 6
"""Number of pairs."""
SIZE = 64
"""Side of the crops in pixels."""
DIM = 16
"""Length of the identities."""


class MetricConformance(SpecChecks):
    """Everything that facke relies on in a metric. Name a registered one."""

    kind = "metric"
    metric: ClassVar[str] = ""
    """The registered name."""
    perfect_is_best: ClassVar[bool] = True
    """True where a perfect swap gets the best value; False for metrics of something else."""

    def made(self) -> AnyMetric:
        """The metric under test."""
        with doing("The metric cannot be built. Correct the target MetricSpec.build."):
            metric: AnyMetric = self.the_registry().resolve(self.the_spec().build)()
        return metric

    def measure(self, pairs: SwappedPairs) -> Tensor:
        """The values (B,) of pairs, checked to be that; a metric of sets gives its value as
        (1,)."""
        metric = self.made()
        if isinstance(metric, SetMetric):
            seen = _judged(pairs)
            with doing("The metric fails. Correct its of_set."):
                value = metric.of_set(seen.result, seen.target)
            require(
                value is None or isinstance(value, float),
                f"of_set returns a {type(value).__name__}. Return a float, or None.",
            )
            return torch.tensor([math.nan if value is None else value], dtype=torch.float64)
        with doing("The metric fails. Correct its __call__."):
            values = metric(pairs)
        require(
            isinstance(values, Tensor) and values.shape == (len(pairs.source),),
            f"For {len(pairs.source)} pairs the metric gives the shape "
            f"{tuple(getattr(values, 'shape', ()))}. Return one value per pair, (B,): the report "
            "averages, and keeps each row.",
        )
        require(
            values.is_floating_point(),
            f"Values are {values.dtype}. Convert them with .double(); NaN means: no value.",
        )
        return values

    # -- checks ----------------------------------------------------------------------------------

    def test_it_satisfies_the_protocol(self) -> None:
        """The runner computes what a metric says it needs, once for all of them."""
        metric = self.made()
        require(
            isinstance(metric, Metric | SetMetric),
            "The metric lacks a member of facke_core.evaluation.metrics.Metric: it needs name, "
            "unit, higher_is_better, needs and __call__.",
        )
        unknown = metric.needs - set(get_args(Need))
        require(
            not unknown,
            f"needs names {sorted(unknown)}. There are: {', '.join(get_args(Need))}.",
        )

    def test_it_is_what_its_spec_says(self) -> None:
        """Tables take the arrow up or down from the spec, reports from the metric."""
        metric, spec = self.made(), self.the_spec()
        require(
            metric.name == spec.name,
            f"The metric calls itself {metric.name!r}, its spec {spec.name!r}. Use one name.",
        )
        require(
            metric.higher_is_better == spec.higher_is_better,
            f"higher_is_better is {metric.higher_is_better} in the metric and "
            f"{spec.higher_is_better} in its spec. Correct the wrong one.",
        )

    def test_it_gives_one_value_per_pair(self) -> None:
        """Reports keep the value of every pair, and intervals are made from them."""
        values = self.measure(pairs())
        require(
            bool(values.isfinite().all()),
            "Ordinary pairs have no finite value. NaN is for pairs where there is nothing to "
            "measure, such as a result without a face.",
        )

    def test_it_does_not_depend_on_the_batch(self) -> None:
        """Facke's table divides by the wrong count because of its batches: the value of a pair may
        not depend on how many others are measured with it."""
        if isinstance(self.made(), SetMetric):
            self._check_order_of_set()
            return
        everything = pairs()
        together = self.measure(everything)
        alone = torch.cat([self.measure(chosen(everything, [i])) for i in range(COUNT)])
        require(
            _same(together, alone),
            "A pair measured alone has another value than in a batch. Average over pixels, not "
            "over pairs.",
        )
        order = [4, 2, 5, 0, 1, 3]
        require(
            _same(together[order], self.measure(chosen(everything, order))),
            "In another order pairs have other values. Compute each from its own row.",
        )

    def _check_order_of_set(self) -> None:
        order = [4, 2, 5, 0, 1, 3]
        require(
            _same(self.measure(pairs()), self.measure(chosen(pairs(), order)), 1e-6),
            "In another order the set has another value. Use all vectors alike.",
        )

    def test_a_perfect_swap_gets_the_best_value(self) -> None:
        """A metric with the sign turned around ranks the worst method first."""
        if not self.perfect_is_best:
            return
        best, worse = self.measure(perfect(pairs())), self.measure(pairs())
        sign = 1 if self.made().higher_is_better else -1
        margin = sign * (best - worse)
        margin = margin[margin.isfinite()]
        require(
            len(margin) and float(margin.min()) > -1e-6,
            "A perfect swap gets a worse value than a poor one. Turn higher_is_better or the sign "
            "around, or set perfect_is_best = False if the metric is of something else.",
        )

    def test_it_measures_something(self) -> None:
        """A constant is no metric."""
        values = [self.measure(swapped) for swapped in (pairs(), pairs(1), perfect(pairs()))]
        require(
            not all(_same(values[0], other, 0.0) for other in values[1:]),
            "All swaps get the same value. Use what the metric needs.",
        )

    def test_it_leaves_its_inputs_alone(self) -> None:
        """All metrics read the same pairs."""
        swapped = pairs()
        tensors = [getattr(swapped, f.name) for f in dataclasses.fields(swapped)]
        seen = [x for who in (swapped.identities or {}).values() for x in who]
        with leaves_alone("The metric", [*tensors, *seen]), leaves_randomness_alone("The metric"):
            self.measure(swapped)

    def test_missing_faces_are_no_error(self) -> None:
        """A result whose face is not found has no value for the metrics of faces: NaN."""
        swapped = pairs()
        none = dataclasses.replace(swapped, result_faces=[None, *swapped.result_faces[1:]])
        values = self.measure(none)
        require(
            len(values) in (1, COUNT),
            "A pair without a face in the result changes the number of values. Return NaN for it.",
        )


def pairs(seed: int = 0) -> SwappedPairs:
    """Six poor swaps, with everything that any metric can need; they follow from ``seed``."""
    noise = torch.Generator().manual_seed(50 + seed)
    source, target = faces(COUNT, SIZE, 30 + seed), faces(COUNT, SIZE, 40 + seed)
    grain = 0.2 * torch.randn(source.shape, generator=noise)
    result = ((source + target) / 2 + grain).clamp(0, 1)
    target_faces = [_face(noise) for _ in range(COUNT)]
    identity = torch.eye(3)[:2]
    pasted = (target - grain).clamp(0, 1)
    ticks = (torch.arange(SIZE) - SIZE / 2).square()
    disc = (ticks + ticks[:, None] < SIZE**2 / 16).float().view(1, 1, SIZE, SIZE)
    return SwappedPairs(
        source=source,
        target=target,
        result=result,
        reconstruction=(source + grain).clamp(0, 1),
        pasted=pasted,
        photos=_framed(result),
        target_photos=_framed(target),
        shares=[F.pad(disc[0], (8, 8, 8, 8))] * COUNT,
        covered=[Covered(target[i : i + 1], pasted[i : i + 1], disc) for i in range(COUNT)],
        aligned=[
            AlignedFace(crop, identity, face)
            for crop, face in zip(target, target_faces, strict=True)
        ],
        target_faces=target_faces,
        result_faces=[_face(noise) for _ in range(COUNT)],
        identities={who: _identities(seed + i) for i, who in enumerate(("trainer", "judge"))},
    )


def perfect(poor: SwappedPairs) -> SwappedPairs:
    """Swaps with nothing to complain about: pictures and faces are alike, and the result has the
    source's identity while the target has another."""
    seen = {
        who: vectors._replace(result=vectors.source.clone())
        for who, vectors in (poor.identities or {}).items()
    }
    return dataclasses.replace(
        poor,
        target=poor.source,
        result=poor.source.clone(),
        reconstruction=poor.source.clone(),
        pasted=poor.source.clone(),
        photos=_framed(poor.source),
        target_photos=_framed(poor.source),
        covered=[each and each._replace(result=each.target) for each in poor.covered],
        aligned=[
            face._replace(crop=crop) for face, crop in zip(poor.aligned, poor.source, strict=True)
        ],
        result_faces=poor.target_faces,
        identities={
            who: vectors._replace(target=-vectors.source if who == "trainer" else vectors.target)
            for who, vectors in seen.items()
        },
    )


def chosen(some: SwappedPairs, rows: list[int]) -> SwappedPairs:
    """The pairs ``rows`` out of others; what belongs to the evaluation as a whole stays."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(some):
        value = getattr(some, field.name)
        if isinstance(value, Tensor):
            fields[field.name] = value[rows]
        elif field.name == "identities":
            fields[field.name] = {
                who: Identities(
                    vectors.source[rows],
                    vectors.target[rows],
                    vectors.result[rows],
                    vectors.gallery,
                    vectors.people,
                    vectors.own[rows],
                )
                for who, vectors in value.items()
            }
        else:
            fields[field.name] = [value[row] for row in rows]
    return SwappedPairs(**fields)


def _framed(crops: Tensor) -> list[Tensor]:
    return [F.pad(crop, (8, 8, 8, 8), value=0.5) for crop in crops]


def _judged(some: SwappedPairs) -> Identities:
    """The identities for a metric of sets: the real pictures are the targets, and for perfect
    swaps the results themselves."""
    vectors = (some.identities or {})["judge"]
    same = some.result is not None and torch.equal(some.result, some.source)
    return vectors._replace(target=vectors.result if same else vectors.target)


def _identities(seed: int) -> Identities:
    gallery = identities(2 * COUNT, DIM, seed)
    own = torch.arange(COUNT)
    others = identities(3 * COUNT, DIM, 60 + seed)
    return Identities(
        source=gallery[:COUNT].clone(),
        target=F.normalize(others[:COUNT] + 0.2 * gallery[:COUNT], dim=1),
        result=F.normalize(others[COUNT : 2 * COUNT] + 0.4 * gallery[:COUNT], dim=1),
        gallery=gallery,
        people=torch.arange(2 * COUNT),
        own=own,
    )


def _face(noise: torch.Generator) -> Face:
    """The mean face, turned and moved a little, with other eyes and lips."""
    angle = 0.4 * (torch.rand(3, generator=noise) - 0.5)
    turned = mean_face().float() @ torch.linalg.matrix_exp(_skew(angle))
    points = 16 * turned[:, :2] + torch.tensor([32.0, 30.0])
    points = points + 0.3 * torch.randn(points.shape, generator=noise)
    mesh = points.mean(0).repeat(478, 1)
    mesh[list(POINTS)] = points
    box = torch.cat([points.amin(0), points.amax(0)])
    return Face(box=box, landmarks=mesh[[468, 473, 1, 61, 291]], score=0.9, mesh=mesh)


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _same(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    both = a.isnan() & b.isnan()
    close = (a - b).abs() <= tolerance * b.abs().clamp_min(1)
    return a.shape == b.shape and bool((both | close).all())
