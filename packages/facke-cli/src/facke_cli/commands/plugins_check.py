"""The command ``facke plugins check``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from facke_cli.console import emit, say, table, write
from facke_cli.options import AsJson
from facke_core.plugins.registry import default_registry

__all__ = ["plugins_check"]


def plugins_check(
    package: Annotated[str, typer.Argument(help="Name of an installed distribution.")],
    as_json: AsJson = False,
) -> None:
    """Run the conformance kit on everything that PACKAGE registers; exit 3 if a check fails."""
    from facke_core.testing.checking import check_distribution

    say(f"Checking {package} ...")
    results = check_distribution(package, default_registry())
    count = Counter(done.result for done in results)
    if as_json:
        emit(
            {
                "package": package,
                "passed": count["passed"],
                "failed": count["failed"],
                "skipped": count["skipped"],
                "checks": [done._asdict() for done in results],
            }
        )
    else:
        rows = [
            [done.subject, done.check, done.result + (f": {done.reason}" if done.reason else "")]
            for done in results
        ]
        write(table(["what", "check", "result"], rows), lines=True)
        write(
            f"{package}: {count['passed']} passed, {count['failed']} failed, "
            f"{count['skipped']} skipped"
        )
    if count["failed"]:
        raise typer.Exit(3)
