"""The command ``facke inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import emit, write
from facke_cli.options import AsJson

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture.")],
    as_json: AsJson = False,
) -> None:
    """Tell what a picture says about its own making.

    Results of facke say that they are synthetic, and with which method, weights and seed. A
    picture that says nothing may still be synthetic: metadata is easily lost.
    """
    from facke_core.images.provenance import read_disclosure

    disclosure = read_disclosure(file)
    kind = disclosure.get("digital_source_type", "").rpartition("/")[2]
    synthetic = True if "algorithmic" in kind.lower() else None
    if as_json:
        seed = disclosure.get("seed", "")
        number = {"seed": int(seed) if seed.lstrip("-").isdecimal() else None}
        emit({"file": str(file), "synthetic": synthetic, **disclosure, **number})
        return
    if not disclosure:
        write(f"{file} says nothing about its making. That does not prove it is a photograph.")
        return
    write(f"{file}: {'synthetic' if synthetic else 'does not call itself synthetic'}")
    for key, value in disclosure.items():
        write(f"  {key.replace('_', ' ')}: {value or '-'}")
