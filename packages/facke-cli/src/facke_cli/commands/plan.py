"""The command ``facke plan``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import emit, progress, table, write
from facke_cli.options import AsJson, Force, Quiet
from facke_core.errors import UsageError

__all__: list[str] = []


def plan(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A clip.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="JSON",
            help="The plan to write; the faces of everybody are drawn beside it, as a PNG of the "
            "same name. [default: CLIP.plan.json]",
        ),
    ] = None,
    overwrite: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the people of CLIP, and write a plan of who becomes whom.

    Write the path of a picture as "source" of everybody who is to be swapped, and a list of
    [from, to] in seconds as "during" where it is not for the whole clip. Then:
    facke swap --plan JSON CLIP -o OUT
    """
    from facke_core.images.files import check_output

    file = output or clip.with_name(f"{clip.name}.plan.json")
    if file.suffix.lower() != ".json":
        raise UsageError(f"{file} is no name for a plan. Let it end in .json.")
    sheet = file.with_suffix(".png")
    check_output(sheet, overwrite=overwrite)
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there already. Use --force, or choose another name.")
    from dataclasses import asdict

    from facke_core.config import write_json
    from facke_core.images.io import write_image
    from facke_core.plugins.registry import default_registry
    from facke_core.video.looking import finder, frames_in
    from facke_core.video.plan import people_of
    from facke_core.video.work import look

    looked = look(clip)
    total = len(looked.times)
    with nullcontext() if quiet or as_json else progress(rate=True) as shown:
        cut, picture = people_of(
            frames_in(clip, looked),
            finder(default_registry()),
            name=clip.name,
            on_frame=(lambda index: shown("frames", index + 1, total)) if shown else None,
        )
    write_image(sheet, picture, overwrite=overwrite)
    write_json(file, asdict(cut))
    people = [{"name": each.name, "seen": each.seen} for each in cut.people]
    if as_json:
        emit({"plan": str(file), "sheet": str(sheet), "people": people})
    elif not quiet:
        rows = [
            (each.name, " ".join(f"{start:g}-{end:g}" for start, end in each.seen))
            for each in cut.people
        ]
        write(f"{file}: {_people(len(people))}; their faces are in {sheet}")
        write(table(("who", "seen, in seconds"), rows), lines=True)


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"
