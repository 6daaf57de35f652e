"""The benchmark gives the extremes their due: keeping the target, and taking the source."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from facke_core.faces.paste import Pasted
from facke_core.jobs.pairs import PairSet, read_pairs
from facke_core.types import SwapInputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """The modules of the folder that judge."""
    pytest.importorskip("cv2", reason="the judges need OpenCV (extra: faces)")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import cvae_progression
    import identity_transfer
    import judging
    import london
    import reid

    yield SimpleNamespace(
        script=identity_transfer,
        cvae=cvae_progression,
        judging=judging,
        london=london,
        reid=reid,
    )
    sys.path.remove(str(ROOT / "benchmarks"))


class Pipeline:
    """Stands for a SwapPipeline: the judge's points, nothing pasted, any identity."""

    def __init__(self, judge: Any) -> None:
        from facke_core.faces.templates import Alignment

        self.alignment = Alignment(template="simswap_frontal", size=128)
        self.method = SimpleNamespace(sampler=None)
        self._judge = judge

    def detect(self, photo: torch.Tensor) -> list[Any]:
        face = self._judge.find(photo)
        return [face] if face else []

    def align(self, photo: torch.Tensor, face: Any) -> Any:
        from facke_core.faces.align import align

        return align(photo, face._replace(landmarks=face.landmarks.float()), self.alignment)

    def encode(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(crops), 3)

    def occlusion(self, photo: torch.Tensor, faces: Any) -> None:
        return None

    def inputs(self, sources: Any, targets: Any, identity: torch.Tensor) -> SwapInputs:
        source, target = (torch.stack([face.crop for face in each]) for each in (sources, targets))
        return SwapInputs(source, target, identity)

    def paste(
        self, photo: torch.Tensor, crop: torch.Tensor, face: Any, *, occlusion: Any
    ) -> Pasted:
        return Pasted(photo, photo[:1])

    def sampler(self, seed: int | None) -> None:
        return None


@pytest.fixture(scope="module")
def set_up(
    benchmarks: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, PairSet, PairSet]:
    """(pipeline, judge, the pairs of four people, the same as crops)."""
    judge = benchmarks.reid.judge()
    pipeline = Pipeline(judge)
    file, _ = benchmarks.london.write_inputs(tmp_path_factory.mktemp("london"), 4, matrix=2)
    photos = read_pairs(file)
    return pipeline, judge, photos, benchmarks.cvae.crops_of(pipeline, photos)


def test_keeping_the_target_gains_nothing(benchmarks: Any, set_up: Any) -> None:
    pipeline, judge, _, pairs = set_up
    report, _ = benchmarks.judging.measure(
        pipeline,
        pairs,
        judge,
        swap_crops=lambda inputs: inputs.target,
        own=pairs.sources,
    )
    assert (report["pairs"], report["gain"], report["top1"]) == (12, 0, 0)
    assert (report["landmark_shift"], report["self_psnr"]) == (0, 100)


def test_taking_the_source_gains_everything(benchmarks: Any, set_up: Any) -> None:
    pipeline, judge, _, pairs = set_up
    report, shown = benchmarks.judging.measure(
        pipeline,
        pairs,
        judge,
        swap_crops=lambda inputs: inputs.source,
        batch_size=5,
        keep=4,
    )
    assert report["top1"] == 1
    assert report["gain"] > 0.8
    assert report["landmark_shift"] > 1
    assert report["self_psnr"] is None
    people = sorted(pairs.sources)
    numbers = {(people.index(pair.source), people.index(pair.target)) for pair in shown}
    assert numbers == {(0, 3), (0, 2), (1, 3), (1, 2)}


def test_each_source_brings_its_own_identity(benchmarks: Any, set_up: Any) -> None:
    pipeline, judge, _, pairs = set_up
    seen: list[torch.Tensor] = []
    crops = pairs.crops.images[torch.arange(4)].float() / 255

    def encode(crop: torch.Tensor) -> torch.Tensor:
        return torch.stack([(crops - one).abs().sum((1, 2, 3)).argmin()[None] for one in crop])

    def swap(inputs: SwapInputs) -> torch.Tensor:
        seen.append(inputs.identity)
        return crops[inputs.identity[:, 0]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "encode", encode)
        report, _ = benchmarks.judging.measure(pipeline, pairs, judge, swap_crops=swap)
    assert report["top1"] == 1
    assert len(torch.cat(seen).unique()) == 4


def test_pasted_results_are_judged_in_the_photo(benchmarks: Any, set_up: Any) -> None:
    pipeline, judge, pairs, _ = set_up
    report, shown = benchmarks.judging.measure(
        pipeline, pairs, judge, swap_crops=lambda inputs: inputs.source, keep=4
    )
    assert (report["gain"], report["top1"], report["landmark_shift"]) == (0, 0, 0)
    assert {x.shape[-1] for x in shown.values()} == {512}


def test_sources_are_looked_for_among_all_people(benchmarks: Any, set_up: Any) -> None:
    """Also among those whom no pair that was measured shows."""
    pipeline, judge, _, pairs = set_up
    first = pairs.pairs[0]
    (other, *_) = [p for p in pairs.sources if p not in first]
    third = pairs.crops.images[torch.tensor([other.row])].float() / 255
    report, _ = benchmarks.judging.measure(
        pipeline, pairs, judge, swap_crops=lambda _: third, limit=1
    )
    assert (report["pairs"], report["top1"]) == (1, 0)


def test_results_are_compared_with_the_smiling_photograph(
    benchmarks: Any, set_up: Any, tmp_path: Path
) -> None:
    pipeline, judge, photos, _ = set_up
    file, _ = benchmarks.london.write_inputs(tmp_path, 4, matrix=2, reference=True)
    pairs = read_pairs(file)
    for pair, plain in zip(pairs.pairs, photos.pairs, strict=True):
        assert pair.reference is not None
        assert [picture.key for picture in pair[:2]] == [picture.key for picture in plain[:2]]
        assert pair.reference.name == pair.source.name.replace("neutral", "smiling")
        assert pair.reference.identity == pair.source.identity
    reports, shown = zip(
        *(
            benchmarks.judging.measure(
                pipeline, some, judge, swap_crops=lambda inputs: inputs.target, keep=4
            )
            for some in (pairs, photos)
        ),
        strict=True,
    )
    one, other = reports
    assert one["gain"] == other["gain"] == 0  # nothing is pasted
    assert one["target_source"] != other["target_source"]
    first = {tuple(picture.key for picture in pair[:2]) for pair in pairs.pairs[:4]}
    for some in shown:
        assert {tuple(picture.key for picture in pair[:2]) for pair in some} == first


def test_a_time_limit_ends_the_swaps_but_not_the_picture(benchmarks: Any, set_up: Any) -> None:
    pipeline, judge, _, pairs = set_up
    report, shown = benchmarks.judging.measure(
        pipeline,
        pairs,
        judge,
        swap_crops=lambda inputs: inputs.source,
        seconds=0,
        batch_size=3,
        keep=4,
    )
    assert (report["pairs"], len(shown)) == (6, 4)


def test_the_pairs_are_all_ordered_pairs_in_a_fixed_order(benchmarks: Any) -> None:
    pairs = benchmarks.london.order(60, 6)
    assert len(pairs) == len(set(pairs)) == 60 * 59
    assert all(i != j for i, j in pairs)
    assert pairs == benchmarks.london.order(60, 6)


def test_the_script_writes_the_figures_and_no_picture_here(
    benchmarks: Any, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script: ModuleType = benchmarks.script
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "write_inputs", partial(script.write_inputs, people=4))
    monkeypatch.setattr(script, "scratch", lambda name: tmp_path.parent)
    words = ["--quick", "--pairs", "5", "--device", "cpu", "--reference", "--json", "figures.json"]
    monkeypatch.setattr(sys, "argv", ["identity_transfer.py", *words])
    script.main()
    figures = json.loads(Path("figures.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert Path(figures["picture"]).is_file()
    assert (figures["pairs"], figures["judge"], figures["method"]) == (5, "reid_0095", "simswap")
    assert figures["reference"] == "smiling"
    assert figures["gain"] > 0.1
    assert figures["gain"] == pytest.approx(
        figures["result_source"] - figures["target_source"], abs=2e-5
    )
    assert {"top1", "landmark_shift", "self_psnr"} < figures.keys()
