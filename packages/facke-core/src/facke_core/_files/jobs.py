"""One job per place: a second one is told so, and what a dead one left keeps nobody out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facke_core._files.owners import (
    HIDDEN,
    cannot_move,
    gone,
    hidden_name,
    live,
    owner_name,
    process_of,
)
from facke_core.errors import DataError

__all__ = ["one_job"]

_locks: set[int] = set()
"""The files that hold a lock of this process."""


@contextmanager
def one_job(place: Path, *, beside: bool = False) -> Iterator[None]:
    """Keep other jobs out of a place while inside; what a killed job left keeps nobody out.

    The lock is a file in the folder, taken away at the end. Where the file system knows no locks
    (Lustre, some of FUSE) the file's text tells whether its job lives, on this machine only.

    Args:
        place: a folder, made if it is missing, and taken away again if nothing came into it.
        beside: ``place`` is replaced as a whole, or a file: the lock lies beside it.

    Raises:
        DataError: another job has it, or its folder cannot be written.
    """
    place = Path(os.path.realpath(place))
    folder, file = place, f"{HIDDEN}lock"
    if beside and not (place.is_dir() and cannot_move(place)):
        folder, file = place.parent, hidden_name(place.name)
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    lock, me = folder / file, owner_name()
    live.add(me)
    try:
        try:
            handle = _locked(lock, me, place)
        except OSError as error:
            raise DataError(
                f"{place} cannot be written: {error.strerror or error}. Choose another place, or "
                "change its rights."
            ) from error
        _locks.add(handle)
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()  # before others can have it, so that nobody holds a file of no name
            _locks.discard(handle)
            os.close(handle)
    finally:
        live.discard(me)
        with suppress(OSError):
            for each in missing:
                each.rmdir()


def _locked(lock: Path, me: str, place: Path) -> int:
    """Make the file ``lock``, and its folder, and lock it.

    Raises:
        DataError: another job has it.
        OSError: it cannot be made.
    """
    for _ in range(99):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = _opened(lock)
        except FileNotFoundError:  # the job before has just taken its folder away
            continue
        try:
            free, owner = _flock(handle), os.read(handle, 200).decode(errors="replace")
            if free is None and owner:
                free = gone(owner) is not False
            if free is False:
                raise DataError(
                    f"Another job of facke ({process_of(owner)}) is at work on {place}. Wait until "
                    "it has finished, or choose another place."
                )
            with suppress(FileNotFoundError):  # or the file
                if os.path.samestat(os.stat(lock), os.fstat(handle)):
                    with suppress(OSError):  # to read only, or the disk is full
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, me.encode(), 0)
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise OSError(errno.EAGAIN, "it is taken away again and again", str(lock))


def _opened(lock: Path) -> int:
    careful = os.O_NOFOLLOW | os.O_NONBLOCK if os.name == "posix" else 0  # what others put there
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | careful, 0o666)
    except PermissionError:  # a file of another user can be locked, too
        if not os.path.lexists(lock):
            raise
        return os.open(lock, os.O_RDONLY | careful)


def _flock(handle: int) -> bool | None:
    """Lock a file; False if another one has the lock, None where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; Lustre and others, each with an error of its own
        return None
    return True


def _unlock_in_child() -> None:
    """Close what a forked child has inherited: a lock is not to outlive the job that took it."""
    for handle in _locks:
        with suppress(OSError):
            os.close(handle)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
