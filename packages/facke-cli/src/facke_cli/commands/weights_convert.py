"""The command ``facke weights convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facke_cli.advice import in_options
from facke_cli.console import emit, say, write
from facke_cli.options import AsJson

__all__ = ["weights_convert"]


def weights_convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint, or the folder of a run.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    kind: Annotated[
        str, typer.Option("--from", metavar="KIND", help="What it is; auto: look at its tensors.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="generator.*, sampler.* or alignment.*; repeatable."
        ),
    ] = None,
    spdx: Annotated[
        str | None,
        typer.Option("--license", metavar="SPDX", help="Licence that it came with, if not known."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="REF", help="The converted ArcFace that the generator needs."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Which files of a run's folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace weights in DIR.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a checkpoint of the original systems, without executing anything in it.

    Writes safetensors, config.json for generators, and a card with the file's SHA-256 and licence.
    """
    from facke_core.convert.run import convert

    report = convert(
        file,
        out,
        kind=kind,
        settings=settings or (),
        spdx=spdx,
        encoder=encoder,
        label=label,
        force=force,
    )
    if as_json:
        emit(
            {
                "out": str(report.out),
                "kind": report.kind,
                "summary": report.summary,
                "license": report.license,
                "notice": report.notice,
                "sources": dict(report.sources),
                "files": list(report.files),
                "tensors": report.tensors,
                "parameters": report.parameters,
                "method": report.method or None,
                "identity_encoder": dict(report.encoder) if report.encoder else None,
                "notes": [in_options(note) for note in report.notes],
                "usage": in_options(report.usage),
            }
        )
        return
    write(f"{report.out}: {report.summary}")
    write(f"  kind      {report.kind}")
    write(f"  numbers   {report.parameters:,} in {report.tensors} tensors")
    for name, digest in report.sources.items():
        write(f"  sha256    {digest}  {name}")
    write(f"  licence   {report.license or 'not known; say it with --license'}. {report.notice}")
    write(f"  use       {report.usage}")
    for note in report.notes:
        say(f"facke: note: {note}")
