"""What locates weights and loads them does so once, here and in other processes."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from facke_core.config import read_json, write_json
from facke_core.errors import VerificationError
from facke_core.jobs.engines import Part, Work, here
from facke_core.jobs.swapping import SwapWork, swap_pairs
from facke_core.weights import layout
from facke_core.weights.layout import CONFIG, MODEL
from facke_core.weights.sources import Source, locate


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of bundled weights, in a folder."""
    bundled = locate("simswap.mini").folder
    assert bundled is not None
    shutil.copytree(bundled, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def pairs(samples: Path) -> Path:
    file = samples / "pairs.csv"
    file.write_text("source,target\ncollins.png,hopper.jpg\n")
    return file


def change(weights: Path) -> None:
    """Put other tensors in the place of these, with the configuration that belongs to them."""
    config = layout.read_weights_config(weights)
    tensors = layout.read_tensors(weights, MODEL, config)
    other = {name: -tensor for name, tensor in tensors.items()}
    files = layout.write_tensors(weights, {MODEL: other}, config, torch.float16)
    data = read_json(weights / CONFIG)
    data["files"][MODEL]["sha256"] = files[MODEL].sha256
    write_json(weights / CONFIG, data)


@pytest.mark.parametrize(
    "command",
    [
        "swap sample:collins sample:hopper -o out.png --weights ./mine",
        "swap --pairs pairs.csv -o out --weights ./mine",
        "matrix --sources sample:collins --targets sample:hopper -o out.png --weights ./mine",
        "evaluate ./mine --pairs pairs.csv --metrics recon-l1",
        "weights export ./mine -o out.onnx",
    ],
)
def test_a_command_reads_the_configuration_once(
    facke: Callable[..., Any],
    weights: Path,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    if "export" in command:
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    files: list[Path] = []

    def counted(path: Path) -> dict[str, Any]:
        files.append(path.resolve())
        return read_json(path)

    monkeypatch.setattr(layout, "read_json", counted)
    done = facke(*command.split())
    assert done.code == 0, done.err
    assert files == [(weights / CONFIG).resolve()]


class Elsewhere:
    """An engine of another process, as far as pickling goes; it tells what it was asked to do."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.work: Any = None

    def __call__(
        self, work: Work, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Mapping[str, Any]]]:
        self.work = pickle.loads(pickle.dumps(work))
        self.before()
        return here(self.work, parts)


def test_whoever_swaps_pairs_loads_the_weights_that_were_located(
    weights: Path, pairs: Path, tmp_path: Path
) -> None:
    work = SwapWork(weights=str(weights), pairs=str(pairs), folder=str(tmp_path / "out"))
    engine = Elsewhere()
    (swap,) = swap_pairs(work, engine=engine)
    assert swap.output
    assert engine.work.weights == locate(weights)
    changed = SwapWork(weights=str(weights), pairs=str(pairs), folder=str(tmp_path / "other"))
    with pytest.raises(VerificationError, match="was replaced"):
        swap_pairs(changed, engine=Elsewhere(lambda: change(weights)))


def test_whoever_evaluates_loads_the_weights_that_were_located(weights: Path, pairs: Path) -> None:
    from facke_core.evaluation.runner import EvaluationSpec
    from facke_core.evaluation.study import evaluate

    spec = EvaluationSpec(weights=str(weights), pairs=str(pairs), metrics=("recon-l1",))
    engine = Elsewhere()
    (report,) = evaluate([spec], engine=engine)
    source = engine.work.spec.weights
    assert isinstance(source, Source)
    assert source.revision == report.protocol["weights"]["revision"]
    with pytest.raises(VerificationError, match="was replaced"):
        evaluate([spec], engine=Elsewhere(lambda: change(weights)))
