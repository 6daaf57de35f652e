"""Faults in what stands beside the pixels, and files that are no pictures, or very large ones."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import pictures as made
from facke_core.errors import FackeWarning, ImageError, OutOfMemoryError
from facke_core.faces.templates import Alignment
from facke_core.images.files import check_input, check_output
from facke_core.images.io import read_image, write_image
from facke_core.prepare.photos import file_key
from facke_core.prepare.portraits import Job, Portraits, Preparation

PICTURE = Image.fromarray(made.smooth())


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """What was read, (H, W, 3) in 0 to 255."""
    return (read_image(path).image * 255).permute(1, 2, 0).numpy()


# Metadata


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("odd", made.ODD_EXIF)
def test_a_turned_photo_with_odd_exif_is_read_and_turned(
    tmp_path: Path, form: str, odd: str
) -> None:
    stored = PICTURE.transpose(Image.Transpose.ROTATE_90)
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if form == "TIFF":
        data = made.encoded(stored, form)
        at = struct.unpack("<I", data[4:8])[0]
        count = struct.unpack("<H", data[at : at + 2])[0]
        rows: list[bytes] = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
        head = made.ODD_EXIF[odd]
        tag, kind, n = struct.unpack(">HHI", head[:8])
        value = struct.unpack(">I", head[8:])[0] if kind != 2 else 0x00636261
        rows.append(struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0))
        rows.append(struct.pack("<HHII", tag, kind, n, value))
        rows = [row for row in rows if row[:2] != b"\x1a\x01" or row is rows[-1]]
        rows.sort(key=lambda row: struct.unpack("<H", row[:2]))
        table = struct.pack("<H", len(rows)) + b"".join(rows)
        data = data[:4] + struct.pack("<I", len(data)) + data[8:] + table + bytes(4)
    elif form == "AVIF":
        turned = Image.Exif()
        turned[0x0112] = 6
        turned[0x8298] = "x" * 60  # room for the odd one
        data = made.encoded(stored, form, quality=100, exif=turned.tobytes())
        at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
        own = b"MM\0*\0\0\0\x08\0\1" + made.ODD_EXIF[odd] + bytes(4)
        data = data[:at] + own + data[at + len(own) :]
    else:
        data = made.encoded(
            stored, form, exif=b"Exif\0\0" + made.exif(6, made.ODD_EXIF[odd]), **options
        )
    (tmp_path / "a").write_bytes(data)
    image = pixels(tmp_path / "a")
    assert image.shape == (32, 48, 3)
    assert np.abs(image - made.smooth()).mean() < 6


def _icc_chunk(profile: bytes) -> bytes:
    return made.chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


BESIDE: dict[str, bytes] = {
    "raw profile that is no hex": made.chunk(
        b"tEXt", b"Raw profile type exif\0\nexif\n 9\nno hexadecimal"
    ),
    "broken eXIf": made.chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "empty eXIf": made.chunk(b"eXIf", b""),
    "compressed XMP over 1 MiB": made.chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * (3 << 20))
    ),
    "compressed text over 1 MiB": made.chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * (3 << 20))),
    "a bomb of text": made.chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * (300 << 20))),
    "damaged text": made.chunk(b"zTXt", b"a\0\0no zlib"),
    "a broken checksum": made.chunk(b"tEXt", b"a\0b")[:-1] + b"x",
    "a time that is none": made.chunk(b"tIME", b"x"),
    "a short pHYs": made.chunk(b"pHYs", b"x"),
    "a short gAMA": made.chunk(b"gAMA", b"x"),
    "a short cHRM": made.chunk(b"cHRM", b"x"),
    "an animation without frames": made.chunk(b"acTL", b"x"),
}


@pytest.mark.filterwarnings("ignore::facke_core.errors.FackeWarning")
@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("last", [False, True])
def test_a_png_with_broken_metadata_keeps_every_bit(tmp_path: Path, what: str, last: bool) -> None:
    png = made.with_chunks(made.encoded(PICTURE, "PNG"), BESIDE[what], last=last)
    (tmp_path / "a.png").write_bytes(png)
    assert np.array_equal(pixels(tmp_path / "a.png").round(), made.smooth())


def test_exif_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    chunk = BESIDE["raw profile that is no hex"]
    (tmp_path / "a.png").write_bytes(made.with_chunks(made.encoded(PICTURE, "PNG"), chunk))
    with pytest.warns(FackeWarning, match="a.png: its EXIF metadata cannot be read"):
        read_image(tmp_path / "a.png")


def test_a_profile_over_one_mebibyte_is_applied_and_a_broken_one_a_warning(tmp_path: Path) -> None:
    large = made.rgb_profile(1.0) + os.urandom(2 << 20)
    large = struct.pack(">I", len(large)) + large[4:]
    png = made.encoded(PICTURE, "PNG")
    (tmp_path / "a.png").write_bytes(made.with_chunks(png, _icc_chunk(large)))
    small = made.with_chunks(png, _icc_chunk(made.rgb_profile(1.0)))
    (tmp_path / "b.png").write_bytes(small)
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert np.abs(pixels(tmp_path / "a.png") - made.smooth()).mean() > 10
    (tmp_path / "c.png").write_bytes(made.with_chunks(png, made.chunk(b"iCCP", b"x\0\0no zlib")))
    with pytest.warns(FackeWarning, match="colour profile cannot be used"):
        assert np.array_equal(pixels(tmp_path / "c.png").round(), made.smooth())


# Colours


def encode_srgb(linear: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
@pytest.mark.parametrize("exponent", [1.0, 1.8])
def test_a_profile_is_judged_by_its_curve_and_not_by_its_name(
    tmp_path: Path, name: str, exponent: float
) -> None:
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {"quality": 100}
    PICTURE.save(tmp_path / name, icc_profile=made.rgb_profile(exponent, "sRGB"), **options)
    expected = 255 * encode_srgb((made.smooth() / 255) ** exponent)
    error = np.abs(pixels(tmp_path / name) - expected)
    assert np.median(error) < 2
    assert error.mean() < 4


def test_an_srgb_profile_of_another_name_keeps_every_bit(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"sRGB" in srgb.replace(b"\0", b"")
    for text in ("sRGB".encode("utf-16-be"), b"sRGB"):
        srgb = srgb.replace(text, text.replace(b"s", b"t").replace(b"G", b"H"))
    PICTURE.save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(pixels(tmp_path / "a.png").round(), made.smooth())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "float.tif"])
@pytest.mark.parametrize("exponent", [1.0, 2.2])
def test_sixteen_bit_grey_keeps_its_profile_and_its_precision(
    tmp_path: Path, name: str, exponent: float
) -> None:
    grey = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    if name == "float.tif":
        picture = Image.fromarray((grey / 65535).astype(np.float32))
    else:
        picture = Image.fromarray(grey)
    picture.save(tmp_path / name, icc_profile=made.grey_profile(exponent))
    expected = encode_srgb((grey / 65535.0) ** exponent)
    image = read_image(tmp_path / name).image
    assert np.abs(image[0].numpy() - expected).max() < 1e-3
    assert len(image[0].unique()) > 3000


def test_sixteen_bit_grey_keeps_its_transparent_value(tmp_path: Path) -> None:
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    transparent = made.chunk(b"tRNS", struct.pack(">H", 4200))
    (tmp_path / "a.png").write_bytes(made.png16(grey, transparent))
    photo = read_image(tmp_path / "a.png")
    assert photo.alpha is not None
    assert torch.equal(photo.alpha[0], torch.from_numpy((grey != 4200).astype(np.float32)))
    assert int((photo.alpha == 0).sum()) == 1
    assert np.array_equal((photo.image[0] * 65535).round().numpy(), grey)


# Files that are none


@pytest.mark.parametrize("read", [check_input, read_image])
def test_a_pipe_or_device_is_refused_at_once(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    for path in (tmp_path / "fifo.png", Path("/dev/zero"), Path("/dev/null")):
        refused: list[str] = []

        def attempt(path: Path = path, refused: list[str] = refused) -> None:
            with pytest.raises(ImageError, match="is a pipe or a device") as error:
                read(path)
            refused.append(str(error.value))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(10)
        assert refused, path


# Large ones


def test_a_small_file_that_needs_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    width = 9000
    frame = Image.new("RGBA", (width, width))
    data = made.encoded(frame, "WEBP", lossless=True, method=0)
    assert len(data) < 20_000
    (tmp_path / "a.webp").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (check_input, read_image):
        with pytest.raises(ImageError, match=r"too large \(9000 x 9000 pixels\): .*3\.9 GB"):
            read(tmp_path / "a.webp")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_photograph_of_a_hundred_megapixels_may_take_what_it_needs(tmp_path: Path) -> None:
    data = bytearray(made.encoded(PICTURE, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 10_000, 10_000)
    (tmp_path / "a.jpg").write_bytes(bytes(data) + bytes(2_000_000))
    assert check_input(tmp_path / "a.jpg") == (10_000, 10_000)


LIMITED = """
import resource, sys
import numpy
import torch
from facke_core.errors import FackeError
from facke_core.images.io import read_image
read_image(sys.argv[2])
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[3]), -1))
try:
    read_image(sys.argv[1])
except FackeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("megabytes", [10, 45, 95])
def test_a_good_picture_is_not_damaged_because_memory_is_short(
    tmp_path: Path, megabytes: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (375, 375, 3), np.uint8)
    Image.fromarray(noise).resize((3000, 3000)).save(tmp_path / "a.jpg")
    PICTURE.save(tmp_path / "small.jpg")
    files = tmp_path / "a.jpg", tmp_path / "small.jpg"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *files, str(megabytes << 20)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith("OutOfMemoryError"), done.stdout + done.stderr
    assert "needs more memory" in done.stdout
    assert "damaged" not in done.stdout


def test_torchs_words_for_want_of_memory_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 1200000000 bytes. Error code 12 (Cannot allocate memory)"
        )

    monkeypatch.setattr("facke_core.images.io._channels", refuse)
    with pytest.raises(OutOfMemoryError, match="needs more memory"):
        read_image(PICTURE)


@pytest.mark.parametrize("where", ["read_image", "Portraits._make"])
def test_prepare_tries_a_picture_again_for_which_memory_was_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: Any) -> None:
        if where == "read_image":
            raise OutOfMemoryError("a.png needs more memory")
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    PICTURE.save(tmp_path / "a.png")
    preparation = Preparation(alignment=Alignment(template="arcface", size=16), aligned=True)
    monkeypatch.setattr(f"facke_core.prepare.portraits.{where}", refuse)
    job = Job("a.png", file_key(tmp_path / "a.png"))
    done = Portraits(tmp_path, preparation, {})(job)
    assert (done.portrait, done.reason, done.passing) == (None, "unreadable", True)


def test_prepare_waits_for_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.png").symlink_to("fifo")
    for path in (tmp_path / "link.png", Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device"):
            file_key(path)


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("a.webp", (16_384, 3), 16_383),
        ("a.webp", (3, 20_000), 16_383),
        ("a.jpg", (65_501, 2), 65_500),
        ("a.avif", (32_769, 2), 32_768),
    ],
)
def test_sides_that_a_format_does_not_know_are_refused_before_the_work(
    tmp_path: Path, name: str, size: tuple[int, int], limit: int
) -> None:
    message = rf"{size[0]} x {size[1]} pixels, and \w+ takes at most {limit} on a side.*a\.png"
    with pytest.raises(ImageError, match=message):
        check_output(tmp_path / name, size=size)
    with pytest.raises(ImageError, match=message):
        write_image(tmp_path / name, torch.zeros(3, size[1], size[0]))
    assert not os.listdir(tmp_path)
    side = (limit, 2) if size[0] > size[1] else (2, limit)
    assert check_output(tmp_path / name, size=side)
    write_image(tmp_path / name, torch.zeros(3, side[1], side[0]))
    assert check_input(tmp_path / name) == side
