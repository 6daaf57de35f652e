"""``facke_core.training.run``: from a recipe and a crop set to weights that load."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from facke_core import load, load_encoder
from facke_core.config import read_json, write_json
from facke_core.data.crops import CropSet
from facke_core.errors import (
    ConfigError,
    DataError,
    FackeWarning,
    UsageError,
    VerificationError,
    WeightsError,
)
from facke_core.images.provenance import read_disclosure
from facke_core.objective import StepReport
from facke_core.publish.golden import verify
from facke_core.training import run as training
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.setup import TrainSettings
from facke_core.weights.checkpoints import complete
from facke_core.weights.layout import GOLDEN, LOG, PLOT, read_weights_config
from standins import meshes

SIZE = 64
RECIPE: dict[str, Any] = {
    "method": "simswap",
    "steps": 4,
    "batch_size": 4,
    "generator": {
        "image_size": SIZE,
        "identity_dim": 128,
        "channels": [4, 8],
        "num_id_blocks": 1,
        "patch": 2,
        "stem_kernel": 3,
        "skips": 1,
        "output": "residual",
        "veil": 0.03,
    },
    "discriminator": {"num_scales": 1, "width": 4},
    "identity_encoder": {"name": "dlib-resnet29"},
    "alignment": {"template": "simswap_frontal", "size": SIZE},
    "data": {"composite": 0.5, "intra": 0.25},
    "loss": {
        "identity": {"weight": 1.0, "options": {"augment": 1.0}},
        "reconstruction": {"weight": 10.0, "where": "same_identity"},
        "gan": {"weight": 1.0, "start": 2},
    },
    "discriminator_loss": {"real": {"weight": 1.0}, "fake": {"weight": 1.0}},
    "save_every": 2,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = torch.Generator().manual_seed(0)
    n = 8
    folder = tmp_path_factory.mktemp("data") / "crops"
    CropSet(
        images=torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8),
        mesh=meshes(n, SIZE, rng),
        embeddings=torch.nn.functional.normalize(torch.randn(n, 2, 128, generator=rng), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.ones(n),
        info={"name": "noise"} | {k: RECIPE[k] for k in ("identity_encoder", "alignment")},
    ).save(folder)
    return folder


def weights_of(run: Path) -> Path:
    return complete(run)[-1] / "model.safetensors"


def train(
    recipe: str, data: Path, out: Path, *, on_step: Any = None, on_probe: Any = None, **more: Any
) -> training.TrainSummary:
    settings = TrainSettings(recipe=recipe, data=data, out=out, **more)
    return training.train(settings, on_step=on_step, on_probe=on_probe)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    write_json(tmp_path / "tiny.json", RECIPE)
    return str(tmp_path / "tiny.json")


def test_a_run_folder_is_a_folder_of_weights(recipe: str, dataset: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    summary = train(
        recipe, dataset, tmp_path / "run", device="cpu", on_step=lambda r, _: steps.append(r.step)
    )
    assert summary.finished
    assert summary.images == 16
    assert steps == [1, 2, 3, 4]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert "generator.gan" not in log[1]
    assert "generator.gan" in log[2]

    swapper = load(tmp_path / "run")
    crops = CropSet.load(dataset).images[:2].float() / 255
    result = swapper.swap_crops(crops, crops.flip(0))
    assert result.shape == (2, 3, SIZE, SIZE)
    assert swapper.source is not None
    assert swapper.source.config.training["steps"] == 4
    newest = complete(tmp_path / "run")[-1]
    card = (newest / "README.md").read_text(encoding="utf-8")
    assert "step" in card
    assert (newest / LOG).read_bytes() == (tmp_path / "run" / LOG).read_bytes()
    assert swapper.source.config.training["logs"].keys() == {LOG, PLOT}
    assert "| generator.identity |" in card


def test_only_the_last_checkpoint_has_golden_tensors_and_all_can_be_verified(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    train(recipe, dataset, tmp_path / "run", device="cpu")
    middle, end = complete(tmp_path / "run")
    replays = [verify(folder, read_weights_config(folder)).replay for folder in (middle, end)]
    assert not (middle / GOLDEN).exists()
    assert [bool(found) for found in replays] == [False, True]
    assert load(middle)
    with (middle / LOG).open("a") as log:
        log.write("{}\n")
    with pytest.raises(VerificationError, match=r"log\.jsonl is not the file"):
        verify(middle, read_weights_config(middle))


def test_probes_are_logged_pictured_and_choose_the_best_checkpoint(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    probes: list[Any] = []
    overrides = ["steps=12", "probe.every=2", "probe.faces=3", "save_every=100"]
    summary = train(recipe, dataset, run, device="cpu", overrides=overrides, on_probe=probes.append)
    assert [probe.step for probe in probes] == [2, 4, 6, 8, 10, 12]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["probe.score"] for line in log if "probe.score" in line}
    assert set(logged) == {2, 4, 6, 8, 10, 12}
    assert read_disclosure(run / "previews" / "00000002.png")["method"] == "simswap"
    best = min(probes, key=lambda probe: probe.score)
    assert summary.best == json.loads((run / "best.json").read_text())
    assert summary.best["step"] == best.step
    assert load(run / summary.best["checkpoint"])
    assert {best.step, 12} <= {int(folder.name) for folder in complete(run)}
    assert len(complete(run)) <= 3

    more = ["steps=13", "save_every=1", "probe.every=0"]
    again = train(recipe, dataset, run, device="cpu", resume=True, overrides=more)
    assert again.best == summary.best
    assert (run / summary.best["checkpoint"]).is_dir()


def test_an_encoder_of_another_framing_is_refused(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="crop_template=ffhq"):
        train(recipe, dataset, tmp_path / "run", overrides=["alignment.template=ffhq"])


def test_the_panel_is_checked_like_the_dataset(recipe: str, dataset: Path, tmp_path: Path) -> None:
    crops = CropSet.load(dataset)
    images = crops.images[torch.arange(len(crops))]
    info: dict[str, Any] = {"alignment": {}, "identity_encoder": {}}
    replace(crops, images=images, info=info).save(tmp_path / "panel")
    overrides = ["probe.every=2"]
    with pytest.raises(DataError, match="panel"):
        train(recipe, dataset, tmp_path / "run", overrides=overrides, panel=tmp_path / "panel")


def test_an_interrupted_and_resumed_run_gives_the_same_weights(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    train(recipe, dataset, tmp_path / "whole", device="cpu")
    train(recipe, dataset, tmp_path / "parts", device="cpu", overrides=["steps=2"])
    with pytest.raises(UsageError, match="resume=True"):
        train(recipe, dataset, tmp_path / "parts", device="cpu")
    summary = train(recipe, dataset, tmp_path / "parts", device="cpu", resume=True)
    assert summary.step == 4
    whole, parts = (load_file(weights_of(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.fixture(scope="module")
def begun(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps out of three, with another batch size than its recipe has."""
    folder = tmp_path_factory.mktemp("begun")
    write_json(folder / "tiny.json", RECIPE)
    given = ["steps=3", "batch_size=2", "save_every=1"]

    def stop(report: StepReport, _: Recipe) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    out, recipe = folder / "run", str(folder / "tiny.json")
    done = train(recipe, dataset, out, device="cpu", overrides=given, on_step=stop)
    assert (done.step, done.finished) == (2, False)
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(begun / "run", tmp_path / "run"))


def test_a_resumed_run_has_the_recipe_that_it_began_with(
    begun: Path, run: Path, recipe: str, dataset: Path
) -> None:
    done = train(recipe, dataset, run, device="cpu", resume=True)
    assert (done.step, done.images) == (3, 6)
    assert read_json(run / "recipe.json")["batch_size"] == 2
    more = ["steps=4", "log_every=2", "probe.faces=3"]
    done = train(recipe, dataset, run, device="cpu", resume=True, overrides=more)
    assert (done.step, done.images) == (4, 8)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("batch_size=8", "batch_size is 2 there and 8 here"),
        ("seed=5", "seed is 0 there and 5 here"),
        ("precision=bfloat16", "precision is 'float32' there and 'bfloat16' here"),
        ("data.composite=0", r"data\.composite is 0\.5 there and 0\.0 here"),
        ('loss.low-pass={"weight": 1}', r"loss\.low-pass\.weight is 'nothing' there"),
    ],
)
def test_another_recipe_is_not_resumed(
    override: str, named: str, run: Path, recipe: str, dataset: Path
) -> None:
    before = sorted(path.name for path in run.rglob("*")), (run / "recipe.json").read_bytes()
    with pytest.raises(UsageError, match=named):
        train(recipe, dataset, run, device="cpu", resume=True, overrides=[override])
    assert before == (
        sorted(path.name for path in run.rglob("*")),
        (run / "recipe.json").read_bytes(),
    )


def test_a_recipe_that_was_changed_is_not_resumed_and_the_run_has_its_own(
    run: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from facke_cli.main import main

    write_json(tmp_path / "other.json", RECIPE | {"ema": 0.5})
    words = ["--data", str(dataset), "--out", str(run), "--device", "cpu", "--resume"]
    assert main(["train", str(tmp_path / "other.json"), *words]) == 2
    error = capsys.readouterr().err
    assert "ema is 0.999 there and 0.5 here" in error
    assert "without such --set" in error
    assert main(["train", str(run / "recipe.json"), *words]) == 0
    write_json(tmp_path / "same.json", RECIPE)
    assert main(["train", str(tmp_path / "same.json"), *words, "--steps", "4"]) == 0


def test_another_dataset_is_not_resumed(
    run: Path, recipe: str, dataset: Path, tmp_path: Path
) -> None:
    crops = CropSet.load(dataset)
    same = replace(crops, info={**crops.info, "name": "renamed", "license": "CC0-1.0"})
    same.save(tmp_path / "same")
    train(recipe, tmp_path / "same", run, device="cpu", resume=True)
    people = crops.people.clone()
    people[0] = people[-1]
    replace(crops, people=people).save(tmp_path / "people")
    replace(crops, embeddings=crops.embeddings.flip(1)).save(tmp_path / "vectors")
    for name in ("people", "vectors"):
        with pytest.raises(UsageError, match="was trained on the dataset 'renamed'"):
            train(recipe, tmp_path / name, run, device="cpu", resume=True)


@pytest.mark.parametrize("place", ["file", "file/below", "closed", "closed/below"])
def test_a_run_folder_that_cannot_be_is_no_fault_of_facke(
    place: str, recipe: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir()

    def refusing(call: Any) -> Any:
        def refused(path: Any, *arguments: Any, **named: Any) -> Any:
            if "closed/" in str(path):  # as for a user without rights, whom root is not
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *arguments, **named)

        return refused

    for name in ("open", "mkdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    with pytest.raises(DataError, match=rf"{place} cannot be written: .*Choose another place"):
        train(recipe, dataset, tmp_path / place, device="cpu")
    assert (tmp_path / "file").read_text() == "mine"
    assert not os.listdir(tmp_path / "closed")


def test_a_dataset_is_no_run_folder(recipe: str, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    before = sorted(dataset.iterdir())
    for out in (dataset, tmp_path / "link"):
        with pytest.raises(UsageError, match="is the dataset"):
            train(recipe, dataset, out, device="cpu")
    assert sorted(dataset.iterdir()) == before


def test_another_beginning_is_not_resumed(
    begun: Path, run: Path, recipe: str, dataset: Path
) -> None:
    init = str(begun / "run")
    with pytest.raises(UsageError, match="began with random weights, and this call with run"):
        train(recipe, dataset, run, device="cpu", resume=True, init=init)


def test_another_machine_is_resumed_with_a_warning(run: Path, recipe: str, dataset: Path) -> None:
    state = complete(run)[-1] / "state.json"
    write_json(state, {**read_json(state), "processes": 4})
    with pytest.warns(FackeWarning, match="4 processes then, 1 now"):
        train(recipe, dataset, run, device="cpu", resume=True)


def test_a_checkpoint_of_an_earlier_version_is_resumed_by_the_same_call(
    run: Path, recipe: str, dataset: Path
) -> None:
    state = complete(run)[-1] / "state.json"
    kept = {k: v for k, v in read_json(state).items() if k in ("step", "recipe", "files", "best")}
    write_json(state, kept)
    with pytest.raises(UsageError, match="batch_size is 2 there and 4 here"):
        train(recipe, dataset, run, device="cpu", resume=True)
    given = ["steps=3", "batch_size=2"]
    done = train(recipe, dataset, run, device="cpu", resume=True, overrides=given)
    assert (done.step, done.images) == (3, 6)


def test_weights_too_large_for_float16_are_kept_in_float32(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    large = ["steps=1", "ema=0", "optimizer.lr=1e6", "clip=0"]
    with pytest.warns(FackeWarning, match="saved in float32.* too large for float16, in "):
        train(recipe, dataset, tmp_path / "run", device="cpu", overrides=large)
    [checkpoint] = complete(tmp_path / "run")
    weights = load_file(checkpoint / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert read_weights_config(checkpoint).files["model.safetensors"].dtype == "float32"


def test_two_trainings_of_the_same_make_the_same_weights(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        train(recipe, dataset, tmp_path / name, device="cpu", overrides=["steps=1"])
    first, second = (read_weights_config(complete(tmp_path / name)[-1]) for name in "ab")
    assert first.files == second.files


def test_a_dataset_of_another_alignment_is_refused(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="alignment"):
        train(
            recipe,
            dataset,
            tmp_path / "run",
            device="cpu",
            overrides=["alignment.size=128", "generator.image_size=128"],
        )
    assert not (tmp_path / "run").exists()


def test_every_registered_recipe_reads(registry_recipes: list[str]) -> None:
    from facke_core import default_registry

    assert registry_recipes
    for name in registry_recipes:
        assert read_recipe(name, [], default_registry()).steps > 0


@pytest.fixture
def registry_recipes() -> list[str]:
    from facke_core import default_registry

    return list(default_registry().recipes)


def test_a_mistyped_override_is_named() -> None:
    from facke_core import default_registry

    with pytest.raises(ConfigError, match="batch_size"):
        read_recipe("simswap-mini", ["batchsize=4"], default_registry())


def test_the_command_reports_progress_on_stderr_and_the_summary_on_stdout(
    recipe: str, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from facke_cli.main import main

    words = ["train", recipe, "--data", str(dataset), "--out", str(tmp_path / "run")]
    assert main([*words, "--device", "cpu", "--steps", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["finished"] is True
    assert "step 2/2" in err
    assert main(words) == 2
    assert "--resume" in capfd.readouterr().err


def test_a_second_training_in_one_process_may_have_another_precision(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    for precision in ("float32", "bfloat16"):
        overrides = [f"precision={precision}", "steps=1"]
        train(recipe, dataset, tmp_path / precision, device="cpu", overrides=overrides)
    first, second = (load_file(weights_of(tmp_path / name)) for name in ("float32", "bfloat16"))
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_training_can_follow_a_swap(recipe: str, dataset: Path, tmp_path: Path) -> None:
    """What the encoder cached in inference mode must not break autograd."""
    with torch.inference_mode():
        load_encoder("dlib-resnet29")(torch.rand(1, 3, SIZE, SIZE))
    train(recipe, dataset, tmp_path / "run", device="cpu", overrides=["steps=1"])


def test_a_training_can_begin_with_given_weights(
    recipe: str, dataset: Path, tmp_path: Path
) -> None:
    train(recipe, dataset, tmp_path / "first", device="cpu")
    init = str(tmp_path / "first")
    frozen = ["steps=1", "optimizer.lr=0.0"]
    train(recipe, dataset, tmp_path / "again", device="cpu", init=init, overrides=frozen)
    first, again = (load_file(weights_of(tmp_path / name)) for name in ("first", "again"))
    for name, tensor in first.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(tensor.float(), again[name].float(), atol=1e-3), name
    other = ["generator.num_id_blocks=2"]
    with pytest.raises(WeightsError, match="id_blocks"):
        train(recipe, dataset, tmp_path / "other", device="cpu", init=init, overrides=other)
