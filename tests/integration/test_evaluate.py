"""``facke evaluate`` with the bundled weights, on the two portraits of the samples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from facke_core import default_registry
from facke_core._files import sha256_of
from facke_core.data.crops import CropSet
from facke_core.errors import DataError
from facke_core.evaluation.runner import EvaluationSpec
from facke_core.evaluation.work import EvaluationWork
from facke_core.weights.checkpoints import STATE
from facke_core.weights.layout import MODEL
from facke_core.weights.sources import locate
from standins import PlainSampler

ROOT = Path(__file__).resolve().parents[2]
QUICK = "recon-l1,id-loss,pose-error"


@pytest.fixture
def pairs(samples: Path) -> Path:
    """collins on hopper, and the other way round."""
    file = samples / "pairs.csv"
    file.write_text("source,target\ncollins.png,hopper.jpg\nhopper.jpg,collins.png\n")
    return file


def tiny_set(folder: Path) -> Path:
    """Six crops of noise, in which no detector finds a face; in a result it may."""
    rng = torch.Generator().manual_seed(0)
    CropSet(
        images=torch.randint(0, 256, (6, 3, 64, 64), generator=rng, dtype=torch.uint8),
        embeddings=torch.eye(6)[:, None].expand(6, 2, 6).contiguous(),
        people=torch.arange(6) // 2,
        weights=torch.ones(6),
        info={"alignment": {"template": "simswap_frontal", "size": 64}, "people": list("abc")},
    ).save(folder)
    return folder


@pytest.mark.parametrize("size", [65_537, 10**30])
def test_a_batch_beyond_all_measure_is_explained(
    facke: Callable[..., Any], pairs: Path, size: int
) -> None:
    command = ["evaluate", "simswap", "--pairs", pairs, "--metrics", "recon-l1"]
    done = facke(*command, "--batch-size", size)
    assert done.code == 2
    assert f"{size} pairs cannot be in work at a time. Give --batch-size as a number" in done.err


def test_a_page_that_cannot_be_written_takes_neither_the_table_nor_the_json_with_it(
    facke: Callable[..., Any], pairs: Path
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    command = ["evaluate", "simswap", "--pairs", pairs, "--metrics", "recon-l1"]
    done = facke(*command, "--html", "/dev/full", "--json", "a.json")
    assert done.code == 2
    assert "/dev/full: cannot be written" in done.err
    assert "recon-l1" in done.out
    (report,) = json.loads(Path("a.json").read_text())["reports"]
    assert len(report["rows"]) == 2
    done = facke(*command, "--json", "/dev/full")
    assert (done.code, "recon-l1" in done.out) == (2, True)


def test_table_json_and_page_are_written_and_batch_sizes_agree(
    facke: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "simswap", "--pairs", pairs, "--metrics", f"{QUICK},id-gain"]
    first = facke(*command, "--batch-size", 1, "--json", "a.json", "--html", "page.html")
    assert first.code == 0, first.err
    assert "simswap.mini: id-gain left out: no judge was given" in first.out
    (report,) = json.loads(Path("a.json").read_text())["reports"]
    assert set(report["summary"]) == set(QUICK.split(","))
    assert report["protocol"]["pairs"]["n"] == len(report["rows"]) == 2
    assert report["protocol"]["encoders"]["trainer"]["settings"] == {"name": "dlib-resnet29"}
    assert 0 < report["summary"]["id-loss"]["value"] < 0.6
    assert 0 < report["summary"]["pose-error"]["value"] < 10
    assert str(tmp_path) not in Path("a.json").read_text()
    html = Path("page.html").read_text()
    assert html.count("data:image/jpeg") == 2 * 2 * (2 + 3 + 3)  # both ends of two pairs

    again = facke(*command, "--batch-size", 7, "--workers", 1, "--out", "rows", "--json", "b.json")
    assert again.code == 0, again.err
    same = facke("evaluate", "diff", "a.json", "b.json", "--tolerance", "1e-6")
    assert (same.code, same.out.strip()) == (0, "The same to 1e-06: 2 pairs compared.")
    resumed = facke(*command, "--out", "rows", "--resume", "--json", "-")
    (report,) = json.loads(resumed.out)["reports"]
    assert report["run"]["pairs_computed"] == 0

    changed = Path("b.json").read_text().replace('"n": 2,', '"n": 3,')
    Path("c.json").write_text(changed)
    other = facke("evaluate", "diff", "a.json", "c.json")
    assert other.code == 3
    assert "summary.id-loss.n: 2 and 3" in other.out


def test_the_encoder_of_the_training_is_refused_as_judge(
    facke: Callable[..., Any], pairs: Path
) -> None:
    command = ["evaluate", "simswap", "--pairs", pairs, "--limit", 1, "--judge", "dlib-resnet29"]
    refused = facke(*command)
    assert refused.code == 2
    assert "'dlib-resnet29' cannot judge simswap.mini" in refused.err
    assert "--allow-training-encoder" in refused.err
    # under another name, with other settings: still the same network
    judge = '{"name": "dlib-resnet29", "centre": false}'
    assert facke(*command[:-1], judge).code == 2
    assert facke(*command, "--allow-training-encoder", "--metrics", "id-gain").code == 0


def test_a_dataset_is_measured_and_undetected_faces_are_counted(
    facke: Callable[..., Any], tmp_path: Path
) -> None:
    data = tiny_set(tmp_path / "set")
    done = facke(
        "evaluate", "simswap", "--data", data, "--limit", 3, "--metrics", QUICK, "--json", "-"
    )
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)["reports"]
    assert report["protocol"]["pairs"]["kind"] == "aligned crops"
    detected = [row["detected"] for row in report["rows"]]
    assert report["undetected"] == detected.count(False) > 0
    pose = report["summary"]["pose-error"]
    assert (pose["value"], pose["n"], pose["missing"]) == (None, 0, 3)
    assert report["summary"]["id-loss"]["n"] == 3


def test_another_machine_with_other_pictures_is_refused(tmp_path: Path) -> None:
    spec = EvaluationSpec(
        weights="simswap", data=str(tiny_set(tmp_path / "set")), limit=4, metrics=("recon-l1",)
    )
    protocol = spec.evaluator().protocol(spec.pair_set())
    other = {**protocol, "pairs": {**protocol["pairs"], "sha256": "0"}}
    with pytest.raises(DataError, match="the pairs are not those"):
        EvaluationWork(spec=spec, protocol=other).open(1)
    do = EvaluationWork(spec=spec, protocol=protocol).open(1)
    assert [row["pair"] for row in do(range(1, 3))["rows"]] == [1, 2]


def test_the_published_scale_is_printed_beside_the_means(
    facke: Callable[..., Any], pairs: Path
) -> None:
    command = ["evaluate", "simswap", "--pairs", pairs, "--protocol", "facke2022"]
    lacking = facke(*command)
    assert lacking.code == 2
    assert "the judge is missing" in lacking.err
    judge = ["--judge", "dlib-resnet29", "--allow-training-encoder"]
    done = facke(*command, *judge, "--json", "-")
    (found,) = json.loads(done.out)["facke2022"]
    for name, mean in found["mean"].items():
        assert found["as_published"][name] == pytest.approx(mean / 2), name
    # in ImageNet's units: about 4.4 times the error in [0, 1]
    assert 0.03 < found["mean"]["Recon Loss"] < 0.4
    assert found["notes"] == [
        "the self-swap is conditioned on the judge's embedding, as in the script"
    ]


@pytest.mark.filterwarnings("always::facke_core.errors.FackeWarning")
def test_the_checkpoints_of_a_run_are_scanned(facke: Callable[..., Any], tmp_path: Path) -> None:
    data = tiny_set(tmp_path / "set")
    bundled = locate("simswap").folder
    assert bundled is not None
    nan = float("nan")  # a training that diverged
    for number, spoilt in enumerate((3.0, 0.0, 0.5, nan), 1):
        folder = tmp_path / "run" / "checkpoints" / f"{number:08}"
        folder.mkdir(parents=True)
        tensors = load_file(bundled / MODEL)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and name.endswith("bias"):
                tensors[name] = tensor + spoilt
        save_file(tensors, folder / MODEL, {"format": "pt"})
        config = json.loads((bundled / "config.json").read_text())
        config["files"][MODEL]["sha256"] = sha256_of(folder / MODEL)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / STATE).write_text("{}")
    judge = ["--judge", "dlib-resnet29", "--allow-training-encoder"]
    command = ["evaluate", "scan", tmp_path / "run", "--data", data, "--limit", 4]
    done = facke(*command, *judge, "--coarse", 2, "--json", "-")
    assert done.code == 0, done.err
    found = json.loads(done.out)["scan"]
    assert list(found["coarse"]) == ["00000001", "00000002", "00000003", "00000004"]
    assert set(found["coarse"]["00000004"].values()) == {None}
    assert (found["coarse_pairs"], found["fine_pairs"]) == (2, 4)
    assert found["winners"]["recon-l1-imagenet"] == "00000002"
    assert set(found["fine"]) == set(found["winners"].values())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_another_backend_is_named_and_its_rows_are_kept_apart(
    facke: Callable[..., Any], tmp_path: Path, backend: str
) -> None:
    for package in ("onnx", "onnxscript", backend):
        pytest.importorskip(package, reason="needs the extras onnx and openvino")
    data = tiny_set(tmp_path / "set")
    command = ["evaluate", "simswap", "--data", data, "--limit", 12, "--seed", 0]
    command += ["--metrics", "recon-l1,id-loss", "--out", "rows"]
    graph = facke(*command, "--backend", backend, "--workers", 4, "--json", "-")
    assert graph.code == 0, graph.err
    (found,) = json.loads(graph.out)["reports"]
    assert (found["protocol"]["backend"], found["protocol"]["dtype"]) == (backend, "float32")
    torch_now = facke(*command, "--resume")
    assert (torch_now.code, "backend is different" in torch_now.err) == (2, True)
    own = facke(*command[:-1], "torch-rows", "--json", "-")
    (torch_report,) = json.loads(own.out)["reports"]
    for row, other in zip(found["rows"], torch_report["rows"], strict=True):
        assert row["values"] == pytest.approx(other["values"], abs=1e-4)
    again = facke(*command, "--backend", backend, "--resume")
    assert f"generated by {backend} in float32" in again.out


@pytest.mark.filterwarnings("always::facke_core.errors.FackeWarning")
def test_a_damaged_picture_of_the_calibration_costs_its_pair(
    facke: Callable[..., Any], pairs: Path
) -> None:
    Path("half.jpg").write_bytes(Path("hopper.jpg").read_bytes()[:4000])
    Path("real.csv").write_text("a,b,same\nhopper.jpg,half.jpg,1\n")
    command = ["evaluate", "simswap", "--pairs", pairs, "--metrics", "id-loss", "--out", "rows"]
    done = facke(*command, "--calibrate", "real.csv")
    assert (done.code, "half.jpg is damaged" in done.err) == (0, True), done.err
    assert "1 left out" in done.err + done.out


def test_differences_that_cannot_be_written_are_told(
    facke: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"facke_evaluation": 1, "reports": []}')
    done = facke("evaluate", "diff", "a.json", "b.json", "--json", "no/such.json")
    assert done.code == 2, done.err
    assert "no/such.json: cannot be written" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simswap"], "--pairs FILE.csv or --data"),
        (["--pairs", "p.csv"], "at least one set of WEIGHTS"),
        (["simswap", "--pairs", "p.csv"], "p.csv cannot be read"),
        (["simswap", "--pairs", "p.csv", "--metrics", "psrn"], "mean 'psnr'"),
        (["simswap", "--pairs", "p.csv", "--resume"], "--out DIR"),
        (["simswap", "--pairs", "p.csv", "--html", "no/p.html"], "no folder no"),
        (["simswap", "--pairs", "p.csv", "--json", ".."], ".. is a folder"),
        (
            ["simswap", "--pairs", "p.csv", "--protocol", "facke2022", "--html", "p.html"],
            "--html cannot be used with --protocol facke2022",
        ),
        (["simswap", "--pairs", "p.csv", "--backend", "auto", "--engine", "ray"], "torch only"),
        (["simswap", "--protocol", "facke2022", "--pairs", "p", "--metrics", "psnr"], "--metrics"),
        (["scan", "r", "--pairs", "p.csv", "--judge", "j", "--out", "o"], "No such option: --out"),
        (["scan", "r", "--judge", "j"], "--pairs FILE.csv or --data"),
        (["scan", "r", "--judge", "j", "--pairs", "p.csv", "--json", "no/a"], "no folder no"),
        (["scan", "--judge", "j"], "Missing argument 'RUN'"),
        (["simswop", "--pairs", "p.csv"], "mean 'simswap'"),
        (["simswop"], "mean 'simswap'"),
        (["run", "simswop"], "mean 'simswap'"),
        (["dif", "a.json", "b.json"], "no command 'evaluate dif' either. Did you mean 'diff'?"),
        (["./run", "--pairs", "p.csv"], "run does not exist"),
        (["simswap", "--pairs", "p.csv", "--set", "strength"], "is not KEY=VALUE"),
        (["diff", "a.json"], "Missing argument 'B'"),
        (["scan", "run", "--pairs", "p.csv"], "needs --judge"),
        (["simswap", "--pairs", "p.csv", "--judge", "{"], "not valid JSON"),
    ],
)
def test_wrong_usage_is_explained(
    facke: Callable[..., Any], words: list[str], message: str
) -> None:
    done = facke("evaluate", *words)
    assert done.code == 2, done.err
    assert message in done.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "simswap", "--pairs", "pairs.csv"],
        ["simswap", "--pairs", "pairs.csv"],
        ["--pairs", "pairs.csv", "simswap"],
    ],
)
def test_run_is_meant_where_no_command_is_named(
    words: list[str], facke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[EvaluationSpec] = []

    def evaluate(specs: Sequence[EvaluationSpec], **options: Any) -> None:
        given.extend(specs)
        raise DataError("stopped")

    monkeypatch.setattr("facke_core.evaluation.study.evaluate", evaluate)
    done = facke("evaluate", *words, "--metrics", "psnr, ssim", "--set", "steps=3", "--seed", 5)
    assert (done.code, done.err) == (2, "facke: stopped\n")
    assert given == [
        EvaluationSpec(
            weights=locate("simswap"),
            pairs="pairs.csv",
            metrics=("psnr", "ssim"),
            sampler={"steps": 3},
            seed=5,
            device="auto",
        )
    ]


def test_a_scan_hands_its_options_on(
    facke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def scan_run(run: Path, spec: EvaluationSpec, **options: Any) -> None:
        given.update(options, run=run, spec=spec)
        raise DataError("stopped")

    monkeypatch.setattr("facke_core.evaluation.study.scan_run", scan_run)
    words = ["--data", "crops", "--coarse", 2, "--fine", 3, "--skip", 4, "--batch-size", 5]
    words += ["--workers", 6, "--limit", 7, "--judge", "j", "--allow-training-encoder", "--quiet"]
    assert facke("evaluate", "scan", "runs/try", *words).code == 2
    assert given == {
        "run": Path("runs/try"),
        "spec": EvaluationSpec(
            weights="",
            data="crops",
            limit=7,
            judge="j",
            allow_training_encoder=True,
            device="auto",
        ),
        "coarse": 2,
        "fine": 3,
        "skip": 4,
        "batch_size": 5,
        "workers": 6,
        "on_progress": None,
    }


def test_each_command_of_the_group_has_its_own_help(facke: Callable[..., Any]) -> None:
    group = facke("evaluate", "--help")
    assert group.code == 0
    assert "run is meant" in group.out
    assert re.findall(r"^  ([a-z]+)  +", group.out, re.MULTILINE) == [
        "run",
        "diff",
        "video",
        "scan",
    ]
    own = {"run": "--protocol", "diff": "--tolerance", "scan": "--coarse"}
    for name, option in own.items():
        text = facke("evaluate", name, "--help").out
        assert text.startswith(f"Usage: facke evaluate {name} ")
        assert {each for each in own.values() if each in text} == {option}
    assert facke("evaluate", "simswap", "--help").out == facke("evaluate", "run", "--help").out


def test_the_london_benchmark_runs(shared: Path, tmp_path: Path) -> None:
    """Three people, with the judge of the benchmarks; interrupted nowhere, resumed once."""
    pytest.importorskip("cv2", reason="the judges need OpenCV (extra: faces)")
    script = [sys.executable, str(ROOT / "benchmarks" / "evaluate_london.py"), "simswap"]
    script += ["--people", "3", "--limit", "2", "--no-calibration", "--out", "out"]
    script += ["--metrics", "id-gain,retrieval-top1"]
    subprocess.run([*script, "--json", "a.json"], cwd=tmp_path, check=True, capture_output=True)
    (report,) = json.loads((tmp_path / "a.json").read_text())["reports"]
    assert report["protocol"]["encoders"]["judge"]["settings"] == {"name": "reid-0095-half"}
    assert report["summary"]["id-gain"]["value"] > 0.1
    assert str(shared) not in (tmp_path / "a.json").read_text()


@pytest.fixture
def london(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """(module of the benchmarks' judge, pairs of four people)."""
    pytest.importorskip("cv2", reason="the judges need OpenCV (extra: faces)")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import london as london_set
    import reid

    file, _ = london_set.write_inputs(tmp_path / "london", 4)
    return reid, file


@pytest.mark.parametrize("copied", ["target", "source"])
def test_planted_swappers_get_their_due_on_photographs(
    london: tuple[Any, Any], copied: Literal["target", "source"]
) -> None:
    reid, file = london
    metrics = ("recon-l1", "id-gain", "retrieval-top1", "pose-error", "background")
    spec = EvaluationSpec(weights="simswap", pairs=str(file), judge=reid.NAME, metrics=metrics)
    evaluator = spec.evaluator(reid.registry())
    pipeline = evaluator.pipeline

    pipeline.method = pipeline.method._replace(sampler=PlainSampler(picture=copied))
    report = evaluator.run(spec.pair_set())
    found = {name: value.value or 0.0 for name, value in report.summary.items()}
    assert (report.undetected, found["recon-l1"]) == (0, 0)
    assert found["background"] < 1e-5
    if copied == "target":
        # what is left is resampling: the crop has 128 pixels, the photograph more
        assert abs(found["id-gain"]) < 0.03
        assert found["retrieval-top1"] == 0
        assert found["pose-error"] < 1.5
    else:
        assert found["id-gain"] > 0.5
        assert found["retrieval-top1"] == 1
        assert found["pose-error"] > 1


def test_every_metric_of_core_is_documented() -> None:
    text = (ROOT / "docs" / "evaluate.md").read_text("utf-8")
    assert [name for name in default_registry().metrics if f"`{name}`" not in text] == []
