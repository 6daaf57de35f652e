"""Reports of ``facke evaluate`` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from facke_cli.console import table

if TYPE_CHECKING:
    from facke_core.evaluation.facke2022 import Facke2022Report
    from facke_core.evaluation.report import EvaluationReport
    from facke_core.evaluation.scan import ScanReport

__all__ = ["facke2022_text", "reports_text", "scan_text"]


def reports_text(reports: Sequence[EvaluationReport]) -> str:
    """The table, what it leaves out, and what took how long."""
    from facke_core.evaluation.report import notes_of, table_of

    lines = [table(*table_of(reports))]
    for report in reports:
        lines += [f"{report.name}: {note}" for note in notes_of(report)]
        seconds = report.run["seconds"]
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if value)
        lines.append(
            f"{report.name}: {report.run['pairs_computed']} pairs computed, seconds summed over "
            f"{report.run['workers']} threads: {stages}; identity encoders "
            f"{report.run['encoder_share']:.0%}"
        )
    return "\n".join(lines)


def facke2022_text(reports: Sequence[Facke2022Report]) -> str:
    """Both scales, and what was done as there."""
    from facke_core.evaluation.facke2022 import NAMES

    rows = [
        [one.name, *("-" if (v := values[name]) is None else f"{v:.4g}" for name in NAMES), scale]
        for one in reports
        for values, scale in (
            (
                one.as_published,
                f"as published: sum of the means of batches of {one.batch_size} / {one.images}",
            ),
            (one.mean, f"means of {one.images} images"),
        )
    ]
    notes = [f"{one.name}: {note}" for one in reports for note in one.notes]
    return "\n".join([table(["weights", *NAMES, "scale"], rows), *notes])


def scan_text(found: ScanReport) -> str:
    """Coarse values, fine values, winners."""
    head = ["checkpoint", *next(iter(found.coarse.values())), "pairs"]
    rows = [
        [name, *("-" if value is None else f"{value:.4f}" for value in values.values()), n]
        for measured, n in ((found.coarse, found.coarse_pairs), (found.fine, found.fine_pairs))
        for name, values in measured.items()
    ]
    best = [f"lowest {criterion}: {name}" for criterion, name in found.winners.items()]
    return "\n".join([table(head, rows), *best])
