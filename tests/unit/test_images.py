"""Photos in, photos out."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from facke_core.errors import FackeWarning, ImageError
from facke_core.images.io import read_image, to_pil, write_image


@pytest.fixture
def picture() -> Image.Image:
    """24 x 16 pixels, smooth, every corner different."""
    x, y = np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 16))
    return Image.fromarray(np.stack([x, y, 255 - x], 2).astype(np.uint8))


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def same(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


# Reading what is fine


def test_paths_pil_arrays_and_tensors_give_the_same_photo(
    picture: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / "Zoë 你好 .png"
    picture.save(file)
    expected = as_tensor(picture)
    array = np.array(picture)
    for source in (
        file,
        str(file),
        picture,
        array,
        array.astype(np.float64) / 255,
        array.astype(np.uint16) * 257,
        torch.from_numpy(array).permute(2, 0, 1),
        expected,
        expected.half(),
    ):
        photo = read_image(source)
        assert photo.image.dtype == torch.float32
        assert same(
            photo.image, expected, 1e-3 if getattr(source, "dtype", None) == torch.float16 else 1e-6
        )
        assert photo.alpha is None


def test_the_result_never_shares_memory_with_the_input(picture: Image.Image) -> None:
    tensor = as_tensor(picture)
    read_image(tensor).image.zero_()
    assert tensor.max() > 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(
    picture: Image.Image, tmp_path: Path, orientation: int
) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert same(read_image(tmp_path / "a.png").image, as_tensor(picture))


def test_transparency_is_kept_apart(picture: Image.Image, tmp_path: Path) -> None:
    alpha = Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24).astype(np.uint8))
    rgba = picture.copy()
    rgba.putalpha(alpha)
    for name in ("a.png", "a.webp", "a.tif"):
        exact: dict[str, Any] = {"lossless": True, "exact": True} if "webp" in name else {}
        rgba.save(tmp_path / name, **exact)
        photo = read_image(tmp_path / name)
        assert same(photo.image, as_tensor(picture))
        assert photo.alpha is not None
        assert same(photo.alpha[0], torch.from_numpy(np.array(alpha)).float() / 255)


def test_grey_with_alpha_and_palette_with_transparency(tmp_path: Path) -> None:
    Image.new("LA", (4, 3), (102, 51)).save(tmp_path / "la.png")
    photo = read_image(tmp_path / "la.png")
    assert photo.alpha is not None
    assert same(photo.image, torch.full((3, 3, 4), 0.4))
    assert same(photo.alpha, torch.full((1, 3, 4), 0.2))
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    photo = read_image(tmp_path / "p.png")
    assert photo.alpha is not None
    assert photo.image[:, 2, 2].tolist() == [0, 0, 1]
    assert photo.alpha[0, 0, 0] == 0
    assert photo.alpha[0, 2, 2] == 1


def test_one_bit_grey_and_grey_arrays_become_rgb(tmp_path: Path) -> None:
    Image.new("1", (5, 4), 1).save(tmp_path / "one.png")
    assert same(read_image(tmp_path / "one.png").image, torch.ones(3, 4, 5))
    Image.new("L", (5, 4), 51).save(tmp_path / "grey.jpg")
    assert same(read_image(tmp_path / "grey.jpg").image, torch.full((3, 4, 5), 0.2))
    assert read_image(np.zeros((4, 5), np.uint8)).image.shape == (3, 4, 5)


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        image = read_image(tmp_path / name).image
        assert image.shape == (3, 20, 30)
        assert same(image[1], torch.from_numpy(values.astype(np.float32)) / 65535)


def test_sixteen_bit_colour_is_read_with_eight_bits(tmp_path: Path) -> None:
    rows = np.full((4, 5, 3), [65535, 32896, 257], ">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    data = png_header(5, 4).replace(struct.pack(">IIB", 5, 4, 8), struct.pack(">IIB", 5, 4, 16))
    header = data[12:29]
    data = data[:29] + struct.pack(">I", zlib.crc32(header))
    body = zlib.compress(raw)
    for kind, content in ((b"IDAT", body), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "rgb16.png").write_bytes(data)
    image = read_image(tmp_path / "rgb16.png").image
    assert same(image[:, 1, 1], torch.tensor([255.0, 128, 1]) / 255)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.tif"):
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / name)
        red = read_image(tmp_path / name).image.mean((1, 2))
        assert red[0] > 0.95
        assert red[1:].max() < 0.05


def test_float_tiff_is_read_and_checked(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 0.25, np.float32)).save(tmp_path / "a.tif")
    assert same(read_image(tmp_path / "a.tif").image, torch.full((3, 4, 5), 0.25))
    Image.fromarray(np.full((4, 5), 200, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"from 200 to 200: floats must lie in \[0, 1\]"):
        read_image(tmp_path / "b.tif")


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert same(read_image(tmp_path / name).image[:, 4, 4], torch.tensor([1.0, 0, 0]))


def test_a_colour_profile_is_converted_to_srgb(picture: Image.Image, tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    picture.save(tmp_path / "srgb.png", icc_profile=srgb.tobytes())
    assert same(read_image(tmp_path / "srgb.png").image, as_tensor(picture))
    # swap the red and blue primaries of sRGB: a profile that exchanges the channels
    data = bytearray(srgb.tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    data[tags[b"rXYZ"] : tags[b"rXYZ"] + 4], data[tags[b"bXYZ"] : tags[b"bXYZ"] + 4] = (
        b"bXYZ",
        b"rXYZ",
    )
    data = data.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(
        b"sRGB", b"swap"
    )
    picture.save(tmp_path / "swapped.png", icc_profile=bytes(data))
    assert same(read_image(tmp_path / "swapped.png").image, as_tensor(picture).flip(0), 0.03)
    # a profile for another kind of picture cannot be used
    picture.save(tmp_path / "lab.png", icc_profile=lab.tobytes())
    with pytest.warns(FackeWarning, match="colour profile cannot be used"):
        assert same(read_image(tmp_path / "lab.png").image, as_tensor(picture))


# Reading what is not


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "does not exist"),
        ("text.png", b"this is no picture\n" * 20, "is not an image that can be read"),
        ("x" * 300 + ".png", None, "cannot be read: File name too long"),
        ("empty.jpg", b"", r"is empty \(0 bytes\)"),
        ("half.png", png_header(64, 64), "damaged or incomplete"),
        ("huge.png", png_header(50_000, 50_000), r"too large \(2500000000 pixels\)"),
        ("large.png", png_header(12_000, 12_000), r"too large \(12000 x 12000 pixels\)"),
    ],
)
def test_bad_files_are_explained(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / name)


def test_a_header_is_checked_without_loading_torch(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png_header(50_000, 50_000))
    code = (
        "import sys\nfrom facke_core import FackeError\n"
        "from facke_core.images.files import check_input\n"
        "try: check_input(sys.argv[1])\n"
        "except FackeError as error: print(error, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "huge.png")]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "too large" in said
    assert said.endswith("False False\n")


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("form", ["jpg", "progressive", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_never_half_a_picture(tmp_path: Path, form: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "progressive": "JPEG", "tif": "TIFF"}.get(form, form.upper())
    options = {"progressive": True} if form == "progressive" else {}
    Image.fromarray(noise).save(buffer, kind, **options)
    data = buffer.getvalue()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError):
        read_image(tmp_path / "cut")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((4, 5, 3), 200.0), r"give image / 255 or"),
        (np.full((4, 5, 3), -0.5), r"give image / 2 \+ 0.5"),
        (np.full((4, 5, 3), np.nan), "not finite"),
        (np.zeros((3, 4, 5)), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 5, 3), np.int32), "type int32"),
        (np.zeros((0, 5, 3)), "is empty"),
        (torch.zeros(1, 3, 4, 5), r"images\[0\]"),
        (torch.zeros(8, 5, 3), r"permute\(2, 0, 1\)"),
        (torch.full((3, 4, 5), torch.inf), "not finite"),
        (torch.zeros(3, 4, 5, dtype=torch.bool), "torch.bool"),
        (42, "given as int"),
    ],
)
def test_bad_arrays_and_tensors_are_explained(value: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(value)  # type: ignore[arg-type]


# Writing


@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "a.tiff", "a.jpg", "a.JPEG", "a.webp", "a.avif"]
)
def test_what_is_written_is_read_again(picture: Image.Image, tmp_path: Path, name: str) -> None:
    image = as_tensor(picture)
    write_image(tmp_path / name, image)
    lossless = name.endswith(("png", "tif", "tiff"))
    assert same(read_image(tmp_path / name).image, image, 1e-6 if lossless else 0.12)
    assert os.listdir(tmp_path) == [name]


def test_alpha_survives_and_is_refused_for_jpeg(picture: Image.Image, tmp_path: Path) -> None:
    alpha = torch.linspace(0, 255, 24).round().div(255).expand(1, 16, 24)
    for name in ("a.png", "a.tif", "a.webp", "a.avif"):
        write_image(tmp_path / name, as_tensor(picture), alpha)
        kept = read_image(tmp_path / name).alpha
        assert kept is not None
        assert same(kept, alpha, 0.02)
    with pytest.raises(ImageError, match="JPEG knows no transparency"):
        write_image(tmp_path / "b.jpg", as_tensor(picture), alpha)
    assert not (tmp_path / "b.jpg").exists()
    write_image(tmp_path / "b.jpg", as_tensor(picture), torch.ones(1, 16, 24))


def test_an_existing_file_is_only_replaced_when_asked(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"precious")
    with pytest.raises(ImageError, match="exists already"):
        write_image(tmp_path / "a.png", as_tensor(picture))
    assert (tmp_path / "a.png").read_bytes() == b"precious"
    write_image(tmp_path / "a.png", as_tensor(picture), overwrite=True)
    assert same(read_image(tmp_path / "a.png").image, as_tensor(picture))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xyz", "extension '.xyz' is none of"),
        ("noextension", "extension '' is none of"),
        ("missing/a.png", "does not exist. Make it first"),
        ("folder.png", "is a folder"),
        ("x" * 300 + ".png", "cannot be written: File name too long"),
    ],
)
def test_impossible_outputs_are_explained(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=message):
        write_image(tmp_path / name, torch.zeros(3, 4, 5))


def test_an_unwritable_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ImageError, match="no permission to write into the folder"):
        write_image(tmp_path / "a.png", torch.zeros(3, 4, 5))


def test_a_failing_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError, match="No space left on device"):
        write_image(tmp_path / "a.png", torch.zeros(3, 4, 5), overwrite=True)
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"precious"


def test_to_pil_rounds_to_the_nearest_value() -> None:
    image = to_pil(torch.tensor([0.0, 0.499 / 255, 0.6 / 255, 1.0]).expand(3, 1, 4))
    assert np.array(image)[0, :, 0].tolist() == [0, 0, 1, 255]
