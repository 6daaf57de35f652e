"""``facke evaluate diff``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facke_cli.console import STDOUT, emit, write
from facke_core.errors import UsageError, VerificationError

__all__ = ["compare"]

SHOWN = 20
"""Differences that are printed."""


def compare(
    files: Sequence[str], tolerance: float, json_file: Path | None, *, quiet: bool = False
) -> None:
    """Say where two reports differ.

    Raises:
        UsageError: not two files.
        VerificationError: they say different things.
    """
    if len(files) != 2:
        raise UsageError("diff compares two reports: facke evaluate diff A.json B.json")
    from facke_core.config import write_json
    from facke_core.evaluation.report import diff, read_reports

    a, b = (read_reports(Path(file)) for file in files)
    found = diff(a, b, tolerance)
    if json_file is not None:
        content = {"differences": [{"where": x.where, "a": x.a, "b": x.b} for x in found]}
        if str(json_file) == STDOUT:
            emit(content)
        else:
            write_json(json_file, content)
    elif not quiet:
        for one in found[:SHOWN]:
            write(str(one))
    if found:
        raise VerificationError(
            f"{files[0]} and {files[1]} differ in {len(found)} places by more than {tolerance:g}. "
            "Versions, devices and times were not compared."
        )
    if not quiet and json_file is None:
        write(f"The same to {tolerance:g}: {sum(len(one.rows) for one in a)} pairs compared.")
