"""Checkpoint files in the originals' formats, converted, compute what the originals computed."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixture import assert_close, filled, imagenet, load, uniform
from safetensors.torch import load_file
from torch import Tensor, nn

import facke_core
from facke_cli.main import main
from facke_core import default_registry
from facke_core.building import build_method
from facke_core.config import to_dict, write_json
from facke_core.convert import run as run_module
from facke_core.identity.iresnet import arcface_layout, cosface_layout
from facke_core.nn.discriminators import MultiScalePatchDiscriminator, PatchDiscriminator
from facke_core.nn.normalize import Normalize
from facke_core.weights.layout import MODEL, fill, read_tensors, read_weights_config
from facke_diffusion.unet import UNet
from facke_gan.convert import from_discriminators, from_facke, from_official_projected
from facke_gan.original.parsing import load_parser
from facke_vae.convert import from_facke as from_parts

pytestmark = pytest.mark.filterwarnings("ignore::facke_core.errors.LicenseWarning")
ZIP: dict[str, Any] = {}
LEGACY: dict[str, Any] = {"_use_new_zipfile_serialization": False}
CLASSES = """
from torch import nn
class ResNet(nn.Module): pass
class IRBlock(nn.Module): pass
class SEBlock(nn.Module): pass
class ArcMarginModel(nn.Module): pass
class sphere(nn.Module): pass
class Block(nn.Module): pass
"""


def convert(file: Path, out: Path, *options: str) -> dict[str, Tensor]:
    """The tensors of what ``facke weights convert`` writes."""
    assert main(["weights", "convert", str(file), "-o", str(out), *options]) == 0
    return load_file(out / "model.safetensors")


@pytest.fixture(autouse=True)
def golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """No golden tensors: they are one more run of each network."""

    def plain(folder: Path, config: Any, *, registry: Any) -> Any:
        write_json(folder / "config.json", to_dict(config))
        return config

    monkeypatch.setattr(run_module, "try_golden", plain)


def random(entries: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The shapes of a fixture with other numbers, where only names are looked at."""
    generator = torch.Generator().manual_seed(0)
    return {e["key"]: torch.rand(e["shape"], generator=generator) for e in entries}


@pytest.fixture(scope="module")
def encoder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A converted ArcFace, which the generators need."""
    folder = tmp_path_factory.mktemp("encoder")
    _, meta = load("arcface_ir18_nose", shared)
    torch.save({"epoch": 1, "model": filled(meta)}, folder / "arcface_checkpoint.tar", **LEGACY)
    convert(folder / "arcface_checkpoint.tar", folder / "arcface")
    return str(folder / "arcface")


def generator_in(folder: Path, *, whole: bool) -> Any:
    """The generator of a converted folder: with the whole pipeline, or without its random start,
    which takes longer than the rest."""
    if whole:
        pipeline = facke_core.load(folder)
        assert pipeline.identity_encoder is not None
        return pipeline.method.generator
    config = read_weights_config(folder)
    with torch.device("meta"):
        generator: Any = build_method(config, registry=default_registry()).generator
    generator.load_state_dict(read_tensors(folder, MODEL, config), assign=True)
    # their constants are no part of the state dict
    generator.normalize = type(generator.normalize)()
    generator.denormalize = type(generator.denormalize)() if generator.denormalize else None
    return generator.eval()


# -- generators ----------------------------------------------------------------------------------

GENERATORS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "facke_simswap_g224": ("latest.pth", ZIP, []),
    "simswap_official_g224": ("latest_net_G.pth", LEGACY, []),
    "simswap_official_g224_fix": ("400000_net_G.pth", ZIP, ["--from", "simswap-fix"]),
    "simswap_official_g_fix_deep": ("400000_net_G.pth", ZIP, []),
    "simswap_official_g512": ("550000_net_G.pth", LEGACY, []),
    "simswap_official_g512_small": ("550000_net_G.pth", ZIP, []),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_of_simswap(name: str, shared: Path, tmp_path: Path, encoder: str) -> None:
    file, form, options = GENERATORS[name]
    tensors, meta = load(name, shared)
    torch.save(filled(meta), tmp_path / file, **form)
    convert(tmp_path / file, tmp_path / "out", "--encoder", encoder, *options)
    (tmp_path / file).unlink()
    generator = generator_in(tmp_path / "out", whole=name == "simswap_official_g224")
    with torch.inference_mode():
        out = generator(tensors["x_u8"].float() / 255, identity=tensors["id"]).image
    if generator.config.output == "imagenet":
        out = generator.normalize(out)
    if "out" in tensors:
        assert_close(out, tensors["out"], atol=1e-4, rel_l2=1e-5)
    else:
        assert_close(out[..., 128:384, 128:384], tensors["out_center"], atol=1e-4, rel_l2=1e-5)
        assert_close(out[..., :64, :64], tensors["out_corner"], atol=1e-4, rel_l2=1e-5)
        assert_close(F.avg_pool2d(out, 4), tensors["out_pool4"], atol=1e-4, rel_l2=1e-5)
    assert read_weights_config(tmp_path / "out").license == "CC-BY-NC-4.0"
    del generator
    gc.collect()


def test_a_run_of_facke_with_its_discriminators(shared: Path, tmp_path: Path) -> None:
    """The networks of the fixture of training steps, and those of the discriminators."""
    _, meta = load("train_step", shared)
    tensors, judges = load("facke_discriminators", shared)
    states = {
        "G": random(meta["state_dict"]["G"]),
        "D1": filled(judges, "D1"),
        "D2": filled(judges, "D2"),
    }
    for name, state in states.items():
        (tmp_path / "run" / name).mkdir(parents=True)
        torch.save(state, tmp_path / "run" / name / "1248511_iter.pth")
        torch.save({}, tmp_path / "run" / name / "latest.pth")
    (tmp_path / "run" / "iter.txt").write_text("2\n1248511")
    found = convert(tmp_path / "run", tmp_path / "out", "--label", "1248511")
    expected = from_facke(states["G"])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)

    model = MultiScalePatchDiscriminator()
    model.load_state_dict(load_file(tmp_path / "out" / "discriminator.safetensors"))
    model.eval()
    with torch.inference_mode():
        out = model(model.normalize.inverse(tensors["x"]))  # type: ignore[operator]
    for d, scale in enumerate(zip(out.features, out.logits, strict=True), start=1):
        for i, actual in enumerate([*scale[0], scale[1]]):
            wanted = tensors[f"eval.D{d}.{i}"]
            assert_close(actual[:, : wanted.shape[1]], wanted, atol=2e-5, rel_l2=5e-6)


@pytest.mark.parametrize(("fixture", "part"), [("losses", "gpD"), ("train_step", "D1")])
def test_a_discriminator_alone(fixture: str, part: str, shared: Path, tmp_path: Path) -> None:
    _, meta = load(fixture, shared)
    state = filled(meta, part)
    torch.save(state, tmp_path / "latest_net_D1.pth", **LEGACY)
    file, out = str(tmp_path / "latest_net_D1.pth"), tmp_path / "out"
    assert main(["weights", "convert", file, "-o", str(out)]) == 0
    found = load_file(out / "discriminator.safetensors")
    assert found.keys() == from_discriminators(state).keys()
    assert all(torch.equal(found[f"scales.0.{key}"], value) for key, value in state.items())
    PatchDiscriminator().load_state_dict(
        {key.removeprefix("scales.0."): value for key, value in found.items()}
    )


def test_the_projected_discriminator(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from facke_gan.projected import ProjectedDiscriminator

    tensors, meta = load("simswap_projected_discriminator", shared)
    state = filled(meta)
    torch.save(state, tmp_path / "400000_net_D.pth")
    out = tmp_path / "out"
    assert main(["weights", "convert", str(tmp_path / "400000_net_D.pth"), "-o", str(out)]) == 0
    model = ProjectedDiscriminator().eval()
    model.load_state_dict(load_file(out / "discriminator.safetensors"))
    assert from_official_projected(state).keys() == model.state_dict().keys()
    with torch.inference_mode():
        logits = model(tensors["x_u8"].float() / 255).logits
    flat = torch.cat([x.flatten(1) for x in logits], dim=1)
    assert_close(flat, tensors["logits"], atol=2e-5, rel_l2=1e-5)


@pytest.mark.parametrize("size", [64, 224])
def test_the_parts_of_a_cvae(size: int, shared: Path, tmp_path: Path, encoder: str) -> None:
    tensors, meta = load(f"facke_cvae{size}", shared)
    for part in ("M1", "E", "M2", "D"):
        (tmp_path / "CVAE" / part).mkdir(parents=True)
        form = LEGACY if part == "M1" else ZIP
        torch.save(filled(meta, part), tmp_path / "CVAE" / part / "840000_iter.pth", **form)
    convert(tmp_path / "CVAE", tmp_path / "out", "--encoder", encoder)
    generator = generator_in(tmp_path / "out", whole=size == 64)
    if size == 64:
        x, eps, expected = Normalize().inverse(tensors["x"]), tensors["eps"], tensors["eval.out"]
    else:
        x, expected = tensors["x_u8"].float() / 255, tensors["out"]
        eps = uniform(meta["seed"], "input:cvae224:eps", (1, 512, 28, 28))
    with torch.inference_mode():
        out = generator(x, identity=tensors["id"], eps=eps).image
    assert_close(out, expected, atol=1e-4, rel_l2=2e-5)


def test_a_cvae_gan_has_its_discriminators_with_it(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, meta = load("train_step", shared)
    shapes = meta["state_dict"]
    states = {part: random(shapes[f"cvae.{part}"]) for part in ("M1", "E", "M2", "D")}
    for part, state in (states | {name: random(shapes[name]) for name in ("D1", "D2")}).items():
        (tmp_path / "run" / part).mkdir(parents=True)
        torch.save(state, tmp_path / "run" / part / "latest.pth")
    found = convert(tmp_path / "run", tmp_path / "out", "--json")
    expected = from_parts(states)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["method"]) == ("facke-cvae", "cvae-gan")
    assert "--encoder" in report["usage"]
    assert main(["weights", "convert", str(tmp_path / "run" / "M1" / "latest.pth"), "-o", "x"]) == 2
    assert "part M1 of a CVAE" in capsys.readouterr().err


UNETS = {
    "unet_small": ["model_channels=32", "num_head_channels=16"],
    "unet_other": [
        "image_size=32",
        "num_heads=2",
        "num_head_channels=0",
        "new_attention_order=true",
    ],
}


@pytest.mark.parametrize(("name", "form"), [("unet_small", ZIP), ("unet_other", LEGACY)])
def test_u_nets(name: str, form: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    tensors, meta = load(name, shared)
    torch.save(filled(meta), tmp_path / "model.pt", **form)
    options = [word for setting in UNETS[name] for word in ("--set", f"generator.{setting}")]
    convert(tmp_path / "model.pt", tmp_path / "out", *options, "--license", "MIT")
    config = read_weights_config(tmp_path / "out")
    generator: Any = build_method(config, registry=default_registry()).generator
    generator.eval()
    found = read_tensors(tmp_path / "out", MODEL, config)
    fill(generator, found, source="the folder", built_by="its config")
    with torch.inference_mode():
        out = UNet.forward(generator, tensors["x"], tensors["timesteps"], tensors.get("y"))
    assert_close(out, tensors["out"], atol=3e-5, rel_l2=5e-6)
    assert config.license == "MIT"
    if name == "unet_small":  # the other has classes, which no sampler supplies
        loaded: Any = facke_core.load(tmp_path / "out").method.generator
        assert loaded.config == generator.config


def test_the_ffhq_u_net_is_recognised_by_names_and_shapes(shared: Path) -> None:
    from facke_core.convert.kinds import Checkpoint
    from facke_diffusion.kinds import guided_diffusion

    _, meta = load("manifest_ffhq_unet", shared)
    state = {e["key"]: torch.empty(e["shape"], device="meta") for e in meta["state_dict"]}
    converted = guided_diffusion(Checkpoint(path=Path("ffhq_10m.pt"), parts={"": state}))
    assert converted is not None
    assert converted.config is not None
    assert converted.config.generator == {"image_size": 256}
    assert converted.config.alignment["template"] == "ffhq"
    assert converted.license == "CC-BY-NC-SA-4.0"
    fine_tuned = guided_diffusion(Checkpoint(path=Path("run"), parts={"DDPM": state}))
    assert fine_tuned is not None
    assert fine_tuned.config is not None
    assert fine_tuned.config.alignment["template"] == "simswap"


# -- pickled modules -----------------------------------------------------------------------------


@contextmanager
def surrogates(folder: Path, name: str) -> Iterator[ModuleType]:
    """A module ``name`` with the classes that the originals pickled; gone afterwards."""
    import importlib

    file = folder.joinpath("code", *name.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True)
    for inner in file.parents:
        if inner == folder / "code":
            break
        (inner / "__init__.py").touch()
    file.write_text(f"open({str(folder / 'imported')!r}, 'a').close()\n{CLASSES}")
    sys.path.insert(0, str(folder / "code"))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder / "code"))
        for loaded in [key for key in sys.modules if key.partition(".")[0] == "models"]:
            del sys.modules[loaded]
        importlib.invalidate_caches()
    with pytest.raises(ImportError):
        importlib.import_module(name)
    (folder / "imported").unlink()


def dressed(
    layout: Callable[[dict[str, Tensor]], nn.Module], state: dict[str, Tensor], classes: ModuleType
) -> nn.Module:
    """A network of ours under the class names of the originals."""
    with torch.device("meta"):
        network = layout(state)
    network.load_state_dict(state, assign=True)
    names = {
        "ArcFaceResNet": "ResNet",
        "_IRBlock": "IRBlock",
        "_SqueezeExcite": "SEBlock",
        "CosFaceSphere": "sphere",
        "_SphereBlock": "Block",
    }
    for module in network.modules():
        if name := names.get(type(module).__name__):
            module.__class__ = getattr(classes, name)
    return network


def whole(network: nn.Module, classes: ModuleType) -> dict[str, Any]:
    """What the training loop of the originals saved."""
    margin = classes.ArcMarginModel()
    margin.weight = nn.Parameter(torch.ones(3, 4))
    return {
        "epoch": 4,
        "epochs_since_improvement": 0,
        "acc": 0.99,
        "model": nn.DataParallel(network),
        "metric_fc": nn.DataParallel(margin),
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
    }


@pytest.mark.parametrize(
    ("name", "module", "as_dict", "form"),
    [
        ("arcface_ir18_nose", "models", True, LEGACY),
        ("arcface_se_ir101", "models.arcface_models", False, ZIP),
    ],
)
def test_pickled_arcface_in_both_formats(
    name: str, module: str, as_dict: bool, form: dict[str, Any], shared: Path, tmp_path: Path
) -> None:
    tensors, meta = load(name, shared)
    file = tmp_path / "arcface_checkpoint.tar"
    with surrogates(tmp_path, module) as classes:
        network = dressed(arcface_layout, filled(meta), classes)
        torch.save(whole(network, classes) if as_dict else network, file, **form)
        del network
    assert (b"class ResNet(nn.Module)" in file.read_bytes()) == bool(form), "source text inside"
    convert(file, tmp_path / "arcface")
    assert not (tmp_path / "imported").exists(), "the source text was executed"
    settings = {"name": "arcface", "resize": "nearest", "weights": str(tmp_path / "arcface")}
    encoder = facke_core.load_encoder(settings)
    with torch.inference_mode():
        embedding = encoder.network(tensors["x"])  # type: ignore[attr-defined]
    assert_close(embedding, tensors["embedding"], atol=1e-3)
    assert_close(F.normalize(embedding), tensors["embedding_l2"], atol=5e-6)


@pytest.mark.parametrize(
    ("name", "pickled", "form"),
    [("cosface_sphere20", True, LEGACY), ("cosface_sphere64", False, ZIP)],
)
def test_cosface_pickled_and_plain(
    name: str, pickled: bool, form: dict[str, Any], shared: Path, tmp_path: Path
) -> None:
    tensors, meta = load(name, shared)
    file, state = tmp_path / "cosface_checkpoint.pth", filled(meta)
    if pickled:
        with surrogates(tmp_path, "models") as classes:
            torch.save(whole(dressed(cosface_layout, state, classes), classes), file, **form)
    else:
        torch.save({f"module.{key}": value for key, value in state.items()}, file, **form)
    convert(file, tmp_path / "cosface")
    settings = {"name": "cosface-sphere", "weights": str(tmp_path / "cosface")}
    encoder = facke_core.load_encoder(settings)
    with torch.inference_mode():
        embedding = encoder.network(tensors["x"])  # type: ignore[attr-defined]
    assert_close(embedding, tensors["embedding"], rel_l2=1e-5)


# -- face parsing --------------------------------------------------------------------------------


def test_face_parsing_in_a_process_of_its_own(shared: Path, tmp_path: Path) -> None:
    tensors, meta = load("bisenet_parsing", shared)
    torch.save(filled(meta), tmp_path / "79999_iter.pth")
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from facke_cli.main import run; run()", "weights", "convert"),
            *("79999_iter.pth", "-o", "parsing", "--json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["kind"] == "face-parsing"
    parser = load_parser(tmp_path / "parsing")
    with torch.inference_mode():
        first, second, third = parser.logits(tensors["x"])
    assert_close(first, tensors["out"], atol=2e-5, rel_l2=5e-6)
    for head, key in ((second, "out16_center"), (third, "out32_center")):
        h, w = (head.shape[2] - 16) // 2, (head.shape[3] - 16) // 2
        assert_close(head[..., h : h + 16, w : w + 16], tensors[key], atol=2e-5, rel_l2=5e-6)
    best = first.topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > 1e-4
    assert torch.equal(first.argmax(1)[sure], tensors["argmax"].long()[sure])
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert parser.classes(photo).shape == (1, 512, 512)
    assert_close(parser(photo), parser.logits(imagenet(photo * 255))[0], atol=1e-4)


def test_one_wrong_number_is_seen(shared: Path, tmp_path: Path) -> None:
    """That these comparisons can fail."""
    tensors, meta = load("bisenet_parsing", shared)
    state = filled(meta)
    state["cp.resnet.conv1.weight"] = state["cp.resnet.conv1.weight"].transpose(2, 3)
    torch.save(state, tmp_path / "79999_iter.pth")
    found = convert(tmp_path / "79999_iter.pth", tmp_path / "parsing")
    assert torch.equal(found["cp.resnet.conv1.weight"], state["cp.resnet.conv1.weight"])
    with torch.inference_mode():
        first = load_parser(tmp_path / "parsing").logits(tensors["x"])[0]
    with pytest.raises(AssertionError):
        assert_close(first, tensors["out"], atol=2e-5, rel_l2=5e-6)
