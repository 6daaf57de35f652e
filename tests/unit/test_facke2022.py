"""The protocol facke2022 repeats the slips that a sampler tells of, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from swappers import SIZE, TEMPLATE, dataset, judge

from facke_core.errors import UsageError
from facke_core.evaluation import metrics as m
from facke_core.evaluation.facke2022 import (
    IMAGENET,
    Facke2022Report,
    RescaledSampler,
    Units,
    run_facke2022,
)
from facke_core.evaluation.runner import Evaluator
from facke_core.faces.templates import Alignment
from facke_core.jobs.pairs import pairs_of_dataset
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import Method
from facke_core.testing import TinyDetector
from facke_diffusion.ilvr import ILVRSampler
from standins import FunctionGenerator, FunctionSampler

PAIRS = pairs_of_dataset(dataset(), 6)


def plain() -> FunctionSampler:
    """The sampler of a plugin that takes no identity."""
    return FunctionSampler(lambda generator, inputs, rng: generator(inputs.target).image, ())


def rescaled() -> FunctionSampler:
    sampler: Any = plain()
    sampler.loader_units = Units((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return sampler


def measured(sampler: FunctionSampler, **settings: Any) -> Facke2022Report:
    pipeline = SwapPipeline(
        Method(FunctionGenerator(lambda x: x, SIZE), sampler),
        identity_encoder=None,
        detector=TinyDetector(TEMPLATE),
        alignment=Alignment(template=TEMPLATE, size=SIZE),
        registry=Registry(),
    )
    evaluator = Evaluator(pipeline, [m.id_loss()], judge=judge(), encoder=judge(2))
    return run_facke2022(evaluator, PAIRS, **settings)


@pytest.mark.parametrize("batch_size", [0, -3, 10**30])
def test_a_batch_that_cannot_be_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match=f"{batch_size} pairs cannot be in work at a time"):
        measured(plain(), batch_size=batch_size)


def test_a_method_without_identity_is_measured_without_the_slips_of_another() -> None:
    report = measured(plain())
    assert report.mean["Recon Loss"] == 0  # a copy of the source in the units of its loader
    assert report.notes[0] == "the method takes no identity"


def test_results_are_normalised_twice_where_the_sampler_says_so() -> None:
    report = measured(rescaled())
    # 4 x - 2 in the loader's units, and 4 (4 x - 2) - 2 after another time: off by |12 x - 8|
    rows = torch.tensor([pair.source.row for pair in PAIRS.pairs])
    off = (12 * dataset().images[rows].float() / 255 - 8).abs().mean()
    assert report.mean["Recon Loss"] == pytest.approx(float(off), rel=1e-4)
    assert report.notes[0] == "results are normalised twice, as the script does for this method"


def test_the_slip_of_the_original_ilvr_is_its_samplers() -> None:
    sampler = ILVRSampler()
    assert isinstance(sampler, RescaledSampler)
    assert sampler.loader_units == Units((0.5, 0.5, 0.5), IMAGENET.mean)
