"""This module shows how far a swap of several steps has come, and what has become of the face."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from facke_cli.console import progress
from facke_core.errors import UsageError
from facke_core.sampling import watched
from facke_core.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_previews", "watching"]

PATIENCE = 2.0
"""Generating is shown once it has taken so many seconds."""


def check_previews(folder: Path) -> None:
    """Raise UsageError unless ``folder`` can be made and filled, or is an empty folder."""
    from facke_core.images.files import is_hidden

    if folder.is_dir() and all(is_hidden(path.name) for path in folder.iterdir()):
        return
    if folder.exists():
        raise UsageError(
            f"--previews {folder} exists and is no empty folder. Choose a new one, so that no "
            "picture is overwritten."
        )
    if not folder.parent.is_dir():
        raise UsageError(
            f"--previews {folder} cannot be made: the folder {folder.parent} does not exist."
        )


@contextmanager
def watching(
    *, quiet: bool = False, previews: Path | None = None, xmp: bytes = b""
) -> Iterator[None]:
    """Watch samplers that take several steps, while inside.

    Args:
        quiet: show no progress. Otherwise it is shown once generating has taken ``PATIENCE``
            seconds.
        previews: after each step, a picture of the faces as far as they are known is written into
            this folder, side by side. They are removed again where the swap fails.
        xmp: the disclosure of those pictures.
    """
    started = time.monotonic()
    show: Progress | None = None
    written: list[Path] = []

    def on_step(done: int, steps: int, estimate: Tensor) -> None:
        nonlocal started, show
        if done == 1:
            started = time.monotonic()
        if previews:
            if not previews.exists():
                _make(previews)
                written.append(previews)
            written.append(previews / f"step-{done:0{len(str(steps))}}.png")
            _write(written[-1], estimate, xmp)
        if not quiet and time.monotonic() - started > PATIENCE:
            show = show or stack.enter_context(progress())
            show("generate", done, steps)

    with ExitStack() as stack:
        try:
            with watched(on_step):
                yield
        except BaseException:
            for path in reversed(written):
                path.rmdir() if path == previews else path.unlink(missing_ok=True)
            raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(
            f"--previews {folder} cannot be made ({error}). Choose another place."
        ) from error


def _write(file: Path, estimate: Tensor, xmp: bytes) -> None:
    from facke_core.images.io import write_image

    row = estimate.float().cpu().permute(1, 2, 0, 3).flatten(2)
    write_image(file, row, xmp=xmp)
