"""The trainer: exactness, phases, checkpoints."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facke_core.config import from_dict
from facke_core.errors import ConfigError, FackeWarning, TrainingError, UsageError
from facke_core.losses.terms import IdentityLoss, ReconstructionLoss
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.objective import LossTerm
from facke_core.testing import TinyEncoder, TinyGenerator
from facke_core.training.recipe import OptimizerConfig, Recipe, terms
from facke_core.training.swapping import SwapObjective
from facke_core.training.trainer import Trainer
from facke_core.types import FaceBatch, GeneratorOutput, Step
from facke_core.weights.checkpoints import newest_sound
from standins import Batches

SIZE = 48


def random_batch(step: int, size: int = 2) -> FaceBatch:
    """Batch k from seed k, as the trainer's contract asks."""
    rng = torch.Generator().manual_seed(step)
    source, target = torch.rand(2, size, 3, SIZE, SIZE, generator=rng)
    identity = nn.functional.normalize(torch.randn(size, 4, generator=rng), dim=1)
    return FaceBatch(source, target, identity, torch.arange(size) % 2 == 0, target)


RECIPE: dict[str, Any] = {
    "method": "tiny",
    "steps": 6,
    "batch_size": 2,
    "generator": {},
    "identity_encoder": {"name": "tiny"},
    "alignment": {"template": "simswap_frontal", "size": SIZE},
    "loss": {
        "identity": {"weight": 1.0, "options": {"augment": 1.0}},
        "reconstruction": {"weight": 10.0, "where": "same_identity"},
        "gan": {"weight": 1.0, "start": 2},
        "feature-matching": {"weight": 1.0, "start": 2, "ramp": 2},
    },
    "discriminator_loss": {
        "real": {"weight": 1.0, "start": 2},
        "fake": {"weight": 1.0, "start": 2},
        "gradient-penalty": {"weight": 1e-5, "start": 2},
    },
    "clip": 1.0,
}


def make_trainer(workers: int = 0, norm: str = "batch", **changes: Any) -> Trainer:
    recipe = from_dict(Recipe, RECIPE | changes)
    torch.manual_seed(0)
    objective = SwapObjective(
        {
            "generator": TinyGenerator(SIZE, 4, norm=norm == "batch", dropout=0.1),  # global noise
            "identity_encoder": TinyEncoder(4),
            "discriminator": MultiScalePatchDiscriminator(num_scales=1, width=4, norm=norm),  # type: ignore[arg-type]
        },
        generator_terms=terms(recipe.loss),
        discriminator_terms=terms(recipe.discriminator_loss),
        discriminator_every=recipe.discriminator_every,
    )
    batches = Batches(partial(random_batch, size=recipe.batch_size))
    return Trainer(objective, batches, recipe=recipe, workers=workers)


def weights(trainer: Trainer) -> Mapping[str, Tensor]:
    states = {name: module.state_dict() for name, module in trainer.objective.modules.items()}
    states["ema"] = trainer.ema.module.state_dict()
    return {f"{m}.{k}": v.clone() for m, state in states.items() for k, v in state.items()}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_training_is_bit_identical_to_the_uninterrupted_one(
    stop: int, tmp_path: Path
) -> None:
    whole = make_trainer()
    reports = list(whole)

    first = make_trainer()
    for report in first:
        if report.step == stop:
            break
    first.save(tmp_path / "checkpoint")
    torch.manual_seed(123)  # the global random state must not matter
    second = make_trainer()
    second.resume(tmp_path / "checkpoint")
    rest = list(second)

    assert [r.step for r in rest] == list(range(stop + 1, 7))
    assert rest[-1].losses == reports[-1].losses
    expected = weights(whole)
    for name, value in weights(second).items():
        assert torch.equal(value, expected[name]), name


def test_a_phase_changes_only_the_module_it_trains() -> None:
    trainer = make_trainer(loss={}, steps=4)
    before = weights(trainer)
    list(trainer)
    after = weights(trainer)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    # the generator's BatchNorm statistics follow its forward passes, its parameters stay
    moved = {
        n for n in before if n.startswith("generator") and not torch.equal(before[n], after[n])
    }
    assert changed - {"ema"} == {"discriminator", "generator"}
    assert moved <= {f"generator.norm.{n}" for n in _STATISTICS}


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_terms_start_and_ramp() -> None:
    term = LossTerm(ReconstructionLoss(), weight=8.0, start=10, ramp=3)
    assert [term.weight_at(s) for s in (0, 9, 10, 11, 12, 13, 99)] == [0, 0, 2, 4, 6, 8, 8]


def test_a_term_that_has_not_started_is_not_reported_or_computed() -> None:
    reports = list(make_trainer(steps=3))
    assert "generator.gan" not in reports[1].losses
    assert "discriminator.real" not in reports[1].losses
    assert {"generator.gan", "discriminator.gradient-penalty"} <= set(reports[2].losses)


def test_the_discriminator_can_learn_in_every_nth_step_only() -> None:
    trainer = make_trainer(discriminator_every=3, steps=6)
    turns = ["discriminator.real" in report.losses for report in trainer]
    assert turns == [False, False, False, True, False, False]  # its terms start at step 2


def test_where_averages_over_the_chosen_samples_only() -> None:
    batch = random_batch(0)
    image = batch.target.clone()
    image[0] += 0.25
    image[1] += 100.0
    step = Step(batch=batch, output=GeneratorOutput(image, {}), modules={})
    term = LossTerm(ReconstructionLoss(), where="same_identity")
    assert float(term.mean(step)) == pytest.approx(0.25, abs=1e-5)
    nobody = step.batch._replace(same_identity=torch.tensor([False, False]))
    assert float(term.mean(replace(step, batch=nobody))) == 0.0


def test_the_identity_loss_perturbs_with_its_own_randomness_only() -> None:
    trainer = make_trainer()
    batch = random_batch(0)

    def value(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        output = GeneratorOutput(batch.source, {})
        step = Step(batch=batch, output=output, modules=trainer.objective.modules, rng=rng)
        return IdentityLoss(augment=1.0)(step)

    state = torch.random.get_rng_state()
    assert torch.equal(value(1), value(1))
    assert not torch.equal(value(1), value(2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_loss_that_is_not_finite_stops_before_it_does_harm() -> None:
    trainer = make_trainer()
    generator: Any = trainer.objective.modules["generator"]
    with torch.no_grad():
        generator.stem.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"generator\.reconstruction"):
        list(trainer)
    assert trainer.step == 0
    assert torch.isfinite(generator.mix.weight).all()


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    settings: dict[str, Any] = {"batch_size": 8, "steps": 3, "norm": "none", "clip": 0.0}
    settings["loss"] = {"identity": {"weight": 1.0}, "reconstruction": {"weight": 10.0}}
    settings["discriminator_loss"] = {}
    whole, parts = make_trainer(**settings), make_trainer(**settings, accumulate=4)
    for trainer in (whole, parts):
        dropout: Any = trainer.objective.modules["generator"].get_submodule("dropout")
        dropout.p = 0.0
    for a, b in zip(whole, parts, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-5)
    expected = weights(whole)
    for name, value in weights(parts).items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        make_trainer(accumulate=3)


def test_workers_change_nothing() -> None:
    alone, helped = make_trainer(), make_trainer(workers=2)
    assert [r.losses for r in alone] == [r.losses for r in helped]


def test_one_forward_pass_of_the_generator_serves_both_phases() -> None:
    trainer = make_trainer(steps=4)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    trainer.objective.modules["generator"].register_forward_hook(count)
    reports = list(trainer)
    assert "discriminator.fake" in reports[-1].losses
    assert calls == 4


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        make_trainer(precision="float16")


def run_folder(folder: Path, *steps: int) -> Path:
    trainer = make_trainer()
    for report in trainer:
        if report.step in steps:
            trainer.save(folder / "checkpoints" / f"{report.step:08d}")
    return folder


def test_a_failed_write_leaves_the_previous_checkpoint_and_no_partial_one(tmp_path: Path) -> None:
    """The file system refuses larger files, as a full one would."""
    run = run_folder(tmp_path / "run", 1)
    trainer = make_trainer()
    next(iter(trainer))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TrainingError, match="Earlier ones are untouched"):
            trainer.save(run / "checkpoints" / "00000002")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["00000001"]
    assert newest_sound(run) == run / "checkpoints" / "00000001"


def test_a_checkpoint_in_the_making_is_passed_over_and_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 2, 4)
    newest = run / "checkpoints" / "00000004"
    shutil.rmtree(newest)
    code = f"""if True:
        import os
        from pathlib import Path
        from facke_core._files import new_folder
        with new_folder(Path({str(newest)!r})):
            os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with pytest.warns(FackeWarning, match="00000004 was not finished"):
        assert newest_sound(run) == run / "checkpoints" / "00000002"


@pytest.mark.parametrize("file", ["generator.safetensors", "optimizers.safetensors", "state.json"])
def test_a_torn_checkpoint_gives_way_to_the_one_before(file: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 2, 4)
    torn = run / "checkpoints" / "00000004" / file
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.warns(FackeWarning, match="00000004"):
        found = newest_sound(run)
    assert found == run / "checkpoints" / "00000002"
    make_trainer().resume(found)


def test_a_run_with_damaged_checkpoints_only_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 2)
    (run / "checkpoints" / "00000002" / "generator.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match="no other checkpoint"):
        newest_sound(run)


def test_the_learning_rate_schedule_is_a_function_of_the_step() -> None:
    cosine = OptimizerConfig(lr=1.0, schedule="cosine", warmup=3, final=0.1)
    assert cosine.lr_at(0, 100) == pytest.approx(0.25)
    assert cosine.lr_at(50, 100) == pytest.approx(0.55)
    assert cosine.lr_at(100, 100) == pytest.approx(0.1)


def test_an_unknown_term_or_option_is_named() -> None:
    recipe = from_dict(Recipe, RECIPE | {"loss": {"identitty": {"weight": 1.0}}})
    with pytest.raises(ConfigError, match="identitty"):
        terms(recipe.loss)
    recipe = from_dict(
        Recipe, RECIPE | {"loss": {"identity": {"weight": 1.0, "options": {"augmnt": 1}}}}
    )
    with pytest.raises(ConfigError, match="augmnt"):
        terms(recipe.loss)
