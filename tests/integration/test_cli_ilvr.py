"""``facke swap`` with a DDPM: settings, progress, pictures of the steps, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from facke_cli import console, watching
from facke_core.config import to_dict
from facke_core.publish.save import save
from facke_core.weights.layout import WeightsConfig
from facke_diffusion.ddpm import DDPMConfig
from facke_diffusion.ilvr import build

Facke = Callable[..., Any]
TINY = DDPMConfig(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 1),
    attention_resolutions=(),
    num_head_channels=32,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DDPM that knows nothing."""
    folder = tmp_path_factory.mktemp("weights") / "ddpm"
    torch.manual_seed(0)
    method = build(TINY)
    with torch.no_grad():
        method.generator.out[2].weight.normal_(std=0.02)  # type: ignore[attr-defined]
    config = WeightsConfig(
        method="ilvr",
        generator=to_dict(TINY),
        sampler={"factor": 4, "steps": 8},
        alignment={"template": "simswap_frontal", "size": 32},
    )
    save(method, folder, config)
    return folder


@pytest.fixture
def swap(facke: Facke, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Facke:
    """Swaps two crops."""
    folder = tmp_path_factory.mktemp("crops")
    crops = [folder / "source.png", folder / "target.png"]
    PIL.Image.radial_gradient("L").save(crops[0])
    PIL.Image.linear_gradient("L").save(crops[1])

    def run(output: str, *options: object) -> Any:
        arguments = ("--weights", weights, "--method", "ilvr", "-o", output, "--seed", 3)
        return facke("swap", *crops, "--crop", *arguments, *options)

    return run


def pixels(name: str) -> bytes:
    with PIL.Image.open(name) as picture:
        return picture.tobytes()


def test_settings_reach_the_sampler_and_the_seed_repeats(swap: Facke) -> None:
    run = swap("a.png", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["seed"] == 3
    assert swap("b.png").code == 0
    assert pixels("a.png") == pixels("b.png")
    seen = {pixels("a.png")}
    for setting in (
        "variant=facke",
        "factor=2",
        "until=0.3",
        "steps=6",
        "start=0.8",
        "solver=ddim",
        "clip=false",
        "guidance=0.2",
    ):
        run = swap("c.png", "--set", setting, "--force")
        assert run.code == 0, (setting, run.err)
        seen.add(pixels("c.png"))
    assert len(seen) == 9


def test_another_methods_result_is_refined(swap: Facke) -> None:
    run = swap("a.png", "--set", "refine=simswap", "--set", "start=0.3")
    assert run.code == 0, run.err
    assert swap("b.png", "--set", "start=0.3").code == 0
    assert pixels("a.png") != pixels("b.png")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=0", "steps: 0 is below 1"),
        ("steps=2000", "steps: 2000 are more than the 1000 timesteps"),
        ("factor=6", "factor: 6 is not a power of two"),
        ("factor=64", "factor: 64 does not divide the image size 32"),
        ("start=0", "start: 0 is not in (0, 1]"),
        ("start=1.5", "start: 1.5 is not in (0, 1]"),
        ("variant=fast", "sampler.variant"),
        ("guidance_encoder=nobody", None),
        ("refine=simswp", "Did you mean 'simswap'?"),
        ("range_t=20", "range_t: unknown key"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(
    swap: Facke, setting: str, message: str | None
) -> None:
    run = swap("out.png", "--set", setting, "--previews", "steps")
    if message is None:  # an encoder that nobody asks
        assert run.code == 0
        return
    assert run.code == 2
    assert message in run.err
    assert not Path("out.png").exists()
    assert not Path("steps").exists()


def test_pictures_of_the_steps_disclose_what_they_are(swap: Facke, facke: Facke) -> None:
    assert swap("out.png", "--previews", "steps").code == 0
    files = sorted(Path("steps").iterdir())
    assert [file.name for file in files] == [f"step-{n}.png" for n in (1, 2, 3, 4)]
    assert PIL.Image.open(files[0]).size == (32, 32)
    assert len({pixels(str(file)) for file in files}) == 4
    report = json.loads(facke("inspect", files[0], "--json").out)
    assert (report["synthetic"], report["method"], report["seed"]) == (True, "ilvr", 3)


def test_pictures_of_the_steps_go_into_an_empty_folder_only(swap: Facke) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("kept")
    for folder, message in {"full": "is no empty folder", "a/b": "folder a does not exist"}.items():
        run = swap("out.png", "--previews", folder)
        assert run.code == 2
        assert message in run.err
    assert [file.name for file in Path("full").iterdir()] == ["mine.txt"]
    Path("empty").mkdir()
    assert swap("out.png", "--previews", "empty").code == 0
    assert len(list(Path("empty").iterdir())) == 4


def test_an_interrupted_swap_leaves_no_pictures(
    swap: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = watching._write

    def interrupted(file: Path, *rest: Any) -> None:
        write(file, *rest)
        if file.name == "step-3.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "_write", interrupted)
    assert swap("out.png", "--previews", "steps").code == 130
    assert list(Path().iterdir()) == []
    Path("mine").mkdir()
    assert swap("out.png", "--previews", "mine").code == 130
    assert list(Path("mine").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(swap: Facke, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "mkdir", refused)
    run = swap("out.png", "--previews", "steps")
    assert run.code == 2
    assert "--previews steps cannot be made" in run.err


def test_progress_is_shown_once_generating_takes_long(
    swap: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swap("a.png").err == ""
    monkeypatch.setattr(watching, "PATIENCE", -1.0)
    monkeypatch.setattr(console, "SECONDS", -1.0)
    assert swap("b.png").err.splitlines() == [f"generate {n}/4" for n in (1, 2, 3, 4)]
    assert swap("c.png", "--quiet").err == ""
    run = swap("d.png", "--json")
    assert json.loads(run.out)["output"] == "d.png"


def test_a_terminal_gets_a_bar(swap: Facke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run = swap("a.png")
    assert run.code == 0
    assert "generate" in run.err
    assert "4/4" in run.err


def test_photographs_are_swapped(facke: Facke, weights: Path) -> None:
    run = facke("swap", "sample:collins", "sample:hopper", "--weights", weights, "-o", "out.png")
    assert run.code == 0, run.err
    assert "1 face swapped" in run.out
