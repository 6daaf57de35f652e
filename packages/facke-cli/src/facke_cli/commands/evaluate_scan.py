"""The command ``facke evaluate scan``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import progress
from facke_cli.measuring import MeasuringOptions, check_output, report
from facke_cli.options import JsonFile, Quiet, check_apart, command, settings
from facke_cli.tables import scan_text
from facke_core.errors import UsageError

__all__ = ["ScanOptions", "evaluate_scan"]

TERMS = {"sampler": "assignments"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions(MeasuringOptions):
    """They say which checkpoints are measured, and on how many pairs."""

    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of facke train --out.")]
    coarse: Annotated[int, typer.Option(min=1, help="Pairs for every checkpoint.")] = 400
    fine: Annotated[
        int | None, typer.Option(min=1, help="Pairs for the winners. [default: all]")
    ] = None
    skip: Annotated[
        int, typer.Option(min=1, help="Every n-th checkpoint from the end, and the first.")
    ] = 1
    json_file: JsonFile = None
    quiet: Quiet = False

    def check(self) -> None:
        """Raise what can be known to fail before torch is imported.

        Raises:
            ConfigError: a word of ``--set`` is no assignment.
            UsageError: no judge, no pairs, or a file that cannot be written.
        """
        settings(self.assignments)
        if self.judge is None:
            raise UsageError("A scan chooses by ID Retrieval and needs --judge NAME.")
        self.check_pairs()
        check_output(self.json_file)
        check_apart({"--json": self.json_file}, [self.pairs])


@command(ScanOptions)
def evaluate_scan(options: ScanOptions) -> None:
    """Choose among the checkpoints of a run, as the paper.

    All of them are measured on --coarse pairs, and the winners on --fine pairs: those with the
    lowest ID Retrieval, the lowest reconstruction in ImageNet's units, and the lowest sum.
    """
    options.check()
    from facke_core.evaluation.study import scan_run

    with nullcontext() if options.quiet else progress() as show:
        scanned = scan_run(
            options.run,
            options.spec(),
            coarse=options.coarse,
            fine=options.fine,
            skip=options.skip,
            batch_size=options.batch_size,
            workers=options.workers,
            on_progress=show,
        )
    report({"scan": scanned.to_json()}, scan_text(scanned), options.json_file, quiet=options.quiet)
