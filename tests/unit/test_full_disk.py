"""All that is written is whole, or an error: on a full disk, and under a limit of size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WRITERS = """
import csv, hashlib, sys
from pathlib import Path
import torch
from facke_core._files import leftovers, new_folder, replacing, write_bytes
from facke_core.config import write_json, write_text
from facke_core.data.shards import write_shard
from facke_core.errors import FackeError
from facke_core.images.io import write_image
from safetensors.torch import save_file

NOISE = torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(0))
KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
CROPS = [(NOISE[:, :64, :64] * 255).byte().roll(i, 1) for i in range(4)]


def shard(path):
    write_shard(path, KEYS, CROPS, size=64, preparation="p")


def safetensors(path):
    with new_folder(path, replace=True) as part:
        save_file({"a": NOISE}, part / "a.safetensors")


DO = {
    **{f"a.{form}": lambda path: write_image(path, NOISE, overwrite=True)
       for form in ("png", "jpg", "webp", "tif", "avif")},
    "a.json": lambda path: write_json(path, {"a": NOISE.flatten()[:9000].tolist()}),
    "a.txt": lambda path: write_text(path, "x" * 90_000),
    "a.bin": lambda path: write_bytes(path, b"x" * 90_000),
    "crops-0.tar": shard,
    "crops-0.safetensors": shard,
    "folder": safetensors,
}
"""

LIMITED = (
    WRITERS
    + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = lambda path: sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))
for name, do in DO.items():
    folder = Path(sys.argv[1]) / f"of {name}"
    folder.mkdir()
    do(folder / name)
    whole = size(folder / name)
    for share in (0.0, 0.1, 0.5, 0.8, 0.95, 0.99, 1 - 1 / whole, 1.0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(whole * share), -1))
        try:
            do(folder / name)
            said = "ok"
        except Exception as error:
            said = type(error).__name__
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        kept = size(folder / name) == whole
        print(name, share, said, kept, len(list(folder.iterdir())))
"""
)

FULL = (
    WRITERS
    + """
import subprocess
whole, disk = Path(sys.argv[1]) / "whole", Path(sys.argv[1]) / "disk"
whole.mkdir()
disk.mkdir()
for name, do in DO.items():
    do(whole / name)
    size = sum(p.stat().st_size for p in [whole / name, *whole.glob(f"{name}/*")] if p.is_file())
    pages = -(-size // 4096)
    for count in sorted({1, pages // 2, pages - 1}):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * count}k", "tmpfs", disk]
        if subprocess.run(mount, capture_output=True).returncode:
            print("no mount")
            sys.exit()
        try:
            do(disk / name)
            said = "ok"
        except Exception as error:
            said = type(error).__name__
        print(name, count, said, len(list(disk.rglob("*"))))
        subprocess.run(["umount", disk], check=True)
"""
)


def run(code: str, folder: Path) -> list[list[str]]:
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_file_that_may_not_be_as_long_is_an_error_and_the_old_one_stays(tmp_path: Path) -> None:
    lines = run(LIMITED, tmp_path)
    assert len(lines) == 11 * 8
    for name, share, said, kept, entries in lines:
        assert (said == "ok") == (share == "1.0"), (name, share, said)
        assert (kept, entries) == ("True", "1"), (name, share)


def test_a_full_disk_is_an_error_and_nothing_has_the_final_name(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.getuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount")
    lines = run(FULL, tmp_path)
    if ["no", "mount"] in lines:
        pytest.skip("this container may not mount")
    assert len(lines) >= 11 * 2
    for name, pages, said, left in lines:
        assert (said != "ok", left) == (True, "0"), (name, pages)
