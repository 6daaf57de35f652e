"""The baseline of the benchmark computes the same as the network that it is compared with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_diffusion.ilvr import ILVRSampler

ROOT = Path(__file__).resolve().parents[2]
TINY = DDPMConfig(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 2),
    attention_resolutions=(16,),
    num_head_channels=16,
)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import ilvr_speed

    yield ilvr_speed
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, resblock_updown=False, use_scale_shift_norm=False, learn_sigma=False),
        replace(TINY, new_attention_order=True, patch=2, attention_resolutions=(8,)),
    ],
)
@torch.no_grad()
def test_the_originals_way_is_the_same_function(script: ModuleType, config: DDPMConfig) -> None:
    torch.manual_seed(0)
    model = DDPMGenerator(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    x, timestep = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
    ours = model(x, timestep=timestep).aux["prediction"]
    theirs = script.OriginalWay(model)(x, timestep)
    torch.testing.assert_close(theirs[:, :3], ours, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.1


def test_every_row_is_a_possible_setting(script: ModuleType) -> None:
    calls = {name: replace(ILVRSampler(), **changes) for name, changes in script.ROWS.items()}
    assert (calls["paper"].steps, calls["paper"].factor, calls["paper"].until) == (100, 32, 20)
    assert calls["paper, as coded"].variant == "facke"
