"""The generators of Facke and of the official SimSwap."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixture import assert_close, filled, load
from torch import Tensor

from facke_gan.convert import from_facke, from_official
from facke_gan.simswap import (
    FACKE_224,
    OFFICIAL_224,
    OFFICIAL_224_FIX,
    OFFICIAL_512,
    OFFICIAL_DEEP_FIX,
    SimSwapConfig,
    SimSwapGenerator,
)

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]
NETWORKS: dict[str, tuple[SimSwapConfig, Convert, int]] = {
    "facke_simswap_g224": (FACKE_224, from_facke, 55_051_785),
    "simswap_official_g224": (OFFICIAL_224, from_official, 55_051_779),
    "simswap_official_g224_fix": (OFFICIAL_224_FIX, from_official, 55_051_779),
    "simswap_official_g_fix_deep": (OFFICIAL_DEEP_FIX, from_official, 59_773_443),
    "simswap_official_g512": (OFFICIAL_512, from_official, 55_079_427),
    "simswap_official_g512_small": (OFFICIAL_512, from_official, 55_079_427),
}

Built = tuple[SimSwapGenerator, dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module", params=NETWORKS)
def built(request: pytest.FixtureRequest, shared: Path) -> Iterator[Built]:
    """One network of 55 M parameters at a time."""
    config, convert, _ = NETWORKS[request.param]
    tensors, meta = load(request.param, shared)
    with torch.device("meta"):
        model = SimSwapGenerator(config)
    model.load_state_dict(convert(filled(meta)), assign=True)
    # Their constants are no part of the state dict.
    model.normalize = type(model.normalize)()
    model.denormalize = type(model.denormalize)() if model.denormalize else None
    yield model, tensors, meta
    del model
    gc.collect()


def assert_agrees(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, atol=1e-4, rel_l2=1e-5)


def test_output_in_eval_mode(built: Built) -> None:
    model, tensors, _ = built
    model.eval()
    with torch.no_grad():
        out = model(tensors["x_u8"].float() / 255, identity=tensors["id"]).image
    if model.config.output == "imagenet":
        out = model.normalize(out)
    if "out" in tensors:
        assert_agrees(out, tensors["out"])
    else:
        assert_agrees(out[..., 128:384, 128:384], tensors["out_center"])
        assert_agrees(out[..., :64, :64], tensors["out_corner"])
        assert_agrees(F.avg_pool2d(out, 4), tensors["out_pool4"])


def test_number_of_parameters(built: Built) -> None:
    model, _, meta = built
    count = NETWORKS[meta["fixture"]][2]
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("built", ["facke_simswap_g224"], indirect=True)
def test_output_and_statistics_in_train_mode(built: Built) -> None:
    model, tensors, meta = built
    x = model.normalize.inverse(tensors["train_x"])  # type: ignore[operator]
    model.train()
    with torch.no_grad():
        out = model(x, identity=tensors["train_id"]).image
    assert_agrees(out, tensors["train_out"])
    names = from_facke({e["key"]: e["key"] for e in meta["state_dict"]})
    after = {ours: f"train_after.{theirs}" for ours, theirs in names.items()}
    recorded = {ours: tensors[key] for ours, key in after.items() if key in tensors}
    assert recorded
    for ours, expected in recorded.items():
        assert_agrees(model.state_dict()[ours], expected)
