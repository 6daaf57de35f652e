"""Rows of an evaluation from other processes: plain values and the numbers of pairs go in."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from facke_core.errors import DataError
from facke_core.evaluation.runner import EvaluationSpec
from facke_core.plugins.registry import Registry, default_registry

__all__: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWork:
    """The work that finds the rows of some pairs, for an
    :class:`~facke_core.jobs.engines.Engine` in other processes.

    The rows are those that :meth:`Evaluator.run` finds.
    """

    spec: EvaluationSpec
    protocol: Mapping[str, Any]
    """Protocol of the evaluator that the rows are for."""
    batch_size: int = 8
    registry: Callable[[], Registry] = default_registry
    """Function that makes the registry in which names are looked up there."""

    def open(self, threads: int | None) -> Callable[[range], dict[str, Any]]:
        """Load everything, and return the function that computes a part of the pairs
        (:class:`~facke_core.jobs.engines.Work`).

        Args:
            threads: number of threads; default: the evaluator's own.

        Raises:
            DataError: pictures, weights or settings are not those of :attr:`protocol`.
        """
        evaluator, pairs = self.spec.evaluator(self.registry()), self.spec.pair_set()
        evaluator.workers = threads or evaluator.workers
        here, there = (
            json.loads(json.dumps(p)) for p in (evaluator.protocol(pairs), self.protocol)
        )
        if other := sorted(key for key in {*here, *there} if here.get(key) != there.get(key)):
            raise DataError(
                f"On {platform.node()} the {', '.join(other)} are not those of the machine that "
                "asked. Give every machine the same packages and the same files under the same "
                "paths."
            )
        session = evaluator.session(pairs)

        def do(part: range) -> dict[str, Any]:
            before = session.clock.seconds()
            rows = session.rows(part, batch_size=self.batch_size)
            after = session.clock.seconds()
            seconds = {stage: after[stage] - before[stage] for stage in after}
            return {"rows": [asdict(row) for row in rows], "seconds": seconds}

        return do
