"""Hidden names, and the names by which a file tells what process it belongs to."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["HIDDEN", "cannot_move", "gone", "hidden_name", "live", "owner_name", "process_of"]

HIDDEN = ".facke-"
"""The beginning of all names that are there for a while only."""
_HOST = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8] if os.name == "posix" else "-"
live: set[str] = set()
"""The names of the writers and the jobs of this process."""


def hidden_name(name: str) -> str:
    """Make a name for what lies beside the place of that name, and is not to be seen."""
    return f"{HIDDEN}{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def cannot_move(folder: Path) -> str:
    """Say why a folder cannot be replaced by another one; empty if it can."""
    if os.path.ismount(folder):
        return "it is a mount point"
    if not os.access(folder.parent, os.W_OK):
        return f"{folder.parent} lets you write nothing into it"
    with suppress(OSError):  # the working folder is gone
        if Path.cwd().is_relative_to(folder):
            return "it is the folder that you are in"
    return ""


def owner_name() -> str:
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


def gone(owner: str) -> bool | None:
    """Tell whether the process that made such a name is gone; None: it is of another machine."""
    host, number, started, *_ = [*owner.split("-"), "", "", ""]
    if host != _HOST or not number.isdecimal():
        return None
    pid = int(number)
    if pid == os.getpid():  # another one may have had our number
        return owner not in live
    try:
        os.kill(pid, 0)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return True
    now = _started(pid)
    return bool(started and now and started != now)


def process_of(owner: str) -> str:
    """Name the process that made such a name."""
    host, pid, *_ = [*owner.split("-"), "", ""]
    return f"process {pid or 'unknown'}{'' if host in (_HOST, '') else ' of another machine'}"
