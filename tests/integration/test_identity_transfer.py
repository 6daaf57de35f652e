"""The benchmark gives the extremes their due: keeping the target, and taking the source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    pytest.importorskip("cv2", reason="the judges need OpenCV (extra: faces)")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import identity_transfer

    yield identity_transfer
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def set_up(script: ModuleType, shared: Path) -> tuple[Any, Any]:
    """(judge, four people as crops), conditioned on anything at all."""
    judge = script.Judge(shared)

    def encode(crops: torch.Tensor) -> torch.Tensor:
        return torch.eye(len(crops))

    return judge, script.london(shared, judge, encode=encode, size=128, limit=4)


def test_keeping_the_target_gains_nothing(script: ModuleType, set_up: tuple[Any, Any]) -> None:
    judge, people = set_up
    report = script.measure(lambda source, target, identity: target, people, judge)
    assert (report["pairs"], report["gain"], report["top1"]) == (12, 0, 0)
    assert (report["landmark_shift"], report["self_psnr"]) == (0, 100)


def test_taking_the_source_gains_everything(script: ModuleType, set_up: tuple[Any, Any]) -> None:
    judge, people = set_up
    report = script.measure(
        lambda source, target, identity: source, people, judge, batch_size=5, matrix=2
    )
    assert report["top1"] == 1
    assert report["gain"] > 0.8
    assert report["landmark_shift"] > 1
    assert set(report["shown"]) == {(0, 3), (0, 2), (1, 3), (1, 2)}
    assert script.draw(people, report["shown"], crops=True).shape[0] == 3


def test_each_source_brings_its_own_identity(script: ModuleType, set_up: tuple[Any, Any]) -> None:
    judge, people = set_up
    crops = torch.stack([person.face.crop for person in people])
    report = script.measure(
        lambda source, target, identity: crops[identity.argmax(1)], people, judge
    )
    assert report["top1"] == 1


def test_pasted_results_are_judged_in_the_photo(
    script: ModuleType, shared: Path, set_up: tuple[Any, Any]
) -> None:
    judge, _ = set_up

    class Pipeline:
        """Stands for a SwapPipeline: known points, nothing pasted."""

        def detect(self, photo: torch.Tensor) -> list[Any]:
            points = torch.from_numpy(judge.find(script.to_uint8(photo))).float()
            return [script.Face(torch.zeros(4), points, 1.0)]

        def align(self, photo: torch.Tensor, face: Any) -> Any:
            alignment = script.Alignment(template="simswap_frontal", size=128)
            return script.align(photo, face, alignment)

        def encode(self, crops: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(crops), 3)

        def paste(self, photo: torch.Tensor, crop: torch.Tensor, face: Any) -> torch.Tensor:
            return photo

    pipeline = Pipeline()
    people = script.people_of(pipeline, shared, judge, crops=False, limit=3)
    report = script.measure(
        lambda source, target, identity: source, people, judge, paste=pipeline.paste
    )
    assert (report["gain"], report["top1"], report["landmark_shift"]) == (0, 0, 0)


def test_the_pairs_are_all_ordered_pairs_in_a_fixed_order(script: ModuleType) -> None:
    pairs = script.order(60, 6)
    assert len(pairs) == len(set(pairs)) == 60 * 59
    assert all(i != j for i, j in pairs)
    assert pairs == script.order(60, 6)
