"""The command ``facke evaluate diff``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import put, write
from facke_cli.options import JsonFile, Quiet, check_apart, command
from facke_core.errors import DataError, VerificationError

__all__ = ["DiffOptions", "evaluate_diff"]

SHOWN = 20
"""At most so many differences are printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOptions:
    """They say which reports are compared, and how closely."""

    a: Annotated[Path, typer.Argument(metavar="A", help="A report of facke evaluate --json.")]
    b: Annotated[Path, typer.Argument(metavar="B", help="The report to compare it with.")]
    tolerance: Annotated[float, typer.Option(min=0, help="What numbers may differ by.")] = 1e-6
    json_file: JsonFile = None
    quiet: Quiet = False


@command(DiffOptions)
def evaluate_diff(options: DiffOptions) -> None:
    """Say where two reports differ; exit code 3 where they do.

    Every number of every pair is compared, and the protocol. Versions, devices and times are not.
    """
    check_apart({"--json": options.json_file}, [options.a, options.b])
    from facke_core.evaluation.report import diff, read_reports

    try:
        a, b = read_reports(options.a), read_reports(options.b)
    except DataError as error:
        raise DataError(f"{error} As: facke evaluate WEIGHTS --pairs CSV --json FILE") from error
    differences = diff(a, b, options.tolerance)
    if options.json_file is not None:
        listed = [{"where": each.where, "a": each.a, "b": each.b} for each in differences]
        put({"differences": listed}, options.json_file)
    elif not options.quiet:
        for difference in differences[:SHOWN]:
            write(str(difference))
    if differences:
        raise VerificationError(
            f"{options.a} and {options.b} differ in {len(differences)} places by more than "
            f"{options.tolerance:g}. Versions, devices and times were not compared."
        )
    if not options.quiet and options.json_file is None:
        pairs = sum(len(report.rows) for report in a)
        write(f"The same to {options.tolerance:g}: {pairs} pairs compared.")
