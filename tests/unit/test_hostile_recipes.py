"""Recipes and options with numbers beyond measure: refused before anything as large is made."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from swappers import dataset, evaluator
from test_training import RECIPE, make_trainer

from facke_core.config import from_dict
from facke_core.errors import FackeError, UsageError
from facke_core.evaluation.runner import Evaluator
from facke_core.jobs.pairs import pairs_of_dataset
from facke_core.losses.terms import LowPassLoss
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.prepare.prepare import prepare
from facke_core.training.recipe import MAX_SEED, Recipe
from facke_core.training.setup import TrainSettings
from facke_core.types import FaceBatch, GeneratorOutput, Step

HUGE = (-1, 10**9 + 1, 10**12, 2**63 - 1, 10**400)


@pytest.mark.parametrize("value", HUGE, ids=lambda value: f"{str(value)[:20]}")
@pytest.mark.parametrize(
    "key",
    [
        *("steps", "batch_size", "accumulate", "discriminator_every", "log_every", "save_every"),
        *(
            "data.donors",
            "data.composite",
            "probe.faces",
            "loss.identity.start",
            "optimizer.warmup",
        ),
    ],
)
def test_a_number_beyond_measure_is_refused_by_its_name(key: str, value: int) -> None:
    *rooms, last = key.split(".")
    data: dict[str, Any] = {last: value}
    if rooms == ["loss", "identity"]:
        data |= {"weight": 1.0}
    for room in reversed(rooms):
        data = {room: data}
    with pytest.raises(FackeError, match=last):
        from_dict(Recipe, RECIPE | data, where="recipe")


@pytest.mark.parametrize("seed", [MAX_SEED, -MAX_SEED])
def test_the_largest_seed_can_be_trained_with_and_a_larger_one_is_refused(seed: int) -> None:
    trainer = make_trainer(seed=seed, steps=1)
    assert [report.step for report in trainer] == [1]
    with pytest.raises(FackeError, match="seed"):
        make_trainer(seed=2 * seed)


@pytest.mark.parametrize(
    "settings", [{"width": 10**9}, {"num_scales": 10**9}, {"width": 0}, {"num_scales": -1}]
)
def test_a_discriminator_beyond_measure_is_not_built(settings: dict[str, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FackeError, match="but a discriminator needs"):
        MultiScalePatchDiscriminator(**settings)  # type: ignore[arg-type]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("factor", [0, -1, 65, 10**9, 2**70])
def test_blocks_larger_than_the_picture_are_refused(factor: int) -> None:
    x = torch.rand(2, 3, 64, 64)
    batch = FaceBatch(x, x, torch.rand(2, 4), torch.ones(2, dtype=torch.bool), x)
    step = Step(batch, GeneratorOutput(x, {}), {})
    assert LowPassLoss(factor=64)(step).tolist() == [0, 0]
    with pytest.raises(FackeError, match=r"factor: -?\d+ is not from 1 to 64"):
        LowPassLoss(factor=factor)(step)


def _prepared(workers: int, folder: Path) -> object:
    return prepare(folder, folder / "new", workers=workers)


def _trained(workers: int, folder: Path) -> object:
    return TrainSettings(recipe="x", data=folder, out=folder / "run", workers=workers)


def _evaluated(workers: int, _: Path) -> object:
    planted = evaluator("target")
    again = Evaluator(planted.pipeline, planted.metrics, workers=workers)
    return again.run(pairs_of_dataset(dataset(), 4))


@pytest.mark.parametrize("work", [_prepared, _trained, _evaluated])
def test_more_workers_than_a_machine_can_have_are_not_started(
    work: Callable[[int, Path], object], tmp_path: Path
) -> None:
    for workers in (-1, 9 + 2 * (os.cpu_count() or 1), 10**9):
        with pytest.raises(UsageError, match=f"^{workers} workers"):
            work(workers, tmp_path)
    assert not list(tmp_path.iterdir())
