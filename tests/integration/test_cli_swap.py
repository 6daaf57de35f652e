"""``facke swap``: good and odd pictures in, one disclosed picture out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from facke_cli.samples import sample_or_path
from facke_core.images.io import read_image, write_image

Facke = Callable[..., Any]
HOPPER = sample_or_path("sample:hopper")
COLLINS = sample_or_path("sample:collins")
SWAP = ("swap", "--method", "pyramid")


def hopper() -> PIL.Image.Image:
    return PIL.Image.open(HOPPER).convert("RGB")


def face_box(run: Any) -> list[float]:
    return json.loads(run.out)["faces"][0]["box"]


def test_the_report_says_what_was_done(facke: Facke, tmp_path: Path) -> None:
    run = facke(*SWAP, "sample:collins", "sample:hopper", "-o", "out.png", "--seed", 7, "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["output"] == "out.png"
    assert (report["method"], report["device"], report["seed"]) == ("pyramid", "cpu", 7)
    assert set(report["seconds"]) >= {"detect", "align", "encode", "generate", "paste", "total"}
    (face,) = report["faces"]
    assert np.array(face["box"]).shape == (4,)
    assert np.array(face["landmarks"]).shape == (5, 2)
    out = np.asarray(PIL.Image.open(tmp_path / "out.png"), float)
    before = np.asarray(hopper(), float)
    x0, y0, x1, y1 = (round(v) for v in face["box"])
    assert np.abs(out - before)[y0:y1, x0:x1].mean() > 5
    assert np.abs(out - before)[-40:].max() == 0


def test_the_result_says_that_it_is_synthetic(facke: Facke) -> None:
    facke(*SWAP, "sample:collins", "sample:hopper", "-o", "out.webp", "--seed", 7)
    run = facke("inspect", "out.webp", "--json")
    assert run.code == 0
    report = json.loads(run.out)
    assert report["synthetic"] is True
    assert (report["method"], report["seed"]) == ("pyramid", 7)
    assert report["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "synthetic" in facke("inspect", "out.webp").out
    run = facke("inspect", HOPPER, "--json")
    assert (run.code, json.loads(run.out)["synthetic"]) == (0, None)
    assert "says nothing" in facke("inspect", HOPPER).out


def test_inspect_says_what_a_source_type_means(facke: Facke) -> None:
    for term, verdict, null in (
        ("compositeSynthetic", "synthetic. It is a composite with", True),
        ("digitalCapture", "does not call itself synthetic. A digital camera", None),
        ("unheardOf", "does not call itself synthetic", None),
    ):
        packet = (
            '<x xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            f'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/x/{term}"/>'
        )
        write_image("a.png", torch.zeros(3, 4, 4), xmp=packet.encode(), overwrite=True)
        assert verdict in facke("inspect", "a.png").out
        assert json.loads(facke("inspect", "a.png", "--json").out)["synthetic"] is null


@pytest.mark.skipif(os.name != "posix", reason="needs links and rights")
def test_force_keeps_a_link_and_the_rights_of_the_file(facke: Facke, tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "real.png").chmod(0o600)
    (tmp_path / "out.png").symlink_to("real.png")
    run = facke(*SWAP, "sample:collins", "sample:hopper", "-o", "out.png", "--force")
    assert run.code == 0
    assert (tmp_path / "out.png").is_symlink()
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o600
    assert read_image(tmp_path / "real.png").image.shape[0] == 3


def test_a_target_that_the_format_of_the_output_cannot_hold_is_refused_at_once(
    facke: Facke,
) -> None:
    PIL.Image.new("RGB", (16_384, 8)).save("wide.png")
    run = facke(*SWAP, "sample:collins", "wide.png", "-o", "out.webp")
    assert (run.code, "WEBP takes at most 16383 on a side" in run.err) == (2, True)


def test_a_message_names_the_output_and_quiet_silences_it(facke: Facke) -> None:
    run = facke(*SWAP, "sample:collins", "sample:hopper", "-o", "out.png")
    assert run.out.startswith("out.png: 1 face swapped by pyramid on cpu in ")
    assert facke(*SWAP, HOPPER, HOPPER, "-o", "out.png", "--force", "--quiet") == (0, "", "")


def test_settings_reach_the_sampler_and_a_seed_repeats_its_noise(
    facke: Facke, tmp_path: Path
) -> None:
    def swap(name: str, *options: object) -> bytes:
        arguments = (*SWAP, "sample:collins", "sample:hopper", "-o", name, *options)
        assert facke(*arguments).code == 0
        return PIL.Image.open(tmp_path / name).tobytes()

    noisy = ("--set", "noise=0.2", "--seed")
    assert swap("a.png", *noisy, 1) == swap("b.png", *noisy, 1)
    assert swap("a.png", *noisy, 2, "--force") != swap("b.png", "--force")


def test_crops_are_swapped_without_detection(facke: Facke, tmp_path: Path) -> None:
    for name, color in {"red.png": (200, 0, 0), "grey.png": (90, 90, 90)}.items():
        PIL.Image.new("RGB", (200, 200), color).save(tmp_path / name)
    run = facke(*SWAP, "red.png", "grey.png", "-o", "out.png", "--crop", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["faces"] == []
    out = PIL.Image.open(tmp_path / "out.png")
    assert out.size == (128, 128)
    assert out.getpixel((64, 64)) == (200, 0, 0)


@pytest.fixture
def two_faces(tmp_path: Path) -> Path:
    """Hopper large at the left, Collins smaller at the right."""
    picture = PIL.Image.new("RGB", (900, 600), (120, 120, 120))
    picture.paste(hopper(), (0, 0))
    picture.paste(PIL.Image.open(COLLINS).convert("RGB").resize((380, 380)), (515, 0))
    picture.save(tmp_path / "two.png")
    return tmp_path / "two.png"


def test_one_or_all_faces_are_swapped(facke: Facke, two_faces: Path) -> None:
    def boxes(face: object) -> list[float]:
        run = facke(*SWAP, HOPPER, two_faces, "-o", f"{face}.png", "--json", "--face", face)
        assert run.code == 0, run.err
        return [round(face["box"][0]) for face in json.loads(run.out)["faces"]]

    first, second = boxes("all")
    assert first < 500 < second
    assert boxes("largest") == boxes(1) == [first]
    assert boxes(2) == [second]
    run = facke(*SWAP, HOPPER, two_faces, "-o", "x.png", "--face", 3)
    assert run.code == 2
    assert "no face 3" in run.err
    assert "2 faces" in run.err
    assert not Path("x.png").exists()


def test_several_numbers_swap_several_faces(facke: Facke, two_faces: Path) -> None:
    arguments = (*SWAP, HOPPER, two_faces, "-o", "both.png", "--json", "--face", "2,1")
    report = json.loads(facke(*arguments).out)
    assert len(report["faces"]) == report["faces_seen"] == 2
    for wrong in ("1,", "1,0", "1,largest", "0"):
        run = facke(*SWAP, HOPPER, two_faces, "-o", "x.png", "--face", wrong)
        assert run.code == 2
        assert f"--face {wrong!r} is not possible" in run.err
    run = facke(*SWAP, HOPPER, two_faces, "-o", "x.png", "--face", "1,5")
    assert "no face 5" in run.err


def test_the_report_says_how_many_faces_were_seen(facke: Facke, two_faces: Path) -> None:
    run = facke(*SWAP, HOPPER, two_faces, "-o", "one.png")
    assert run.out.startswith("one.png: 1 of 2 faces swapped by pyramid on cpu in ")
    assert run.err == ""
    run = facke(*SWAP, HOPPER, two_faces, "-o", "all.png", "--face", "all")
    assert run.out.startswith("all.png: 2 faces swapped by ")


@pytest.mark.filterwarnings("default::facke_core.errors.FackeWarning")
def test_a_source_of_several_people_is_noted_and_one_can_be_chosen(
    facke: Facke, two_faces: Path, tmp_path: Path
) -> None:
    def swap(name: str, *options: object) -> tuple[dict[str, Any], str]:
        run = facke(*SWAP, two_faces, HOPPER, "-o", name, "--json", *options)
        assert run.code == 0, run.err
        return json.loads(run.out), run.err

    largest, said = swap("a.png")
    assert "shows 2 faces or more" in said
    assert "--source-face" in said
    first, said = swap("b.png", "--source-face", 1)
    second, also_said = swap("c.png", "--source-face", 2)
    assert (said, also_said) == ("", "")
    assert largest["source"]["box"] == first["source"]["box"]
    assert first["source"]["box"][0] < 500 < second["source"]["box"][0]
    pictures = [PIL.Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc"]
    assert pictures[0] == pictures[1] != pictures[2]
    run = facke(*SWAP, two_faces, HOPPER, "-o", "d.png", "--source-face", 3)
    assert run.code == 2
    assert "no face 3" in run.err


def test_a_head_on_its_head_gets_a_face_on_its_head(facke: Facke, tmp_path: Path) -> None:
    hopper().transpose(PIL.Image.Transpose.ROTATE_180).save(tmp_path / "down.png")
    run = facke(*SWAP, COLLINS, "down.png", "-o", "out.png", "--json")
    (face,) = json.loads(run.out)["faces"]
    assert abs(abs(face["angle"]) - 180) < 10
    (left, y0), (right, y1), _, (_, mouth), _ = face["landmarks"]
    assert right < left
    assert mouth < min(y0, y1)


def test_the_faces_of_a_picture_are_listed_and_drawn(
    facke: Facke, two_faces: Path, tmp_path: Path
) -> None:
    run = facke("faces", two_faces, "-o", "numbered.png", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    first, second = report["faces"]
    assert (first["number"], second["number"]) == (1, 2)
    assert first["box"][0] < 500 < second["box"][0]
    assert {"box", "landmarks", "angle", "score", "doubts"} < first.keys()
    before = np.asarray(PIL.Image.open(two_faces).convert("RGB"), int)
    drawn = np.asarray(PIL.Image.open(tmp_path / "numbered.png"), int)
    changed = np.abs(drawn - before).max(2) > 0
    for face in (first, second):
        x0, y0, x1, y1 = (round(v) for v in face["box"])
        assert changed[max(y0 - 20, 0) : y1 + 20, max(x0 - 20, 0) : x1 + 20].any()
        assert not changed[(y0 + y1) // 2, (x0 + x1) // 2]
    assert 0.001 < changed.mean() < 0.1
    run = facke("faces", two_faces)
    assert run.out.splitlines()[0].endswith("2 faces in 900 x 600 pixels")
    assert [line.split()[0] for line in run.out.splitlines()[2:]] == ["1", "2"]
    assert facke("faces", two_faces, "-o", "numbered.png").code == 2
    PIL.Image.new("RGB", (90, 90), (9, 99, 9)).save(tmp_path / "none.png")
    assert facke("faces", "none.png") == (0, "none.png: 0 faces in 90 x 90 pixels\n", "")


def upright_box(facke: Facke) -> list[float]:
    return face_box(facke(*SWAP, HOPPER, HOPPER, "-o", "plain.png", "--json"))


def test_a_photo_that_exif_turns_is_swapped_upright(facke: Facke, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6  # shown turned clockwise by a quarter
    hopper().rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=98)
    run = facke(*SWAP, HOPPER, "turned.jpg", "-o", "out.jpg", "--json")
    assert run.code == 0, run.err
    assert np.allclose(face_box(run), upright_box(facke), atol=6)
    out = PIL.Image.open(tmp_path / "out.jpg")
    assert out.size == (512, 600)
    assert out.getexif().get(274, 1) == 1


def test_transparency_is_kept(facke: Facke, tmp_path: Path) -> None:
    alpha = PIL.Image.linear_gradient("L").resize((512, 600))
    picture = hopper()
    picture.putalpha(alpha)
    picture.save(tmp_path / "alpha.png")
    assert facke(*SWAP, "sample:collins", "alpha.png", "-o", "out.png").code == 0
    out = PIL.Image.open(tmp_path / "out.png")
    assert out.mode == "RGBA"
    assert out.getchannel("A").tobytes() == alpha.tobytes()
    run = facke(*SWAP, "sample:collins", "alpha.png", "-o", "out.jpg")
    assert run.code == 2
    assert "transparen" in run.err
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("grey.png", lambda p: p.convert("L")),
        ("deep.png", lambda p: PIL.Image.fromarray(np.asarray(p.convert("L"), np.uint16) * 257)),
        ("cmyk.jpg", lambda p: p.convert("CMYK")),
        ("palette.png", lambda p: p.convert("P", palette=PIL.Image.Palette.ADAPTIVE)),
        ("Zoë 你好 .png", lambda p: p),
        ("-dash.bmp", lambda p: p),
    ],
)
def test_odd_but_good_pictures_are_swapped(
    name: str,
    convert: Callable[[PIL.Image.Image], PIL.Image.Image],
    facke: Facke,
    tmp_path: Path,
) -> None:
    convert(hopper()).save(tmp_path / name)
    run = facke(*SWAP, "--json", "-o", f"out {name}.png", "--", "sample:collins", name)
    assert run.code == 0, run.err
    assert np.allclose(face_box(run), upright_box(facke), atol=8)
    assert PIL.Image.open(tmp_path / f"out {name}.png").size == (512, 600)


def test_weights_in_a_folder_are_used_by_name(facke: Facke, tmp_path: Path) -> None:
    import torch

    from facke_core.building import build_method
    from facke_core.plugins.registry import default_registry
    from facke_core.publish.save import save
    from facke_core.weights.layout import WeightsConfig

    config = WeightsConfig(
        method="simswap",
        generator={
            "image_size": 64,
            "channels": [8, 8, 8],
            "num_id_blocks": 1,
            "identity_dim": 128,
        },
        identity_encoder={"name": "dlib-resnet29"},
        alignment={"template": "ffhq", "size": 64},
    )
    torch.manual_seed(0)
    method = build_method(config, registry=default_registry())
    save(method, tmp_path / "mine", config, dtype=torch.float16)
    for precision in ("auto", "bfloat16"):
        run = facke("swap", "--weights", "./mine", "sample:collins", "sample:hopper")
        assert run.code == 2
        arguments = ("--weights", "./mine", "--dtype", precision, "--json", "--force")
        run = facke("swap", *arguments, "sample:collins", "sample:hopper", "-o", "out.png")
        assert run.code == 0, run.err
        report = json.loads(run.out)
        assert (report["method"], report["weights"]) == ("simswap", "mine")
    run = facke(*SWAP, "--weights", "./mine", HOPPER, HOPPER, "-o", "b.png")
    assert run.code == 2
    assert "weights of the method 'simswap', not of 'pyramid'" in run.err
    data = bytearray((tmp_path / "mine/model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "mine/model.safetensors").write_bytes(data)
    run = facke("swap", "--weights", "./mine", HOPPER, HOPPER, "-o", "b.png")
    assert run.code == 3
    assert "damaged" in run.err
    assert not (tmp_path / "b.png").exists()
