"""Photographs of people on disk: their paths, the people on them, and their keys.

Nothing is decoded here. Paths are relative to the folder of the photographs, with slashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from facke_core._files import check_regular, sha256_of
from facke_core.data.tables import read_csv
from facke_core.errors import DataError, did_you_mean
from facke_core.images.files import is_hidden

__all__: list[str] = []

COLOUR_WEIGHT = 3.0
"""Weight in the draws of a coloured picture, relative to one without colours, where a manifest
tells which are which."""
SPLITS = ("train", "test")
LAYOUTS = """\
  PHOTOS/PERSON/1.jpg                      one folder per person
  PHOTOS/images/PERSON/1.jpg               the same, one level deeper
  PHOTOS/{train,test}/images/PERSON/1.jpg  VGGFace2-HQ
  Or name any layout with `manifest=...`, a CSV with the columns path and identity."""


class Photograph(NamedTuple):
    """One photograph."""

    path: str
    person: str
    weight: float = 1.0
    source: str = ""
    """Origin and licence, as far as a manifest tells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """The photographs of one dataset."""

    pictures: Sequence[Photograph]
    """Photographs, sorted by path."""
    people: frozenset[str]
    """Names of the people, also of those without any file."""
    beside: Sequence[str] = field(default=())
    """Paths of files beside the folders of people: nobody knows whom they show."""


def find_photos(photos: Path, manifest: Path | None = None) -> dict[str, Album]:
    """Find the photographs in a folder, per split: ``""``, or ``train`` and ``test``.

    Hidden files are left out; every other file counts as a picture until it is read.

    Raises:
        DataError: no such folder, no person in it, or a manifest that does not fit.
    """
    if not photos.is_dir():
        raise DataError(f"{photos} is not a folder. Give the folder of the photographs:\n{LAYOUTS}")
    if manifest is not None:
        return {"": _read_manifest(photos, manifest)}
    roots = {split: photos / split / "images" for split in SPLITS}
    roots = {split: root for split, root in roots.items() if root.is_dir()}
    if not roots:
        images = photos / "images"
        nested = images.is_dir() and any(entry.is_dir() for entry in images.iterdir())
        roots = {"": images if nested else photos}
    albums = {split: _album(photos, root) for split, root in roots.items()}
    for split, album in albums.items():
        if not album.pictures:
            at = f"{len(album.people)} folders" if album.people else "no folder of a person"
            more = f" and {len(album.beside)} files beside them" if album.beside else ""
            raise DataError(
                f"{roots[split]} holds {at}{more}, but no picture in the folder of a person. "
                f"Expected:\n{LAYOUTS}"
            )
    return albums


def _album(photos: Path, root: Path) -> Album:
    pictures, people, beside = [], set(), []
    for folder in _entries(root):
        if not folder.is_dir():
            beside.append(_relative(Path(folder), photos))
            continue
        person = shown(folder.name)
        people.add(person)
        for entry in _entries(Path(folder)):
            if entry.is_file() or entry.is_symlink():
                pictures.append(Photograph(_relative(Path(entry), photos), person))
    return Album(pictures=sorted(pictures), people=frozenset(people), beside=sorted(beside))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_hidden(entry.name))


def _relative(path: Path, photos: Path) -> str:
    return path.relative_to(photos).as_posix()


def shown(name: str) -> str:
    """The name of a file as text, also where it is not valid Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_manifest(photos: Path, manifest: Path) -> Album:
    columns, rows = read_csv(manifest, f"The manifest {manifest}")
    for needed in ("path", "identity"):
        if needed not in columns:
            raise DataError(
                f"The manifest {manifest} has no column {needed!r}, only: {', '.join(columns)}."
                f"{did_you_mean(needed, columns)} Needed are path and identity; mono, source and "
                "licence are used where they are there."
            )
    pictures: dict[str, Photograph] = {}
    for line, row in rows:
        picture = _picture(photos, row, f"{manifest}, line {line}")
        if picture.path in pictures:
            raise DataError(f"{manifest}, line {line}: {picture.path} was named before.")
        pictures[picture.path] = picture
    if not pictures:
        raise DataError(f"The manifest {manifest} names no picture.")
    return Album(
        pictures=sorted(pictures.values()), people=frozenset(p.person for p in pictures.values())
    )


def _picture(photos: Path, row: dict[str, str], where: str) -> Photograph:
    path, person = row["path"] or "", row["identity"] or ""
    if not path or not person:
        raise DataError(f"{where}: path and identity must not be empty. Fill them in.")
    if PurePosixPath(path).is_absolute() and Path(path).is_relative_to(photos):
        path = _relative(Path(path), photos)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(
            f"{where}: {path} is not inside {photos}. Paths in a manifest are relative to the "
            "folder of the photographs."
        )
    mono = row.get("mono")
    weight = COLOUR_WEIGHT if mono in ("0", "") else 1.0
    source = f"{row.get('source') or ''} {row.get('licence') or ''}".strip()
    return Photograph(PurePosixPath(path).as_posix(), person, weight, source)


def file_key(path: Path) -> bytes:
    """The key of a file: the 32 bytes of its SHA-256.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, which may never end.
    """
    check_regular(path)
    return bytes.fromhex(sha256_of(path))


def _key_or_error(path: Path) -> bytes | OSError:
    try:
        return file_key(path)
    except OSError as error:
        return error


def file_keys(
    photos: Path, paths: Sequence[str], *, workers: int, on_file: Callable[[], None]
) -> dict[str, bytes | OSError]:
    """The keys of files, or the errors of those that cannot be read, by path.

    Args:
        photos: the folder that paths are relative to.
        paths: the files.
        workers: files that are read at a time.
        on_file: called after each file.
    """
    keys_or_errors: dict[str, bytes | OSError] = {}
    remaining = iter(paths)
    with ThreadPoolExecutor(workers) as threads:
        while chunk := list(islice(remaining, 4096)):
            keys = threads.map(_key_or_error, (photos / path for path in chunk))
            for path, key in zip(chunk, keys, strict=True):
                keys_or_errors[path] = key
                on_file()
    return keys_or_errors
