"""``benchmarks/tables.py`` trains the rows of the paper's tables once, and measures them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from facke_core import default_registry
from facke_core.building import build_method
from facke_core.data.crops import CropSet
from facke_core.training.recipe import read_recipe
from facke_core.weights.layout import WeightsConfig

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import tables

    yield tables
    sys.path.remove(str(ROOT / "benchmarks"))


def crops(folder: Path, size: int = SIZE) -> Path:
    """Noise of four people, two pictures each."""
    rng = torch.Generator().manual_seed(0)
    CropSet(
        images=torch.randint(0, 256, (8, 3, size, size), generator=rng, dtype=torch.uint8),
        embeddings=torch.nn.functional.normalize(torch.randn(8, 2, 128, generator=rng), dim=-1),
        people=torch.arange(8) // 2,
        weights=torch.ones(8),
        info={
            "name": "noise",
            "alignment": {"template": "simswap_frontal", "size": size},
            "identity_encoder": {"name": "dlib-resnet29"},
        },
    ).save(folder)
    return folder


def every_row(script: ModuleType) -> list[Any]:
    return [row for rows in script.TABLES.values() for row in rows]


def plans(script: ModuleType, rows: list[Any], *words: object) -> list[Any]:
    args = script.arguments([str(word) for word in words])
    return [script.plan(row, args, default_registry()) for row in rows]


def test_the_long_form_trains_the_recipes_as_they_are(script: ModuleType, tmp_path: Path) -> None:
    data = [crops(tmp_path / str(size), size) for size in (224, 256)]
    for one in plans(script, every_row(script), tmp_path / "runs", "--data", *data):
        changed = [f"optimizer.lr={one.row.lr}"] if one.row.lr else []
        assert one.recipe == read_recipe(one.row.recipe, changed, default_registry())
        assert one.data == tmp_path / str(one.size)


def test_the_short_form_makes_small_networks(script: ModuleType, tmp_path: Path) -> None:
    data = crops(tmp_path / "crops")
    words = (tmp_path / "runs", "--data", data, "--small", "--steps", 3)
    for one in plans(script, every_row(script), *words):
        config = WeightsConfig(
            method=one.recipe.method, generator=one.recipe.generator, alignment={}
        )
        generator: Any = build_method(config, registry=default_registry()).generator
        assert sum(p.numel() for p in generator.parameters()) < 12e6, one.row.run
        assert generator.spec.image_size == SIZE
        assert one.recipe.steps == 3


def test_rows_differ_in_what_the_paper_compares(script: ModuleType, tmp_path: Path) -> None:
    words = (tmp_path / "runs", "--data", crops(tmp_path / "crops"), "--small")
    second = plans(script, list(script.TABLES["2"]), *words)

    def layers(one: Any) -> str:
        term = one.recipe.loss.get("feature-matching")
        return str(term.options["layers"]) if term else "n"

    assert [(layers(one), one.recipe.data.grouping) for one in second] == [
        (kind, grouping) for grouping in (False, True) for kind in ("w", "o", "n", "w-bar")
    ]
    third = plans(script, list(script.TABLES["3"]), *words)
    assert [one.recipe.optimizer.lr for one in third[1:]] == [1e-4, 5e-5, 1e-5, 5e-6]
    assert len({one.folder for one in third}) == 5
    begin = third[1].command("./pretrained", "cpu")
    assert begin[begin.index("--init") + 1] == "./pretrained"


def test_the_tables_show_the_paper_beside_ours(script: ModuleType, tmp_path: Path) -> None:
    data = crops(tmp_path / "crops")
    args = script.arguments([str(tmp_path / "runs"), "--data", str(data), "--small"])
    ours = dict.fromkeys(script.COLUMNS, 0.5)
    values = dict.fromkeys(("mean", "as_published", "as_published_mean"), ours)

    def table(number: str, place: int) -> str:
        one = script.plan(script.TABLES[number][place], args, default_registry())
        return str(script.table(number, [script.entry(one, values, args)]))

    text = table("1", 0)
    assert "| SimSwap | ours, mean, [0, 1] | 0.500 | 0.500 | 0.500 |" in text
    assert "|  | paper, as printed | 0.006 | 0.008 | 0.012 |" in text
    assert "|  | paper, x 32 | 0.192 | 0.256 | 0.384 |" in text
    assert "|  | paper, x 32 | 0.256 | 0.160 | 0.416 |" in table("2", 2)
    assert "|  | paper, as printed | 0.043 | 0.031 | 0.029 |" in table("3", 4)


def test_what_cannot_be_trained_is_said_first(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"No such rows: ilwr. Rows: .*ILVR"):
        script.chosen(["1"], ["ILWR"])
    words = (tmp_path / "runs", "--data", crops(tmp_path / "crops"))
    with pytest.raises(SystemExit, match=r"simswap-224 needs crops of 224 pixels; .* has \[64\]"):
        plans(script, [script.TABLES["1"][0]], *words)


def test_a_finished_row_is_neither_trained_nor_measured_again(
    script: ModuleType,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, runs = crops(tmp_path / "crops"), tmp_path / "runs"
    tiny = ("batch_size=2", "generator.channels=[8,8]", "generator.num_id_blocks=1")
    words = [runs, "--data", data, "--panel", data, "--small", "--steps", 2, "--pairs", 4]
    words += ["--table", 1, 2, "--only", "simswap-224", "--device", "cpu", "--set", *tiny]

    def report(name: str) -> Any:
        line = ["tables.py", *words, "--json", tmp_path / name]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        script.main()
        return json.loads((tmp_path / name).read_text())

    first = report("a.json")
    (row,), (again,) = first["tables"]["1"], first["tables"]["2"]
    assert (row["row"], row["steps"], row["images"], row["pairs"]) == ("SimSwap", 2, 4, 4)
    assert again["mean"] == row["mean"], "trained once for both tables"
    for name, mean in row["as_published_mean"].items():
        # one batch of four: its mean, divided by four
        assert row["as_published"][name] == pytest.approx(mean / 4, abs=1e-6)
    assert first["short"]
    assert "cannot show the order of the rows" in capsys.readouterr().out

    log = (runs / "simswap-224.txt").read_text()
    monkeypatch.setattr(
        "facke_core.evaluation.study.evaluate", None
    )  # would fail if it were called
    assert report("b.json") == first
    assert (runs / "simswap-224.txt").read_text() == log
    words += ["generator.channels=[8,16]"]
    with pytest.raises(SystemExit, match=r"was trained with other settings \(generator\)"):
        report("c.json")
