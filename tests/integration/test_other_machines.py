"""Machines and disks that are not like this one: pipes, no home, caches and folders of others."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from facke_core import _files, default_registry, environment
from facke_core._files import new_folder, replacing, restored, whole, write_bytes
from facke_core.backends import graphs
from facke_core.errors import UnavailableError, WeightsError
from facke_core.weights.licenses import first_time
from facke_core.weights.rewriting import rewriting
from facke_core.weights.sources import locate

READERS = [
    "inspect pipe",
    "faces pipe",
    "swap pipe sample:hopper -o out.png",
    "swap sample:collins sample:hopper -o out.png --weights ./pipe",
    "swap --pairs pipe -o out",
    "evaluate simswap --pairs pipe",
    "evaluate diff pipe pipe",
    "matrix --sources pipe --targets sample:hopper -o out.png",
    "weights convert pipe -o out",
    "weights convert pipe.onnx -o out",
    "weights push ./pipe hf:a/b",
    "prepare photos out --manifest pipe",
    "train pipe.json --data out --out run",
]


@pytest.mark.parametrize("words", READERS)
def test_a_pipe_is_refused_where_a_file_is_to_be_read(
    words: str, facke: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("pipe", "pipe.onnx", "pipe.json"):
        os.mkfifo(tmp_path / name)  # which nobody writes to
    (tmp_path / "photos").mkdir()
    before = sorted(tmp_path.iterdir())
    done = facke(*words.split())
    assert done.code == 2, done.err
    assert "pipe" in done.err
    assert "fault of facke" not in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_who_has_no_home_has_no_cache_and_no_fault(
    facke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FACKE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    cache = environment.cache_folder()
    assert not os.path.exists(cache)
    with pytest.raises(OSError, match="Not a directory"):
        cache.mkdir(parents=True)
    assert first_time("something") is first_time("something") is True
    done = facke("swap", "sample:collins", "sample:hopper", "-o", "a.png", "--weights", "~none/x")
    assert done.code == 2
    assert "~none/x does not exist" in done.err


def test_a_graph_that_cannot_be_kept_is_made_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def write(generator: nn.Module, path: Path) -> None:
        with graphs.writing(path) as part:
            part.write_bytes(b"graph")
        made.append(path)

    monkeypatch.setattr(graphs, "write_graph", write)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "file" / "cache"))
    network = nn.Linear(1, 1)
    paths = [graphs.cached_graph(network) for _ in range(2)]
    assert paths == [made[0], made[0]]
    assert made[0].read_bytes() == b"graph"
    assert len(made) == 1
    with pytest.raises(WeightsError, match="FACKE_CACHE moves the cache"):
        write(network, tmp_path / "file" / "g.onnx")


def test_sockets_get_a_short_folder_where_that_of_temporary_files_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiprocessing import util

    long = tmp_path / ("x" * 98)
    long.mkdir()
    asked: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(util, "get_temp_dir", lambda: asked.append(_tempdir()))
    environment.short_temporary_folder()
    assert len(asked[0]) < 70
    assert _tempdir() == str(long)
    monkeypatch.setattr(environment, "_SHORT", ())
    with pytest.raises(UnavailableError, match="Let TMPDIR name a folder with at most 70"):
        environment.short_temporary_folder()


def _tempdir() -> str:
    import tempfile

    return tempfile.gettempdir()


# -- disks -----------------------------------------------------------------------------------------


def test_a_disk_without_rights_loses_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "f").mkdir()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_bytes(tmp_path / "a", b"new")
    with new_folder(tmp_path / "f", replace=True) as part:
        (part / "b").write_bytes(b"new")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "f" / "b").read_bytes() == b"new"


def test_a_disk_that_renames_to_no_name_that_is_there_loses_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        if os.path.exists(new):
            raise FileExistsError(errno.EEXIST, "File exists")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    (tmp_path / "f").mkdir()
    with new_folder(tmp_path / "f") as part:
        (part / "a").write_bytes(b"new")
    assert os.listdir(tmp_path / "f") == ["a"]
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "f"):
        pass


@pytest.mark.parametrize("reason", ["it is a mount point", "the folder that you are in"])
def test_a_folder_that_cannot_be_renamed_is_filled_once_the_last_file_last(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, order = tmp_path / "place", list[str]()
    place.mkdir()
    real = os.rename
    if "mount" in reason:
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == place)
    else:
        monkeypatch.chdir(place)

    def rename(old: Path, new: Path) -> None:
        order.append(new.name)
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with rewriting(place) as part:
        for name in ("config.json", "model.safetensors", "zzz"):
            (part / name).write_text("{}")
    assert sorted(os.listdir(place)) == sorted(order) == ["config.json", "model.safetensors", "zzz"]
    assert order[-1] == "config.json"
    with pytest.raises(OSError, match=reason), rewriting(place) as part:
        pass
    assert len(os.listdir(place)) == 3


def test_a_reader_puts_the_folder_back_whose_writer_was_killed_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = locate("simswap", registry=default_registry()).folder
    assert folder is not None
    place = tmp_path / "w"
    place.mkdir()
    hidden = whole._hidden_beside(place)
    dead = hidden / f"{_files.owners._HOST}-{2**22 + 1}--aaaa"
    dead.mkdir(parents=True)
    place.rename(dead / dead.name)  # the old one stepped aside
    (dead / "w").mkdir()
    for name in ("config.json", "model.safetensors"):
        (dead / "w" / name).write_bytes((folder / name).read_bytes())
    assert locate(str(place), registry=default_registry()).config.method == "simswap"
    assert os.listdir(tmp_path) == ["w"]
    assert restored(place)
    assert not restored(tmp_path / "none")


def test_messages_of_an_error_name_the_place_and_not_the_hidden_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught, replacing(tmp_path / "a") as part:
        raise WeightsError(f"{part} is no good.")
    assert str(caught.value) == f"{tmp_path / 'a'} is no good."


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y cannot be used: Per"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "A file cannot be used: No space"),
        (OSError(errno.EROFS, "Read-only file system", b"/x"), 2, "/x cannot be used: Read-only"),
        (MemoryError(), 4, "This needs more memory than this process can get (MemoryError). Take"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), 4, "This needs more mem"),
        (OSError(errno.EPIPE, "Broken pipe"), 1, "unexpected BrokenPipeError"),
        (OSError("of a decoder"), 1, "unexpected OSError"),
        (ValueError("x"), 1, "unexpected ValueError"),
    ],
)
def test_what_memory_or_a_disk_refuses_is_no_fault_of_facke(
    error: Exception,
    code: int,
    said: str,
    facke: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("facke_cli.main._run", fail)
    done = facke("methods")
    assert done.code == code
    assert done.err.startswith(f"facke: {said}"), done.err


def test_weights_that_replace_others_share_no_file_with_them(tmp_path: Path) -> None:
    place = tmp_path / "w"
    place.mkdir()
    (place / "README.md").write_text("mine")
    (place / "notes").write_text("mine")
    kept = os.open(place / "README.md", os.O_RDONLY)
    with rewriting(place) as part:
        write_bytes(part / "README.md", b"new")
    assert os.read(kept, 9) == b"mine"
    os.close(kept)
    assert (place / "README.md").read_text() == "new"
    assert (place / "notes").read_text() == "mine"
