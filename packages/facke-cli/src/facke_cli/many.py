"""The command ``facke swap`` for the pairs of a CSV, or for all pictures of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facke_cli.console import emit, progress, say, write
from facke_cli.ending import can_resume
from facke_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from facke_core.jobs.engines import Engine
    from facke_core.weights.sources import Source

__all__ = ["swap_many"]

SHOWN = 5


def swap_many(
    weights: Source,
    pairs: Path,
    folder: Path,
    settings: Mapping[str, Any],
    engine: Engine | None,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Swap the pairs of a CSV, or all pictures of a folder, into a folder and report.

    Raises:
        UsageError: no CSV, OUT is a file, or it lies in the folder.
        DataError: all pairs are skipped.
        FackeError: see :func:`facke_core.jobs.swapping.swap_pairs`.
    """
    of_folder = "source" in settings
    if not of_folder and not pairs.is_file():
        raise UsageError(f"There is no file {pairs}. Give a CSV with the columns source, target.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"OUT {folder} is a file. {'Where TARGET is a folder' if of_folder else 'With --pairs'}"
            ", name a folder."
        )
    if of_folder and folder.resolve().is_relative_to(pairs.resolve()):
        raise UsageError(f"OUT {folder} lies in the folder {pairs} itself. Choose another place.")
    can_resume()
    from facke_core.jobs.engines import here
    from facke_core.jobs.swapping import SWAPS, SwapWork, swap_pairs

    work = SwapWork(
        weights=weights,
        pairs=str(pairs.resolve()),
        folder=str(folder.resolve()),
        **settings,
    )
    with nullcontext() if quiet or as_json else progress() as shown:
        swaps = swap_pairs(work, engine=engine or here, resume=resume, on_progress=shown)
    skipped = [swap for swap in swaps if swap.skipped]
    if as_json:
        told = [
            {"pair": each.pair, "target": each.target, "reason": each.skipped} for each in skipped
        ]
        counts = {"pairs": len(swaps), "skipped": len(skipped), "skipped_pairs": told}
        emit({"output": str(folder), **counts})
    elif not quiet:
        for swap in skipped[:SHOWN]:
            what = swap.target if of_folder else f"pair {swap.pair}"
            say(f"{what} skipped: {swap.skipped}")
        write(
            f"{folder}: {len(swaps) - len(skipped)} pictures by {weights.config.method}, "
            f"{len(skipped)} {'skipped' if of_folder else 'pairs skipped'}; see {SWAPS}"
        )
    if len(skipped) == len(swaps):
        raise DataError(
            f"No {'picture' if of_folder else 'pair'} of {pairs} could be swapped. Why is in "
            f"{folder / SWAPS}, for each of them."
        )
