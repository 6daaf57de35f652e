"""Files and folders that appear whole: written beside their place, flushed to the disk, renamed.

:func:`one_job` keeps two jobs out of one place.

A reader, and whoever comes after a crash, finds what was there before or the whole new content,
never a mixture and never nothing. How far that holds is for the file system to say:

- Local ones and NFS rename in one step, and what was flushed survives a power cut. Where flushing
  is refused (folders on CIFS and on much of FUSE, Windows) the write is kept: a killed program
  cannot hurt it, a power cut can.
- A folder that is there changes places with the new one in one step (``renameat2`` of Linux). Where
  that is missing (macOS, NFS, some of FUSE) the old one steps aside, which takes two renames. If
  the writer is killed between them there is no folder, until the next write or :func:`leftovers`
  puts the new one, which is complete, in its place.

Links are followed, so that what they point to is replaced, and a file that is replaced leaves its
rights to the new one. Pipes and devices are written to as they are.

An error leaves nothing behind. A writer that is killed leaves ``.facke-*`` beside the place it
wrote to. The next write to that place takes it away, if it is of the same user, its process is gone
and was one of this machine, or a day has passed. Several may write to one place at once; the last
one to finish stays.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facke_core.errors import DataError

__all__ = ["check_size", "leftovers", "new_folder", "one_job", "replacing", "write_bytes"]

HIDDEN = ".facke-"
DAY = 86400.0
_POSIX = os.name == "posix"
_HOST = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8] if _POSIX else "-"
_USER = os.getuid() if _POSIX else 0
_REFUSED = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_live: set[str] = set()
"""The names of the writers and the jobs of this process."""
_locks: set[int] = set()
"""The files that hold a lock of this process."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, or leave what is there.

    Raises:
        OSError: it cannot be written, or not all of it.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # /dev/null, /dev/stdout, a pipe
        with path.open("wb") as file:
            file.write(data)
        return
    with replacing(path, size=len(data)) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """Give a path to write to: it becomes the file ``path`` at the end, or goes on an error.

    It has the same name, in another folder. What else is written into that folder, such as the
    tensors of a large ONNX graph, comes to lie beside ``path``.

    Args:
        path: where to; its folder has to exist. A link stays, and what it points to is replaced.
        size: in bytes; compared, because some file systems keep less than they took.

    Raises:
        OSError: the file cannot be written, or has another size.
    """
    path = Path(os.path.realpath(path))
    with _beside(path) as part:
        yield part
        with suppress(FileNotFoundError):
            os.chmod(part, stat.S_IMODE(path.stat().st_mode) & 0o777)
        _flush(part)
        if size is not None:
            check_size(part, size)
        for other in part.parent.iterdir():
            if other != part:
                _flush(other)
                os.replace(other, path.parent / other.name)
        os.replace(part, path)
        _flush(path.parent)


def check_size(path: Path, size: int) -> None:
    """Raise OSError unless a file has the size in bytes that was written."""
    if (kept := path.stat().st_size) != size:
        raise OSError(errno.EIO, f"{kept} of {size} bytes were kept", str(path))


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill: it becomes ``path`` at the end, or goes on an error.

    Args:
        path: where to. Folders above it are made.
        replace: put it in the place of a folder that is there, with all that is in it.

    Raises:
        OSError: it cannot be written; ``path`` is a file or, without ``replace``, a folder that is
            not empty.
    """
    path = Path(os.path.realpath(path))  # a link to a folder stays
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as part:
        part.mkdir()
        yield part
        for entry in (*part.rglob("*"), part):
            if not entry.is_symlink() and (entry.is_file() or entry.is_dir()):
                _flush(entry)
        if replace and path.is_dir():
            shutil.copymode(path, part)
            _exchange(part, path)
        else:
            os.rename(part, path)
        _flush(path.parent)


def leftovers(folder: Path, *, remove: bool = False) -> list[str]:
    """Return the names of what writers who were killed left unfinished in ``folder``.

    Args:
        folder: where to look; folders inside it are not searched.
        remove: take it away, too. What is complete, and was to replace a folder, takes its place.
    """
    unfinished = []
    for hidden in folder.glob(f"{HIDDEN}*"):
        with suppress(OSError):  # its writers have just ended
            for left in filter(_dead, list(hidden.iterdir())):
                unfinished += [part.name for part in left.iterdir() if part.name != left.name]
                if remove:
                    _remove(left)
            if remove:
                hidden.rmdir()
    return sorted(unfinished)


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
    folder, file = (place.parent, _hidden(place.name)) if beside else (place, f"{HIDDEN}lock")
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    lock, me = folder / file, _name()
    _live.add(me)
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
        _live.discard(me)
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
                free = _gone(owner) is not False
            if free is False:
                raise DataError(
                    f"Another job of facke ({_who(owner)}) is at work on {place}. Wait until it "
                    "has finished, or choose another place."
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
    careful = os.O_NOFOLLOW | os.O_NONBLOCK if _POSIX else 0  # what others put there
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | careful, 0o666)
    except PermissionError:  # a file of another user can be locked, too
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


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a path of the same name on the same file system, for this writer alone."""
    # one hidden folder for each place: what dead writers left is found without listing a folder
    # that may hold a hundred thousand pictures
    hidden = path.parent / _hidden(f"{_USER} {path.name}")
    mine = hidden / _name()
    _live.add(mine.name)
    try:
        for _ in range(99):
            with suppress(FileExistsError):
                hidden.mkdir()
            with suppress(FileNotFoundError):  # a writer that has ended took the empty folder away
                mine.mkdir(0o700)  # what replaces a private file is private from the start
                break
        for left in filter(_dead, list(hidden.iterdir())):
            _remove(left)
        yield mine / path.name
    except OSError as error:
        if HIDDEN in str(error.filename):  # a name that says nothing
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        with suppress(OSError):
            hidden.rmdir()
        _live.discard(mine.name)


def _hidden(name: str) -> str:
    """Make a name for what lies beside the place of that name, and is not to be seen."""
    return f"{HIDDEN}{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _name() -> str:
    """Make a name that tells which process of which machine writes there."""
    pid = os.getpid()
    return f"{_HOST}-{pid}-{_started(pid)}-{os.urandom(4).hex()}"


def _started(pid: int) -> str:
    """Tell when a process began, which tells it from others of its number; empty: not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(owner: str) -> bool | None:
    """Tell whether the process that made such a name is gone; None: it is of another machine."""
    host, number, started, *_ = [*owner.split("-"), "", "", ""]
    if host != _HOST or not number.isdecimal():
        return None
    pid = int(number)
    if pid == os.getpid():  # another one may have had our number
        return owner not in _live
    try:
        os.kill(pid, 0)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return True
    now = _started(pid)
    return bool(started and now and started != now)


def _who(owner: str) -> str:
    """Name the process that made such a name."""
    host, pid, *_ = [*owner.split("-"), "", ""]
    return f"process {pid or 'unknown'}{'' if host in (_HOST, '') else ' of another machine'}"


def _dead(left: Path) -> bool:
    """Tell whether the writer of a folder with such a name is gone, or a day has passed."""
    gone = _gone(left.name)
    try:
        return time.time() - left.stat().st_mtime > DAY if gone is None else gone
    except OSError as error:
        return error.errno == errno.ESRCH


def _remove(left: Path) -> None:
    """Take away what a dead writer left, or finish what it had all but finished."""
    with suppress(OSError):  # another writer does the same
        new = next((part for part in left.iterdir() if part.name != left.name), left)
        path = left.parent.parent / new.name
        if (left / left.name).exists() and new != left and not path.exists():
            os.rename(new, path)  # killed in _exchange
        gone = left.with_name(_name())
        os.rename(left, gone)  # if its writer is alive after all, it fails and mixes nothing
        shutil.rmtree(gone, ignore_errors=True)


def _exchange(part: Path, path: Path) -> None:
    """Put a folder in the place of another, which goes with the hidden folder."""
    import ctypes

    with suppress(AttributeError, TypeError):  # not Linux
        here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        names = os.fsencode(part), os.fsencode(path)
        if ctypes.CDLL(None).renameat2(here, names[0], here, names[1], both) == 0:
            return
    old = part.with_name(part.parent.name)
    os.rename(path, old)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise


def _flush(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
