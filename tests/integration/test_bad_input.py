"""Bad input: an exit code, one message with a remedy, no traceback and nothing left behind."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from facke_cli.samples import sample_or_path
from standins import Bomb

Facke = Callable[..., Any]
HOPPER = sample_or_path("sample:hopper")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of files that are no good."""
    PIL.Image.new("RGB", (300, 300), (90, 120, 150)).save(tmp_path / "no-face.png")
    (tmp_path / "cut.jpg").write_bytes(HOPPER.read_bytes()[:20_000])
    (tmp_path / "text.png").write_text("I am not a picture.\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "arcface.pth").write_bytes(pickle.dumps(Bomb(Path("unpickled"))))
    (tmp_path / "there.png").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    return tmp_path


def huge_png(side: int) -> bytes:
    """A valid black-and-white PNG of ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    row = b"\0" * (1 + (side + 7) // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


CASES = {
    "no face": (2, ["no-face.png"], ["No face was found in no-face.png", "300 x 300"]),
    "a face too many": (2, ["--face", "3"], ["no face 3", "1 face", "largest"]),
    "a face that is no number": (2, ["--face", "none"], ["largest, all, left, right, or a number"]),
    "a truncated JPEG": (2, ["cut.jpg"], ["cut.jpg is damaged or incomplete", "again"]),
    "a text file": (2, ["text.png"], ["text.png is not an image", "PNG or JPEG"]),
    "an empty file": (2, ["empty.png"], ["empty.png is empty"]),
    "a missing file": (2, ["absent.png"], ["absent.png does not exist"]),
    "a folder without pictures": (2, ["folder"], ["No picture is in", "folder"]),
    "an unknown sample": (2, ["sample:holper"], ["Did you mean 'hopper'", "sample:collins"]),
    "an unknown method": (2, ["--method", "pyramud"], ["Did you mean 'pyramid'", "Installed:"]),
    "an unknown tag": (2, ["--weights", "best"], ["Unknown weights 'best'", "hf:org/repo"]),
    "a missing weights folder": (2, ["--weights", "./nope"], ["nope does not exist"]),
    "an ambiguous name": (2, ["--weights", "a/b"], ["hf:a/b", "./a/b"]),
    "a pickle as weights": (2, ["--weights", "arcface.pth"], ["not opened", "safetensors only"]),
    "a pickle by path": (2, ["--weights", "./arcface.pth"], ["not opened", "safetensors only"]),
    "Hub weights offline": (4, ["--weights", "hf:no-such/repo"], ["not in the local cache"]),
    "a missing device": (4, ["--device", "cuda:99"], ["'cuda:99' is not available", "cpu"]),
    "an unknown device": (2, ["--device", "gpu"], ["Unknown device 'gpu'"]),
    "an unknown setting": (2, ["--set", "stength=1"], ["did you mean 'strength'"]),
    "a setting of a wrong type": (2, ["--set", "strength=big"], ["expected a number, got 'big'"]),
    "a setting without a value": (2, ["--set", "strength"], ["KEY=VALUE"]),
    "an existing output": (2, ["-o", "there.png"], ["there.png exists already", "--force"]),
    "an unknown format": (2, ["-o", "out.xyz"], ["'.xyz' is none of", ".png"]),
    "a missing output folder": (2, ["-o", "a/b/out.png"], ["the folder a/b does not exist"]),
    "an output that is a folder": (2, ["-o", "folder"], ["folder"]),
    "an unknown option": (2, ["--fase", "1"], ["--fase"]),
    "a seed that is no number": (2, ["--seed", "x"], ["--seed"]),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_explained(case: str, facke: Facke, pictures: Path) -> None:
    code, changes, messages = CASES[case]
    before = sorted(pictures.rglob("*"))
    target, options = ("sample:hopper", changes) if changes[0][0] == "-" else (changes[0], [])
    words = ["swap", "sample:collins", target, *options]
    if "--method" not in options and "--weights" not in options:
        words += ["--method", "pyramid"]
    run = facke(*words, *([] if "-o" in options else ["-o", "out.png"]))
    assert run.code == code, run.err
    assert run.out == ""
    for message in messages:
        assert message in run.err
    assert "Traceback" not in run.err
    assert sorted(pictures.rglob("*")) == before
    assert (pictures / "there.png").read_bytes() == b"kept"


def test_an_input_is_never_overwritten(facke: Facke, tmp_path: Path) -> None:
    (tmp_path / "me.jpg").write_bytes(HOPPER.read_bytes())
    (tmp_path / "link.jpg").symlink_to("me.jpg")
    for source, target in (("sample:collins", "me.jpg"), ("me.jpg", "sample:collins")):
        for out in ("me.jpg", "./me.jpg", "link.jpg"):
            run = facke("swap", "--method", "pyramid", "--force", source, target, "-o", out)
            assert run.code == 2
            assert "one of the inputs" in run.err
    assert (tmp_path / "me.jpg").read_bytes() == HOPPER.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("swap me.jpg you.jpg -o out.png --mask link.jpg --force", "--mask link.jpg is one of the"),
        ("swap me.jpg you.jpg -o out.png --mask out.png --force", "OUT and --mask are one file"),
        ("swap me.jpg you.jpg -o out.png --mask ./out.png", "OUT and --mask are one file"),
        ("faces me.jpg -o hard.jpg --force", "OUT hard.jpg is one of the inputs"),
        ("matrix --sources me.jpg --targets you.jpg -o me.jpg --force", "OUT me.jpg is one of"),
        ("evaluate simswap --pairs list.csv --json list.csv", "--json list.csv is one of the"),
        ("evaluate simswap --pairs list.csv --json x --html x", "--html and --json are one file"),
        ("evaluate simswap --pairs list.csv --calibrate me.jpg --html me.jpg", "--html me.jpg is"),
        ("evaluate scan run --pairs list.csv --judge x --json list.csv", "--json list.csv is one"),
        ("evaluate diff me.jpg list.csv --json list.csv", "--json list.csv is one of the inputs"),
    ],
)
def test_no_output_replaces_an_input_or_another_output(
    words: str, said: str, facke: Facke, tmp_path: Path
) -> None:
    for name in ("me.jpg", "you.jpg"):
        (tmp_path / name).write_bytes(HOPPER.read_bytes())
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "me.jpg")
    (tmp_path / "link.jpg").symlink_to("me.jpg")
    (tmp_path / "list.csv").write_text("source,target\nme.jpg,you.jpg\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run = facke(*words.split())
    assert run.code == 2
    assert said in run.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unwritable_folder_is_explained(facke: Facke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    run = facke("swap", "--method", "pyramid", HOPPER, HOPPER, "-o", "out.png")
    assert run.code == 2
    assert "no permission" in run.err


def test_crops_must_be_square(facke: Facke, tmp_path: Path) -> None:
    run = facke("swap", "--method", "pyramid", "--crop", HOPPER, HOPPER, "-o", "out.png")
    assert run.code == 2
    assert "square" in run.err


def test_an_enormous_picture_is_refused_within_500_megabytes(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(huge_png(50_000))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (500_000_000,) * 2); "
    words = "swap sample:collins huge.png -o out.png"
    done = subprocess.run(
        [sys.executable, "-c", limit + "from facke_cli.main import run; run()", *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "huge.png is too large" in done.stderr
    assert os.listdir(tmp_path) == ["huge.png"]


def test_an_unexpected_fault_is_one_line_and_a_traceback_on_demand(
    facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("facke_core.images.files.check_output", fail)
    run = facke("swap", HOPPER, HOPPER, "-o", "out.png")
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert "unexpected ZeroDivisionError: a fault" in run.err
    for words in (["--debug", "swap"], ["swap", "--debug"]):
        run = facke(*words, HOPPER, HOPPER, "-o", "out.png")
        assert run.code == 1
        assert "Traceback" in run.err


@pytest.mark.parametrize("where", ["facke_core.images.files.check_output", "facke_cli.main._find"])
def test_an_interrupt_exits_with_130(
    where: str, facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert facke("swap", HOPPER, HOPPER, "-o", "out.png").code == 130


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["swop"], "Unknown command 'swop'. Did you mean 'swap'?"),
        (["--verbose"], "Unknown option '--verbose'"),
        (["swap"], "Missing option '--output'"),
        (["swap", "one.png", "-o", "out.png"], "Give SOURCE and TARGET, or TARGET and whom"),
        (["inspect", "absent.png"], "absent.png does not exist"),
        (["train", "no-recipe", "--data", "d", "--out", "o"], "Unknown recipe 'no-recipe'"),
    ],
)
def test_wrong_usage_is_explained(words: list[str], message: str, facke: Facke) -> None:
    run = facke(*words)
    assert run.code == 2
    assert message in run.err
    assert "Traceback" not in run.err
