"""From names to pipelines and back: strict, and never executing what a folder holds."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facke_core import Bundled, EncoderSpec, HubRef, Method, MethodSpec, Registry
from facke_core._files import sha256_of
from facke_core.building import build_method, load_encoder
from facke_core.errors import (
    CompatibilityError,
    ConfigError,
    FackeError,
    PluginError,
    UnavailableError,
    UnknownNameError,
    UsageError,
    VerificationError,
    WeightsError,
)
from facke_core.loading import load
from facke_core.publish._curves import write_logs
from facke_core.publish.card import model_card
from facke_core.publish.save import save
from facke_core.testing import TinyGenerator
from facke_core.weights import hub, layout, sources
from facke_core.weights.layout import (
    CONFIG,
    GOLDEN,
    LOG,
    MODEL,
    WeightsConfig,
    check_files,
    read_weights_config,
)
from facke_core.weights.sources import locate
from standins import Bomb, ColourEncoder, PlainSampler, registry_of

COMMIT = "0123456789" * 4


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    image_size: int = 16
    width: int = 3
    fail: bool = False


def build(config: TinyConfig) -> Method:
    if config.fail:
        raise RuntimeError("no such layer")
    return Method(TinyGenerator(config.image_size, width=config.width), PlainSampler())


def build_encoder(*, dim: int) -> ColourEncoder:
    return ColourEncoder(4, name="mean", dim=dim + 0, centre=0.5)


def unavailable() -> str:
    return "its data are missing. Run: pip install data"


def make_registry(**more: Any) -> Registry:
    here = __name__
    tiny = MethodSpec(
        name="tiny",
        summary="",
        config=f"{here}:TinyConfig",
        build=f"{here}:build",
        **{"default_config": {"image_size": 16}, **more},
    )
    encoders = [
        EncoderSpec(name="mean", summary="", build=f"{here}:build_encoder"),
        EncoderSpec(
            name="gone", summary="", build=f"{here}:build_encoder", available=f"{here}:unavailable"
        ),
    ]
    return registry_of(
        "tiny-plugin",
        version="1.5",
        facke_methods=lambda: [tiny],
        facke_identity_encoders=lambda: encoders,
    )


@pytest.fixture
def registry() -> Registry:
    return make_registry()


CONFIGURATION = WeightsConfig(
    method="tiny",
    generator={"image_size": 16, "width": 3},
    identity_encoder={"name": "mean", "dim": 8},
    alignment={"template": "ffhq", "size": 16},
    training={"steps": 3},
    license="CC0-1.0",
)


@pytest.fixture
def folder(tmp_path: Path, registry: Registry) -> Path:
    torch.manual_seed(1)
    method = build_method(CONFIGURATION, registry=registry)
    save(method, tmp_path / "run", CONFIGURATION, registry=registry)
    return tmp_path / "run"


def crops() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 16, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)


def edit(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**data, **changes}))


def test_what_is_saved_is_loaded_bit_for_bit(folder: Path, registry: Registry) -> None:
    torch.manual_seed(1)
    built = TinyGenerator(16, width=3).state_dict()
    pipeline = load(folder, registry=registry)
    loaded = pipeline.method.generator.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(built[key], loaded[key]) for key in built)
    again = folder.parent / "again"
    save(pipeline, again, registry=registry)
    assert torch.equal(
        load(again, registry=registry).swap_crops(*crops()), pipeline.swap_crops(*crops())
    )


def test_a_folder_says_who_wrote_it_and_what_it_is(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    assert config["facke"] == {"format": 1, "written_by": "tiny-plugin 1.5"}
    assert config["files"][MODEL] == {"sha256": sha256_of(folder / MODEL), "dtype": "float32"}
    card = (folder / "README.md").read_text()
    assert "license: cc0-1.0" in card
    assert "| steps | 3 |" in card


def test_half_precision_files_are_cast_to_the_dtype_asked_for(
    tmp_path: Path, registry: Registry
) -> None:
    method = build_method(CONFIGURATION, registry=registry)
    original: Any = method.generator
    config = save(method, tmp_path, CONFIGURATION, dtype=torch.float16, registry=registry)
    assert config.files[MODEL].dtype == "float16"
    for dtype in (torch.float32, torch.bfloat16):
        generator: Any = load(tmp_path, dtype=dtype, registry=registry).method.generator
        assert generator.stem.weight.dtype == dtype
        assert generator.norm.num_batches_tracked.dtype == torch.int64
        assert torch.allclose(generator.stem.weight.float(), original.stem.weight, atol=1e-2)


def test_a_loaded_generator_is_frozen_and_in_evaluation_mode(
    folder: Path, registry: Registry
) -> None:
    generator: Any = load(folder, registry=registry).method.generator
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_loading_leaves_the_random_state_alone(folder: Path, registry: Registry) -> None:
    before = torch.get_rng_state()
    load(folder, registry=registry)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_an_encoder_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    load_encoder("dlib-resnet29")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_means_a_method_a_tag_or_a_folder(folder: Path, monkeypatch: Any) -> None:
    registry = make_registry(weights={"one": Bundled("pkg:w"), "two": Bundled("pkg:w")})
    monkeypatch.setattr("facke_core.weights.sources.resource", lambda path: folder)
    monkeypatch.chdir(folder.parent)
    digest = sha256_of(folder / MODEL)[:12]
    labels: dict[str | Path, str] = {
        "tiny": "tiny.one",
        "tiny.two": "tiny.two",
        "./run": "run",
        folder: "run",
        Path("run"): "run",
    }
    for name, label in labels.items():
        source = load(name, registry=registry).source
        assert source is not None
        assert (source.name, source.revision) == (label, digest)


def test_a_method_without_weights_works_from_its_default_configuration() -> None:
    registry = make_registry(default_config={"image_size": 32})
    with pytest.raises(UnknownNameError, match="dlib-resnet29"):  # the default encoder
        load("tiny", registry=registry)
    with pytest.raises(WeightsError, match="comes without weights"):
        load("tiny", registry=make_registry(default_config=None))


def test_hub_weights_are_loaded_at_the_commit_that_was_fetched(
    folder: Path, monkeypatch: Any
) -> None:
    asked = []

    def fetch(location: hub.HubLocation, names: Any, *, local_files_only: bool) -> hub.HubFiles:
        asked.append((location, tuple(names), local_files_only))
        return hub.HubFiles(folder, COMMIT)

    monkeypatch.setattr(hub, "fetch", fetch)
    registry = make_registry(weights={"paper": HubRef("org/tiny", COMMIT)})
    source = load("hf:org/tiny", revision="v1", registry=registry).source
    assert source is not None
    assert (source.name, source.revision) == ("hf:org/tiny", COMMIT)
    assert asked[0] == (hub.HubLocation("org/tiny", "v1"), (CONFIG,), False)
    assert asked[1][0].revision == COMMIT
    source = load("tiny", local_files_only=True, registry=registry).source
    assert source is not None
    assert (source.name, source.revision) == ("tiny.paper", COMMIT)
    assert asked[2] == (hub.HubLocation("org/tiny", COMMIT), (CONFIG,), True)


def test_located_weights_are_read_once(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = locate(folder, registry=registry)
    monkeypatch.setattr(layout, "read_json", lambda path: pytest.fail(f"{path} is read again"))
    assert load(source, registry=registry).source == source
    with pytest.raises(UsageError, match=r"found at the revision '.*revision='v2' was given too"):
        load(source, revision="v2", registry=registry)


def test_located_weights_are_the_same_commit_on_another_machine(
    folder: Path, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: hub.HubFiles(folder, COMMIT))
    sent = pickle.dumps(locate("hf:org/tiny@main", registry=registry))
    asked = []
    elsewhere = folder.rename(tmp_path / "the cache of another machine")

    def fetch(location: hub.HubLocation, names: Any, *, local_files_only: bool) -> hub.HubFiles:
        asked.append((location, tuple(names)))
        return hub.HubFiles(elsewhere, COMMIT)

    monkeypatch.setattr(hub, "fetch", fetch)
    source = load(pickle.loads(sent), registry=registry).source
    assert source is not None
    assert (source.name, source.revision) == ("hf:org/tiny", COMMIT)
    assert source.folder == elsewhere
    assert asked == [(hub.HubLocation("org/tiny", COMMIT), (MODEL,))]


def test_located_weights_of_a_plugin_lie_where_the_plugin_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = make_registry(weights={"one": Bundled("pkg:w")})
    monkeypatch.setattr(sources, "resource", lambda path: folder)
    source = locate("tiny", registry=registry)
    elsewhere = folder.rename(tmp_path / "another environment")
    monkeypatch.setattr(sources, "resource", lambda path: elsewhere)
    loaded = load(source, registry=registry).source
    assert loaded is not None
    assert loaded.folder == elsewhere


def test_weights_that_changed_since_they_were_located_are_refused(
    folder: Path, registry: Registry
) -> None:
    source = locate(folder, registry=registry)
    torch.manual_seed(2)
    other = build_method(CONFIGURATION, registry=registry)
    save(other, folder, CONFIGURATION, overwrite=True, registry=registry)
    with pytest.raises(VerificationError, match="was replaced"):
        load(source, registry=registry)


def test_a_located_folder_does_not_depend_on_the_working_directory(
    folder: Path, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    source = locate("./run", registry=registry)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(source, registry=registry).source == source


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("org/repo", {}, UsageError, r"Write hf:org/repo for the Hub, or \./org/repo for a folder"),
        ("hf:repo", {}, UsageError, "Write hf:org/repo"),
        ("tinny", {}, UnknownNameError, "Did you mean 'tiny'"),
        ("run", {}, UnknownNameError, r"For the folder 'run' write \./run"),
        ("tiny.nine", {}, UnknownNameError, "Unknown weights 'nine'.*Known: none"),
        ("./absent", {}, WeightsError, "absent does not exist"),
        ("./run", {"revision": "v1"}, UsageError, "no meaning for the folder"),
        ("./run", {"device": "gpu"}, UsageError, "Unknown device 'gpu'"),
        ("./run", {"device": "cuda:99"}, UnavailableError, "here.*cpu"),
        ("./run", {"sampler": {"strenght": 1}}, ConfigError, "did you mean 'strength'"),
        ("./run", {"sampler": {"strength": "a"}}, ConfigError, "sampler.strength: expected a num"),
    ],
)
def test_a_wrong_name_or_option_is_explained(
    name: str,
    options: dict[str, Any],
    error: type[FackeError],
    message: str,
    folder: Path,
    registry: Registry,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(error, match=message):
        load(name, registry=registry, **options)


def test_sampler_settings_come_from_the_config_and_then_from_the_caller(
    folder: Path, registry: Registry
) -> None:
    edit(folder, sampler={"strength": 0.25})
    sampler: Any = load(folder, registry=registry).method.sampler
    assert sampler.strength == 0.25
    pipeline = load(folder, sampler={"strength": 0}, registry=registry)
    source, target = crops()
    assert torch.equal(pipeline.swap_crops(source, target), target)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"generator": {"widht": 3}}, ConfigError, "generator.widht: unknown key; did you mean"),
        ({"generator": {"width": "3"}}, ConfigError, "generator.width: expected an integer"),
        ({"generator": {"width": 4}}, VerificationError, "was changed after"),
        ({"generator": {"fail": True}}, VerificationError, "was changed after"),
        ({"metod": "tiny"}, ConfigError, "config.json.metod: unknown key; did you mean 'method'"),
        ({"method": "cvae"}, UnknownNameError, "Unknown method 'cvae'"),
        ({"facke": {"format": 2, "written_by": "x 9"}}, WeightsError, "format 2.*Upgrade: pip"),
        ({"files": {}}, WeightsError, "lists no model.safetensors"),
        ({"files": {"../x.safetensors": {"sha256": ""}}}, WeightsError, "Only plain names"),
        ({"files": {MODEL: {"sha256": "0" * 64}}}, VerificationError, "expected 00000"),
        ({"alignment": {"template": "fhq", "size": 16}}, UnknownNameError, "'ffhq'"),
        ({"alignment": {"template": "ffhq"}}, ConfigError, "alignment.size: missing"),
        ({"identity_encoder": {"name": "maen"}}, UnknownNameError, "Did you mean 'mean'"),
        ({"identity_encoder": {"name": "mean", "dmi": 8}}, ConfigError, "identity_encoder.dmi"),
        (
            {"identity_encoder": {"name": "mean", "dim": 4}},
            CompatibilityError,
            "8 numbers.*gives 4",
        ),
        ({"identity_encoder": {"name": "gone"}}, UnavailableError, "Run: pip install data"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(
    changes: dict[str, Any],
    error: type[FackeError],
    message: str,
    folder: Path,
    registry: Registry,
) -> None:
    edit(folder, **changes)
    with pytest.raises(error, match=message):
        load(folder, registry=registry)


def rewrite(folder: Path, change: Any) -> None:
    """Replace the tensors, with a digest that fits."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / MODEL)
    change(tensors)
    save_file(tensors, folder / MODEL)
    edit(folder, files={MODEL: {"sha256": sha256_of(folder / MODEL)}})


def test_weights_of_another_program_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')
    with pytest.raises(
        WeightsError, match=r"config\.json is not one of facke's: it names no method"
    ):
        load(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_listed(
    folder: Path, registry: Registry
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["more"] = tensors.pop("stem.bias")
        tensors["mix.bias"] = torch.zeros(5)

    rewrite(folder, change)
    with pytest.raises(WeightsError) as caught:
        load(folder, registry=registry)
    text = str(caught.value)
    assert "missing: stem.bias" in text
    assert "unexpected: more" in text
    assert "mix.bias is (5,), the network has (3,)" in text
    assert "'width': 3" in text


def test_a_changed_byte_is_found(folder: Path, registry: Registry) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)
    with pytest.raises(VerificationError, match="damaged or was replaced") as caught:
        load(folder, registry=registry)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["arcface.pth", "x.pt", "x.ckpt", "x.tar", "x.bin", "x.onnx"])
def test_foreign_weights_are_never_opened(name: str, tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    for given in (file, str(file), tmp_path):
        with pytest.raises(WeightsError, match=r"is not opened.*safetensors only"):
            load(given, registry=registry)
    assert not (tmp_path / "mark").exists()


def test_a_pickle_under_the_name_of_safetensors_is_never_unpickled(
    folder: Path, registry: Registry
) -> None:
    (folder / MODEL).write_bytes(pickle.dumps(Bomb(folder / "mark")))
    edit(folder, files={MODEL: {"sha256": sha256_of(folder / MODEL)}})
    with pytest.raises(VerificationError, match="is not a safetensors file"):
        load(folder, registry=registry)
    assert not (folder / "mark").exists()


def test_save_keeps_what_is_there_unless_told(folder: Path, registry: Registry) -> None:
    method = build_method(CONFIGURATION, registry=registry)
    with pytest.raises(WeightsError, match="holds weights already"):
        save(method, folder, CONFIGURATION, registry=registry)
    extra = {"discriminator": nn.Linear(2, 2)}
    changed = replace(CONFIGURATION, training={"steps": 4})
    save(method, folder, changed, extra=extra, overwrite=True, registry=registry)
    source = load(folder, registry=registry).source
    assert source is not None
    assert set(source.config.files) == {MODEL, "discriminator.safetensors", GOLDEN}
    assert source.config.training == {"steps": 4}
    assert not list(folder.glob(".*"))


def test_save_names_only_logs_that_lie_in_the_folder(tmp_path: Path, registry: Registry) -> None:
    method = build_method(CONFIGURATION, registry=registry)
    logs = write_logs(tmp_path / "run", {LOG: b'{"step": 1, "generator.loss": 0.5}\n'})
    config = replace(CONFIGURATION, training={"steps": 1, "logs": logs})
    assert save(method, tmp_path / "run", config, registry=registry).training == config.training
    assert "| generator.loss | 0.5 |" in (tmp_path / "run" / "README.md").read_text()
    save(load(tmp_path / "run", registry=registry), tmp_path / "copy", registry=registry)
    copied = read_weights_config(tmp_path / "copy")
    assert copied.training == {"steps": 1}
    assert check_files(tmp_path / "copy", copied).keys() == {MODEL, GOLDEN}


def test_save_needs_a_configuration_for_a_bare_method(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(UsageError, match="config=WeightsConfig"):
        save(build_method(CONFIGURATION, registry=registry), tmp_path, registry=registry)


def test_an_encoder_is_loaded_by_name_or_settings(registry: Registry) -> None:
    assert load_encoder({"name": "mean", "dim": 8}, registry=registry).spec.input_size == (4, 4)
    assert load_encoder({"name": "mean", "dim": 4}, registry=registry).spec.embedding_dim == 4
    with pytest.raises(
        ConfigError, match=r"identity_encoder.dim: missing. The encoder 'mean'.*encoder=ENC"
    ):
        load_encoder("mean", registry=registry)
    with pytest.raises(ConfigError, match=r"identity_encoder\.dim: expected an integer, got 'x'"):
        load_encoder({"name": "mean", "dim": "x"}, registry=registry)
    with pytest.raises(PluginError, match=r"'tiny-plugin' cannot build.*no such layer"):
        build_method(replace(CONFIGURATION, generator={"fail": True}), registry=registry)
    with pytest.raises(ConfigError, match=r"identity_encoder.name: missing"):
        load_encoder({}, registry=registry)
    with pytest.raises(UnknownNameError, match="Unknown encoder 'timm'"):
        load_encoder(f"hf:org/repo@{COMMIT}", registry=registry)


def test_a_card_names_its_columns_and_can_be_copied_from() -> None:
    card = model_card(replace(CONFIGURATION, training={"data": "a|b"}), folder="meine Gewichte")
    assert "\n| property | value |\n| --- | --- |\n| method |" in card
    assert "\n| property | value |\n| --- | --- |\n| data | a\\|b |\n" in card
    assert "--weights './meine Gewichte'\n" in card
    assert 'load("./meine Gewichte")' in card


def test_float16_is_refused_on_a_cpu_before_anything_is_read() -> None:
    with pytest.raises(UnavailableError, match="bfloat16"):
        load("./nowhere", device="cpu", dtype=torch.float16)
