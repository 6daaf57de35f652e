"""The command ``facke swap`` for clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facke_cli.console import emit, progress, say, write
from facke_cli.ending import can_resume
from facke_cli.telling import made_by, measured
from facke_cli.watching import check_previews
from facke_core.video.kinds import ANIMATED, is_clip

if TYPE_CHECKING:
    from facke_core.jobs.engines import Engine
    from facke_core.video.frames import Changed
    from facke_core.weights.sources import Source

__all__: list[str] = []

PREVIEWS = 10.0
"""Seconds between two previews."""


def becomes_clip(target: Path, output: Path) -> bool:
    """Tell whether a clip is made of TARGET: it is one, or an animated picture whose result is to
    be animated, too. Of other animated pictures the first is taken, as of a picture."""
    from facke_core.images.files import WRITABLE

    ending = output.suffix.lower()
    still = ending in WRITABLE and ending not in ANIMATED
    return not still and is_clip(target)


def swap_clip(
    weights: Source,
    clip: Path,
    output: Path,
    work: Mapping[str, Any],
    settings: Mapping[str, Any],
    engine: Engine | None,
    *,
    resume: bool,
    overwrite: bool,
    previews: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Swap the faces of a clip and report.

    Raises:
        FackeError: see :func:`facke_core.video.swapping.swap_video`.
    """
    from facke_core.video.swapping import Swapping, change_by, request_of, seed_of
    from facke_core.video.work import ClipSettings, Watch, check_out

    if previews:
        check_previews(previews)
    check_out(clip, output, overwrite=overwrite)
    swapping = Swapping(weights=weights, **work)
    swapper = swapping.load()
    seed = seed_of(swapper, swapping.seed)
    if swapper.choice.fresh and not quiet:
        say(measured(swapper.choice))
    can_resume()
    began = time.monotonic()
    with nullcontext() if quiet or as_json else progress(rate=True) as shown:
        report = change_by(
            swapping.with_seed(seed),
            swapper,
            clip,
            output,
            settings=ClipSettings(**settings),
            engine=engine,
            resume=resume,
            overwrite=overwrite,
            watch=Watch(
                on_progress=shown,
                on_frame=_previews(previews, request_of(swapper, seed)) if previews else None,
            ),
        )
    seconds = time.monotonic() - began
    if as_json:
        emit(
            {
                "output": str(output),
                **made_by(weights, swapper),
                "seed": seed,
                "frames": report.frames,
                "frames_swapped": report.changed,
                "segments": report.segments,
                "segments_kept": report.kept,
                "codec": report.codec,
                "pixel_format": report.pix_fmt,
                "not_kept": list(report.changes),
                "seconds": {"total": round(seconds, 4)},
            }
        )
    elif not quiet:
        write(
            f"{output}: faces swapped in {report.changed} of {report.frames} frames by "
            f"{weights.name or weights.config.method} on {swapper.device} in {seconds:.1f} s; "
            f"{report.codec}, {report.pix_fmt}"
        )


def _previews(folder: Path, request: Any) -> Callable[[Changed], None]:
    """What writes a frame now and then."""
    from facke_core.images.io import write_image
    from facke_core.images.provenance import disclosure

    xmp, last = disclosure(request), -PREVIEWS

    def on_frame(changed: Changed) -> None:
        nonlocal last
        if time.monotonic() - last >= PREVIEWS:
            last = time.monotonic()
            folder.mkdir(exist_ok=True)
            write_image(folder / f"frame-{changed.index:06d}.jpg", changed.image, xmp=xmp)

    return on_frame
