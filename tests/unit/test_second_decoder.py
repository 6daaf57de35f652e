"""Pictures of many kinds, made by code, are what OpenCV and tifffile make of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import pictures as made
from facke_core.images.io import read_image

COLOURS = made.smooth(57, 33)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (21, 34, 3), np.uint16)
BOTH = {"smooth": COLOURS, "noise": NOISE}


def _saved(mode: str, form: str, **options: Any) -> Callable[[np.ndarray[Any, Any]], bytes]:
    def make(pixels: np.ndarray[Any, Any]) -> bytes:
        return made.encoded(Image.fromarray(pixels).convert(mode), form, **options)

    return make


def _lzw(pixels: np.ndarray[Any, Any]) -> bytes:
    return made.encoded(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")


KINDS: dict[str, tuple[Callable[[np.ndarray[Any, Any]], bytes], int]] = {
    # what makes it, and by how much of 255 decoders may differ
    "grey.png": (_saved("L", "PNG"), 0),
    "colour.png": (_saved("RGB", "PNG"), 0),
    "palette.png": (_saved("P", "PNG"), 0),
    "two.png": (_saved("1", "PNG"), 0),
    "interlaced.gif": (_saved("P", "GIF"), 0),
    "plain.jpg": (_saved("RGB", "JPEG", quality=95, subsampling=0), 0),
    "fine.jpg": (_saved("RGB", "JPEG", quality=50, subsampling=2, progressive=True), 0),
    "grey.jpg": (_saved("L", "JPEG"), 0),
    "lossless.webp": (_saved("RGB", "WEBP", lossless=True), 0),
    "lossy.webp": (_saved("RGB", "WEBP"), 0),
    "plain.tif": (_saved("RGB", "TIFF"), 0),
    "packed.tif": (_lzw, 0),
    "grey.tif": (_saved("L", "TIFF"), 0),
    "bitmap.bmp": (_saved("RGB", "BMP"), 0),
    "plain.ppm": (_saved("RGB", "PPM"), 0),
    "best.avif": (_saved("RGB", "AVIF", quality=90, subsampling="4:4:4"), 2),
    "planes.tif": (lambda p: made.planar_tiff(p.transpose(2, 0, 1)), 0),
}


@pytest.mark.parametrize("content", BOTH)
@pytest.mark.parametrize("name", KINDS)
def test_eight_bits_are_those_of_opencv(tmp_path: Path, name: str, content: str) -> None:
    make, tolerance = KINDS[name]
    data = make(BOTH[content])
    (tmp_path / name).write_bytes(data)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if theirs is None:
        pytest.skip(f"OpenCV {cv2.__version__} does not read this one")
    ours = (read_image(tmp_path / name).image * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs[..., ::-1].astype(float)).max() <= tolerance


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [0, 1, 8])
@pytest.mark.parametrize("alpha", [False, True])
def test_planes_of_sixteen_bits_are_read(
    tmp_path: Path, order: str, rows: int, alpha: bool
) -> None:
    pixels = np.concatenate([DEEP, DEEP[..., :1] ^ 0x0F0F], 2) if alpha else DEEP
    data = made.planar_tiff(pixels.transpose(2, 0, 1), order, rows)
    (tmp_path / "a.tif").write_bytes(data)  # which OpenCV 5.0 misreads, too
    photo = read_image(tmp_path / "a.tif")
    ours = (photo.image * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(ours, pixels[..., :3] >> 8)
    assert (photo.alpha is not None) == alpha


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_pngs_of_sixteen_bits_are_those_of_opencv(tmp_path: Path, depth: int) -> None:
    pixels = {1: DEEP[..., 0], 3: DEEP, 4: np.concatenate([DEEP, DEEP[..., :1]], 2)}[depth]
    data = made.png16(pixels)
    (tmp_path / "a.png").write_bytes(data)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    theirs = decoded / 257
    theirs = theirs[..., None] if depth == 1 else theirs[..., 2::-1]
    ours = (read_image(tmp_path / "a.png").image * 255).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= (1e-3 if depth == 1 else 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("kind", "planes"),
    [
        *itertools.product(["rgb8", "rgb16", "rgba16"], ["contig", "separate"]),
        ("grey16", "contig"),
        ("float", "contig"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_tiffs_are_those_of_tifffile(
    tmp_path: Path, planes: str, compression: str, kind: str, order: str, tile: Any
) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = {
        "rgb8": NOISE,
        "rgb16": DEEP,
        "rgba16": np.concatenate([DEEP, DEEP[..., :1]], 2),
        "grey16": DEEP[..., 0],
        "float": DEEP[..., 0].astype(np.float32) / 65535,
    }[kind]
    colour = pixels.ndim == 3
    options: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack"}
    if colour:
        options["planarconfig"] = planes
    if kind == "rgba16":
        options["extrasamples"] = ["unassalpha"]
    stored = pixels.transpose(2, 0, 1) if colour and planes == "separate" else pixels
    about: dict[str, Any] = {"byteorder": order, "compression": compression, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", stored, **about, **options)
    ours = read_image(tmp_path / "a.tif").image.permute(1, 2, 0).numpy()
    wanted = pixels / (1 if kind == "float" else np.iinfo(pixels.dtype).max)
    wanted = wanted[..., :3] if colour else wanted[..., None]
    assert np.abs(ours - wanted).max() <= (1.01 / 255 if colour else 1e-5)
