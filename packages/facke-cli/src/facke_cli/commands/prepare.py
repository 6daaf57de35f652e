"""The command ``facke prepare``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facke_cli.console import emit, progress, write
from facke_cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from facke_core.prepare.summary import PrepareSummary

__all__ = ["prepare"]

TERMS = {"license": "license_"}

FIRST = 3
"""The report gives so many names of each kind."""


def prepare(
    photos: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="The photographs, a folder per person.")
    ],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The folder to write.")],
    size: Annotated[
        int | None, typer.Option(min=16, help="Pixels of a crop's side. [default: 128]")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="The alignment. [default: simswap_frontal]")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of the identity vectors: a name, hf:org/repo@COMMIT, or a JSON object with name "
            "and settings. [default: dlib-resnet29]",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Names the pictures instead of the folders: columns path and identity, and "
            "optionally mono, source, licence.",
        ),
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The pictures are aligned crops already.")
    ] = False,
    store: Annotated[
        Literal["tensors", "webdataset"] | None,
        typer.Option(help="How crops are stored. [default: tensors]"),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="SPDX", help="The licence of the pictures."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the dataset. [default: the name of PHOTOS]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per core]")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Detect, align and embed the faces of many people: a dataset for facke train.

    PHOTOS is PERSON/*, images/PERSON/*, or {train,test}/images/PERSON/*. What DATASET holds already
    is kept, options included, and an interrupted preparation goes on.
    """
    from facke_core.evaluation.judges import parse_encoder
    from facke_core.prepare.prepare import prepare as run

    settings = None if encoder is None else parse_encoder(encoder, "--encoder")
    with nullcontext() if quiet else progress() as on_progress:
        summaries = run(
            photos,
            dataset,
            size=size,
            template=template,
            encoder=settings,
            manifest=manifest,
            aligned=aligned or None,
            store=store,
            license=license_,
            name=name,
            workers=workers,
            on_progress=on_progress,
        )
    if as_json:
        emit({"datasets": [_document(summary) for summary in summaries]})
    elif not quiet:
        for line in (line for summary in summaries for line in _report(summary)):
            write(line)


def _document(summary: PrepareSummary) -> dict[str, Any]:
    return {
        "out": str(summary.out),
        "pictures": summary.pictures,
        "crops": summary.crops,
        "people": summary.people,
        "skipped": _by_reason(summary.skipped),
        "duplicates": dict(summary.duplicates),
        "shared": dict(summary.shared),
        "empty": list(summary.empty),
        "single": list(summary.single),
        "beside": list(summary.beside),
        "detected": summary.detected,
        "embedded": summary.embedded,
        "kept": summary.crops - summary.embedded,
        "workers": summary.workers,
        "seconds": round(summary.seconds, 3),
        "images_per_s": round(summary.images_per_second, 2),
        "decoding": round(summary.decoding, 4),
    }


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in skipped.items():
        by_reason[reason].append(path)
    return dict(sorted(by_reason.items(), key=lambda item: -len(item[1])))


def _report(summary: PrepareSummary) -> list[str]:
    lines = [
        f"{summary.out}: {summary.crops} crops of {summary.people} people "
        f"from {summary.pictures} pictures"
    ]
    for reason, paths in _by_reason(summary.skipped).items():
        lines.append(f"  skipped, {reason}: {_some(paths)}")
    if summary.duplicates:
        lines.append(f"  the same file twice: {_some(list(summary.duplicates))}")
    for path, first in list(summary.shared.items())[:FIRST]:
        lines.append(f"  the same file for two people: {path} is left out, {first} is used")
    if len(summary.shared) > FIRST:
        lines.append(f"  and {len(summary.shared) - FIRST} more files for two people")
    if summary.empty:
        lines.append(f"  people without a usable picture: {_some(summary.empty)}")
    if summary.single:
        lines.append(
            f"  people with one picture, out of Identity Grouping: {_some(summary.single)}"
        )
    if summary.beside:
        lines.append(f"  files of nobody, not looked at: {_some(summary.beside)}")
    lines.append(
        f"  vectors computed: {summary.embedded}, kept from before: "
        f"{summary.crops - summary.embedded}; pictures searched for faces: {summary.detected}"
    )
    if summary.images_per_second:
        lines.append(
            f"  {summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s with "
            f"{summary.workers} workers, {summary.decoding:.0%} of their time in decoding"
        )
    return lines


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > FIRST else ""
    return f"{len(names)} ({', '.join(names[:FIRST])}{more})"
