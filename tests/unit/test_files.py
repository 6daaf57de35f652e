"""The one writer: killed and refused at every step, for files and for folders."""

from __future__ import annotations

import ast
import ctypes
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facke_core._files import leftovers, new_folder, owners, replacing, whole, write_bytes

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = b"old " * 1000, b"new! " * 3000

WRITER = f"""
import json, os, shutil, signal, sys
from pathlib import Path

import facke_core._files as files

OLD, NEW = {OLD!r}, {NEW!r}
_, kind, place, how = sys.argv
place = Path(place)
steps = 0


def at(name, do, before=lambda *_: None):
    "Count a step; at the one that was asked for, die in its middle, or fail."
    def step(*args, **options):
        global steps
        steps += 1
        if steps == limit:
            print(json.dumps(name), flush=True)
            before(*args)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(5, "Input/output error")
        return do(*args, **options)
    return step


def half(part, data):
    with open(part, "wb") as file:
        file.write(data[: len(data) // 2])


def write(part, data):
    with open(part, "wb") as file:
        file.write(data)


def install():
    Path.write_bytes = at("write", write, half)
    for name in ("mkdir", "rmdir", "fsync", "replace", "rename", "open"):
        setattr(os, name, at(name, getattr(os, name)))
    if kind == "aside":
        import ctypes
        ctypes.CDLL = lambda _: object()
    elif kind == "exchange":
        import ctypes
        real = ctypes.CDLL(None)
        step = at("renameat2", real.renameat2)
        class Library:
            def renameat2(*args):
                try:
                    return step(*args)
                except OSError:
                    return -1
        ctypes.CDLL = lambda _: Library


def attempt():
    if kind == "file":
        files.write_bytes(place, NEW)
        return
    with files.new_folder(place, replace=kind != "folder") as part:
        for name in ("a", "b"):
            (part / name).write_bytes(NEW)


for limit in map(int, sys.stdin):
    child = os.fork()
    if not child:
        install()
        try:
            attempt()
        except OSError as error:
            os._exit(1 if error.errno == 5 else 2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(["ended", status]), flush=True)
"""


class Writer:
    """A process whose children write to a place, each until its n-th step."""

    def __init__(self, kind: str, place: Path, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, kind, str(place), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, limit: int) -> tuple[str, int]:
        """The step that it ended at (empty if it came to its end), and its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{limit}\n")
        self.process.stdin.flush()
        step = ""
        for line in self.process.stdout:
            said = json.loads(line)
            if not isinstance(said, str):
                return step, said[1]
            step = said
        raise AssertionError("the writer ended")


@pytest.fixture
def start() -> Iterator[Any]:
    writers: list[Writer] = []

    def make(kind: str, place: Path, how: str) -> Writer:
        writers.append(Writer(kind, place, how))
        return writers[-1]

    yield make
    for writer in writers:
        writer.process.communicate()


def put(kind: str, place: Path) -> None:
    """What is there before."""
    if kind == "file":
        place.write_bytes(OLD)
    elif kind != "folder":
        place.mkdir()
        for name in ("a", "b", "c"):
            (place / name).write_bytes(OLD)


def content(place: Path) -> Any:
    if not place.exists():
        return None
    if place.is_file():
        return place.read_bytes()
    return {path.name: path.read_bytes() for path in place.iterdir()}


def clear(place: Path) -> None:
    if place.is_dir():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    place.unlink(missing_ok=True)


KINDS = ["file", "folder", "exchange", "aside"]


def outcomes(kind: str) -> tuple[Any, Any]:
    if kind == "file":
        return OLD, NEW
    old = None if kind == "folder" else dict.fromkeys(("a", "b", "c"), OLD)
    return old, dict.fromkeys(("a", "b"), NEW)


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_that_is_killed_at_any_step_leaves_the_old_or_the_new(
    kind: str, tmp_path: Path, start: Any
) -> None:
    place, steps = tmp_path / "place", []
    writer, old_or_new = start(kind, place, "kill"), outcomes(kind)
    for limit in range(1, 200):
        clear(place)
        put(kind, place)
        step, code = writer.until(limit)
        if not step:
            assert code == 0
            break
        assert code == -9
        steps.append(step)
        if kind == "aside" and not place.exists():
            leftovers(tmp_path, remove=True)
        assert content(place) in old_or_new, (limit, step)
        clear(place)
        put(kind, place)
        if kind == "file":
            write_bytes(place, NEW)
        else:
            with new_folder(place, replace=True) as part:
                (part / "a").write_bytes(NEW)
        assert os.listdir(tmp_path) == ["place"], (limit, step)
    rename = {"file": "replace", "exchange": "renameat2"}.get(kind, "rename")
    assert {"mkdir", "write", "fsync", rename, "rmdir"} <= set(steps)
    assert steps.index("write") < steps.index("fsync") < steps.index(rename)
    assert "fsync" in steps[steps.index(rename) :]  # of the folder
    assert content(place) == old_or_new[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_any_step_leaves_the_old_or_the_new_and_nothing_else(
    kind: str, tmp_path: Path, start: Any
) -> None:
    place = tmp_path / "place"
    writer, old_or_new = start(kind, place, "fail"), outcomes(kind)
    for limit in range(1, 200):
        clear(place)
        put(kind, place)
        step, code = writer.until(limit)
        if not step:
            break
        assert content(place) in old_or_new, (limit, step)
        if code:  # some steps have another way
            assert code == 1
            assert step in ("mkdir", "write", "fsync", "open", "replace", "rename"), (limit, step)
            assert content(place) == old_or_new[0] or step in ("fsync", "open"), (limit, step)
            assert set(os.listdir(tmp_path)) <= {"place"}, (limit, step)
        else:
            assert content(place) == old_or_new[1]
            assert step in ("mkdir", "rmdir", "open", "renameat2"), (limit, step)
        leftovers(tmp_path, remove=True)
    assert limit > 8


def test_a_kill_between_the_two_renames_is_mended_by_the_next_write(
    tmp_path: Path, start: Any
) -> None:
    place, seen = tmp_path / "place", []
    writer = start("aside", place, "kill")
    for limit in range(1, 200):
        clear(place)
        put("aside", place)
        step, _ = writer.until(limit)
        if not step:
            break
        if place.exists():
            continue
        seen.append(step)
        with pytest.raises(OSError, match="not empty"), new_folder(place) as part:
            (part / "c").write_bytes(b"")
        assert content(place) == outcomes("aside")[1]
    assert seen == ["rename"]


def test_each_step_of_a_write_to_a_file_can_fail_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    place = tmp_path / "place"
    for where, name in [(os, "fsync"), (os, "replace"), (Path, "write_bytes")]:
        place.write_bytes(OLD)
        with monkeypatch.context() as patched:
            patched.setattr(where, name, refuse)
            with pytest.raises(OSError, match="Input/output"):
                write_bytes(place, NEW)
        assert content(tmp_path) == {"place": OLD}, name


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_file_system_that_refuses_to_flush_folders_loses_no_write(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.fsync, []

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            refused.append(handle)
            raise OSError(reason, os.strerror(reason))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "a", NEW)
    with new_folder(tmp_path / "f") as part:
        (part / "b").write_bytes(NEW)
    assert len(refused) == 3
    assert (tmp_path / "a").read_bytes() == (tmp_path / "f" / "b").read_bytes() == NEW


def test_a_file_of_which_only_a_part_was_kept_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(OLD)
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: real(path, data[:-1]))
    with pytest.raises(OSError, match="14999 of 15000 bytes were kept"):
        write_bytes(tmp_path / "a", NEW)
    assert content(tmp_path) == {"a": OLD}


def test_files_get_the_rights_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
        with new_folder(tmp_path / "f"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o750


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to("far/real")
    (tmp_path / "chain").symlink_to("link")
    write_bytes(tmp_path / "chain", NEW)
    assert (tmp_path / "chain").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "far") == {"real": NEW}
    (tmp_path / "far" / "real").unlink()
    write_bytes(tmp_path / "link", NEW)  # which points nowhere
    assert content(tmp_path / "far") == {"real": NEW}
    assert sorted(os.listdir(tmp_path)) == ["chain", "far", "link"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_rights(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").write_bytes(OLD)
    (tmp_path / "a").chmod(mode)
    with replacing(tmp_path / "a") as part:
        part.write_bytes(NEW)
        assert part.parent.stat().st_mode & 0o077 == 0
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
    assert content(tmp_path) == {"a": NEW}


def test_pipes_and_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", NEW)
    reader.join(10)
    assert got == [NEW]
    write_bytes(tmp_path / "null", NEW)
    assert not Path(os.devnull).is_file()
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]


def test_names_of_any_length_can_be_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("n" * 255), b"1")
    with pytest.raises(OSError, match="too long"):
        write_bytes(tmp_path / ("n" * 256), b"1")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_errors_name_the_place_and_not_the_hidden_one(tmp_path: Path) -> None:
    place = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError) as error:
        write_bytes(place, b"1")
    assert error.value.filename == str(place)


def test_a_second_file_that_a_library_writes_comes_along(tmp_path: Path) -> None:
    with replacing(tmp_path / "g.onnx") as part:
        assert part.name == "g.onnx"
        part.write_bytes(b"graph")
        part.with_name("g.onnx.data").write_bytes(b"tensors")
    assert content(tmp_path) == {"g.onnx": b"graph", "g.onnx.data": b"tensors"}


def test_a_folder_with_something_in_it_is_replaced_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with new_folder(tmp_path / "f") as part:  # it is empty
        (part / "a").write_bytes(b"1")
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "f"):
        pass
    assert content(tmp_path / "f") == {"a": b"1"}
    (tmp_path / "f").chmod(0o700)
    with new_folder(tmp_path / "f", replace=True) as part:
        (part / "b").write_bytes(b"2")
    assert content(tmp_path / "f") == {"b": b"2"}
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["f"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link", replace=True) as part:
        (part / "a").write_bytes(b"1")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == {"a": b"1"}


def test_folders_change_places_in_one_step_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("no renameat2")
    (tmp_path / "f").mkdir()
    monkeypatch.setattr(os, "rename", None)
    with new_folder(tmp_path / "f", replace=True) as part:
        (part / "a").write_bytes(b"1")
    assert content(tmp_path / "f") == {"a": b"1"}


def _often(place: Path, letter: bytes) -> None:
    for _ in range(60):
        write_bytes(place, letter * 5000)


def test_many_processes_may_write_to_one_place(tmp_path: Path) -> None:
    place = tmp_path / "a"
    write_bytes(place, b"0" * 5000)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_often, args=(place, b"%d" % k)) for k in range(3)]
    threads = [threading.Thread(target=_often, args=(place, b"%d" % k)) for k in (3, 4)]
    writers: list[Any] = [*processes, *threads]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen = place.read_bytes()
        assert (len(set(seen)), len(seen)) == (1, 5000)
    for writer in writers:
        writer.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["a"]


def test_a_writer_that_ends_may_take_the_hidden_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir
    taken: list[Path] = []

    def mkdir(path: Path, mode: int = 0o777) -> None:
        real(path, mode)
        if len(taken) < 3 and Path(path).parent == tmp_path:
            os.rmdir(path)
            taken.append(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    write_bytes(tmp_path / "a", NEW)
    assert len(taken) == 3
    assert content(tmp_path) == {"a": NEW}


def _left_behind(place: Path, writer: str) -> Path:
    with replacing(place) as part:
        part.write_bytes(b"half")
        left = part.parent.parent / writer
        os.rename(part.parent, left)
        part.parent.mkdir()
        part.write_bytes(b"whole")
    return left


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "a"
    here = owners._HOST
    left = _left_behind(place, f"{here}-1-{owners._started(1)}-aaaa")  # process 1 lives
    write_bytes(place, b"1")
    assert left.exists()
    left = left.rename(left.with_name("elsewhere-7-aaaa"))  # and so may one of another machine
    write_bytes(place, b"1")
    assert left.exists()
    assert leftovers(tmp_path, remove=True) == []
    long_ago = time.time() - 2 * whole.DAY
    os.utime(left, (long_ago, long_ago))
    write_bytes(place, b"1")
    assert os.listdir(tmp_path) == ["a"]


def test_a_process_that_had_our_number_is_dead(tmp_path: Path) -> None:
    _left_behind(tmp_path / "a", f"{owners._HOST}-{os.getpid()}-aaaa")
    assert leftovers(tmp_path) == ["a"]
    assert leftovers(tmp_path, remove=True) == ["a"]
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


# Nobody else

MODULES = {"os", "shutil", "tempfile", "torch"}
FORBIDDEN = {
    *("os.replace", "os.rename", "os.renames", "os.fsync", "os.link", "os.symlink", "shutil.move"),
    *("tempfile.mkstemp", "tempfile.mkdtemp", "tempfile.NamedTemporaryFile", "torch.save"),
    *(".replace", ".rename", ".write_bytes", ".write_text", ".touch", ".symlink_to", "save_file"),
    "open to write",
}
ALLOWED = {
    ("facke_core/backends/rewrites.py", ".replace"): "a node of a graph",
    ("facke_core/data/shards.py", "open to write"): "what replacing() gives",
    ("facke_core/data/tensors.py", "open to write"): "what replacing() gives",
    ("facke_core/testing/checking.py", ".write_text"): "into a temporary folder",
    ("facke_core/training/logs.py", "open to write"): "lines are added, or nothing",
    ("facke_core/training/trainer.py", "save_file"): "into what new_folder() gives",
    ("facke_core/video/animations.py", ".write_bytes"): "into what replacing() gives",
    ("facke_core/video/codecs.py", "open to write"): "os.devnull",
    ("facke_core/video/segments.py", "open to write"): "what replacing() gives, and os.devnull",
    ("facke_core/video/writing.py", "open to write"): "what replacing() gives, and os.devnull",
    ("facke_core/weights/licenses.py", ".touch"): "an empty file",
    ("facke_core/weights/rewriting.py", "os.link"): "files that stay get a name in the new folder",
}


def _calls(tree: ast.AST) -> Iterator[str]:
    """``os.replace`` for a function of a module, ``.replace`` for a method, and names as such."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
        if name == "open" and any(isinstance(one, str) and {*"wax+"} & {*one} for one in modes):
            yield "open to write"
        elif isinstance(function, ast.Name):
            yield name
        elif isinstance(function, ast.Attribute):
            owner = getattr(function.value, "id", "")
            texts_or_fields = name == "replace" and (len(node.args) != 1 or node.keywords)
            if owner in MODULES or not texts_or_fields:
                yield f"{owner if owner in MODULES else ''}.{name}"


def test_nobody_else_renames_or_writes_files() -> None:
    found = set()
    for folder in ROOT.glob("packages/*/src/facke_*"):
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder.parent).as_posix()
            if not name.startswith("facke_core/_files/") and "template" not in path.parts:
                called = set(_calls(ast.parse(path.read_text("utf-8"))))
                found |= {(name, call) for call in called & FORBIDDEN}
    assert found == ALLOWED.keys()
