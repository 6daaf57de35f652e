"""Files and folders that appear whole: written beside their place, flushed to the disk, renamed.

A reader, and whoever comes after a crash, finds what was there before or the whole new content,
never a mixture and never nothing. How far that holds is for the file system to say:

- Local ones and NFS rename in one step, and what was flushed survives a power cut. Where flushing
  is refused (folders on CIFS and on much of FUSE, Windows) the write is kept: a killed program
  cannot hurt it, a power cut can.
- A folder that is there changes places with the new one in one step (``renameat2`` of Linux). Where
  that is missing (macOS, NFS, some of FUSE) the old one steps aside, which takes two renames. If
  the writer is killed between them there is no folder, until the next write, :func:`leftovers` or
  :func:`restored` puts the new one, which is complete, in its place.
- A folder that cannot be renamed (a mount point, or the one above lets nobody write) is filled, the
  file that makes it valid last, if it is empty; else it is an error.

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

from facke_core._files.owners import HIDDEN, cannot_move, gone, hidden_name, live, owner_name
from facke_core.errors import FackeError

__all__ = [
    "check_regular",
    "check_size",
    "leftovers",
    "new_folder",
    "replacing",
    "restored",
    "write_bytes",
]

DAY = 86400.0
_USER = os.getuid() if os.name == "posix" else 0
_REFUSED = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


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
        if path.exists():
            _give_rights(path, part)
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
def new_folder(path: Path, *, replace: bool = False, last: str = "") -> Iterator[Path]:
    """Give a folder to fill: it becomes ``path`` at the end, or goes on an error.

    Args:
        path: where to. Folders above it are made.
        replace: put it in the place of a folder that is there, with all that is in it.
        last: name of the file in it without which the others are nothing.

    Raises:
        OSError: it cannot be written; ``path`` is a file or, without ``replace``, a folder that is
            not empty, or with it one that cannot be replaced.
    """
    path = Path(os.path.realpath(path))  # a link to a folder stays
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = cannot_move(path) if path.is_dir() else ""
    if fixed and any(not each.name.startswith(HIDDEN) for each in path.iterdir()):
        why = f"not empty, and cannot be replaced as a whole: {fixed}" if replace else "not empty"
        raise OSError(errno.ENOTEMPTY, why, str(path))
    with _beside(path / path.name if fixed else path) as part:
        part.mkdir()
        yield part
        for entry in (*part.rglob("*"), part):
            if not entry.is_symlink() and (entry.is_file() or entry.is_dir()):
                _flush(entry)
        if fixed:
            for entry in sorted(part.iterdir(), key=lambda entry: entry.name == last):
                os.rename(entry, path / entry.name)
            _flush(path)
        elif replace and path.is_dir():
            _give_rights(path, part)
            _exchange(part, path)
        else:
            _put(part, path)
        _flush(path.parent)


def restored(path: Path) -> bool:
    """Put the new folder in its place if the writer that replaced ``path`` was killed at the moment
    when it was neither the old nor the new one; tell whether ``path`` is a folder."""
    with suppress(OSError):
        path = Path(os.path.realpath(path))
        if not path.exists():
            hidden = _hidden_beside(path)
            for left in filter(_dead, list(hidden.iterdir())):
                _remove(left)
            hidden.rmdir()
    return os.path.isdir(path)


def check_regular(path: Path) -> None:
    """Raise OSError where a file is to be read that may have no end, or never begin."""
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        reason = "a pipe or a device, not a file: save it to a file first"
        raise OSError(errno.EINVAL, reason, str(path))


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
def _beside(path: Path) -> Iterator[Path]:
    """Give a path of the same name on the same file system, for this writer alone."""
    # one hidden folder for each place: what dead writers left is found without listing a folder
    # that may hold a hundred thousand pictures
    hidden = _hidden_beside(path)
    mine = hidden / owner_name()
    live.add(mine.name)
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
    except FackeError as error:
        place = str(mine / path.name)
        error.args = tuple(str(text).replace(place, str(path)) for text in error.args)
        raise
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        with suppress(OSError):
            hidden.rmdir()
        live.discard(mine.name)


def _hidden_beside(path: Path) -> Path:
    return path.parent / hidden_name(f"{_USER} {path.name}")


def _give_rights(old: Path, new: Path) -> None:
    """Give a file or folder the rights of the one that it replaces."""
    try:
        os.chmod(new, stat.S_IMODE(old.stat().st_mode) & 0o777)
    except OSError as error:
        if error.errno not in _REFUSED:  # by disks that know no rights
            raise


def _put(part: Path, path: Path) -> None:
    """Give a folder its name, which may be that of an empty one."""
    try:
        os.rename(part, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        os.rmdir(path)  # some disks rename to no name that is there; what is not empty stays
        os.rename(part, path)


def _dead(left: Path) -> bool:
    """Tell whether the writer of a folder with such a name is gone, or a day has passed."""
    dead = gone(left.name)
    try:
        return time.time() - left.stat().st_mtime > DAY if dead is None else dead
    except OSError as error:
        return error.errno == errno.ESRCH


def _remove(left: Path) -> None:
    """Take away what a dead writer left, or finish what it had all but finished."""
    with suppress(OSError):  # another writer does the same
        new = next((part for part in left.iterdir() if part.name != left.name), left)
        path = left.parent.parent / new.name
        if (left / left.name).exists() and new != left and not path.exists():
            os.rename(new, path)  # killed in _exchange
        gone = left.with_name(owner_name())
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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
