"""``facke weights convert``: what it recognises, records, says and refuses."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert_safety import tiny

from facke_cli.main import main
from facke_core import ConverterSpec, Registry, default_registry, load_encoder
from facke_core._files import sha256_of
from facke_core.convert.kinds import Checkpoint, Converted
from facke_core.convert.run import convert
from facke_core.errors import (
    ConfigError,
    PluginError,
    UnknownNameError,
    UsageError,
    VerificationError,
    WeightsError,
)
from facke_core.identity.iresnet import ArcFaceResNet
from facke_core.weights.layout import read_weights_config
from standins import plugin


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The generator of an official SimSwap, with hardly any channels."""
    path = tmp_path / "latest_net_G.pth"
    torch.save(tiny(), path)
    return path


def test_the_configuration_the_card_and_the_report_tell_the_origin(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["weights", "convert", str(file), "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    config = read_weights_config(out)
    assert config.generator["channels"] == [2, 3, 4, 5]
    assert (config.generator["num_id_blocks"], config.generator["identity_dim"]) == (1, 4)
    assert config.alignment["template"] == "simswap"
    assert config.license == report["license"] == "CC-BY-NC-4.0"
    card = (out / "README.md").read_text("utf-8")
    digest = sha256_of(file)
    assert report["sources"] == {file.name: digest}
    for said in (digest, str(file.stat().st_size), "CC BY-NC 4.0", "license: cc-by-nc-4.0"):
        assert said in card
    assert config.training["kind"].startswith("simswap: ")
    assert report["method"] == "simswap"
    assert any("simswap-fix" in note for note in report["notes"])
    assert main(["weights", "convert", str(file), "-o", str(tmp_path / "again")]) == 0
    assert f"sha256    {digest}" in capsys.readouterr().out


def test_settings_and_the_licence_can_be_said(file: Path, tmp_path: Path) -> None:
    settings = ["generator.image_size=128", "alignment.template=ffhq"]
    convert(file, tmp_path / "out", settings=settings, spdx="MIT", kind="simswap-fix")
    config = read_weights_config(tmp_path / "out")
    assert config.generator["image_size"] == config.alignment["size"] == 128
    assert config.generator["output"] == "imagenet"
    assert config.alignment["template"] == "ffhq"
    assert config.license == "MIT"
    for wrong in ("generator.stem=3", "image_size=128", "generator.image_size=x"):
        with pytest.raises(ConfigError, match=r"unknown key|image_size"):
            convert(file, tmp_path / "wrong", settings=[wrong])
    assert not (tmp_path / "wrong").exists()


def test_the_encoder_is_recorded_and_must_exist(file: Path, tmp_path: Path) -> None:
    (tmp_path / "arcface").mkdir()
    with pytest.raises(UsageError, match=r"holds no model\.safetensors"):
        convert(file, tmp_path / "none", encoder=str(tmp_path / "arcface"))
    (tmp_path / "arcface" / "model.safetensors").touch()
    convert(file, tmp_path / "out", encoder=str(tmp_path / "arcface"))
    encoder = read_weights_config(tmp_path / "out").identity_encoder
    assert encoder is not None
    assert encoder["weights"] == str(tmp_path / "arcface")
    reference = f"hf:me/arcface@{'0' * 40}"
    convert(file, tmp_path / "hub", encoder=reference)
    hub = read_weights_config(tmp_path / "hub").identity_encoder
    assert hub is not None
    assert hub["weights"] == reference
    with pytest.raises(UsageError, match="does not exist"):
        convert(file, tmp_path / "none", encoder=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is no safetensors file"):
        convert(file, tmp_path / "none", encoder=str(file))
    for moving in ("hf:me/arcface", "hf:me/arcface@main"):
        with pytest.raises(UsageError, match="is not pinned"):
            convert(file, tmp_path / "none", encoder=moving)
    with pytest.raises(UsageError, match="not a reference to the Hub"):
        convert(file, tmp_path / "none", encoder="hf:arcface")
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_converted_twice_is_the_same_file(file: Path, tmp_path: Path) -> None:
    for n in range(4):
        convert(file, tmp_path / str(n))
    for name in ("model.safetensors", "config.json", "test/io.safetensors"):
        assert len({(tmp_path / str(n) / name).read_bytes() for n in range(4)}) == 1, name


def test_a_checkpoint_with_numbers_that_are_none_is_not_converted(tmp_path: Path) -> None:
    state = ArcFaceResNet((1, 1, 1, 1)).state_dict()
    state["fc.bias"][3] = float("inf")
    torch.save(state, tmp_path / "arcface.tar")
    with pytest.raises(WeightsError, match=r"not finite .*fc\.bias \(1 of 512\)"):
        convert(tmp_path / "arcface.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save_file(state, tmp_path / "arcface.safetensors")
    with pytest.raises(VerificationError, match=r"fc\.bias \(1 of 512\)"):
        load_encoder({"name": "arcface", "weights": str(tmp_path / "arcface.safetensors")})


def test_what_is_printed_and_written_can_be_copied(tmp_path: Path) -> None:
    arcface = tmp_path / "arc|face.tar"
    torch.save(ArcFaceResNet((1, 1, 1, 1)).state_dict(), arcface)
    out = tmp_path / 'my "arc" folder'
    report = convert(arcface, out)
    assert json.loads(f"{{{report.usage}}}") == {"identity_encoder": report.encoder}
    card = (out / "README.md").read_text("utf-8")
    assert "\n| property | value |\n| --- | --- |\n" in card
    assert f"\n| sha256 of arc\\|face.tar | {sha256_of(arcface)} |\n" in card


def test_nothing_of_the_weights_that_are_replaced_stays(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(file, out)
    for name in ("evaluation.json", "notes.txt"):
        (out / name).write_text("{}")
    torch.save(ArcFaceResNet((1, 1, 1, 1)).state_dict(), tmp_path / "arcface.tar")
    convert(tmp_path / "arcface.tar", out, force=True)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {"model.safetensors", "README.md", "notes.txt"}
    (out / "config.json").write_text('{"facke": {}, "files": {"../../arcface.tar": {}}}')
    convert(file, out, force=True)
    assert read_weights_config(out).method == "simswap"
    assert (tmp_path / "arcface.tar").exists()


def test_what_is_no_part_of_the_weights_stays_where_they_are_replaced(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "a.txt").write_text("a")
    (out / "link").symlink_to("mine")
    convert(file, out, force=True)
    assert (out / "link" / "a.txt").read_text() == "a"
    assert read_weights_config(out).method == "simswap"
    monkeypatch.chdir(out / "mine")
    with pytest.raises(WeightsError, match="the folder that you are in"):
        convert(file, out, force=True)


def test_a_run_has_labels(tmp_path: Path) -> None:
    run = tmp_path / "people"
    run.mkdir()
    for label in ("10000", "20000"):
        torch.save(tiny(), run / f"{label}_net_G.pth")
        torch.save({"state": {}}, run / f"{label}_optim_G.pth")
    with pytest.raises(WeightsError, match=r"label 'latest'.*10000, 20000.*label=\.\.\."):
        convert(run, tmp_path / "out")
    report = convert(run, tmp_path / "out", label="20000")
    assert list(report.sources) == ["people/20000_net_G.pth"]
    with pytest.raises(UsageError, match="is a file"):
        convert(run / "20000_net_G.pth", tmp_path / "other", label="20000")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no run"):
        convert(tmp_path / "empty", tmp_path / "other")


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    state = tiny()
    state["down3.1.bias"] = state["down3.1.weight"]
    state["down2.1.bias"] = torch.rand(9)[2:6]
    torch.save(state, tmp_path / "G.pth")
    convert(tmp_path / "G.pth", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["down.2.1.bias"], state["down3.1.weight"])
    assert torch.equal(found["down.1.1.bias"], state["down2.1.bias"])


def test_half_precision_and_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in tiny().items()}
    torch.save({"state_dict": tiny(), "params_ema": state, "epoch": 1}, tmp_path / "G.ckpt")
    convert(tmp_path / "G.ckpt", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["stem.0.weight"], state["first_layer.1.weight"].float())


def test_what_is_none_of_these_is_said(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        convert(tmp_path / "nothing.pth", tmp_path / "out")
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(WeightsError, match="nothing to convert"):
        convert(tmp_path / "x.safetensors", tmp_path / "out")
    with pytest.raises(UnknownNameError, match="Did you mean 'simswap'"):
        convert(file, tmp_path / "out", kind="simswp")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsError, match="is empty"):
        convert(tmp_path / "empty.pth", tmp_path / "out")
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # as SimSwap publishes its checkpoints
        with zipfile.ZipFile(tmp_path / "checkpoints.zip", "w", how) as archive:
            archive.writestr("people/latest_net_G.pth", bytes(100_000))
        with pytest.raises(WeightsError, match="Unpack it") as error:
            convert(tmp_path / "checkpoints.zip", tmp_path / "out")
        assert error.value.exit_code == 2
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds no network: it is a tensor"):
        convert(tmp_path / "tensor.pth", tmp_path / "out")
    (tmp_path / "taken").touch()
    with pytest.raises(WeightsError, match="is a file"):
        convert(file, tmp_path / "taken")
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    graph = tmp_path / "w600k_r50.onnx"
    graph.touch()
    for name in ("iterdir", "read_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    for path in (graph, tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read: .*Permission denied"):
            convert(path, tmp_path / "out")


def test_a_refused_pickle_names_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample:collins", "sample:hopper", "-o", "x.png", "--weights", str(file)]
    assert main(["swap", *words]) == 2
    assert f"facke weights convert {file} -o DIR" in capsys.readouterr().err


# -- converters of plugins -----------------------------------------------------------------------


def read_tower(checkpoint: Checkpoint) -> Converted | None:
    state = checkpoint.only()
    if "tower.weight" not in state:
        return None
    return Converted(summary="a tower", tensors=state, usage="look at {folder}", license="MIT")


def test_a_plugin_brings_a_converter(tmp_path: Path) -> None:
    registry = Registry().discover()
    spec = ConverterSpec(name="tower", summary="towers", target=f"{__name__}:read_tower")
    registry.register(plugin(facke_converters=lambda: [spec]), "towers")
    assert registry.plugins()[-1].contributions == {"converter": ("tower",)}
    torch.save({"module.tower.weight": torch.ones(2, 3)}, tmp_path / "t.pt")
    report = convert(tmp_path / "t.pt", tmp_path / "out", registry=registry)
    assert report.kind == "tower"
    assert report.usage == f"look at {tmp_path / 'out'}"
    assert set(report.files) == {"model.safetensors", "README.md"}
    with pytest.raises(WeightsError, match="not of a kind that is known"):
        convert(tmp_path / "t.pt", tmp_path / "other")


def test_converters_are_checked_and_listed() -> None:
    names = list(default_registry().converters)
    assert names[:3] == ["arcface", "cosface", "insightface"]
    assert {"simswap", "simswap-fix", "facke-simswap", "facke-cvae", "guided-diffusion"} <= {*names}
    with pytest.raises(PluginError, match="lower-case"):
        ConverterSpec(name="Tower", summary="", target="a:b")
