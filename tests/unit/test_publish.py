"""Which files of a folder are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facke_core.errors import UsageError, WeightsError
from facke_core.publish.push import layout_files
from facke_core.weights.hub import copy_layout
from facke_core.weights.layout import CONFIG, GOLDEN, MODEL, WeightsConfig, read_weights_config

BESIDE = ("LICENSE", "README.md", "log-1.jsonl", "log.svg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {name: {"sha256": "0" * 64} for name in (MODEL, GOLDEN)}
    config = {"method": "simswap", "alignment": {}, "files": files}
    (tmp_path / "w" / "test").mkdir(parents=True)
    (tmp_path / "w" / CONFIG).write_text(json.dumps(config))
    for name in (MODEL, GOLDEN, *BESIDE, ".gitattributes"):
        (tmp_path / "w" / name).write_text(name)
    return tmp_path / "w"


def config_of(folder: Path) -> WeightsConfig:
    return read_weights_config(folder)


LAYOUT = sorted([*BESIDE, CONFIG, MODEL, GOLDEN])


def test_the_layout_is_published_and_hidden_files_are_not(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert layout_files(folder, config_of(folder)) == (LAYOUT, [])


def test_the_state_of_a_training_is_left_out(folder: Path) -> None:
    (folder / "optimizers.safetensors").write_text("")
    (folder / "state.json").write_text(json.dumps({"files": {"optimizers.safetensors": "0"}}))
    assert layout_files(folder, config_of(folder)) == (
        LAYOUT,
        ["optimizers.safetensors", "state.json"],
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("notes.txt", "are published"),
        ("other.safetensors", "are published"),
        ("test/other.safetensors", "are published"),
        ("epoch.pth", r"epoch\.pth may be pickles"),
    ],
)
def test_anything_else_is_refused_by_name(folder: Path, name: str, why: str) -> None:
    (folder / name).write_text("")
    with pytest.raises(WeightsError, match=f"do not belong to weights: {name}; .*{why}"):
        layout_files(folder, config_of(folder))


def test_a_copy_is_whole_and_never_overwrites(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "new" / "copy"
    copy_layout(folder, config_of(folder), copy)
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) == LAYOUT
    with pytest.raises(UsageError, match="exists already"):
        copy_layout(folder, config_of(folder), copy)
    (folder / MODEL).unlink()
    with pytest.raises(WeightsError, match="cannot be written"):
        copy_layout(folder, config_of(folder), tmp_path / "half")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "w"]
