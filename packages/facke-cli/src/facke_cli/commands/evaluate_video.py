"""The command ``facke evaluate video``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import emit, progress, table, write
from facke_cli.options import AsJson, Quiet

__all__: list[str] = []


def evaluate_video(
    before: Annotated[Path, typer.Argument(metavar="IN", help="A clip.")],
    after: Annotated[Path, typer.Argument(metavar="OUT", help="What was made of it.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how steady the faces of a clip are, beside those of the clip it was made of.

    Jitter is what the points of a face do that is no even movement, in % of the width of the face;
    flicker is the same of its light, in steps of 255.
    """
    from dataclasses import asdict

    from facke_core.evaluation.steadiness import steadiness
    from facke_core.plugins.registry import default_registry
    from facke_core.video.looking import finder, frames_in
    from facke_core.video.work import look

    clips = look(before), look(after)
    total = min(len(each.times) for each in clips)
    with nullcontext() if quiet or as_json else progress(rate=True) as shown:
        measured = steadiness(
            frames_in(before, clips[0]),
            frames_in(after, clips[1]),
            finder(default_registry()),
            on_frame=(lambda index: shown("frames", index + 1, total)) if shown else None,
        )
    if as_json:
        emit({"before": str(before), "after": str(after), **asdict(measured)})
    elif not quiet:
        write(
            f"{measured.frames} frames, {measured.faces} faces, {measured.changed} of them changed"
        )
        rows = [
            ("jitter, %", measured.jitter_before, measured.jitter),
            ("flicker", measured.flicker_before, measured.flicker),
        ]
        head = ("", "before", "after", "after / before")
        lines = [
            (name, f"{was:.3f}", f"{now:.3f}", f"{now / was:.2f}" if was else "-")
            for name, was, now in rows
        ]
        write(table(head, lines), lines=True)
