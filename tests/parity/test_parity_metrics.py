"""Facke's benchmark, run upstream, against ``--protocol facke2022`` and against true means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixture import load

from facke_core.evaluation.facke2022 import IMAGENET, NAMES, Units, as_published, batch_values
from facke_core.evaluation.scan import thinned

REL = 1e-5
PLAIN = {"ID Loss": "ID Loss", "ID Retrieval": "ID Retrieval (1-cos)", "Recon Loss": "Recon Loss"}


@pytest.fixture(params=["SimSwap", "CVAE", "ILVR"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def measured(model: str, shared: Path) -> tuple[dict, dict[str, list[float]], list[float]]:  # type: ignore[type-arg]
    """(what upstream says, our values per image, L2 distances of the retrieval)."""
    tensors, meta = load("metrics", shared)
    about = meta["values"][model]
    units = Units(tuple(about["norm_mean"]), tuple(about["norm_std"]))
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    distances: list[float] = []
    for b in range(about["batches"]):
        t = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{model}.b{b}.")}
        values = batch_values(
            source=t["img_source"],
            rebuilt=t["raw_recon"],
            units=units,
            latent=t["latent"],
            trainer_result=t["arc_fake"],
            judge_source=t["cos_src"],
            judge_result=t["cos_fake"],
        )
        for name in NAMES:
            found[name] += values[name].tolist()
        distances += (t["cos_src"] - t["cos_fake"]).norm(dim=1).tolist()
    return about, found, distances


def test_the_published_scale_is_reproduced(measured: tuple) -> None:  # type: ignore[type-arg]
    about, found, _ = measured
    for name in NAMES:
        assert as_published(found[name], about["batch"]) == pytest.approx(
            about["reported_coarse"][name][0], rel=REL
        )


def test_the_default_gives_the_true_means_and_the_factor_is_the_batch_size(
    measured: tuple,  # type: ignore[type-arg]
) -> None:
    about, found, distances = measured
    for name in NAMES:
        mean = sum(found[name]) / len(found[name])
        assert mean == pytest.approx(about["plain_mean_coarse"][PLAIN[name]], rel=REL)
        assert mean / about["reported_coarse"][name][0] == pytest.approx(about["batch"], rel=REL)
    paper = about["plain_mean_coarse"]["ID Retrieval (L2 distance, paper text)"]
    assert sum(distances) / len(distances) == pytest.approx(paper, rel=REL)


def test_the_self_swap_is_conditioned_on_the_judge(model: str, shared: Path) -> None:
    tensors, meta = load("metrics", shared)
    passed = tensors[f"{model}.b0.latent_passed_to_recon"]
    same = passed.shape == tensors[f"{model}.b0.cos_src"].shape and torch.equal(
        passed, tensors[f"{model}.b0.cos_src"]
    )
    assert same == meta["values"][model]["recon_latent_is_cosface"] == (model != "ILVR")


def test_checkpoints_are_thinned_as_upstream(shared: Path) -> None:
    _, meta = load("metrics", shared)
    steps = [f"{n}_iter" for n in (20, 40, 60, 80, 100)]
    assert thinned(steps, 2) == meta["values"]["SimSwap"]["check_list"]


def test_units_are_left_as_they_were_entered() -> None:
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(IMAGENET.leave(IMAGENET.enter(image)), image, atol=1e-6)
