"""The one writer of files and folders, and the lock that keeps two jobs out of one place."""

from __future__ import annotations

from facke_core._files.jobs import one_job
from facke_core._files.owners import HIDDEN
from facke_core._files.whole import (
    check_regular,
    check_size,
    leftovers,
    new_folder,
    replacing,
    restored,
    sha256_of,
    write_bytes,
)

__all__ = [
    "HIDDEN",
    "check_regular",
    "check_size",
    "leftovers",
    "new_folder",
    "one_job",
    "replacing",
    "restored",
    "sha256_of",
    "write_bytes",
]
