"""The command ``facke weights list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facke_cli.console import emit, say, table, write
from facke_cli.options import AsJson
from facke_core.errors import VerificationError, check_choice
from facke_core.weights import licenses
from facke_core.weights.inventory import KnownWeights, known_weights, not_allowed

__all__ = ["weights_list"]


def weights_list(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Folders of weights, too.")
    ] = None,
    with_licenses: Annotated[
        bool,
        typer.Option("--licences", "--licenses", help="Encoders and detectors as well, by class."),
    ] = False,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Exit with 3 if a licence is of this class or asks for more care, in the order "
            + ", ".join(licenses.CLASSES)
            + ".",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List weights: of the installed methods, in the cache of the Hub, and in folders.

    `--fail-on non-commercial` is for those who want to be sure: it fails for research-only and for
    unknown licences too, those of encoders and detectors included.
    """
    if fail_on is not None:
        check_choice("--fail-on", fail_on, licenses.CLASSES)
    sets = known_weights(folders or ())
    if as_json:
        emit([_as_json(known) for known in sets])
    elif with_licenses:
        rows = [
            (
                known.weights if i == 0 else "",
                part.part,
                part.name if i else "",
                part.license,
                part.kind,
            )
            for known in sets
            for i, part in enumerate(known.parts)
        ]
        write(table(("weights", "part", "name", "licence", "class"), rows), lines=True)
    else:
        head = ("weights", "method", "where", "MB", "licence")
        write(
            table(head, [(k.weights, k.method, k.where, k.megabytes, k.license) for k in sets]),
            lines=True,
        )
    for known in sets:
        if known.fault:
            say(f"{known.weights} cannot be read: {known.fault}")
    if fail_on:
        _refuse(sets, fail_on)


def _refuse(sets: list[KnownWeights], limit: str) -> None:
    refused = [
        f"{known.weights}: {part.part} {part.name} is {part.license or 'not licensed'} "
        f"({part.kind})"
        for known, part in not_allowed(sets, limit)
    ]
    if refused:
        raise VerificationError(
            f"{len(refused)} licence(s) are {limit} or worse: {'; '.join(refused)}. Remove these "
            "weights, or get a licence for them."
        )


def _as_json(known: KnownWeights) -> dict[str, Any]:
    return {
        "weights": known.weights,
        "method": known.method or None,
        "where": known.where,
        "megabytes": known.megabytes,
        "license": known.license or None,
        "license_class": known.kind,
        "parts": [
            {
                "part": part.part,
                "name": part.name,
                "license": part.license or None,
                "license_class": part.kind,
            }
            for part in known.parts
        ],
        "fault": known.fault or None,
    }
