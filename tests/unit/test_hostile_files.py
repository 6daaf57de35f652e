"""Small files with large claims, files that change while they are read, and rotten caches."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as saved

from facke_core import _cache, _json, _tensors
from facke_core._files import sha256_of
from facke_core.backends import graphs
from facke_core.building import build_method
from facke_core.data.tables import read_csv
from facke_core.errors import ConfigError, DataError, FackeError, UsageError, WeightsError
from facke_core.faces.templates import Alignment
from facke_core.identity.iresnet import arcface_network, cosface_network
from facke_core.images.provenance import parse_packet
from facke_core.plugins.registry import default_registry
from facke_core.weights import layout
from facke_core.weights.layout import MODEL, FileInfo, WeightsConfig, read_tensors

STAGES: dict[str, Any] = {"image_size": 32, "identity_dim": 8, "channels": [4, 8]}


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1e999}', "too large a number"),
        ("[" + "9" * 5000 + "]", "no integer of 64 bits"),
        ("[9223372036854775808]", "no integer of 64 bits"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' appears twice"),
        ("[" * 100_000, "nested more deeply than 64"),
        ("[" * 66 + "]" * 66, "nested more deeply than 64"),
        ('{"a": ["\\ud800"]}', "half of a character"),
        ('{"\\u0000": 1}', "the character NUL"),
        ("{" + '"a":{},' * 3_000_000 + "}", "MB of memory"),
    ],
)
def test_json_without_measure_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _json.parse(text)


def test_honest_json_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5, None, True, "\U0001f600\ud83d"[:1]], "b": {"c": [[[]]]}, "n": 2**63 - 1}
    assert _json.parse(json.dumps(value)) == value
    assert _json.parse("[" * 64 + "]" * 64)


# -- CSV and XMP -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("a,a\n1,2\n", "a,b\n1,2,3\n", "a,b\nx\0y,2\n", f"a\n{'x' * 20000}"),
        *(f"a,{'x' * 300}\n1,2\n", ",".join(map(str, range(300)))),
    ],
)
def test_a_list_that_can_be_read_in_two_ways_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_csv(tmp_path / "list.csv", "The list")


def test_empty_columns_of_a_spreadsheet_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b,,\n1,2,,\n3,4,,,\n")
    _, rows = read_csv(tmp_path / "list.csv", "The list")
    assert [row["b"] for _, row in rows] == ["2", "4"]


def test_xmp_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="nested more deeply"):
        parse_packet(b"<a>" * 5000 + b"</a>" * 5000)


# -- sizes -----------------------------------------------------------------------------------------


def config(method: str = "simswap", **generator: Any) -> WeightsConfig:
    return WeightsConfig(method=method, generator=generator, alignment={})


@pytest.mark.parametrize(
    "wanted",
    [
        config(**STAGES | {"num_id_blocks": 10**9}),
        config(**STAGES | {"num_id_blocks": 256}),
        config(**STAGES | {"channels": [4096] * 4}),
        config(**STAGES | {"channels": [8] * 1000}),
        config(**STAGES | {"image_size": 10**9}),
        config(**STAGES | {"patch": 0}),
        config("cvae", **STAGES | {"latent": "vector", "latent_dim": 10**9}),
        config("ilvr", timesteps=10**9),
        config("ilvr", num_res_blocks=10**9),
        config("ilvr", image_size=64, num_classes=10**9),
        config("ilvr", image_size=64, model_channels=4096),
        config("ilvr", image_size=64, channel_mult=[1.0] * 60),
        config("ilvr", image_size=64, channel_mult=[1e300]),
    ],
    ids=lambda wanted: str(dict(wanted.generator))[:60],
)
def test_a_configuration_beyond_its_weights_costs_nothing(wanted: WeightsConfig) -> None:
    state = {"stem.0.weight": torch.zeros(4, 3, 7, 7)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FackeError):
        build_method(wanted, registry=default_registry(), read=lambda: state, source="small")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_network_without_weights_has_a_largest_size() -> None:
    with pytest.raises(ConfigError, match="too large"):
        build_method(config(**STAGES | {"channels": [4096] * 4}), registry=default_registry())


@pytest.mark.parametrize("last", ["layer4.99999999", "layer4.999", "layer4." + "9" * 5000])
def test_the_names_in_a_file_do_not_decide_its_hunger(last: str) -> None:
    names = [f"layer{n}.0" for n in (1, 2, 3)] + [last]
    tensors = {f"{name}.conv1.weight": torch.zeros(1) for name in names}
    plain = {"features.running_mean": torch.zeros(1), "layer1.0.prelu.weight": torch.zeros(1)}
    for state in (tensors, tensors | plain):
        with pytest.raises(WeightsError):
            arcface_network(state)
    with pytest.raises(WeightsError):
        cosface_network(tensors)


def test_crops_have_a_largest_size() -> None:
    with pytest.raises(UsageError, match="from 1 to 4096"):
        Alignment(template="ffhq", size=10**9)


# -- safetensors -----------------------------------------------------------------------------------


def test_safetensors_are_read_as_others_read_them(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
    tensors = {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in kinds}
    tensors |= {"empty": torch.zeros(0, 3), "one": torch.tensor(3.5), "flag": torch.tensor([True])}
    (tmp_path / "x").write_bytes(saved(tensors, {"a": "b"}))
    for found in (_tensors.read(tmp_path / "x"), _tensors.mapped(tmp_path / "x")):
        assert found.metadata == {"a": "b"}
        assert found.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[name], tensor), name
            assert found.tensors[name].dtype == tensor.dtype
    assert _tensors.read(tmp_path / "x").sha256 == sha256_of(tmp_path / "x")


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [0, 4611686018427387904], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"a": 3}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_a_header_that_promises_too_much_is_refused(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(
        ValueError, match=r"header|dtype|shape|begin|promise|metadata|JSON|Expecting"
    ):
        _tensors.read(tmp_path / "x")


def test_the_tensors_are_of_the_bytes_whose_digest_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / MODEL
    path.write_bytes(saved({"x": torch.ones(4)}))
    other = saved({"x": torch.zeros(4)})
    files = {MODEL: FileInfo(sha256=sha256_of(path))}
    compare = layout._compare

    def replaced(*args: str) -> str:
        (tmp_path / "new").write_bytes(other)
        os.replace(tmp_path / "new", path)
        return compare(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(layout, "_compare", replaced)
    found = read_tensors(tmp_path, MODEL, replace(config(), files=files))
    assert torch.equal(found["x"], torch.ones(4))


# -- caches ----------------------------------------------------------------------------------------


def test_what_is_damaged_in_the_cache_was_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "cache"))
    place = _cache.write("a/b", b"content")
    assert place is not None
    assert bytes(_cache.read("a/b") or b"") == b"content"
    assert _cache.sound(place)
    for damage in (b"contenT", b"cont", b""):
        place.write_bytes(damage)
        assert _cache.read("a/b") is None
        assert not _cache.sound(place)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "file" / "cache"))
    assert _cache.write("a", b"content") is None
    assert _cache.read("a") is None


def test_a_damaged_graph_is_made_anew_and_no_cache_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: object, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"graph")
        except OSError as error:
            raise WeightsError(str(error)) from error

    monkeypatch.setattr(graphs, "write_graph", write)
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    generator = torch.nn.Linear(2, 2)
    path = graphs.cached_graph(generator)
    path.write_bytes(b"gra")
    assert graphs.cached_graph(generator) == path
    assert path.read_bytes() == b"graph"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "file" / "cache"))
    assert graphs.cached_graph(generator).read_bytes() == b"graph"
