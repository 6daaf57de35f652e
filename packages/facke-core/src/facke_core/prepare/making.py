"""One crop set in the making: which photographs count, what must be computed, and the result."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facke_core._files import leftovers
from facke_core.data.crops import IDENTITY, INDEX, UNFINISHED, write_tables
from facke_core.data.info import Store
from facke_core.data.shards import TarShard, digits_for, key_rows, shard_path, shards_of
from facke_core.data.tensors import Column
from facke_core.errors import DataError, FackeWarning
from facke_core.prepare.known import Bucket, KnownCrops, skipped_columns
from facke_core.prepare.photos import Album, Photograph, file_keys, shown
from facke_core.prepare.portraits import UNREADABLE, Done, Job, Preparation
from facke_core.prepare.summary import PrepareSummary, write_csv
from facke_core.prepare.workers import Workers
from facke_core.types import Progress

__all__: list[str] = []

_AHEAD = 4
"""Number of jobs per worker that wait or run."""


class Making:
    """A crop set in the making: call :meth:`sort_out`, :meth:`compute`, :meth:`assemble` in order.

    Args:
        photos: the folder that paths are relative to.
        album: the photographs.
        folder: the folder of the set; its subfolder for unfinished work is there.
        preparation: the way in which crops are made.
        encoder: ``{"name": ..., **settings}``.
        encoder_digest: what :func:`~facke_core.identity.digest.encoder_digest` says of it.
        store: the form of the shards.
        workers: number of processes.
        on_progress: called with what is done, how much of it, and how much there is.
    """

    def __init__(
        self,
        photos: Path,
        album: Album,
        folder: Path,
        *,
        preparation: Preparation,
        encoder: Mapping[str, Any],
        encoder_digest: str,
        store: Store,
        workers: int,
        on_progress: Progress,
    ) -> None:
        self.photos, self.album, self.folder = photos, album, folder
        self.store: Store = store
        self.preparation, self.encoder, self.workers = preparation, encoder, workers
        self.on_progress = on_progress
        self.started = time.perf_counter()
        self.known = KnownCrops(
            preparation.digest(), encoder_digest, with_mesh=not preparation.aligned
        )
        self.keys: dict[str, bytes] = {}
        """Keys of all files that can be read, by path."""
        self.first: dict[bytes, Photograph] = {}
        """Photograph of each key; of several the first by path."""
        self.digits = 1
        self.passing: set[bytes] = set()
        self.worked = self.detected = self.embedded = 0
        self.decoding = self.busy = self.working = 0.0

    def sort_out(self) -> None:
        """Compute the keys, and find what is known already."""
        paths, done = [picture.path for picture in self.album.pictures], 0

        def one_more() -> None:
            nonlocal done
            done += 1
            self.on_progress("reading", done, len(paths))

        keys_or_errors = file_keys(self.photos, paths, workers=self.workers, on_file=one_more)
        self.keys = {path: key for path, key in keys_or_errors.items() if isinstance(key, bytes)}
        for picture in self.album.pictures:
            if picture.path in self.keys:
                self.first.setdefault(self.keys[picture.path], picture)
        self.digits = digits_for(len(self.first))
        self.known.add_dataset(self.folder / INDEX, self.folder / IDENTITY)
        for part in sorted((self.folder / UNFINISHED).glob("*.safetensors")):
            self.known.add_part(part)
        for shard in sorted(self.folder.glob("crops-*")):
            self.known.add_shard(shard)

    def compute(self) -> None:
        """Make what is missing, shard by shard.

        Raises:
            DataError: the disk is full, or no worker can be started; finished shards are kept.
            FackeError: the detector or the encoder cannot be used.

        Warns:
            FackeWarning: a picture is left out because a worker died with it in hand.
        """
        keys = sorted(self.first)
        begin, done = time.perf_counter(), 0
        workers = Workers(
            self.workers, (os.getcwd(), self.photos, self.preparation, dict(self.encoder))
        )
        waiting: deque[tuple[Bucket, bytes, Job | None, Future[Done] | None]] = deque()

        def settle() -> None:
            nonlocal done
            bucket, key, job, future = waiting.popleft()
            if job is not None and future is not None:
                self._take(bucket, key, job, workers.result(job, future))
            done += 1
            self.on_progress("preparing", done, len(keys))
            if key == bucket.keys[-1]:
                with self._writing(done, len(keys)):
                    bucket.finish(self.preparation.alignment.size)
                self.passing |= bucket.passing

        try:
            for name, start, end in shards_of(keys, self.digits):
                bucket = self._bucket(name, keys[start:end])
                for key in bucket.keys:
                    job = bucket.job(key, self.first[key].path)
                    future = workers.submit(job) if job else None
                    waiting.append((bucket, key, job, future))
                    while len(waiting) > _AHEAD * self.workers:
                        settle()
            while waiting:
                settle()
        finally:
            workers.close()
        self.working = time.perf_counter() - begin

    def _bucket(self, name: str, keys: list[bytes]) -> Bucket:
        part = self.folder / UNFINISHED / f"{name}.safetensors"
        shard = shard_path(self.folder, name, self.store)
        return Bucket(keys, shard=shard, part=part, known=self.known)

    def _take(self, bucket: Bucket, key: bytes, job: Job, done: Done) -> None:
        bucket.take(key, done)
        self.decoding += done.decoding
        self.busy += done.seconds
        self.worked += 1
        self.detected += job.crop is None
        self.embedded += done.portrait is not None

    @contextmanager
    def _writing(self, done: int, total: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be written: {error.strerror or error}. The shards that are "
                f"finished are kept ({done} of {total} pictures were seen): make room and run the "
                "same command again."
            ) from error

    def assemble(self, info: Mapping[str, Any]) -> PrepareSummary:
        """Write the tables and the report, and take away what is no longer needed.

        Args:
            info: the entries of ``dataset.json`` that do not follow from the pictures.

        Raises:
            DataError: no picture can be used, or the disk is full.
        """
        known = self.known
        reasons = {key: known.reasons[key] for key in self.first if key in known.reasons}
        unused = reasons.keys() | self.passing
        used = [key for key in sorted(self.first) if key not in unused]
        summary = self._summary(used, reasons)
        if not used:
            shutil.rmtree(self.folder / UNFINISHED)
            leftovers(self.folder, remove=True)
            why = Counter(summary.skipped.values()).most_common()
            raise DataError(
                f"None of the {summary.pictures} pictures in {self.photos} can be used: "
                f"{', '.join(f'{reason} {count}' for reason, count in why)}. "
                f"The first is {next(iter(summary.skipped))}."
            )
        people = sorted({self.first[key].person for key in used})
        sources = Counter(self.first[key].source for key in used)
        info = {
            **info,
            "store": self.store,
            "digits": self.digits,
            "preparation": known.preparation,
            "people": people,
            "sources": {name: sources[name] for name in sorted(sources) if name},
            "skipped": dict(sorted(Counter(summary.skipped.values()).items())),
        }
        with self._writing(len(self.first), len(self.first)):
            write_csv(self.folder, self.album, self.keys, summary)
            write_tables(
                self.folder,
                info,
                used,
                self._index(used, people, reasons),
                self._column("embeddings", used),
                preparation=known.preparation,
            )
            self._clean_up(used)
        if len(people) == 1:
            warnings.warn(
                f"All {len(used)} crops show one person, {people[0]}: no identity can be swapped "
                "in training. Add people.",
                FackeWarning,
                stacklevel=2,
            )
        return summary

    def _index(
        self, used: list[bytes], people: list[str], reasons: Mapping[bytes, str]
    ) -> dict[str, Column]:
        number = {person: index for index, person in enumerate(people)}
        pictures = [self.first[key] for key in used]
        columns = {
            "keys": Column.of(key_rows(used)),
            "people": Column.of(torch.tensor([number[picture.person] for picture in pictures])),
            "weights": Column.of(torch.tensor([picture.weight for picture in pictures])),
            **skipped_columns(reasons),
        }
        if self.known.with_mesh:
            columns["mesh"] = self._column("mesh", used)
        if self.store == "webdataset":
            offsets: list[int] = []
            for path in self._shards(used):
                shard = self.known.shards[path]
                assert isinstance(shard, TarShard)
                offsets += shard.offsets
            columns["offsets"] = Column.of(torch.tensor(offsets))
        return columns

    def _column(self, name: str, used: list[bytes]) -> Column:
        first_row = self.known.column(name, used[0])

        def parts() -> Iterator[Tensor]:
            rows = iter(used)
            while chunk := list(islice(rows, 512)):
                yield torch.stack([self.known.column(name, key) for key in chunk])

        return Column(first_row.dtype, (len(used), *first_row.shape), parts())

    def _shards(self, used: list[bytes]) -> list[Path]:
        return [
            shard_path(self.folder, name, self.store) for name, _, _ in shards_of(used, self.digits)
        ]

    def _clean_up(self, used: list[bytes]) -> None:
        kept = set(self._shards(used))
        shards = [*self.folder.glob("crops-*"), *self.folder.glob("crops.safetensors")]
        stale = [path for path in shards if path not in kept]
        for path in stale:
            path.unlink()
        leftovers(self.folder, remove=True)
        shutil.rmtree(self.folder / UNFINISHED)

    def _summary(self, used: list[bytes], reasons: Mapping[bytes, str]) -> PrepareSummary:
        skipped: dict[str, str] = {}
        duplicates: dict[str, str] = {}
        shared: dict[str, str] = {}
        for picture in self.album.pictures:
            key = self.keys.get(picture.path)
            first = self.first[key] if key else picture
            if key is None or key in self.passing or key in reasons:
                reason = UNREADABLE if key is None else reasons.get(key, UNREADABLE)
                skipped[shown(picture.path)] = reason
            elif first != picture:
                group = duplicates if first.person == picture.person else shared
                group[shown(picture.path)] = shown(first.path)
        count = Counter(self.first[key].person for key in used)
        return PrepareSummary(
            out=self.folder,
            pictures=len(self.album.pictures),
            crops=len(used),
            people=len(count),
            skipped=skipped,
            duplicates=duplicates,
            shared=shared,
            empty=tuple(sorted(self.album.people - count.keys())),
            single=tuple(sorted(person for person in count if count[person] == 1)),
            beside=tuple(map(shown, self.album.beside)),
            detected=self.detected,
            embedded=self.embedded,
            workers=self.workers,
            seconds=time.perf_counter() - self.started,
            images_per_second=self.worked / self.working,
            decoding=self.decoding / self.busy if self.busy else 0.0,
        )
