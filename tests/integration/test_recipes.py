"""The recipes that come with facke: what they say, where it is from, and that they train."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from facke_cli.main import main
from facke_core import default_registry
from facke_core.config import from_dict, to_dict
from facke_core.data.batches import SwapBatches
from facke_core.data.crops import CropSet
from facke_core.errors import FackeError
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.training.run import train
from facke_core.training.setup import TrainSettings
from facke_core.weights.checkpoints import complete
from facke_gan.simswap import FACKE_224, OFFICIAL_224_FIX, OFFICIAL_512, SimSwapConfig

TABLE_2 = {
    "simswap-224": ("w", False),
    "simswap-224-ofm": ("o", False),
    "simswap-224-nfm": ("", False),
    "simswap-224-wbfm": ("w-bar", False),
    "simswap-224-ig": ("w", True),
    "simswap-224-ig-ofm": ("o", True),
    "simswap-224-ig-nfm": ("", True),
    "simswap-224-ig-wbfm": ("w-bar", True),
}
"""Recipe -> layers of feature matching, Identity Grouping."""
FROM_FACKE = {
    "steps": 69_000,
    "batch_size": 32,
    "discriminator.num_scales": 2,
    "discriminator.width": 64,
    "discriminator.norm": "batch",
    "discriminator.normalization": "imagenet",
    "alignment.size": 224,
    "data.rule": "facke",
    "data.schedule": "alternate",
    "data.grouping": False,
    "data.composite": 0.0,
    "data.mirror": False,
    "data.colour_jitter": 0.0,
    "loss.gan.weight": 1.0,
    "loss.gan.options.mode": "hinge",
    "loss.feature-matching.weight": 10.0,
    "loss.feature-matching.options.layers": "w",
    "loss.identity.weight": 30.0,
    "loss.reconstruction.weight": 10.0,
    "loss.reconstruction.where": "same_identity",
    "loss.reconstruction.options.units": "imagenet",
    "discriminator_loss.real.weight": 1.0,
    "discriminator_loss.real.options.mode": "hinge",
    "discriminator_loss.fake.weight": 1.0,
    "discriminator_loss.fake.options.mode": "hinge",
    "discriminator_loss.gradient-penalty.weight": 1e-5,
    "optimizer.lr": 4e-4,
    "optimizer.betas": [0.0, 0.999],
    "optimizer.schedule": "constant",
    "clip": 0.0,
}
FROM_OFFICIAL = {
    "discriminator.kind": "projected",
    "data.rule": "simswap",
    "data.schedule": "alternate",
    "data.mirror": False,
    "data.colour_jitter": 0.0,
    "loss.gan.weight": 1.0,
    "loss.gan.options.mode": "hinge",
    "loss.feature-matching.weight": 10.0,
    "loss.feature-matching.options.layers": "last",
    "loss.identity.weight": 30.0,
    "loss.reconstruction.weight": 10.0,
    "loss.reconstruction.where": "same_identity",
    "loss.reconstruction.options.units": "imagenet",
    "discriminator_loss.real.weight": 1.0,
    "discriminator_loss.fake.weight": 1.0,
    "optimizer.lr": 4e-4,
    "optimizer.betas": [0.0, 0.99],
    "optimizer.schedule": "constant",
    "clip": 0.0,
}
NEW = ("simswap-224", "simswap-projected")
OURS = ("generator.identity_dim", "alignment.template", "identity_encoder.name", "ema", "precision")
"""What differs from every original, on purpose."""


def read(name: str, *overrides: str) -> Recipe:
    return read_recipe(name, overrides, default_registry())


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted path -> value, without the sources."""
    found: dict[str, Any] = {}

    def collect(path: str, data: Mapping[str, Any]) -> None:
        for key, value in data.items():
            if isinstance(value, Mapping):
                collect(f"{path}{key}.", value)
            else:
                found[path + key] = value

    collect("", {key: value for key, value in to_dict(recipe).items() if key != "sources"})
    return found


def source_of(recipe: Recipe, path: str) -> str:
    """That of the value, or else of what it is in."""
    while path and path not in recipe.sources:
        path = path.rpartition(".")[0]
    return recipe.sources.get(path, "")


# -- what they say -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", default_registry().recipes)
def test_the_sources_of_a_recipe_are_of_values_that_it_has(name: str) -> None:
    recipe = read(name)
    values = values_of(recipe)
    for path in recipe.sources:
        assert any(f"{value}.".startswith(f"{path}.") for value in values), path


@pytest.mark.parametrize("name", TABLE_2)
def test_a_row_of_table_2_differs_from_the_first_in_what_the_table_says(name: str) -> None:
    layers, grouping = TABLE_2[name]
    first, values = values_of(read("simswap-224")), values_of(read(name))
    differing = {key for key in first.keys() | values.keys() if first.get(key) != values.get(key)}
    grouped = {key for key in differing if key == "data.grouping"}
    assert bool(grouped) is values["data.grouping"] is grouping
    assert all(key.startswith("loss.feature-matching.") for key in differing - grouped)
    assert values.get("loss.feature-matching.options.layers", "") == layers
    assert values.get("loss.feature-matching.weight", 0) == (10 if layers else 0)


@pytest.mark.parametrize(
    ("name", "path", "value", "origin"),
    [
        *(("simswap-224", *item, "Facke's code (e5141fe)") for item in FROM_FACKE.items()),
        *(("simswap-projected", *item, "bd7b768") for item in FROM_OFFICIAL.items()),
        *((name, path, None, "facke") for name in NEW for path in OURS),
        ("simswap-224-ig", "data.grouping", True, "Table 2"),
        *(
            (name, "loss.feature-matching.options.layers", layers, "Table 2")
            for name, (layers, _) in TABLE_2.items()
            if layers not in ("", "w")
        ),
        ("simswap-512", "alignment.template", "ffhq", "official SimSwap (bd7b768)"),
        ("simswap-512", "alignment.size", 512, "official SimSwap (bd7b768)"),
    ],
)
def test_a_value_is_that_of_its_origin_which_is_named(
    name: str, path: str, value: Any, origin: str
) -> None:
    recipe = read(name)
    values = values_of(recipe)
    if value is None:
        assert path in values
    else:
        assert values[path] == value
    assert origin in source_of(recipe, path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, FACKE_224) for name in TABLE_2),
        ("simswap-projected", OFFICIAL_224_FIX),
        ("simswap-512", OFFICIAL_512),
    ],
)
def test_the_generator_is_the_original_one_but_for_the_encoder(
    name: str, expected: SimSwapConfig
) -> None:
    recipe = read(name, "generator.identity_dim=512")
    assert from_dict(SimSwapConfig, recipe.generator) == expected
    assert source_of(recipe, "generator.channels")


# -- that they train -----------------------------------------------------------------------------

SIZE = 96
"""Two scales of a patch discriminator need 96 pixels."""
SMALL = (
    "batch_size=2",
    "probe.faces=2",
    "precision=float32",
    f"alignment.size={SIZE}",
    f"generator.image_size={SIZE}",
    "generator.channels=[4,8,8]",
    "generator.num_id_blocks=1",
    "log_every=1",
)
SMALL_PATCHES = (*SMALL, "discriminator.width=4")


def crop_set(folder: Path, recipe: Recipe) -> Path:
    """Four people with two noisy pictures each, in the recipe's framing."""
    rng = torch.Generator().manual_seed(0)
    size = recipe.alignment["size"]
    CropSet(
        images=torch.randint(0, 256, (8, 3, size, size), generator=rng, dtype=torch.uint8),
        embeddings=normalize(torch.randn(8, 2, 128, generator=rng), dim=-1),
        people=torch.arange(8) // 2,
        weights=torch.ones(8),
        info={"identity_encoder": recipe.identity_encoder, "alignment": recipe.alignment},
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crop_set(tmp_path_factory.mktemp("data"), read("simswap-224", *SMALL))


class Trained(NamedTuple):
    log: list[dict[str, float]]
    before: Mapping[str, Mapping[str, torch.Tensor]]
    """Module -> tensors, halfway."""
    after: Mapping[str, Mapping[str, torch.Tensor]]


def trained(name: str, dataset: Path, out: Path, overrides: tuple[str, ...], steps: int) -> Trained:
    keep = (f"steps={steps}", f"save_every={steps // 2}", f"probe.every={steps}")
    settings = TrainSettings(
        recipe=name, data=dataset, out=out, overrides=[*overrides, *keep], device="cpu"
    )
    assert train(settings).finished
    lines = (out / "log.jsonl").read_text("utf-8").splitlines()
    log = [line for line in map(json.loads, lines) if "images" in line]
    assert [line["step"] for line in log] == list(range(1, steps + 1))
    states = [
        {part: load_file(checkpoint / f"{part}.safetensors") for part in PARTS}
        for checkpoint in complete(out)
    ]
    return Trained(log, *states)


PARTS = ("generator", "discriminator")


def check_losses(run: Trained, recipe: Recipe) -> None:
    """Those of the recipe, finite, and reconstruction on intra-ID steps only."""
    expected = {f"generator.{term}" for term in recipe.loss}
    expected |= {f"discriminator.{term}" for term in recipe.discriminator_loss}
    for step, line in enumerate(run.log):
        losses = {key: value for key, value in line.items() if key.partition(".")[0] in PARTS}
        assert losses.keys() == expected
        assert all(map(math.isfinite, losses.values()))
        assert (losses["generator.reconstruction"] > 0) is (step % 2 == 0)


@pytest.mark.parametrize("name", TABLE_2)
def test_a_row_of_table_2_trains(name: str, dataset: Path, tmp_path: Path) -> None:
    recipe = read(name, *SMALL_PATCHES)
    run = trained(name, dataset, tmp_path / "run", SMALL_PATCHES, steps=20)
    check_losses(run, recipe)
    assert ("generator.feature-matching" in run.log[0]) is bool(TABLE_2[name][0])
    for part in PARTS:
        same = [k for k, v in run.before[part].items() if torch.equal(v, run.after[part][k])]
        assert same == []


@pytest.mark.parametrize("name", TABLE_2)
def test_batches_alternate_and_identity_grouping_takes_two_pictures(
    name: str, dataset: Path
) -> None:
    recipe, crops = read(name), CropSet.load(dataset)
    batches = SwapBatches(crops, batch_size=8, config=recipe.data, seed=recipe.seed)
    for step in range(4):
        batch = batches.read(step)
        twice = (batch.source == batch.target).flatten(1).all(dim=1)
        assert batch.same_identity.all() if step % 2 == 0 else not batch.same_identity.any()
        assert twice.all() if step % 2 == 0 and not recipe.data.grouping else not twice.any()


def test_the_projected_recipe_trains_the_heads_alone(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    sizes = ("alignment.size=128", "generator.image_size=128")
    # a small rate, or the hinge is satisfied after one step and nothing is left to learn
    overrides = (*SMALL, *sizes, "discriminator.pretrained=false", "optimizer.lr=1e-5")
    recipe = read("simswap-projected", *overrides)
    data = crop_set(tmp_path / "data", recipe)
    run = trained("simswap-projected", data, tmp_path / "run", overrides, steps=2)
    check_losses(run, recipe)
    before, after = run.before["discriminator"], run.after["discriminator"]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    heads = {key for key in before if key.startswith("heads.")}
    assert changed <= heads
    assert {key for key in heads if key.endswith("original")} <= changed


def test_the_recipe_for_512_trains_on_crops_of_its_template(tmp_path: Path) -> None:
    recipe = read("simswap-512", *SMALL_PATCHES)
    data = crop_set(tmp_path / "data", recipe)
    run = trained("simswap-512", data, tmp_path / "run", SMALL_PATCHES, steps=2)
    check_losses(run, recipe)
    other = TrainSettings(
        recipe="simswap-224",
        data=data,
        out=tmp_path / "other",
        overrides=SMALL_PATCHES,
        device="cpu",
    )
    with pytest.raises(FackeError, match="ffhq"):
        train(other)


# -- wrong changes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loss.identty.weight=20", "loss.identty: no such term. Did you mean 'identity'?"),
        ("discriminator_loss.reel.weight=1", "discriminator_loss.reel: no such term."),
        ("loss.identity.wieght=20", "loss.identity.wieght: unknown key; did you mean 'weight'?"),
        (
            "loss.feature-matching.options.layers=v",
            "loss.feature-matching.options.layers: expected one of 'w', 'o', 'w-bar', 'n', 'last'",
        ),
        ("loss.gan.options.moed=hinge", "loss.gan.options.moed: unknown key; did you mean 'mode'?"),
        ("discriminator.kind=projectd", "discriminator.kind: expected one of 'patch', 'projected'"),
        ("discriminator.kind=projectd", "Did you mean 'projected'?"),
        ("discriminator.widht=8", "discriminator.widht: unknown key; did you mean 'width'?"),
        ("discriminator.width=wide", "discriminator.width: expected an integer, got 'wide'"),
        ("generator.chanels=[8]", "generator.chanels: unknown key; did you mean 'channels'?"),
        ("optimizer.lr=fast", "recipe.optimizer.lr: expected a number, got 'fast'"),
        ("optimiser.lr=1", "optimiser: unknown key; did you mean 'optimizer'?"),
        ("data.rule=fake", "recipe.data.rule: expected one of 'facke'"),
    ],
)
def test_a_wrong_change_is_refused_with_its_path(
    assignment: str,
    message: str,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "simswap-224", "--data", str(dataset), "--out", str(tmp_path / "run")]
    for setting in (*SMALL, "steps=1", assignment):
        words += ["--set", setting]
    assert main([*words, "--device", "cpu"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
