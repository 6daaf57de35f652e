"""The logs that a run writes while it trains: ``log.jsonl``, TensorBoard's events, previews."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from facke_core import _json
from facke_core._files import write_bytes
from facke_core.errors import FackeWarning, ImageError
from facke_core.images.io import write_image
from facke_core.weights.layout import LOG

__all__: list[str] = []

TENSORBOARD = "tensorboard"
PREVIEWS = "previews"
DIGITS = 5
"""Significant digits of numbers in the log."""


class RunLog:
    """The logs of one run; for the main process only.

    Whatever was logged after ``step`` is dropped first, so that a run that was killed and resumed
    has logged every step once: lines of ``log.jsonl`` (and a last one that was cut off), previews,
    and TensorBoard's events (they stay in their file, but are not shown). At ``step`` 0 a training
    begins anew, and so does its log. Write the log before the checkpoint of the same step.

    A log must not end a training: where something cannot be written (a full disk), one
    :class:`~facke_core.errors.FackeWarning` says so, and the next write is tried again.
    TensorBoard alone is given up, until the run is resumed.

    Args:
        folder: the run; made where it is missing.
        step: steps finished so far.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._lines, self._previews = folder / LOG, folder / PREVIEWS
        self._warned: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_lines(self._lines, step)
            for old in self._previews.glob("*.png"):
                if old.stem.isdecimal() and not 0 < int(old.stem) <= step:
                    old.unlink()
        except OSError as error:
            self._warn(self._lines, error)
        self._board: Any = self._open_board(folder / TENSORBOARD, step)

    def write(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Log one line ``{"step": step, **values}``; it is in the file when this returns.

        Floats have five significant digits, those that are not finite are null. TensorBoard gets
        the numbers, ``generator.identity`` as ``generator/identity``: it groups by the slash.
        """
        line = {"step": step, **{name: _rounded(value) for name, value in values.items()}}
        try:
            _append(self._lines, json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            return self._warn(self._lines, error)
        if self._board is None:
            return None
        try:
            for name, value in values.items():
                if not isinstance(value, str):
                    self._board.add_scalar(name.replace(".", "/", 1), value, step)
            self._board.flush()
        except Exception as error:  # of TensorBoard's thread, or TensorFlow's where it is installed
            self._give_up_board(error)

    def image(self, step: int, name: str, image: Tensor, xmp: bytes | None = None) -> None:
        """Keep a picture (3, H, W) in [0, 1]: as ``previews/{step:08d}.png``, with ``xmp`` in it,
        and as ``name`` in TensorBoard."""
        file = self._previews / f"{step:08d}.png"
        try:
            self._previews.mkdir(exist_ok=True)
            write_image(file, image, xmp=xmp, overwrite=True)
        except (OSError, ImageError) as error:
            return self._warn(self._previews, error)
        if self._board is None:
            return None
        try:
            self._board.add_image(name.replace(".", "/", 1), image, step)
            self._board.flush()
        except Exception as error:
            self._give_up_board(error)

    def close(self) -> None:
        """End TensorBoard's file; nothing can be logged any more."""
        board, self._board = self._board, None
        if board is not None:
            with suppress(Exception):  # all was flushed
                board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_board(self, folder: Path, step: int) -> Any:
        """Return a SummaryWriter, or None after a warning."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warnings.warn(
                f"TensorBoard is not installed: the training is logged to {LOG} only. "
                "Install it with: pip install 'facke-core[train]'",
                FackeWarning,
                stacklevel=3,
            )
            return None
        # TensorBoard reads the files in the order of their names, which begin with the second
        while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.02)
        try:
            return SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        except Exception as error:
            self._warn(folder, error)
            return None

    def _give_up_board(self, error: Exception) -> None:
        self._warn(Path(self._board.log_dir), error)
        self.close()

    def _warn(self, what: Path, error: Exception) -> None:
        if what.name in self._warned:
            return
        self._warned.add(what.name)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        warnings.warn(
            f"{what} cannot be written ({reason}). The training goes on and its log has gaps. "
            "Check the free space and the rights of the folder.",
            FackeWarning,
            stacklevel=3,
        )


def _append(file: Path, line: str) -> None:
    """Write a line, or nothing at all."""
    rest = line.encode()
    with file.open("ab", buffering=0) as stream:
        end = stream.tell()
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


def _keep_lines(file: Path, step: int) -> None:
    """Drop the lines after ``step``, all at step 0; complete or not at all."""
    if not file.is_file():
        return
    old = file.read_bytes()
    new = b"".join(line + b"\n" for line in old.split(b"\n") if step and _step(line) <= step)
    if new != old:
        write_bytes(file, new)


def _step(line: bytes) -> float:
    """Return the step of a line of the log; infinite where it is none."""
    try:
        step = _json.parse(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
    return step if isinstance(step, int) else math.inf


def _rounded(value: float | int | str) -> float | int | str | None:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
