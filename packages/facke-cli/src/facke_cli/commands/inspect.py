"""The command ``facke inspect``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import emit, write
from facke_cli.options import AsJson

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture or a clip.")],
    as_json: AsJson = False,
) -> None:
    """Tell what a picture or a clip says about its own making.

    Results of facke say that they are synthetic, and with which method, weights and seed. One
    that says nothing may still be synthetic: metadata is easily lost.
    """
    from facke_core.images.provenance import read_disclosure, source_type
    from facke_core.video.kinds import is_stream

    if is_stream(file):
        from facke_core.video.tags import read_disclosure as read_of_clip

        disclosure = read_of_clip(file)
    else:
        disclosure = read_disclosure(file)
    kind = source_type(disclosure.get("digital_source_type", ""))
    synthetic = kind is not None and kind.synthetic
    meaning = "" if kind is None else kind.meaning
    if as_json:
        seed = disclosure.get("seed", "")
        number = {"seed": int(seed) if re.fullmatch(r"-?\d{1,20}", seed) else None}
        told = {"synthetic": synthetic or None, "meaning": meaning or None}
        emit({"file": str(file), **told, **disclosure, **number})
        return
    if not disclosure:
        write(f"{file} says nothing about its making. That does not prove it is a photograph.")
        return
    write(f"{file}: {'synthetic' if synthetic else 'does not call itself synthetic'}. {meaning}")
    for key, value in disclosure.items():
        write(f"  {key.replace('_', ' ')}: {value or '-'}")
