"""Settings are read strictly and say where they are wrong."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facke_core.config import arguments, from_dict, override, read_json, to_dict, write_json
from facke_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Loss:
    weight: float = 1.0
    where: str | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    image_size: int
    width: float = 1.0
    flip: bool = False
    name: str = "demo"
    norm: Literal["batch", "instance"] = "batch"
    sizes: tuple[int, ...] = (1, 2)
    betas: tuple[float, float] = (0.0, 0.999)
    loss: Loss = Loss()
    losses: dict[str, Loss] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    encoder: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.image_size % 2:
            raise ValueError(f"image_size {self.image_size} is odd; use an even number")


def test_settings_survive_the_way_to_json_and_back() -> None:
    settings = Settings(image_size=8, sizes=(), losses={"id": Loss(weight=3)}, limit=4)
    assert from_dict(Settings, json.loads(json.dumps(to_dict(settings)))) == settings


def test_null_is_read_wherever_it_may_stand() -> None:
    settings = from_dict(Settings, {"image_size": 8, "limit": None, "encoder": None})
    assert settings == Settings(image_size=8)


def test_an_integer_becomes_a_float_where_a_float_is_expected() -> None:
    width = from_dict(Settings, {"image_size": 8, "width": 2}).width
    assert type(width) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image_size": 8, "imagesize": 1}, "g.imagesize: unknown key; did you mean 'image_size'?"),
        ({"image_size": 8, "loss": {"wieght": 1}}, "g.loss.wieght: unknown key; did you mean 'we"),
        ({"image_size": 8, "zzz": 1}, "g.zzz: unknown key. Known keys: image_size, width"),
        ({}, "g.image_size: missing"),
        ({"image_size": True}, r"g.image_size: expected an integer, got True \(bool\)"),
        ({"image_size": 8.0}, r"g.image_size: expected an integer, got 8.0 \(float\)"),
        ({"image_size": "8"}, r"g.image_size: expected an integer, got '8' \(str\)"),
        ({"image_size": 8, "width": "x"}, "g.width: expected a number, got 'x'"),
        ({"image_size": 8, "width": True}, "g.width: expected a number, got True"),
        ({"image_size": 8, "width": float("inf")}, "g.width: expected a number, got inf"),
        ({"image_size": 8, "flip": 1}, "g.flip: expected true or false, got 1"),
        ({"image_size": 8, "name": None}, "g.name: expected a string, got None"),
        ({"image_size": 8, "norm": "btach"}, "g.norm: expected one of 'batch', 'instance', got "),
        ({"image_size": 8, "sizes": [1, "2"]}, r"g.sizes\[1\]: expected an integer, got '2'"),
        ({"image_size": 8, "sizes": 3}, "g.sizes: expected a list, got 3"),
        ({"image_size": 8, "betas": [0.5]}, "g.betas: expected a list of 2 values, got 1"),
        ({"image_size": 8, "losses": {"id": {"weight": "a"}}}, "g.losses.id.weight: expected a nu"),
        ({"image_size": 8, "loss": 3}, "g.loss: expected an object"),
        ({"image_size": 8, "limit": "a"}, "g.limit: expected an integer or null, got 'a'"),
        ({"image_size": 7}, "g: image_size 7 is odd; use an even number"),
        ([1], "g: expected an object"),
    ],
)
def test_a_wrong_setting_is_named_with_its_path_and_value(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Settings, data, where="g")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_any_json_value_is_read_or_refused_with_a_config_error(value: Any) -> None:
    for data in (value, {"image_size": value}, {"image_size": 2, "loss": value, "free": value}):
        with contextlib.suppress(ConfigError):
            from_dict(Settings, data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ('{"a": ' + "[" * 200_000, "not valid JSON"),
    ],
)
def test_a_broken_json_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_json(path)


def test_a_missing_or_binary_json_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_json(tmp_path / "binary.json")


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"name": "Zoë", "n": [1, 2]})
    assert read_json(path) == {"name": "Zoë", "n": [1, 2]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"n": float("nan")})
    assert read_json(path)["n"] == [1, 2]
    assert os.listdir(tmp_path) == ["config.json"]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_json(tmp_path / "absent" / "config.json", {})


def test_an_override_changes_a_copy() -> None:
    data = {"image_size": 8, "losses": {"id": {"weight": 1}}, "name": "a"}
    changed = override(data, "losses.id.weight=20", "name=7", "image_size=16")
    assert changed == {"image_size": 16, "losses": {"id": {"weight": 20}}, "name": "7"}
    assert data["losses"] == {"id": {"weight": 1}}


def test_an_override_with_a_schema_may_set_what_the_file_leaves_out() -> None:
    changed = override(
        {"image_size": 8}, "loss.weight=2", "losses.id.weight=3", "name=5", schema=Settings
    )
    settings = from_dict(Settings, override(changed, "free.a.b=true", schema=Settings))
    assert settings.loss.weight == 2
    assert settings.losses["id"].weight == 3
    assert settings.name == "5"
    assert settings.free == {"a": {"b": True}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "not KEY=VALUE"),
        ("a..b=1", "not KEY=VALUE"),
        ("=1", "not KEY=VALUE"),
        ("losses.di.weight=1", "losses.di: unknown key; did you mean 'id'?"),
        ("losses.id.wieght=1", "losses.id.wieght: unknown key; did you mean 'weight'?"),
        ("image_size.x=1", "image_size has no parts"),
    ],
)
def test_a_wrong_override_is_explained(assignment: str, message: str) -> None:
    data = {"image_size": 8, "losses": {"id": {"weight": 1}}}
    with pytest.raises(ConfigError, match=message):
        override(data, assignment)


def test_an_override_is_checked_against_the_schema() -> None:
    with pytest.raises(
        ConfigError, match=r"recipe.loss.wieght: unknown key; did you mean 'weight'"
    ):
        override({"image_size": 8}, "loss.wieght=1", schema=Settings, where="recipe")


def network(width: int, *, norm: Literal["batch", "none"] = "batch") -> None:
    """Something that settings are passed to."""


def test_arguments_are_checked_against_a_signature() -> None:
    assert arguments(network, {"width": 8, "norm": "none"}) == {"width": 8, "norm": "none"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"width": 8, "nrom": "none"}, "d.nrom: unknown key; did you mean 'norm'"),
        ({"width": "8"}, "d.width: expected an integer, got '8'"),
        ({"width": 8, "norm": "bach"}, "d.norm: expected one of 'batch', 'none'.*mean 'batch'"),
        ({}, "d.width: missing. Add it; expected an integer"),
    ],
)
def test_a_wrong_argument_is_explained(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments(network, data, where="d")
