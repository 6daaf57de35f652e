"""Crops on disk: shards of pictures whose keys begin alike, memory-mapped or as WebDataset tars.

The key of a picture is the SHA-256 of its file. A shard holds the pictures whose keys begin with
the same hexadecimal digits, which are its name, in the order of the keys. So a picture stays in its
shard whatever else is added or taken away.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from facke_core._files import check_size, replacing
from facke_core.data.info import Store
from facke_core.data.tensors import Column, read_tensors, write_tensors
from facke_core.errors import MAX_SIDE, DataError

__all__: list[str] = []

SUFFIX: dict[Store, str] = {"tensors": ".safetensors", "webdataset": ".tar"}
MAX_ROWS = 512
"""Largest mean number of pictures per shard; in a large set at least a sixteenth of it are in
each."""
MAX_PNG = 4 * MAX_SIDE**2
"""Largest size in bytes of a picture in a tar."""
_BLOCK = tarfile.BLOCKSIZE
_BROKEN = (EOFError, SyntaxError, struct.error)
"""Errors of Pillow for a damaged PNG, besides OSError and ValueError."""
_ABOUT = "facke preparation"


class CropSource(Protocol):
    """Crops that are read when they are asked for; a tensor (N, 3, S, S) is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor | slice, /) -> Tensor:
        """The pictures (B, 3, S, S) uint8 RGB of an index (B,) int64 or a slice."""
        ...


class SomePictures:
    """Some pictures of a source, by their rows (N,) there."""

    def __init__(self, source: CropSource | Tensor, rows: Tensor) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice, /) -> Tensor:
        return self.source[self.rows[index]]


def digits_for(count: int) -> int:
    """The number of hexadecimal digits that name a shard in a set of ``count`` pictures."""
    digits = 1
    while count > MAX_ROWS * 16**digits:
        digits += 1
    return digits


def shard_path(folder: Path, name: str, store: Store) -> Path:
    """The path of the shard whose keys begin with the digits ``name``."""
    return folder / f"crops-{name}{SUFFIX[store]}"


def shards_of(keys: Sequence[bytes], digits: int) -> Iterator[tuple[str, int, int]]:
    """Split sorted keys into shards: the name, first row and end of each."""
    begin = 0
    for row in range(1, len(keys) + 1):
        name = keys[begin].hex()[:digits]
        if row == len(keys) or keys[row].hex()[:digits] != name:
            yield name, begin, row
            begin = row


class TensorShard:
    """A shard as a memory-mapped safetensors file; ``shard[row]`` is a picture (3, S, S) uint8.

    Raises:
        OSError, KeyError, ValueError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        self._path = path
        self._images = images = tensors["images"]
        self.keys = key_list(tensors["keys"])
        self.side = images.shape[-1] if images.dim() else 0
        if images.dtype != torch.uint8 or images.shape != (len(self.keys), 3, self.side, self.side):
            raise ValueError(f"{path.name} holds {images.dtype} {tuple(images.shape)}")
        self.preparation = metadata.get(_ABOUT, "")

    def __getitem__(self, row: int) -> Tensor:
        return self._images[row]

    def __reduce__(self) -> tuple[type[TensorShard], tuple[Path]]:
        return type(self), (self._path,)  # another process maps the file, too


class TarShard:
    """A shard as PNGs in an uncompressed tar, each found by its offset; ``shard[row]`` is a picture
    (3, S, S) uint8.

    Args:
        path: the tar.
        offsets: bytes at which the pictures' headers begin; without them the tar is read through.
        keys: the keys of these pictures.

    Raises:
        OSError, TarError, ValueError: it is missing, damaged or holds other pictures. A picture
            that is damaged in itself is a DataError once it is asked for.
    """

    def __init__(self, path: Path, offsets: Sequence[int] = (), keys: Sequence[bytes] = ()) -> None:
        self.path, self.offsets, self.keys = path, list(offsets), list(keys)
        if not self.offsets:
            self.offsets, self.keys = _members(path)
        with self._open(0) as picture:
            self.preparation = str(picture.info.get(_ABOUT, ""))
            self.side = picture.size[0]
        if len(self.offsets) > 1:
            self._open(-1).close()  # a tar cut short lacks its end

    def __getitem__(self, row: int) -> Tensor:
        try:
            with self._open(row) as picture:
                return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        except (*_BROKEN, OSError, ValueError, tarfile.TarError) as error:
            raise DataError(
                f"{self.path} is damaged: picture {row} cannot be read ({error}). Delete it, and "
                "run facke prepare on the dataset again."
            ) from error

    def _open(self, row: int) -> PIL.Image.Image:
        # opened anew each time: thousands of shards would be too many open files
        with self.path.open("rb") as file:
            file.seek(self.offsets[row])
            member = tarfile.TarInfo.frombuf(file.read(_BLOCK), "ascii", "strict")
            if member.name != f"{self.keys[row].hex()}.png":
                raise ValueError(f"{self.path} holds other pictures than its index says")
            if member.size > MAX_PNG:
                raise ValueError(f"{self.path} holds a picture of {member.size} bytes")
            content = file.read(member.size)
        if len(content) != member.size:
            raise ValueError(f"{self.path} is cut short")
        picture = PIL.Image.open(io.BytesIO(content), formats=["PNG"])
        width, height = picture.size
        if picture.mode != "RGB" or width != height or width > MAX_SIDE:
            raise ValueError(f"{self.path} holds a picture of {width}x{height} {picture.mode}")
        return picture


def _members(path: Path) -> tuple[list[int], list[bytes]]:
    """Return where the header of each picture of a tar begins, and its key."""
    offsets, keys = [], []
    with path.open("rb") as file:
        while (block := file.read(_BLOCK)).strip(b"\0"):
            member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            if not member.isreg() or member.size > MAX_PNG:
                raise ValueError(f"{path.name} holds something else than pictures")
            offsets.append(file.tell() - _BLOCK)
            keys.append(bytes.fromhex(member.name.removesuffix(".png")))
            file.seek(-(-member.size // _BLOCK) * _BLOCK, io.SEEK_CUR)
    return offsets, keys


Shard = TensorShard | TarShard


class StoredPictures:
    """The crops of all shards, in the order of their keys."""

    def __init__(self, shards: Sequence[Shard], size: int) -> None:
        self._shards, self._size = list(shards), size
        self._ends = torch.tensor([len(shard.keys) for shard in shards]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Tensor | slice, /) -> Tensor:
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        if not len(index):
            return torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
        if int(index.min()) < 0 or int(index.max()) >= len(self):
            raise IndexError(f"rows {index.tolist()} of {len(self)} pictures")
        where = torch.bucketize(index, self._ends, right=True)
        rows = index - torch.cat([self._ends.new_zeros(1), self._ends])[where]
        pairs = zip(where.tolist(), rows.tolist(), strict=True)
        return torch.stack([self._shards[shard][row] for shard, row in pairs])


def write_shard(
    path: Path, keys: Sequence[bytes], images: Iterable[Tensor], *, size: int, preparation: str
) -> None:
    """Write a shard of crops (3, ``size``, ``size``) uint8 in the order of their keys.

    Args:
        path: its suffix says the form (:data:`SUFFIX`).
        keys: one per crop, ascending.
        images: the crops; taken one after the other.
        size: side of the crops in pixels.
        preparation: digest of the way in which the crops were made, kept in the shard.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    if path.suffix == SUFFIX["webdataset"]:
        _write_tar(path, keys, images, preparation)
        return
    columns = {
        "keys": Column.of(key_rows(keys)),
        "images": Column(torch.uint8, (len(keys), 3, size, size), images),
    }
    write_tensors(path, columns, {_ABOUT: preparation})


def _write_tar(
    path: Path, keys: Sequence[bytes], images: Iterable[Tensor], preparation: str
) -> None:
    from webdataset.writer import TarWriter

    about = PngInfo()
    about.add_text(_ABOUT, preparation)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
                for key, image in zip(keys, images, strict=True):
                    png = io.BytesIO()
                    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
                    PIL.Image.fromarray(pixels).save(png, format="PNG", pnginfo=about)
                    tar.write({"__key__": key.hex(), "png": png.getvalue()})
            size = file.tell()
        check_size(temporary, size)


def key_list(rows: Tensor) -> list[bytes]:
    """The keys of a tensor (N, 32) uint8.

    Raises:
        ValueError: it is another tensor.
    """
    if rows.dtype != torch.uint8 or rows.dim() != 2 or rows.shape[1] != 32:
        raise ValueError(f"keys are {rows.dtype} {tuple(rows.shape)}")
    return [bytes(row) for row in rows.numpy()]


def key_rows(keys: Sequence[bytes]) -> Tensor:
    """The keys as a tensor (N, 32) uint8."""
    if not keys:
        return torch.empty(0, 32, dtype=torch.uint8)
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), 32)
