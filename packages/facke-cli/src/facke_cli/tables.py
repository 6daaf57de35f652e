"""The reports of ``facke evaluate`` are written as text here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from facke_cli.console import plain, table

if TYPE_CHECKING:
    from facke_core.evaluation.facke2022 import Facke2022Report
    from facke_core.evaluation.report import EvaluationReport
    from facke_core.evaluation.scan import ScanReport

__all__ = ["facke2022_text", "reports_text", "scan_text"]


def reports_text(reports: Sequence[EvaluationReport]) -> str:
    """Return the table, what it leaves out, and what took how long."""
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
    return _joined(lines)


def facke2022_text(reports: Sequence[Facke2022Report]) -> str:
    """Return a table of both scales, and what was done as in Facke's benchmark."""
    from facke_core.evaluation.facke2022 import NAMES

    rows = []
    for report in reports:
        batches = f"batches of {report.batch_size} / {report.images}"
        for values, scale in (
            (report.as_published, f"as published: sum of the means of {batches}"),
            (report.mean, f"means of {report.images} images"),
        ):
            cells = ("-" if (v := values[name]) is None else f"{v:.4g}" for name in NAMES)
            rows.append([report.name, *cells, scale])
    notes = [f"{report.name}: {note}" for report in reports for note in report.notes]
    return _joined([table(["weights", *NAMES, "scale"], rows), *notes])


def scan_text(report: ScanReport) -> str:
    """Return a table of the coarse and then the fine values, and the winners."""
    head = ["checkpoint", *next(iter(report.coarse.values())), "pairs"]
    rows = [
        [name, *("-" if value is None else f"{value:.4f}" for value in values.values()), n]
        for measured, n in ((report.coarse, report.coarse_pairs), (report.fine, report.fine_pairs))
        for name, values in measured.items()
    ]
    best = [f"lowest {criterion}: {name}" for criterion, name in report.winners.items()]
    return _joined([table(head, rows), *best])


def _joined(lines: Sequence[str]) -> str:
    """Put plain lines below a table."""
    head, *others = lines
    return "\n".join([head, *map(plain, others)])
