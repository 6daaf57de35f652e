"""Commands that end before their time: by signals, and because nobody hears them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facke_cli.ending import Stopped, go_on
from facke_cli.main import main

FACKE = str(Path(sys.executable).parent / "facke")
SWAP = "swap sample:collins sample:hopper -o out.png --quiet"
STOPPED = ["facke: interrupted by SIGTERM."]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``facke`` is the command."""
    line = f"facke() {{ '{FACKE}' \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("facke --help | true; exit ${PIPESTATUS[0]}", 141),
        ("facke swap --help | true; exit ${PIPESTATUS[0]}", 141),
        ("facke methods >&-", 1),
        ("facke methods >/dev/full", 1),
        ("facke swap --help >/dev/full", 1),
        ("facke inspect out.png --json >/dev/full", 1),
        ("facke methods >&- 2>&-", 1),
        ("facke methods 2>&- >/dev/null", 0),
        ("facke nonsense 2>/dev/full", 2),
        ("facke nonsense <&- 2>&-", 2),
    ],
)
def test_output_that_nobody_takes_is_one_line_or_none(
    command: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "out.png").write_bytes(picture())
    done = shell(command, tmp_path)
    assert done.returncode == code, done.stderr
    said = done.stderr.splitlines()
    if code == 1 and "2>" not in command:
        assert len(said) == 1
        assert said[0].startswith("facke: The report cannot be written to the standard output: ")
    else:
        assert not said


def test_a_folder_that_is_gone_is_no_fault_of_facke(tmp_path: Path) -> None:
    done = shell(
        "mkdir gone; cd gone; rmdir ../gone; facke train simswap --data d --out o", tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "folder in which facke was called is gone" in done.stderr


def picture() -> bytes:
    from facke_cli.samples import sample_or_path

    return sample_or_path("sample:collins").read_bytes()


def test_streams_that_are_closed_are_not_the_next_files_that_are_opened(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    swap = "facke swap sample:collins sample:hopper -o"
    assert shell(f"{swap} a.png", tmp_path).returncode == 0
    assert shell(f"{swap} b.png <&- >&- 2>&-", tmp_path).returncode == 1
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", ["swap a b -o c", "methods", "weights verify simswap"])
def test_a_signal_ends_every_command_with_its_code(
    words: str,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any) -> None:
        Stopped.last = int(number), time.monotonic()
        raise Stopped

    monkeypatch.setattr("facke_cli.main._run", stop)
    assert main(words.split()) == 128 + number
    assert capsys.readouterr().err == f"facke: interrupted by {number.name}.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind_a_process_and_leave_nothing(number: signal.Signals, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from facke_core._files import one_job, replacing
def write(words):
    with one_job(Path("place")), replacing(Path("a")) as part:
        part.write_bytes(b"half")
        print("ready", flush=True)
        import time
        time.sleep(60)
import facke_cli.main as cli
cli._dispatch = write
sys.argv = ["facke", "prepare", "my photos", "new"]
cli.run()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):  # some send several
        process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == (
        f"facke: interrupted by {number.name}. Go on with: facke prepare 'my photos' new\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    program = (
        "import signal, facke_cli.ending as e; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "e.hear_signals(); signal.raise_signal(signal.SIGHUP); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stdout == b"alive\n"


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("swap --pairs p.csv -o out", "facke swap --pairs p.csv -o out --resume"),
        ("swap --pairs=p.csv -o out --resume", "facke swap --pairs=p.csv -o out --resume"),
        ("evaluate simswap --data d --out e", "facke evaluate simswap --data d --out e --resume"),
        ("prepare photos new", "facke prepare photos new"),
        ("swap a b -o c", ""),
        ("evaluate simswap --data d", ""),
        ("train r --data d --out e", ""),  # says it itself, once there is a checkpoint
        ("", ""),
    ],
)
def test_what_can_go_on_is_told_how(words: str, more: str) -> None:
    assert go_on(words.split()) == (f" Go on with: {more}" if more else "")


def test_an_interruption_in_a_command_of_typer_keeps_the_code(
    facke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        Stopped.last = int(signal.SIGTERM), time.monotonic()
        raise Stopped

    monkeypatch.setattr("facke_cli.commands.swap._check_files", stop)
    done = facke("swap", "sample:collins", "sample:hopper", "-o", "a.png")
    assert (done.code, done.err.splitlines()) == (143, STOPPED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_of_the_terminal_while_the_workers_start_ends_quietly(
    number: signal.Signals, tmp_path: Path
) -> None:
    """All processes of a terminal hear it, those that are still importing, too."""
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    (tmp_path / "photos" / "A").mkdir(parents=True)
    for each in range(3):
        (tmp_path / "photos" / "A" / f"{each}.png").write_bytes(picture())
    process = subprocess.Popen(
        [FACKE, "prepare", "photos", "new", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("reading")  # then the workers are started
    time.sleep(0.5 * (number == signal.SIGHUP))
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    stopped = f"facke: interrupted by {number.name}. Go on with: facke prep"
    assert said.splitlines()[-1].startswith(stopped)
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "silent"), [("/usr/bin/facke", True), ("pytest", False)])
def test_ctrl_c_in_the_imports_of_the_script_needs_no_traceback(name: str, silent: bool) -> None:
    program = (
        f"import sys, signal; sys.argv = [{name!r}]; import facke_cli; "
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{silent}\n"
