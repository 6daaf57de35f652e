"""Golden tensors: written with weights, replayed later, and able to fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from facke_core import Method, MethodSpec, Registry, SwapInputs, load, save
from facke_core._files import sha256_of
from facke_core.config import to_dict, write_json
from facke_core.errors import FackeWarning, VerificationError, WeightsError
from facke_core.publish.golden import make_golden, replay, verify
from facke_core.weights.layout import (
    CONFIG,
    GOLDEN,
    MODEL,
    WeightsConfig,
    read_weights_config,
)
from standins import FunctionGenerator, FunctionSampler, registry_of

SETTINGS = {"strength": 0.5}
"""What the sampler computes with, as a version of a plugin would."""


def noisy(generator: Any, inputs: SwapInputs, rng: torch.Generator | None) -> torch.Tensor:
    image = generator(inputs.target, identity=inputs.identity).image
    noise = torch.rand(image.shape, generator=rng)
    return torch.lerp(inputs.target, image + 0.1 * noise, SETTINGS["strength"])


@dataclass(frozen=True)
class NoSettings:
    """None."""


def build(config: object) -> Method:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    generator = FunctionGenerator(
        lambda x, identity: conv(x) + 0.1 * identity[:, :, None, None], 40, identity_dim=3
    )
    generator.conv = conv
    return Method(generator, FunctionSampler(noisy))


@pytest.fixture
def registry() -> Registry:
    spec = MethodSpec(
        name="mixer", summary="", config="test_golden:NoSettings", build="test_golden:build"
    )
    return registry_of("mixer", facke_methods=lambda: [spec])


@pytest.fixture
def folder(registry: Registry, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = WeightsConfig(method="mixer", alignment={"template": "ffhq", "size": 40})
    save(build(None), tmp_path / "w", config, dtype=torch.float16, registry=registry)
    return tmp_path / "w"


def test_saved_weights_carry_golden_tensors_that_are_replayed(
    folder: Path, registry: Registry
) -> None:
    state = torch.get_rng_state()
    found = verify(folder, read_weights_config(folder), registry=registry)
    assert found.replay is not None
    assert found.replay.max_error < 1e-6
    assert found.tensors == 2
    assert found.files == {name: sha256_of(folder / name) for name in (MODEL, GOLDEN)}
    assert torch.equal(torch.get_rng_state(), state)
    assert (folder / GOLDEN).stat().st_size < 200_000
    assert load_file(folder / GOLDEN)["identity"].norm().item() == pytest.approx(1)


def test_weights_without_golden_tensors_load_and_only_their_digests_are_checked(
    registry: Registry, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    config = WeightsConfig(method="mixer", alignment={"template": "ffhq", "size": 40})
    written = save(build(None), tmp_path, config, golden=False, registry=registry)
    assert not (tmp_path / GOLDEN).exists()
    assert read_weights_config(tmp_path) == written
    found = verify(tmp_path, written, registry=registry)
    assert found.replay is None
    assert found.files.keys() == {MODEL}


def test_golden_tensors_can_be_made_without_touching_the_folder(
    folder: Path, registry: Registry
) -> None:
    whole = read_weights_config(folder)
    without = replace(whole, files={MODEL: whole.files[MODEL]})
    (folder / GOLDEN).unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    data, listed = make_golden(folder, without, registry=registry)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert listed.files.keys() == {MODEL, GOLDEN}
    (folder / GOLDEN).write_bytes(data)
    found = verify(folder, listed, registry=registry).replay
    assert found is not None
    assert found.max_error < 1e-6


def test_a_method_that_computes_something_else_is_found(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "strength", 0.52)
    config = read_weights_config(folder)
    assert not replay(folder, config, registry=registry).ok
    with pytest.raises(VerificationError, match=r"differ by up to 0\.\d+, allowed are 0\.002"):
        verify(folder, config, registry=registry)


def test_values_that_are_not_numbers_do_not_pass(folder: Path, registry: Registry) -> None:
    state = load_file(folder / MODEL)
    state["conv.bias"][:] = float("nan")
    config = _rewritten(folder, MODEL, state)
    with pytest.raises(VerificationError, match=r"not finite .*: conv\.bias \(3 of 3\)"):
        verify(folder, config, registry=registry)


def test_numbers_that_are_none_are_found_without_golden_tensors_too(
    folder: Path, registry: Registry
) -> None:
    state = load_file(folder / MODEL)
    state["conv.weight"][0, 0, 0] = float("inf")
    config = _rewritten(folder, MODEL, state)
    config = replace(config, files={MODEL: config.files[MODEL]})
    write_json(folder / CONFIG, to_dict(config))
    for use in (
        lambda: verify(folder, config, registry=registry),
        lambda: load(folder, registry=registry),
        lambda: replay(folder, config, registry=registry),
    ):
        with pytest.raises(VerificationError, match=r"conv\.weight \(3 of 81\)"):
            use()


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.int8, r"other numbers: conv\.bias is int8, the network has float32"),
        (torch.bool, r"conv\.bias is bool"),
        (torch.float8_e4m3fn, r"conv\.bias is float8_e4m3fn"),
    ],
)
def test_codes_in_place_of_floats_do_not_fit(
    dtype: torch.dtype, named: str, folder: Path, registry: Registry
) -> None:
    state = {name: value.to(dtype) for name, value in load_file(folder / MODEL).items()}
    config = _rewritten(folder, MODEL, state)
    write_json(folder / CONFIG, to_dict(config))
    with pytest.raises(WeightsError, match=named):
        verify(folder, config, registry=registry)
    with pytest.raises(WeightsError, match=named):
        load(folder, registry=registry)


def test_another_number_format_than_is_promised_is_found(folder: Path, registry: Registry) -> None:
    state = {name: value.double() for name, value in load_file(folder / MODEL).items()}
    config = _rewritten(folder, MODEL, state)
    with pytest.raises(VerificationError, match=r"format float16.*conv\.bias is float64"):
        verify(folder, config, registry=registry)


def test_numbers_too_large_for_float16_are_not_saved_in_it(
    registry: Registry, tmp_path: Path
) -> None:
    method = build(None)
    config = WeightsConfig(method="mixer", alignment={"template": "ffhq", "size": 40})
    conv: Any = method.generator
    with torch.no_grad():
        conv.conv.bias[1] = 1e5
    with pytest.raises(
        WeightsError, match=r"too large for float16.*conv\.bias \(1 of 3\).*float32"
    ):
        save(method, tmp_path / "half", config, dtype=torch.float16, registry=registry)
    assert not list(tmp_path.glob("half/*"))
    save(method, tmp_path / "whole", config, registry=registry)
    with torch.no_grad():
        conv.conv.bias[1] = float("nan")
    with pytest.raises(WeightsError, match=r"not finite .*conv\.bias \(1 of 3\)"):
        save(method, tmp_path / "none", config, registry=registry)


def test_equal_weights_are_equal_files(registry: Registry, tmp_path: Path) -> None:
    config = WeightsConfig(method="mixer", alignment={"template": "ffhq", "size": 40})
    for n in range(6):
        torch.manual_seed(1)
        save(build(None), tmp_path / str(n), config, dtype=torch.float16, registry=registry)
    for name in (MODEL, GOLDEN, CONFIG):
        assert len({(tmp_path / str(n) / name).read_bytes() for n in range(6)}) == 1, name
    with safe_open(tmp_path / "0" / MODEL, framework="pt") as file:
        assert file.metadata()["method"] == "mixer"


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_a_changed_byte_is_found(folder: Path, registry: Registry, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(VerificationError, match=f"{name} is not the file"):
        verify(folder, read_weights_config(folder), registry=registry)


def test_tensors_that_do_not_fit_are_named(folder: Path, registry: Registry) -> None:
    config = _rewritten(folder, MODEL, {"conv.weight": torch.zeros(3, 3, 3, 3)})
    with pytest.raises(WeightsError, match=r"missing: conv\.bias"):
        verify(folder, config, registry=registry)


def test_another_file_in_their_place_is_no_golden_file(folder: Path, registry: Registry) -> None:
    config = _rewritten(folder, GOLDEN, {"output": torch.zeros(3, 5)})
    with pytest.raises(VerificationError, match="holds no golden tensors"):
        verify(folder, config, registry=registry)


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({"source": torch.zeros(4)}, {}),
        ({"target": torch.zeros(3, 8, 8)}, {}),
        ({"identity": torch.zeros(5)}, {}),
        ({}, {"stride": "0"}),
        ({}, {"stride": "9" * 5000}),
        ({}, {"seed": str(2**64)}),
        ({}, {"settings": '{"steps": 1000000000}'}),
        ({}, {"settings": '{"refine": "simswap"}'}),
        ({}, {"settings": "7"}),
    ],
)
def test_golden_tensors_that_make_no_sense_are_refused(
    folder: Path, registry: Registry, tensors: dict[str, torch.Tensor], about: dict[str, str]
) -> None:
    with safe_open(folder / GOLDEN, framework="pt") as file:
        metadata = file.metadata()
    config = _rewritten(folder, GOLDEN, load_file(folder / GOLDEN) | tensors, metadata | about)
    with pytest.raises(VerificationError, match="holds no golden tensors"):
        verify(folder, config, registry=registry)


def test_weights_are_saved_without_them_where_the_method_cannot_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "strength", "broken")
    config = WeightsConfig(method="mixer", alignment={})
    with pytest.warns(FackeWarning, match="gets no golden tensors: TypeError"):
        save(build(None), tmp_path, config, registry=registry)
    assert set(json.loads((tmp_path / CONFIG).read_text())["files"]) == {MODEL}
    assert verify(tmp_path, read_weights_config(tmp_path), registry=registry).replay is None


def test_no_other_folder_may_be_named_in_the_configuration() -> None:
    for name in ("test/other.safetensors", "../io.safetensors", "test/../a.safetensors"):
        with pytest.raises(WeightsError, match="Only plain names"):
            WeightsConfig(method="mixer", alignment={}, files={name: None})  # type: ignore[dict-item]


def _rewritten(
    folder: Path,
    name: str,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> WeightsConfig:
    """Other content, with its right digest in the configuration."""
    save_file(tensors, folder / name, metadata)
    config = read_weights_config(folder)
    info = replace(config.files[name], sha256=sha256_of(folder / name))
    return replace(config, files={**config.files, name: info})
