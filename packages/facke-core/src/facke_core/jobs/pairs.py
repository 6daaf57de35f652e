"""Pairs say which source is put on which target: photographs of a CSV, or rows of a dataset.

A picture is known by its content: its key is the SHA-256 of its file. Names of files mean nothing
to the results, and a set of pairs has a digest that every report carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from facke_core._files import sha256_of
from facke_core.data.tables import read_csv
from facke_core.errors import DataError, UsageError, did_you_mean
from facke_core.images.files import SUFFIXES, pictures_in

if TYPE_CHECKING:
    import torch

    from facke_core.data.crops import CropSet

__all__ = ["PairSet", "PictureRef", "SwapPair", "pairs_of_dataset", "read_pairs"]

Rule = Literal["facke", "paper", "weighted"]
"""How pairs are drawn from a dataset: see :class:`facke_core.data.pairs.PairConfig`."""
DRAWN = 1000
"""Pairs that are drawn from a dataset when nobody says how many."""
_FIRST = 5


class PictureRef(NamedTuple):
    """A photograph, or a row of a dataset."""

    name: str
    """How reports call it."""
    identity: str
    """Who is on it."""
    key: str
    """SHA-256 of the file, in hexadecimal digits; empty where it cannot be read."""
    path: Path | None = None
    """Place of a photograph; None for a row."""
    row: int | None = None
    """Number of the row in :attr:`PairSet.crops`; None for a photograph."""
    fault: str = ""
    """Why the file cannot be read; empty if it can."""
    clip: str = ""
    """The clip of which a target is a frame; empty: of none."""


class SwapPair(NamedTuple):
    """A pair to swap: whose face goes where."""

    source: PictureRef
    """It gives the identity."""
    target: PictureRef
    """It gives everything else."""
    reference: PictureRef | None = None
    """Another photograph of the source's person, with which the result is compared."""

    @property
    def compared(self) -> PictureRef:
        """The picture with which the result is compared: the reference, or else the source."""
        return self.reference or self.source


class SamePair(NamedTuple):
    """Two pictures, and whether they show one person."""

    a: PictureRef
    b: PictureRef
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """The pairs of an evaluation, in order."""

    pairs: Sequence[SwapPair]
    name: str
    """Name of the CSV or the dataset."""
    crops: CropSet | None = field(default=None, repr=False)
    """The dataset whose rows the pictures are; None where they are photographs."""

    def __len__(self) -> int:
        return len(self.pairs)

    def first(self, n: int | None) -> PairSet:
        """Return the first n pairs; all, where n is None."""
        return self if n is None else replace(self, pairs=self.pairs[:n])

    @property
    def sources(self) -> tuple[PictureRef, ...]:
        """The different source pictures, in order of appearance."""
        return _distinct(pair.source for pair in self.pairs)

    @property
    def targets(self) -> tuple[PictureRef, ...]:
        """The different target pictures, in order of appearance."""
        return _distinct(pair.target for pair in self.pairs)

    @property
    def compared(self) -> tuple[PictureRef, ...]:
        """The different pictures with which results are compared, in order of appearance."""
        return _distinct(pair.compared for pair in self.pairs)

    @property
    def digest(self) -> str:
        """SHA-256 over the contents of the pictures, who shows the same person, the clips, and the
        order, in hexadecimal digits."""
        number: dict[str, int] = {}
        total = hashlib.sha256()
        for pair in self.pairs:
            people = [number.setdefault(picture.identity, len(number)) for picture in pair[:2]]
            clip = [pair.target.clip] if pair.target.clip else []
            total.update(" ".join([*_keys(pair), *map(str, people), *clip]).encode() + b"\n")
        return total.hexdigest()


def read_pairs(file: Path) -> PairSet:
    """Read pairs of photographs from a CSV with the columns ``source`` and ``target``.

    Paths are relative to the folder of the CSV. ``source_identity`` and ``target_identity`` say who
    is on them; without, every picture is a person of its own. ``reference`` may name a second
    photograph of the source's person, and ``clip`` the clip of which a target is a frame. One that
    cannot be read stays in its pairs, with the reason (:attr:`PictureRef.fault`).

    Raises:
        DataError: no such file, a column is missing, no pair is in it or none that can be read, a
            picture has two identities, or a source is its own reference.
    """
    read = _FileReader(file)
    named = []
    for line, row in _rows(file, ("source", "target")):
        who = row.get("source_identity") or ""
        source = read(row["source"], who, line)
        target = read(row["target"], row.get("target_identity") or "", line)
        target = target._replace(clip=row.get("clip") or "")
        reference = read(other, who, line) if (other := row.get("reference")) else None
        if reference is not None:
            read.one_person(source, reference, line)
        named.append(SwapPair(source, target, reference))
    if all(pair.source.fault or pair.target.fault for pair in named):
        read.check()
    pairs = [
        SwapPair(
            read.settled(pair.source),
            read.settled(pair.target),
            read.settled(pair.reference) if pair.reference else None,
        )
        for pair in named
    ]
    return PairSet(pairs=pairs, name=file.name)


def pairs_of_folder(source: Path, folder: Path) -> PairSet:
    """Pair one source with all pictures in a folder and the folders in it, sorted by their names.

    Raises:
        DataError: the source cannot be read, or there is no picture.
    """
    key, fault = _digest(source)
    if fault:
        raise DataError(f"The source {source} cannot be read: {fault}. Give a picture.")
    giver = PictureRef(str(source), "source", key, path=source)
    pairs = []
    for path in pictures_in(folder, deep=True):
        name, (key, fault) = path.relative_to(folder).as_posix(), _digest(path)
        pairs.append(SwapPair(giver, PictureRef(name, name, key, path=path, fault=fault)))
    if not pairs:
        raise DataError(f"No picture is in {folder}. Give a folder with {', '.join(SUFFIXES)}.")
    return PairSet(pairs=pairs, name=folder.name)


def read_same(file: Path) -> list[SamePair]:
    """Read real pairs for calibration from a CSV with columns ``a``, ``b`` and ``same`` (1 or 0).

    Raises:
        DataError: no such file, a column or a picture is missing, or a value is neither 0 nor 1.
    """
    read = _FileReader(file)
    pairs = []
    for line, row in _rows(file, ("a", "b", "same")):
        if row["same"] not in ("0", "1"):
            raise DataError(
                f"{file}, line {line}: same is {row['same']!r}. Write 1 where a and b show one "
                "person, else 0."
            )
        pairs.append(
            SamePair(read(row["a"], "", line), read(row["b"], "", line), row["same"] == "1")
        )
    read.check()
    return pairs


def key_of(pictures: Iterable[PictureRef | None]) -> str:
    """SHA-256 of the contents of the pictures of a pair, in hexadecimal digits: what is computed of
    a pair is known by it, whatever else is in a CSV."""
    return hashlib.sha256(" ".join(_keys(pictures)).encode()).hexdigest()


def _keys(pictures: Iterable[PictureRef | None]) -> list[str]:
    return [picture.key for picture in pictures if picture is not None]


def pairs_of_dataset(
    crops: CropSet, n: int | None = None, *, seed: int = 0, rule: Rule = "paper"
) -> PairSet:
    """Draw pairs of different people from a dataset of ``facke prepare``, with replacement.

    Args:
        crops: the dataset.
        n: how many; default: :data:`DRAWN`.
        seed: the draw follows from it and the dataset alone.
        rule: as in :class:`facke_core.data.pairs.PairConfig`.

    Raises:
        DataError: it shows fewer than two people.
    """
    from facke_core.data.pairs import PairConfig, PairSampler, People

    n = DRAWN if n is None else n
    people = People(crops.people.tolist(), crops.weights.tolist())
    config = PairConfig(rule=rule, intra=0.0)
    drawn = PairSampler(people, config=config, batch_size=n, composites=0, seed=seed)[0]
    names: Sequence[str] = crops.info.get("people", ())

    def picture(row: int) -> PictureRef:
        person = int(crops.people[row])
        identity = str(names[person]) if person < len(names) else str(person)
        return PictureRef(f"{identity}#{row}", identity, _row_key(crops, row), row=row)

    pairs = [SwapPair(picture(pair.source), picture(pair.target)) for pair in drawn]
    return PairSet(pairs=pairs, name=str(crops.info.get("name", "dataset")), crops=crops)


def _row_key(crops: CropSet, row: int) -> str:
    if crops.keys is not None:
        return bytes(crops.keys[row].numpy()).hex()
    return hashlib.sha256(crops.images[row : row + 1].numpy().tobytes()).hexdigest()


def _distinct(pictures: Iterator[PictureRef]) -> tuple[PictureRef, ...]:
    return tuple({picture.key: picture for picture in reversed(list(pictures))}.values())[::-1]


def _rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    columns, rows = read_csv(file, str(file), strict=True)
    for column in needed:
        if column not in columns:
            raise DataError(
                f"{file} has no column {column!r}, only: {', '.join(columns) or 'none'}."
                f"{did_you_mean(column, columns if len(columns) > 1 else ())} The first line has "
                f"to name {', '.join(needed)}, with commas between them."
            )
    if not rows:
        raise DataError(f"{file} names no pair. Add lines with {', '.join(needed)}.")
    yield from rows


class _FileReader:
    """A reader of each file once; what is missing is collected and told together."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, dict[Path, tuple[str, str]]()
        self._missing: list[str] = []
        self._told: dict[str, tuple[str, str]] = {}
        """Picture -> who is on it, and where the CSV says so; nowhere: its name stands for it."""
        self._same: dict[str, str] = {}
        """Picture -> another one of the same person, which says who that is."""

    def __call__(self, name: str | None, identity: str, line: int) -> PictureRef:
        if not name:
            raise DataError(f"{self._file}, line {line}: a path is empty. Fill it in.")
        path = self._file.parent / name
        if path not in self._read:
            self._read[path] = key, fault = _digest(path)
            if fault:
                self._missing.append(f"line {line}: {name} ({fault})")
        key, fault = self._read[path]
        picture = PictureRef(name, identity or name, key, path=path, fault=fault)
        self._tell(picture, (picture.identity, f"line {line}" if identity else ""))
        return picture

    def _tell(self, picture: PictureRef, who: tuple[str, str]) -> None:
        """Note who is on a picture, and on all others of the same person."""
        first = self._first(picture)
        told = self._told.get(first, ("", ""))
        if who[1] and told[1] and told[0] != who[0]:
            raise DataError(
                f"{self._file}: the picture {picture.name} shows {told[0]!r} by {told[1]}, and "
                f"{who[0]!r} by {who[1]}. Nobody is two people: correct one of them."
            )
        if who[1] or not told[0]:
            self._told[first] = who

    def _first(self, picture: PictureRef) -> str:
        content = _content(picture)
        while content in self._same:
            content = self._same[content]
        return content

    def one_person(self, source: PictureRef, reference: PictureRef, line: int) -> None:
        """Note that both show one person, whoever that is."""
        if _content(source) == _content(reference):
            raise DataError(
                f"{self._file}, line {line}: the reference {reference.name} is the source itself. "
                "Name another photograph of the same person, or leave it empty."
            )
        first, other = self._first(source), self._first(reference)
        if first != other:
            self._tell(source, self._told.pop(other))
            self._same[other] = first

    def settled(self, picture: PictureRef) -> PictureRef:
        """The picture with the identity that any line of the CSV gives it."""
        return picture._replace(identity=self._told[self._first(picture)][0])

    def check(self) -> None:
        if self._missing:
            n, more = len(self._missing), len(self._missing) - _FIRST
            raise DataError(
                f"{self._file} names {n} {'picture' if n == 1 else 'pictures'} that cannot be "
                f"read: {'; '.join(self._missing[:_FIRST])}"
                f"{f' and {more} more' if more > 0 else ''}. Paths are relative to the folder "
                f"{self._file.absolute().parent}"
            )


def _content(picture: PictureRef) -> str:
    return picture.key or f"no file {picture.name}"


def _digest(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of a file, and why it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            return "", "it is no file"
        return sha256_of(path), ""
    except (OSError, ValueError) as error:  # a name with a NUL is no OSError
        return "", str(error.strerror if isinstance(error, OSError) else error)


def pairs_from(
    *, file: Path | None, data: Path | None, limit: int | None, seed: int, rule: Rule = "paper"
) -> PairSet:
    """Read the pairs of ``file``, or draw some from the dataset ``data``, or from its test part.

    Args:
        file: a CSV for :func:`read_pairs`.
        data: the folder of a dataset.
        limit: the first pairs of the CSV; how many are drawn from the dataset. None: all, or
            :data:`DRAWN`.
        seed: seed of the draw.
        rule: how they are drawn.

    Raises:
        UsageError: neither or both of ``file`` and ``data``.
        DataError: they cannot be used.
    """
    if (file is None) == (data is None):
        raise UsageError("Give either a CSV of pairs or a dataset to draw them from.")
    if file is not None:
        return read_pairs(file).first(limit)
    from facke_core.data.crops import CropSet

    assert data is not None
    test = data / "test"
    folder = test if (test / "dataset.json").is_file() else data
    return pairs_of_dataset(CropSet.load(folder), limit, seed=seed, rule=rule)


def noise(seed: int | None, source: PictureRef, target: PictureRef) -> torch.Generator:
    """Return the random numbers of a pair, from a generator on the CPU.

    Its seed, 0 to 2**63 - 1, follows from ``seed`` and the contents of the two pictures alone; None
    counts as 0.
    """
    import torch

    text = f"{seed or 0}/{source.key}/{target.key}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)
