"""The report of a preparation: what became of the photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facke_core._files import write_bytes
from facke_core.data.tables import csv_text
from facke_core.prepare.photos import Album, shown

__all__ = ["PrepareSummary"]

CSV = "pictures.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSummary:
    """The finds and the work of a preparation."""

    out: Path
    """Folder of the set."""
    pictures: int
    """Number of files in the folders of people."""
    crops: int
    """Number of crops in the set."""
    people: int
    """Number of people with at least one crop."""
    skipped: Mapping[str, str]
    """Path -> the reason why the picture is not used."""
    duplicates: Mapping[str, str]
    """Path -> path of the same file that is used, of the same person."""
    shared: Mapping[str, str]
    """Path -> path of the same file that is used, of another person: one of the two must be
    wrong."""
    empty: tuple[str, ...]
    """People without a usable picture."""
    single: tuple[str, ...]
    """People with one picture, who take no part in Identity Grouping."""
    beside: tuple[str, ...]
    """Paths of files beside the folders of people, which were not looked at."""
    detected: int
    """Number of pictures that were read, searched and cropped; the others were known."""
    embedded: int
    """Number of crops whose vectors were computed; those of the others were known."""
    workers: int
    seconds: float
    """Wall time of the whole preparation."""
    images_per_second: float
    """Number of pictures and crops that were worked on, per second."""
    decoding: float
    """Share of the workers' time for reading and decoding files, 0 to 1."""


def write_csv(
    folder: Path, album: Album, keys: Mapping[str, bytes], summary: PrepareSummary
) -> None:
    """Write ``pictures.csv``, with a line per photograph.

    Raises:
        OSError: it cannot be written.
    """
    rows = []
    for picture in album.pictures:
        path, key = shown(picture.path), keys.get(picture.path, b"").hex()
        status, reason = "used", ""
        if path in summary.skipped:
            status, reason = "skipped", summary.skipped[path]
        elif path in summary.duplicates:
            status, reason = "duplicate", f"same file as {summary.duplicates[path]}"
        elif path in summary.shared:
            status, reason = "duplicate", f"same file as {summary.shared[path]}, another person"
        rows.append((path, picture.person, key, status, reason))
    text = csv_text(("path", "person", "key", "status", "reason"), rows)
    write_bytes(folder / CSV, text.encode())
