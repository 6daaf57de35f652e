"""Trainings that are killed, stopped, or fail: real processes, real signals."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from facke_cli.main import main
from facke_core.weights.checkpoints import complete

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARK.parent)
        return importlib.import_module(BENCHMARK.stem)


@pytest.fixture(scope="module")
def data(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.noise_set(tmp_path_factory.mktemp("data") / "crops")


@pytest.mark.parametrize(("processes", "kills"), [(1, 2), (2, 1)])
def test_a_killed_and_resumed_training_ends_bit_identical(
    processes: int, kills: int, data: Path, tmp_path: Path
) -> None:
    numbers = ["--processes", str(processes), "--kills", str(kills), "--steps", "24"]
    command = [sys.executable, str(BENCHMARK), *numbers, "--data", str(data)]
    command += ["--json", "figures.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills: 333 tensors identical, log identical" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.items() >= {"kills": kills, "identical": True, "processes": processes}.items()
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGHUP), (2, signal.SIGTERM)]
)
def test_a_signal_saves_and_ends(
    processes: int, number: signal.Signals, bench: ModuleType, data: Path, tmp_path: Path
) -> None:
    recipe = bench.tiny_recipe(tmp_path / "tiny.json", 100_000)
    run, log = tmp_path / "run", tmp_path / "log"
    quick = ["--set", "save_every=1000000", "--set", "probe.every=0"]
    process = bench.start([*bench.command(recipe, data, run, processes), *quick], log)
    bench.until_logging(process, run)
    time.sleep(0.3)
    process.send_signal(number)
    try:
        status = process.wait(60)
    finally:
        process.kill()
    text = log.read_text(encoding="utf-8")
    assert status != 0, text
    if processes == 1:
        assert status == 128 + number
        assert "--resume" in text
    [saved] = complete(run)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == int(saved.name)


def test_several_machines_train_together(bench: ModuleType, data: Path, tmp_path: Path) -> None:
    """Two launchers that find each other over the network, as the documentation has it."""
    recipe = bench.tiny_recipe(tmp_path / "tiny.json", 4)
    run = tmp_path / "run"
    _, *train = bench.command(recipe, data, run, 1)
    torchrun, facke = (str(Path(sys.executable).parent / name) for name in ("torchrun", "facke"))
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{bench.free_port()}"]
    launch = [torchrun, "--nnodes", "2", "--nproc-per-node", "1", *meeting, facke, *train]
    machines = [bench.start(launch, tmp_path / f"log{k}") for k in range(2)]
    logs = [tmp_path / f"log{k}" for k in range(2)]
    assert [m.wait(120) for m in machines] == [0, 0], [log.read_text()[-3000:] for log in logs]
    config = json.loads((complete(run)[-1] / "config.json").read_text(encoding="utf-8"))
    assert config["training"]["processes"] == 2
    assert len((run / "log.jsonl").read_text().splitlines()) == 4 + 2  # and two probes


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    bench: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = bench.tiny_recipe(tmp_path / "tiny.json", 8)
    run = tmp_path / "run"
    words = ["train", str(recipe), "--data", str(data), "--out", str(run), "--device", "cpu"]
    assert main([*words, "--steps", "4", "--quiet"]) == 0
    kept = complete(run)
    explode = ["--init", str(run), "--set", "optimizer.lr=1e30", "--set", "clip=0", "--set"]
    explode += ["save_every=1000", "--set", "probe.every=0", "--quiet"]
    words[words.index(str(run))] = str(tmp_path / "other")
    assert main([*words, *explode]) == 2
    error = capsys.readouterr().err
    assert "The loss became" in error or "The gradient of" in error
    assert "a lower optimizer.lr" in error
    assert "a checkpoint: --init REF." in error
    assert not complete(tmp_path / "other")
    assert complete(run) == kept
    words[words.index(str(tmp_path / "other"))] = str(run)
    assert main([*words, "--quiet", "--resume", "--steps", "8"]) == 0
    assert complete(run)[-1].name == "00000008"


def test_a_dataset_of_another_encoder_is_refused_with_the_command(
    bench: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = bench.tiny_recipe(tmp_path / "tiny.json", 8)
    words = ["train", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "identity_encoder.centre=false"]) == 2
    error = capsys.readouterr().err
    assert "facke prepare PHOTOS" in error
    assert '--encoder \'{"name": "dlib-resnet29", "centre": false}\'' in error
    assert not (tmp_path / "run").exists()
