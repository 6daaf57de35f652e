"""The two files that ``torch.save`` writes, read as views on the file.

Since torch 1.6 it is a zip archive that holds a pickle and one member per storage; before, a
stream of pickles with the storages behind. Sizes are compared with the bytes that are there before
anything is allocated, and nothing is decompressed, so a file costs about what its pickle needs.
"""

from __future__ import annotations

import io
import mmap
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facke_core._files import check_regular
from facke_core.convert.unpickler import Global, Record, Storage, StoredTensor, Window, read_pickle
from facke_core.errors import VerificationError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__: list[str] = []

DTYPES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
"""Class of a storage in the file -> its dtype and bytes per number."""

_ITEM = dict(DTYPES.values())
_MAX_DIRECTORY = 4 * 2**20
_MEMBER = re.compile(
    r"(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|data/\d{1,20}"
    r"|\.data/serialization_id)"
)
_MAGIC = 0x1950A86A20F9469CFC6C
_BAD = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


class Contents:
    """A checkpoint file: the value that its pickle describes, and the numbers of its tensors."""

    def __init__(self, path: Path, root: Any, views: Mapping[str, memoryview]) -> None:
        self.path, self.root, self._views = path, root, views
        self.size = path.stat().st_size

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor itself; it shares the memory of the file where its place there is aligned."""
        import torch

        dtype, storage = getattr(torch, stored.storage.dtype), stored.storage
        if 0 in stored.shape:
            return torch.empty(stored.shape, dtype=dtype)
        item = _ITEM[storage.dtype]
        start = storage.start * item
        view = self._views[storage.key][start : start + storage.numel * item]
        numbers = torch.frombuffer(view, dtype=torch.uint8)
        if numbers.data_ptr() % item:
            numbers = numbers.clone()
        if dtype is torch.bool:
            numbers = numbers.ne(0)
        return numbers.view(dtype).as_strided(stored.shape, stored.stride, stored.offset)


def open_checkpoint(path: Path) -> Contents:
    """Read a file written by ``torch.save``, in either form and under any name.

    Raises:
        WeightsError: there is no such file, or it is not one of torch.
        VerificationError: it is damaged, or claims more than it holds.
    """
    try:
        check_regular(path)
        if not path.stat().st_size:
            raise WeightsError(f"{path} is empty: nothing was downloaded. Get it again.")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Check its name.") from error
    try:
        if data[:4] == b"PK\x03\x04":
            return _open_zip(path, data)
        if data[257:262] == b"ustar":
            raise WeightsError(
                f"{path} is a tar archive, not a checkpoint. Unpack it and give the file inside."
            )
        return _open_legacy(path, data)
    except _BAD as error:
        raise VerificationError(
            f"{path} is no checkpoint that can be trusted: {_why(error)}. It is damaged, or made "
            "to do harm; nothing in it was executed. Get it again from where it was published."
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, LookupError):
        return "it refers to something that it does not hold"
    if isinstance(error, struct.error | EOFError | zipfile.BadZipFile):
        return "it is cut off, or its end is damaged"
    return str(error)[:300] or type(error).__name__


def _storage(pid: tuple[Any, ...], limit: int) -> Storage:
    """A storage as its persistent id describes it."""
    kind, key, numel = pid[1], pid[2], pid[4]
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
    if name not in DTYPES:
        raise ValueError(f"it has numbers of the unknown kind {name[:40]!r}")
    dtype, item = DTYPES[name]
    if not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise ValueError("it has a storage without a name or a size")
    if numel * item > limit:
        raise ValueError(f"it claims a storage of {numel} numbers, more than it holds")
    return Storage(key, dtype, numel)


# -- zip -----------------------------------------------------------------------------------------


class _Directory(io.RawIOBase):
    """The file as :mod:`zipfile` sees it: what it reads at once is bounded."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._data.tell(), 2: len(self._data)}[whence]
        if not 0 <= start + offset <= len(self._data):
            raise OSError("beyond the file")
        self._data.seek(start + offset)
        return start + offset

    def tell(self) -> int:
        return self._data.tell()

    def read(self, count: int = -1) -> bytes:
        if count > _MAX_DIRECTORY:
            raise ValueError("its archive lists more members than any checkpoint has")
        return self._data.read(_MAX_DIRECTORY if count < 0 else count)


def _open_zip(path: Path, data: mmap.mmap) -> Contents:
    members = _members(path, data)
    order = members.get("byteorder")
    if order and data[order.start : order.stop] != sys.byteorder.encode():
        raise ValueError("its numbers have the other byte order")
    views = {
        name[5:]: memoryview(data)[span.start : span.stop]
        for name, span in members.items()
        if name.startswith("data/")
    }

    def persistent(pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            return Record("persistent", pid)
        storage = _storage(pid, len(data))
        if storage.numel * _ITEM[storage.dtype] > len(views[storage.key]):
            raise ValueError(
                f"it claims {storage.numel} numbers of {storage.dtype} where "
                f"{len(views[storage.key])} bytes are"
            )
        return storage

    span = members["data.pkl"]
    return Contents(path, read_pickle(Window(data, span.start, span.stop), persistent), views)


def _members(path: Path, data: mmap.mmap) -> dict[str, slice]:
    """Name without the archive's own folder -> where the bytes of each member lie."""
    with zipfile.ZipFile(_Directory(data)) as archive:
        listed = archive.infolist()
    if not any(info.filename.endswith("/data.pkl") for info in listed):
        raise WeightsError(
            f"{path} is a zip archive, but not a checkpoint of torch: it holds no data.pkl. Unpack "
            "it, and give the checkpoint or the folder of the run that was in it."
        )
    if sum(info.file_size for info in listed) > len(data):
        raise ValueError("its archive has members that overlap")
    members: dict[str, slice] = {}
    folders = set()
    for info in listed:
        if "constants.pkl" in info.filename or "/code/" in info.filename:
            raise WeightsError(
                f"{path} is a TorchScript program, not a checkpoint: it holds code. Get the "
                "state dict that it was made from."
            )
        folder, _, name = info.filename.partition("/")
        folders.add(folder)
        if not _MEMBER.fullmatch(name) or name in members or folder in ("", "..") or "\\" in folder:
            raise ValueError(f"its archive has the odd member {info.filename[:80]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its member {name} is compressed, which torch never does")
        members[name] = _place(info, data)
    if len(folders) != 1 or "data.pkl" not in members:
        raise ValueError("its archive is not one folder with a data.pkl")
    return members


def _place(info: zipfile.ZipInfo, data: mmap.mmap) -> slice:
    header = data[info.header_offset : info.header_offset + 30]
    if header[:4] != b"PK\x03\x04" or len(header) != 30:
        raise ValueError(f"its member {info.filename[:80]!r} is not where the archive says")
    start = info.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))  # name, extra field
    stop = start + info.file_size
    if stop > len(data):
        raise ValueError(f"its member {info.filename[:80]!r} ends beyond the file")
    if zlib.crc32(memoryview(data)[start:stop]) != info.CRC:
        raise ValueError(f"its member {info.filename[:80]!r} is not what its checksum says")
    return slice(start, stop)


# -- the stream of pickles -----------------------------------------------------------------------


def _open_legacy(path: Path, data: mmap.mmap) -> Contents:
    position = 0

    def following(persistent: Any = None) -> Any:
        nonlocal position
        window = Window(data, position, len(data))
        value = read_pickle(window, persistent or (lambda pid: Record("persistent", pid)))
        position = window.position
        return value

    try:
        magic = following()
    except _BAD as error:
        magic = error
    if magic != _MAGIC:
        raise WeightsError(
            f"{path} is not a checkpoint: it is neither of the files that torch.save writes. "
            "Give the file as it was published, not a web page or an archive around it."
        )
    if following() != 1001:
        raise ValueError("it is of an unknown version of the format")
    system = following()
    if not isinstance(system, dict) or system.get("little_endian") != (sys.byteorder == "little"):
        raise ValueError("its numbers have the other byte order")
    roots: dict[str, Storage] = {}

    def persistent(pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid:
            return Record("persistent", pid)
        if pid[0] == "module" and len(pid) == 4:
            return pid[1]  # the class; its file and its source text follow, for nobody
        if pid[0] != "storage" or len(pid) != 6:
            return Record("persistent", pid)
        root = _storage(pid, len(data))
        same = roots.setdefault(root.key, root)
        if (same.numel, same.dtype) != (root.numel, root.dtype):
            raise ValueError("it describes one storage in two ways")
        return _part(root, pid[5])

    root = following(persistent)
    keys = following()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of its storages")
    views: dict[str, memoryview] = {}
    for key in keys:
        storage = roots[key]
        end = position + 8 + storage.numel * _ITEM[storage.dtype]
        (numel,) = struct.unpack("<q", data[position : position + 8])
        if numel != storage.numel or end > len(data) or key in views:
            raise ValueError("its storages are not as large as it says, or cut off")
        views[key] = memoryview(data)[position + 8 : end]
        position = end
    if roots.keys() != views.keys():
        raise ValueError("it lacks the numbers of some of its tensors")
    return Contents(path, root, views)


def _part(root: Storage, view: Any) -> Storage:
    """A storage, or the part of it that files of torch 0.x call a view."""
    if view is None:
        return root
    _, start, numel = view
    if type(start) is not int or type(numel) is not int or not 0 <= start <= start + numel:
        raise ValueError("it has a view of a storage that is none")
    if start + numel > root.numel:
        raise ValueError("it has a view beyond its storage")
    return Storage(root.key, root.dtype, numel, start)
