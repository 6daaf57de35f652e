"""What ``facke swap`` reports of one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from facke_cli.commands.faces import about
from facke_cli.console import count, emit, write
from facke_core.weights.sources import Source

if TYPE_CHECKING:
    from facke_core.backends.choice import Choice, Measured
    from facke_core.pipeline import SwapPipeline
    from facke_core.results import SwapResult

__all__: list[str] = []


def measured(choice: Choice) -> str:
    """Say why ``auto`` took what it took, in one line."""
    error = max((255 * way.max_error for way in choice.measured if _is(way, choice)), default=0.0)
    return (
        f"backend auto: {choice}, {choice.ratio:.1f} times as fast as torch float32, largest error "
        f"{error:.2f}/255; {len(choice.measured)} ways were measured, and the choice is remembered"
    )


def _is(one: Measured, choice: Choice) -> bool:
    return (one.backend, one.dtype) == (choice.backend, choice.dtype)


def made_by(found: Source, pipeline: SwapPipeline) -> dict[str, str | None]:
    """Say in plain values what swapped, and on what."""
    return {
        "method": found.config.method,
        "weights": found.name or None,
        "revision": found.revision or None,
        "device": str(pipeline.device),
        "backend": pipeline.choice.backend,
        "dtype": pipeline.choice.dtype,
    }


def report(
    result: SwapResult,
    pipeline: SwapPipeline,
    found: Source,
    output: Path,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    if as_json:
        emit(
            {
                "output": str(output),
                **made_by(found, pipeline),
                "seed": result.request.seed,
                "faces": [about(face) for face in result.faces],
                "faces_seen": result.faces_seen,
                "source": about(result.source) if result.source else None,
                "seconds": {key: round(value, 4) for key, value in result.seconds.items()},
            }
        )
    elif not quiet:
        some, seen = len(result.faces), result.faces_seen
        faces = f"{some} of {seen} faces" if seen > some else count(some, "face")
        total = result.seconds.get("total", 0.0)
        by = found.name or found.config.method
        write(f"{output}: {faces} swapped by {by} on {pipeline.device} in {total:.1f} s")
