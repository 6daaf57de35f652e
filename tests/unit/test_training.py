"""The trainer: exactness, phases, checkpoints."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from facke_core import _tensors
from facke_core._files import sha256_of
from facke_core.config import from_dict, read_json, write_json
from facke_core.errors import ConfigError, FackeWarning, TrainingError, UsageError
from facke_core.losses.terms import IdentityLoss, ReconstructionLoss
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.objective import LossTerm
from facke_core.testing import TinyEncoder, TinyGenerator
from facke_core.training.recipe import OptimizerConfig, Recipe, terms
from facke_core.training.swapping import SwapObjective
from facke_core.training.trainer import Trainer
from facke_core.types import FaceBatch, GeneratorOutput, Step
from facke_core.weights import checkpoints
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


class Root:
    """The root of a difference that is 0: a finite loss, whose slope is infinite."""

    name = "root"

    def __call__(self, step: Step) -> Tensor:
        image = step.output.image
        return (image - image.detach()).square().mean((1, 2, 3)).sqrt()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_it_does_harm(
    clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"loss": {"identity": {"weight": 1.0}}, "clip": clip}
    settings["discriminator_loss"] = {}
    run = tmp_path / "run"
    trainer = make_trainer(**settings)
    steps = iter(trainer)
    next(steps)
    trainer.save(run / "checkpoints" / "00000001")
    before = weights(trainer)
    phase: Any = trainer.objective.phases[0]
    monkeypatch.setattr(
        trainer._phases[0],
        "unregistered",
        (replace(phase, terms=(LossTerm(Root()),)), trainer.objective.modules),
    )
    with pytest.raises(
        TrainingError, match=r"gradient of the generator became (nan|inf) at step 1"
    ):
        next(steps)
    for name, value in trainer.objective.modules["generator"].named_parameters():
        assert torch.equal(value, before[f"generator.{name}"]), name
    assert newest_sound(run) == run / "checkpoints" / "00000001"
    again = make_trainer(**settings)
    again.resume(run / "checkpoints" / "00000001")
    assert [report.step for report in again] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("where", ["generator", "ema", "optimizers"])
def test_a_checkpoint_with_numbers_that_are_none_is_neither_written_nor_resumed(
    where: str, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "run", 2, 4)
    newest = run / "checkpoints" / "00000004"
    file = newest / f"{where}.safetensors"
    tensors = load_file(file)
    name = next(key for key, value in tensors.items() if value.is_floating_point() and value.ndim)
    tensors[name].view(-1)[0] = float("inf")
    save_file(tensors, file)
    state = json.loads((newest / "state.json").read_text())
    state["files"][file.name] = sha256_of(file)  # as an earlier facke wrote it
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.warns(FackeWarning, match=rf"00000004.*not finite.*{re.escape(name)} \(1 of "):
        assert newest_sound(run) == run / "checkpoints" / "00000002"
    with pytest.raises(TrainingError, match="not finite"):
        make_trainer().resume(newest)

    trainer = make_trainer()
    trainer.resume(run / "checkpoints" / "00000002")
    module: Any = {"ema": trainer.ema.module}.get(where, trainer.objective.modules["generator"])
    if where == "optimizers":
        state = trainer._optimizers[0].optimizer.state
        next(iter(state.values()))["exp_avg"][0] = float("nan")
    else:
        next(module.parameters()).data[0] = float("nan")
    with pytest.raises(TrainingError, match=rf"is not written: numbers of {where} are not finite"):
        trainer.save(tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_images_are_counted_and_not_steps_times_the_batch(tmp_path: Path) -> None:
    trainer = make_trainer(steps=3)
    assert [report.images for report in trainer] == [2, 4, 6]
    trainer.save(tmp_path / "three")
    more = make_trainer(steps=5)
    assert more.resume(tmp_path / "three")["images"] == 6
    assert [report.images for report in more] == [8, 10]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 4}, "batch_size is 2 there and 4 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"accumulate": 2}, "accumulate is 1 there and 2 here"),
        ({"loss": {"identity": {"weight": 2.0}}}, r"loss\.identity\.weight is 1\.0 there and 2\.0"),
        ({"optimizer": {"lr": 1e-5}}, r"optimizer\.lr is 0\.0004 there and 1e-05 here"),
    ],
)
def test_a_trainer_does_not_resume_another_recipe(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    make_trainer().save(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match=named):
        make_trainer(**changes).resume(tmp_path / "checkpoint")
    make_trainer(steps=9, save_every=3, log_every=1).resume(tmp_path / "checkpoint")


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


MASKED: dict[str, Any] = {
    "batch_size": 4,  # of which three samples are chosen, two of one process and one of the other
    "steps": 1,
    "norm": "none",
    "clip": 0.0,
    "loss": {
        "identity": {"weight": 1.0},
        "reconstruction": {"weight": 10.0, "where": "same_identity"},
    },
    "discriminator_loss": {
        "real": {"weight": 1.0, "where": "same_identity"},
        "fake": {"weight": 1.0},
    },
}


def three_of_four(step: int) -> FaceBatch:
    return random_batch(step, 4)._replace(same_identity=torch.arange(4) < 3)


def gradients(**changes: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses of a step, and the gradient that each optimiser gets."""
    trainer = make_trainer(**MASKED | changes)
    trainer.batches = Batches(three_of_four)
    dropout: Any = trainer.objective.modules["generator"].get_submodule("dropout")
    dropout.p = 0.0
    found: dict[str, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            found[str(len(found))] = parameter.grad.clone().contiguous()

    handle = register_optimizer_step_pre_hook(keep)
    try:
        (report,) = trainer
    finally:
        handle.remove()
    return dict(report.losses), found


PROCESS = """
import json, sys
from pathlib import Path
from safetensors.torch import save_file
from test_training import gradients

folder = Path(sys.argv[1])
for parts in (1, 2):
    losses, found = gradients(accumulate=parts)
    (folder / f"{parts}-{sys.argv[2]}.json").write_text(json.dumps(losses))
    save_file(found, folder / f"{parts}-{sys.argv[2]}.safetensors")
"""


def test_a_masked_mean_is_that_of_the_whole_batch_in_any_number_of_parts_and_processes(
    tmp_path: Path,
) -> None:
    losses, whole = gradients()
    assert losses["generator.reconstruction"] > 0
    ways = [gradients(accumulate=2), gradients(accumulate=4)]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    here = Path(__file__).parent
    places = {"PYTHONPATH": os.pathsep.join(map(str, (here, here.parent)))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, tmp_path, str(rank)],
            env=os.environ | meeting | places | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    for way in ("1-0", "1-1", "2-0", "2-1"):
        logged = json.loads((tmp_path / f"{way}.json").read_text())
        ways.append((logged, load_file(tmp_path / f"{way}.safetensors")))

    for other, found in ways:
        assert other == pytest.approx(losses, rel=1e-5)
        assert found.keys() == whole.keys()
        for name, value in found.items():
            assert torch.allclose(value, whole[name], rtol=1e-4, atol=1e-6), name


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


def test_a_resumed_training_has_the_numbers_whose_digest_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is read once; who changes it afterwards comes too late."""
    run, opened = run_folder(tmp_path / "run", 2), list[str]()
    read, digest = _tensors.read, sha256_of

    def spoiling(file: Path) -> Any:
        opened.append(file.name)
        content = read(file)
        save_file({key: value + 1 for key, value in content.tensors.items()}, file)
        return content

    def counted(file: Path) -> str:
        opened.append(file.name)
        return digest(file)

    expected = make_trainer()
    expected.resume(run / "checkpoints" / "00000002")
    monkeypatch.setattr(_tensors, "read", spoiling)
    monkeypatch.setattr(checkpoints, "sha256_of", counted)
    found = checkpoints.newest(run)
    assert found is not None
    names = sorted(found.state["files"])
    trainer = make_trainer()
    trainer.resume(found)
    assert sorted(opened) == names
    assert weights(trainer).keys() == weights(expected).keys()
    for name, value in weights(expected).items():
        assert torch.equal(weights(trainer)[name], value), name
    assert [report.losses for report in trainer] == [report.losses for report in expected]
    with pytest.raises(TrainingError, match="not what was written"):
        make_trainer().resume(run / "checkpoints" / "00000002")


@pytest.mark.parametrize("file", ["ema", "optimizers", "generator"])
def test_a_checkpoint_that_lacks_a_file_is_explained(file: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", 2) / "checkpoints" / "00000002"
    state = read_json(folder / "state.json")
    del state["files"][f"{file}.safetensors"]
    write_json(folder / "state.json", state)
    with pytest.raises(TrainingError, match=f"does not fit this recipe: '{file}'"):
        make_trainer().resume(folder)


@pytest.mark.parametrize("name", ["generator.99.step", "generator.x.step", "step"])
def test_an_optimiser_of_another_network_is_explained(name: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", 2) / "checkpoints" / "00000002"
    save_file({name: torch.ones(())}, folder / "optimizers.safetensors")
    state = read_json(folder / "state.json")
    state["files"]["optimizers.safetensors"] = sha256_of(folder / "optimizers.safetensors")
    write_json(folder / "state.json", state)
    with pytest.raises(TrainingError, match="does not fit this recipe"):
        make_trainer().resume(folder)


@pytest.mark.parametrize(
    "change",
    [{"step": "2"}, {"step": True}, {"files": []}, {"recipe": 7}, {"images": None}, {"best": [1]}],
)
def test_a_state_with_other_values_is_a_damaged_one(change: dict[str, Any], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 1)
    state = run / "checkpoints" / "00000001" / "state.json"
    write_json(state, read_json(state) | change)
    with pytest.raises(TrainingError, match=rf"state\.json.{next(iter(change))}"):
        newest_sound(run)


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
