"""The finds of earlier preparations, by key: whatever is there is not computed again.

Three places are looked at: the dataset itself, the shards of its pictures, and the parts that an
interrupted preparation left. A damaged file counts as absent.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from facke_core.data.shards import (
    SUFFIX,
    Shard,
    TarShard,
    TensorShard,
    key_list,
    key_rows,
    write_shard,
)
from facke_core.data.tensors import Column, read_tensors, write_tensors
from facke_core.errors import DataError
from facke_core.faces.mesh import SIZE
from facke_core.prepare.portraits import REASONS, Done, Job, Portrait

__all__: list[str] = []

_DAMAGE = (DataError, OSError, ValueError, KeyError, IndexError, tarfile.TarError)


class KnownCrops:
    """Crops, meshes, vectors and reasons that need no computing.

    Args:
        preparation: digest of the way in which crops are made; crops, meshes and reasons of another
            one do not count.
        encoder: digest of the encoder; vectors of another one do not count.
        with_mesh: a crop without its mesh is not enough.
    """

    def __init__(self, preparation: str, encoder: str, *, with_mesh: bool) -> None:
        self.preparation, self.encoder, self.with_mesh = preparation, encoder, with_mesh
        self.reasons: dict[bytes, str] = {}
        self.shards: dict[Path, Shard] = {}
        self._crops: dict[bytes, tuple[Shard, int]] = {}
        self._meshes: dict[bytes, tuple[Tensor, int]] = {}
        self._vectors: dict[bytes, tuple[Tensor, int]] = {}

    def has_crop(self, key: bytes) -> bool:
        """Tell whether the crop is known, with its mesh where that is needed."""
        return key in self._crops and (not self.with_mesh or key in self._meshes)

    def has_vectors(self, key: bytes) -> bool:
        """Tell whether the vectors of the crop are known."""
        return key in self._vectors

    def crop(self, key: bytes) -> Tensor:
        """The known crop (3, S, S) uint8 of a photograph."""
        shard, row = self._crops[key]
        return shard[row]

    def column(self, name: str, key: bytes) -> Tensor:
        """The known ``mesh`` (478, 2) or ``embeddings`` (2, D) of a photograph."""
        rows, row = self._vectors[key] if name == "embeddings" else self._meshes[key]
        return rows[row]

    def add_dataset(self, index: Path, identity: Path) -> None:
        """Add what the finished files of a dataset hold."""
        try:
            tensors, metadata = read_tensors(index)
            keys = key_list(tensors["keys"])
            if metadata.get("preparation") == self.preparation:
                self._add_rows(keys, tensors)
            vectors, about = read_tensors(identity)
            if about.get("encoder") == self.encoder and len(vectors["embeddings"]) == len(keys):
                self._add_vectors(keys, vectors["embeddings"])
        except _DAMAGE:
            return

    def add_part(self, path: Path) -> None:
        """Add what an interrupted preparation finished."""
        try:
            tensors, metadata = read_tensors(path)
            if metadata.get("preparation") == self.preparation:
                keys = key_list(tensors["keys"])
                self._add_rows(keys, tensors)
                if keys and metadata.get("encoder") == self.encoder:
                    self._add_vectors(keys, tensors["embeddings"])
        except _DAMAGE:
            return

    def add_shard(self, path: Path) -> None:
        """Add the pictures of a shard."""
        try:
            shard = TarShard(path) if path.suffix == SUFFIX["webdataset"] else TensorShard(path)
            if shard.preparation != self.preparation:
                return
            shard[len(shard.keys) - 1]
        except _DAMAGE:
            return
        self.shards[path] = shard
        self._crops |= {key: (shard, row) for row, key in enumerate(shard.keys)}

    def _add_rows(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        if self.with_mesh and keys:
            _check_rows("mesh", tensors["mesh"], (len(keys), SIZE, 2))
            self._meshes |= {key: (tensors["mesh"], row) for row, key in enumerate(keys)}
        skipped = key_list(tensors["skipped"])
        reasons = (REASONS[int(code)] for code in tensors["reasons"].flatten().tolist())
        self.reasons |= dict(zip(skipped, reasons, strict=True))

    def _add_vectors(self, keys: Sequence[bytes], vectors: Tensor) -> None:
        _check_rows("embeddings", vectors, (len(keys), 2, -1))
        self._vectors |= {key: (vectors, row) for row, key in enumerate(keys)}


def _check_rows(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless a table is float32, finite and of this shape, where -1 is any."""
    fits = tensor.dim() == 3 and all(
        want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != torch.float32 or not tensor.isfinite().all():
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, or not finite")


def skipped_columns(reasons: Mapping[bytes, str]) -> dict[str, Column]:
    """The columns of a table that name the pictures that are left out, by key, and why."""
    keys = sorted(reasons)
    codes = torch.tensor([REASONS.index(reasons[key]) for key in keys], dtype=torch.uint8)
    return {"skipped": Column.of(key_rows(keys)), "reasons": Column.of(codes)}


class Bucket:
    """The pictures of one shard on their way to the disk.

    Args:
        keys: the keys of all its photographs, ascending.
        shard: the file of the crops.
        part: the file in which everything else waits until the dataset is complete.
        known: what need not be computed.
    """

    def __init__(
        self, keys: Sequence[bytes], *, shard: Path, part: Path, known: KnownCrops
    ) -> None:
        self.keys, self.shard, self.part, self.known = keys, shard, part, known
        self.passing: set[bytes] = set()
        self._made: dict[bytes, Portrait] = {}
        self._left_out: dict[bytes, str] = {}

    def job(self, key: bytes, path: str) -> Job | None:
        """The job of a worker for a photograph; None where nothing must be computed."""
        known = self.known
        if key in known.reasons:
            return None
        if not known.has_crop(key):
            return Job(path, key)
        if known.has_vectors(key):
            return None
        try:
            return Job(path, key, known.crop(key).numpy())
        except _DAMAGE:
            return Job(path, key)

    def take(self, key: bytes, done: Done) -> None:
        """Take the answer to a job."""
        if done.portrait is not None:
            self._made[key] = done.portrait
        elif done.passing:
            self.passing.add(key)
        else:
            self._left_out[key] = done.reason

    def finish(self, size: int) -> None:
        """Write what is new, and remember it as known.

        Raises:
            OSError: the disk is full; what was there before stays.
        """
        known = self.known
        reasons = {key: known.reasons[key] for key in self.keys if key in known.reasons}
        reasons |= self._left_out
        used = [key for key in self.keys if key not in reasons and key not in self.passing]
        stored = known.shards.get(self.shard)
        if used and (stored is None or stored.keys != used):
            crops = (
                torch.from_numpy(self._made[key].crop) if key in self._made else known.crop(key)
                for key in used
            )
            write_shard(self.shard, used, crops, size=size, preparation=known.preparation)
            known.add_shard(self.shard)
        if self._made or self._left_out:
            columns = {"keys": key_rows(used)}
            names = ("mesh", "embeddings") if known.with_mesh else ("embeddings",)
            for name in names if used else ():
                columns[name] = torch.stack([self._row(name, key) for key in used])
            about = {"preparation": known.preparation, "encoder": known.encoder}
            written = {name: Column.of(tensor) for name, tensor in columns.items()}
            write_tensors(self.part, written | skipped_columns(reasons), about)
            known.add_part(self.part)
        self._made = {}

    def _row(self, name: str, key: bytes) -> Tensor:
        made = self._made.get(key)
        if made is None:
            return self.known.column(name, key)
        array = made.embedding if name == "embeddings" else made.mesh
        return self.known.column(name, key) if array is None else torch.from_numpy(array)
