"""The command ``facke verify-media``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from facke_cli.console import emit, table, write
from facke_cli.options import AsJson
from facke_core.errors import VerificationError

__all__: list[str] = []


def verify_media(
    before: Annotated[Path, typer.Argument(metavar="IN", help="A clip.")],
    after: Annotated[Path, typer.Argument(metavar="OUT", help="What was made of it.")],
    start: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="As given to facke swap.")
    ] = None,
    end: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="As given to facke swap.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="As given to facke swap.")] = None,
    audio: Annotated[
        Literal["copy", "none"], typer.Option(help="As given to facke swap.")
    ] = "copy",
    as_json: AsJson = False,
) -> None:
    """Compare a clip with what was made of it, in all but its pictures.

    Frames and their times, size, rotation, colours, depth, every stream of sound and subtitles,
    chapters and tags, and whether OUT says that it is synthetic. The exit code is 3 where one of
    them was not kept.
    """
    from facke_core.video.verify import verify_media as verify
    from facke_core.video.work import ClipSettings

    settings = ClipSettings(start=start, end=end, fps=fps, audio=audio)
    points = verify(before, after, settings=settings)
    lost = [point.name for point in points if not point.kept]
    if as_json:
        told = [{"name": each.name, "kept": each.kept, "said": each.said} for each in points]
        emit({"before": str(before), "after": str(after), "kept": not lost, "points": told})
    else:
        rows = [("kept" if each.kept else "LOST", each.name, each.said) for each in points]
        write(table(("", "point", "found"), rows), lines=True)
    if lost:
        raise VerificationError(
            f"{after} did not keep everything of {before}: {', '.join(lost)}. See above; another "
            "container or codec may keep it."
        )
