"""One job per place: the second one is told, and a dead one keeps nobody out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facke_core._files import one_job, owners
from facke_core.errors import DataError
from facke_core.evaluation.rows import RowFiles
from facke_core.jobs.swapping import _begin

HOLD = """
import sys
from pathlib import Path
from facke_core._files import one_job
with one_job(Path(sys.argv[1]), beside=sys.argv[2] == "True"):
    print("held", flush=True)
    sys.stdin.read()
"""
REFUSALS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EACCES]


@pytest.fixture
def hold() -> Iterator[Any]:
    """Start processes that hold a place."""
    started: list[subprocess.Popen[str]] = []

    def start(place: Path, *, beside: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(place), str(beside)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A file system that refuses to lock files by the error of this number; 0: it does not."""

    def flock(*_: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("beside", [False, True])
def test_the_second_job_is_told_where_the_first_is_and_who(
    beside: bool, tmp_path: Path, hold: Any
) -> None:
    place = tmp_path / "new" / "place"
    first = hold(place, beside=beside)
    said = rf"\(process {first.pid}\) is at work on {place}\. Wait until it has finished"
    with pytest.raises(DataError, match=said), one_job(place, beside=beside):
        pass
    with one_job(tmp_path / "new" / "other", beside=beside):
        pass
    first.communicate()
    assert os.listdir(tmp_path) == []  # nothing came into it
    with one_job(place, beside=beside):
        place.mkdir(exist_ok=True)
        (place / "a").touch()
    assert os.listdir(tmp_path / "new") == ["place"]
    assert os.listdir(place) == ["a"]


@pytest.mark.parametrize("no_locks", [0, *REFUSALS], indirect=True)
@pytest.mark.parametrize("beside", [False, True])
def test_a_killed_job_keeps_nobody_out(
    beside: bool, no_locks: None, tmp_path: Path, hold: Any
) -> None:
    first = hold(tmp_path / "place", beside=beside)
    said = f"process {first.pid}"
    with pytest.raises(DataError, match=said), one_job(tmp_path / "place", beside=beside):
        pass
    first.kill()
    first.wait()
    with one_job(tmp_path / "place", beside=beside):
        (tmp_path / "place").mkdir(exist_ok=True)
        (tmp_path / "place" / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "a"]


def test_a_lock_is_held_in_this_process_too(tmp_path: Path) -> None:
    said = rf"process {os.getpid()}\) is at work"
    with one_job(tmp_path), pytest.raises(DataError, match=said), one_job(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("no_locks", [errno.ENOSYS], indirect=True)
def test_a_lock_of_this_process_needs_no_help_of_the_file_system(
    no_locks: None, tmp_path: Path
) -> None:
    test_a_lock_is_held_in_this_process_too(tmp_path)


@pytest.mark.parametrize("no_locks", [errno.ENOSYS], indirect=True)
@pytest.mark.parametrize(
    "text",
    [
        *("", "?", "-", "---", "a" * 500, "elsewhere-1-2-3", f"{owners._HOST}-x-y-z"),
        f"{owners._HOST}-1-7-aaaa",  # another process has the number 1 now
        f"{owners._HOST}-{os.getpid()}-7-aaaa",  # and we have this one
        f"{owners._HOST}-{2**22 + 1}-7-aaaa",
    ],
    ids=range(10),
)
def test_without_locks_only_a_job_that_lives_here_keeps_others_out(
    text: str, no_locks: None, tmp_path: Path
) -> None:
    (tmp_path / ".facke-lock").write_text(text)
    with one_job(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_job_of_another_machine_is_named_so(tmp_path: Path) -> None:
    with one_job(tmp_path):
        (tmp_path / ".facke-lock").write_text("elsewhere-12-34-56")
        said = r"process 12 of another machine\) is at work"
        with pytest.raises(DataError, match=said), one_job(tmp_path):
            pass


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with one_job(tmp_path):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the parent is done
            os._exit(0)
    os.close(read)
    with one_job(tmp_path):
        pass
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("place", "reason"),
    [("file", "(File exists|Not a directory)"), ("file/below", "Not a directory")],
)
def test_a_place_that_cannot_be_made_is_an_error_with_advice(
    place: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = rf"{place} cannot be written: {reason}\. Choose another place"
    with pytest.raises(DataError, match=said), one_job(tmp_path / place):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_that_others_planted_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".facke-lock").symlink_to("precious")
    with pytest.raises(DataError, match="cannot be written"), one_job(tmp_path):
        pass
    (tmp_path / ".facke-lock").unlink()
    os.mkfifo(tmp_path / ".facke-lock")
    with pytest.raises(DataError, match="cannot be written"), one_job(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "x"


def test_a_folder_that_may_not_be_written_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    said = rf"{tmp_path} cannot be written: Permission denied\. Choose another place"
    with pytest.raises(DataError, match=said), one_job(tmp_path):
        pass
    os.mknod(tmp_path / ".facke-lock")  # of another user, whose job is over
    with one_job(tmp_path):
        pass


def dead_writer(folder: Path) -> None:
    """Leave in a folder what a writer leaves that was killed once its file had its name."""
    code = "from facke_core._files.owners import owner_name; print(owner_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (folder / f"{owners.HIDDEN}0123456789abcdef" / done.stdout.strip()).mkdir(parents=True)


def test_the_next_evaluation_clears_up_among_its_rows(tmp_path: Path) -> None:
    RowFiles(tmp_path, {"pairs": 1}, resume=False)
    dead_writer(tmp_path)
    RowFiles(tmp_path, {"pairs": 1}, resume=True)
    assert os.listdir(tmp_path) == ["run.json"]


def test_the_next_call_clears_up_among_what_is_done(tmp_path: Path) -> None:
    done = _begin(tmp_path, {"pairs": 1}, resume=False)
    dead_writer(done)
    assert _begin(tmp_path, {"pairs": 1}, resume=True) == done
    assert os.listdir(done) == []
