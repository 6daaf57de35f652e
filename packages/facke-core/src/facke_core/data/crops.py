"""Aligned crops of many people, with what training knows about each of them.

A crop set is a folder that ``facke prepare`` writes:

``dataset.json``: alignment, encoder, sources, people. Written last: where it is, all is there.
``index.safetensors``: key, person, weight and face mesh of each crop.
``identity.safetensors``: the encoder's vectors.
``crops-*.safetensors`` or ``crops-*.tar``: the pictures (:mod:`facke_core.data.shards`).
``pictures.csv``: what became of each photograph; for people, nothing reads it.

Rows are in the order of the keys. Everything is memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from facke_core.config import write_json
from facke_core.data.info import FORMAT, INFO, Store, read_info
from facke_core.data.shards import (
    CropSource,
    Shard,
    SomePictures,
    StoredPictures,
    TarShard,
    TensorShard,
    digits_for,
    key_list,
    key_rows,
    shard_path,
    shards_of,
    write_shard,
)
from facke_core.data.tensors import Column, read_tensors, write_tensors
from facke_core.errors import ConfigError, DataError
from facke_core.faces.mesh import SIZE
from facke_core.identity.digest import encoder_digest
from facke_core.protocols import IdentityEncoder

__all__ = ["CropSet"]

INDEX = "index.safetensors"
IDENTITY = "identity.safetensors"
UNFINISHED = ".unfinished"
"""Folder of what a preparation has made so far."""
SAMPLE = 4096
"""Vectors of a set that are looked at for its digest, at most."""
_DAMAGE = (OSError, ValueError, KeyError, tarfile.TarError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSet:
    """N aligned crops of S x S pixels."""

    images: CropSource | Tensor
    """Crops (N, 3, S, S) uint8 RGB: a tensor, or read when they are asked for by an index (B,)
    int64."""
    mesh: Tensor | None = None
    """Points (N, 478, 2) float32 of the face meshes, in pixels of the crops. None where nobody
    looked for landmarks, as of pictures that were aligned crops already."""
    embeddings: Tensor
    """Vectors (N, 2, D) float32, unit norm, of each crop and of its mirror image."""
    people: Tensor
    """Persons (N,) int64, by position in ``info["people"]``."""
    weights: Tensor
    """Weights (N,) float32 above 0: how often each crop is drawn, relative to the others."""
    keys: Tensor | None = None
    """Keys (N, 32) uint8, ascending: SHA-256 of the photographs' files. None for crops of no
    file."""
    info: Mapping[str, Any]
    """Content of ``dataset.json``."""

    def __len__(self) -> int:
        return len(self.people)

    @classmethod
    def load(cls, folder: Path) -> CropSet:
        """Open a crop set; ``folder/train`` where ``folder`` holds a set for training and one for
        testing.

        Raises:
            DataError: the folder holds none, one of an earlier version, an unfinished or a
                damaged one.
        """
        if not (folder / INFO).is_file() and (folder / "train" / INFO).is_file():
            folder = folder / "train"
        info = _info(folder)
        try:
            return cls(info=info, **_contents(folder, info))
        except _DAMAGE as error:
            raise DataError(
                f"{folder} cannot be read ({error}): it was changed or damaged, or a preparation "
                f"was interrupted. Run again: {prepare_call(folder, info)}"
            ) from error

    def digest(self) -> str:
        """The SHA-256 of what tells this set from others in ``dataset.json`` and the tables: which
        photographs of whom, framed how, with which vectors. Its name and its store are no part.

        Of large sets, some thousand vectors stand for all.
        """
        about = [self.info.get(key) for key in ("rows", "alignment", "aligned", "encoder_digest")]
        tables = [self.people, self.weights, self.embeddings[:: -(-len(self) // SAMPLE)]]
        digest = hashlib.sha256(json.dumps([about, len(self)], sort_keys=True).encode())
        for table in tables:
            digest.update(table.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def only(self, rows: Tensor) -> CropSet:
        """The crops where ``rows`` (N,), bool, is true; their pictures are read as before."""
        index = rows.nonzero()[:, 0]
        return replace(
            self,
            images=SomePictures(self.images, index),
            mesh=None if self.mesh is None else self.mesh[index],
            embeddings=self.embeddings[index],
            people=self.people[index],
            weights=self.weights[index],
            keys=None if self.keys is None else self.keys[index],
        )

    def without(self, file: Path) -> CropSet:
        """The crops without those of the people whom a file names, one a line, as
        ``info["people"]`` does.

        Raises:
            DataError: the file cannot be read, names nobody who is here, or everybody.
        """
        try:
            unwanted = {*file.read_text("utf-8").splitlines()}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read ({error}). Give a text file.") from error
        named = torch.tensor([name in unwanted for name in self.info.get("people", ())] or [False])
        rows = ~named[self.people.clamp(max=len(named) - 1)]
        if rows.all() or not rows.any():
            whom = "nobody" if rows.all() else "everybody"
            raise DataError(
                f"{file} names {whom} of the {len(named)} people of this dataset. Name them as its "
                f"{INFO} does, one a line."
            )
        return self.only(rows)

    def save(self, folder: Path) -> None:
        """Write crops that did not come from ``facke prepare``. Rows without keys are numbered.

        Raises:
            DataError: the keys are not in ascending order.
            OSError: the folder cannot be written.
        """
        count = len(self)
        keys = (
            [bytes(row) for row in self.keys.numpy()] if self.keys is not None else _numbers(count)
        )
        if keys != sorted(set(keys)):
            raise DataError("The keys of a crop set must be different and in ascending order.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INFO).unlink(missing_ok=True)
        digits = digits_for(count)
        size = self.images[:1].shape[-1]
        for name, begin, end in shards_of(keys, digits):
            path = shard_path(folder, name, "tensors")
            write_shard(path, keys[begin:end], self.images[begin:end], size=size, preparation="")
        index = {"keys": key_rows(keys), "people": self.people, "weights": self.weights}
        index |= {"mesh": self.mesh} if self.mesh is not None else {}
        columns = {name: Column.of(tensor) for name, tensor in index.items()}
        info = {**self.info, "store": "tensors", "digits": digits}
        write_tables(folder, info, keys, columns, Column.of(self.embeddings))


def write_tables(
    folder: Path,
    info: Mapping[str, Any],
    keys: Sequence[bytes],
    index: Mapping[str, Column],
    embeddings: Column,
    *,
    preparation: str = "",
) -> None:
    """Write everything but the pictures. ``dataset.json`` comes last and names what belongs to it.

    Args:
        folder: the folder of the set, which holds the shards already.
        info: the content of ``dataset.json``, without what follows from the rows.
        keys: the keys of all rows, ascending.
        index: the columns of ``index.safetensors``.
        embeddings: the encoder's vectors (N, 2, D).
        preparation: digest of the way in which the crops were made.

    Raises:
        OSError: it cannot be written.
    """
    info = {"format": FORMAT, **info, "count": len(keys), "rows": _digest(b"".join(keys))}
    about = {"preparation": preparation, "set": _stamp(info, "people")}
    write_tensors(folder / INDEX, index, about)
    about = {"encoder": str(info.get("encoder_digest", "")), "set": _stamp(info, "encoder_digest")}
    write_tensors(folder / IDENTITY, {"embeddings": embeddings}, about)
    try:
        write_json(folder / INFO, info)
    except ConfigError as error:
        raise error.__cause__ or error from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _stamp(info: Mapping[str, Any], key: str) -> str:
    """A digest that ties a file to the rows and the entry ``key`` of ``dataset.json``."""
    return _digest(json.dumps([info["rows"], info.get(key)]).encode())


def _info(folder: Path) -> dict[str, Any]:
    """Read ``dataset.json`` of a crop set of this format."""
    call = prepare_call(folder, {})
    if not (folder / INFO).is_file():
        if (folder / UNFINISHED).exists():
            raise DataError(
                f"The preparation of {folder} was not finished. Run the same facke prepare again; "
                "it goes on where it stopped."
            )
        raise DataError(f"{folder} is not a dataset: it has no {INFO}. Make one with: {call}")
    try:
        known, info = read_info(folder)
    except ConfigError as error:
        raise DataError(
            f"{folder / INFO} cannot be read ({error}). Make the dataset again with: {call}"
        ) from error
    version = known.format
    if version != FORMAT:
        hint = "Update facke, or m" if version > FORMAT else "M"
        raise DataError(
            f"{folder} has the format {version}, this version of facke reads {FORMAT}. "
            f"{hint}ake it again with: {call}"
        )
    return info


def _contents(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    index, about = read_tensors(folder / INDEX)
    identity, about_identity = read_tensors(folder / IDENTITY)
    keys = key_list(index["keys"])
    if (
        info["rows"] != _digest(b"".join(keys))
        or about.get("set") != _stamp(info, "people")
        or about_identity.get("set") != _stamp(info, "encoder_digest")
    ):
        raise ValueError(f"{INDEX}, {IDENTITY} and {INFO} do not belong together")
    _check_tables(info, index, identity["embeddings"])
    mesh = index.get("mesh")
    if mesh is not None and mesh.shape[1:] != (SIZE, 2):
        raise DataError(
            f"{folder} has meshes of {tuple(mesh.shape[1:])} numbers, this version of facke uses "
            f"{(SIZE, 2)}. Make it again with: {prepare_call(folder, info)}"
        )
    store = cast(Store, info["store"])
    offsets = index["offsets"].tolist() if store == "webdataset" else []
    shards: list[Shard] = []
    for name, begin, end in shards_of(keys, info["digits"]):
        path, expected = shard_path(folder, name, store), keys[begin:end]
        shard: Shard
        if store == "tensors":
            shard = TensorShard(path)
        else:
            shard = TarShard(path, offsets[begin:end], expected)
        if shard.keys != expected:
            raise ValueError(f"{path.name} holds other pictures than {INDEX} says")
        shards.append(shard)
    if not shards:
        raise ValueError("it holds no picture")
    side = int(info.get("alignment", {}).get("size", 0)) or shards[0].side
    if any(shard.side != side for shard in shards):
        raise ValueError(f"its pictures do not have {side} pixels")
    return {
        "images": StoredPictures(shards, side),
        "mesh": mesh,
        "embeddings": identity["embeddings"],
        "people": index["people"],
        "weights": index["weights"],
        "keys": index["keys"],
    }


def _check_tables(info: Mapping[str, Any], index: Mapping[str, Tensor], embeddings: Tensor) -> None:
    """Compare columns with what :class:`CropSet` says of them."""
    n, names = len(index["keys"]), len(info.get("people", ()))
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "people": (torch.int64, (n,)),
        "weights": (torch.float32, (n,)),
        "offsets": (torch.int64, (n,)),
        "mesh": (torch.float32, (n, -1, 2)),
        "embeddings": (torch.float32, (n, 2, -1)),
    }
    for name, tensor in {**index, "embeddings": embeddings}.items():
        dtype, shape = wanted.get(name, (tensor.dtype, tuple(tensor.shape)))
        fits = tensor.dim() == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are none")
    people, weights = index["people"], index["weights"]
    if n and (int(people.min()) < 0 or (names and int(people.max()) >= names)):
        raise ValueError("people are not those that it names")
    if not (weights > 0).all():
        raise ValueError("weights are not above 0")


def _numbers(n: int) -> list[bytes]:
    """Ascending keys for ``n`` rows, spread over all shards."""
    return [(row * 2**256 // n).to_bytes(32, "big") for row in range(n)]


def prepare_call(folder: Path, info: Mapping[str, Any], **other: Any) -> str:
    """The call of :func:`facke_core.prepare.prepare.prepare` that makes the set ``folder`` again,
    as messages name it, with ``other`` arguments than before."""
    name = os.fspath(folder.parent if info.get("split") else folder)
    if info.get("manifest"):
        other = {"manifest": str(info["manifest"]), **other}
    words = ["PHOTOS", repr(name), *(f"{key}={value!r}" for key, value in other.items())]
    return f"`prepare({', '.join(words)})`"


def _shortest(settings: Mapping[str, Any]) -> str | dict[str, Any]:
    """The name of an encoder alone, where it has no settings."""
    return dict(settings) if len(settings) > 1 else str(settings["name"])


def check_encoder(
    crops: CropSet, encoder: IdentityEncoder, settings: Mapping[str, Any], where: Path
) -> None:
    """Refuse a crop set whose vectors another encoder made than the one a training measures with.

    Args:
        crops: the set.
        encoder: the encoder that was built from ``settings``.
        settings: ``{"name": ..., **settings}``, a recipe's ``identity_encoder``.
        where: the folder of the set, for the message.

    Raises:
        DataError: they differ; names the call that computes the vectors anew.
    """
    have, digest = crops.info.get("identity_encoder"), crops.info.get("encoder_digest")
    if digest == encoder_digest(encoder, settings) or (not digest and have == dict(settings)):
        return
    made = json.dumps(have) if have else "an unknown encoder"
    differ = ", with other weights or settings" if have == dict(settings) else ""
    raise DataError(
        f"The vectors in {where} were made by {made}, the recipe's encoder is "
        f"{json.dumps(dict(settings))}{differ}. Compute them anew, which keeps the crops: "
        f"{prepare_call(where, crops.info, encoder=_shortest(settings))}"
    )
