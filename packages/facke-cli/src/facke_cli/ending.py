"""How a command ends before its time: by a signal, or because its output goes nowhere.

SIGINT, SIGTERM and SIGHUP unwind the command, so that nothing half-made stays behind, and it exits
with 128 + the signal's number, as shells count. What the standard output does not take is one line
and exit code 1, or nothing and 141 where the reader of a pipe has left; the command's work is kept.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from facke_core.errors import (
    FackeError,
    OutOfMemoryError,
    UsageError,
    first_line,
    lacks_memory,
)

if TYPE_CHECKING:
    from types import FrameType

__all__: list[str] = []

PATIENCE = 1.0
"""Signals that follow one another within so many seconds count as one: a terminal that is closed,
and many a supervisor, sends several."""
PIPE_CLOSED = 141
"""The exit code of a program that SIGPIPE ended."""


_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
_OF_FILES = _OF_DISKS | {
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG, errno.EBUSY, errno.EXDEV, errno.EMFILE),
}


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end."""

    last: tuple[int, float] | None = None
    """Number and time of the last signal of this process."""
    resumes = False
    """Whether the running command can go on by ``--resume``."""


class Unwritten(Exception):
    """The standard output did not take what was written to it."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(
            f"The report cannot be written to the standard output: {reason.strerror}. What the "
            "command made is kept."
        )
        self.quiet = reason.errno == errno.EPIPE
        self.exit_code = PIPE_CLOSED if self.quiet else 1


class _Out(io.FileIO):
    """The standard output, whose errors are told from those of files."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            raise Unwritten(error) from error


class _Err(io.FileIO):
    """The standard error: a message that nobody hears is no reason to end."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def open_streams() -> None:
    """Give the process all three standard streams, and those to write errors of their own.

    A stream that was closed would otherwise be the next file that is opened, and what libraries
    print would go into it.
    """
    for number, how in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, how)  # the lowest number that is free; to read only: as if closed
    sys.stdout = _stream(_Out(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _stream(_Err(2, "wb", closefd=False), sys.stderr)


def _stream(raw: io.FileIO, old: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding if old else "utf-8",
        errors="backslashreplace",  # file names need not be text
        line_buffering=raw.isatty() or isinstance(raw, _Err),
        write_through=getattr(old, "write_through", False),
    )


def flush() -> None:
    """Write what the streams still hold, or let it go.

    Raises:
        Unwritten: the standard output does not take it.
    """
    try:
        sys.stdout.flush()
    except Unwritten:
        with suppress(OSError):  # else Python tries again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


def hear_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise :class:`Stopped`; those that are ignored stay so."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if Stopped.last and time.monotonic() - Stopped.last[1] < PATIENCE:
        return
    Stopped.last = number, time.monotonic()
    raise Stopped


def can_resume() -> None:
    """Note that the running command keeps what is finished, and goes on by ``--resume``."""
    Stopped.resumes = True


def go_on(words: Sequence[str]) -> str:
    """Say how a command that was stopped goes on; empty where it begins anew."""
    first, options = words[0] if words else "", {word.partition("=")[0] for word in words}
    resumes = (
        Stopped.resumes
        or (first == "swap" and "--pairs" in options)
        or (first == "evaluate" and "--out" in options)
    )
    if not resumes and first != "prepare":
        return ""
    more = ["--resume"] if resumes and "--resume" not in options else []
    return f" Go on with: {shlex.join(['facke', *words, *more])}"


def of_the_machine(error: Exception) -> FackeError | None:
    """Say what memory, a file or a disk refused, where nothing between it and here said so."""
    if lacks_memory(error):
        return OutOfMemoryError(
            f"This needs more memory than this process can get ({first_line(error)}). Take smaller "
            "pictures or batches, close other programs, or raise the limit (`ulimit -v`, a "
            "container's)."
        )
    if not isinstance(error, OSError) or error.errno not in _OF_FILES:
        return None
    if error.filename is None and error.errno not in _OF_DISKS:
        return None
    what = "A file" if error.filename is None else os.fsdecode(error.filename)
    return UsageError(
        f"{what} cannot be used: {error.strerror}. Check the path, its rights and the room on its "
        "disk, or choose another place."
    )
