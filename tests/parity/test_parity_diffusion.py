"""The U-Net, the schedules and the training losses of guided-diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixture import assert_close, fill, filled, load
from torch import Tensor

from facke_core.training.ema import EMA
from facke_core.types import FaceBatch
from facke_diffusion import schedule as S
from facke_diffusion.convert import from_guided_diffusion
from facke_diffusion.ddpm import FFHQ_256, DDPMConfig, DDPMGenerator
from facke_diffusion.losses import BoundLoss, DenoisingStep, NoiseLoss, VarianceLoss
from facke_diffusion.solvers import ddim_step
from facke_diffusion.timesteps import Uniform
from facke_diffusion.unet import UNet, timestep_embedding

SMALL = DDPMConfig(image_size=64, model_channels=32, num_head_channels=16)
OTHER = DDPMConfig(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 2),
    num_heads=2,
    num_head_channels=0,
    num_classes=1000,
    use_scale_shift_norm=False,
    resblock_updown=False,
    new_attention_order=True,
    learn_sigma=False,
)


def network(config: DDPMConfig, state: Mapping[str, Tensor]) -> DDPMGenerator:
    with torch.device("meta"):
        model = DDPMGenerator(config)
    model.load_state_dict(state, assign=True)
    assert list(model.state_dict()) == list(state)
    return model.eval()


@pytest.fixture(scope="module")
def small(shared: Path) -> DDPMGenerator:
    return network(SMALL, filled(load("unet_small", shared)[1]))


# -- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_the_network_with_the_flags_of_ilvr_stage_by_stage(
    small: DDPMGenerator, shared: Path, layout: torch.memory_format
) -> None:
    tensors, meta = load("unet_small", shared)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: seen.update({name: out})

    hooks = [small.get_submodule(name).register_forward_hook(keep(name)) for name in meta["stats"]]
    x = tensors["x"].contiguous(memory_format=layout)
    out = UNet.forward(small, x, tensors["timesteps"])
    for hook in hooks:
        hook.remove()
    assert_close(out, tensors["out"], atol=3e-5, rel_l2=5e-6)
    assert len(seen) == 18
    for name, expected in meta["stats"].items():
        values = seen[name].flatten()
        assert list(seen[name].shape) == expected["shape"], name
        middle = values[len(values) // 2 :][:8]
        assert_close(values[:8], torch.tensor(expected["first8"]), atol=3e-5)
        assert_close(middle, torch.tensor(expected["mid8"]), atol=3e-5)
        assert abs(float(values.double().norm()) / expected["l2"] - 1) < 5e-6


@torch.no_grad()
def test_the_network_with_the_opposite_flags(shared: Path) -> None:
    tensors, meta = load("unet_other", shared)
    model = network(OTHER, filled(meta))
    out = UNet.forward(model, tensors["x"], tensors["timesteps"], tensors["y"])
    assert_close(out, tensors["out"], atol=3e-5, rel_l2=5e-6)


@pytest.mark.parametrize("channels", [32, 33, 128])
def test_timesteps_are_embedded_cosines_first(channels: int, shared: Path) -> None:
    tensors, _ = load("unet_small", shared)
    found = timestep_embedding(tensors["temb_t"], channels)
    assert_close(found, tensors[f"temb_{channels}"], atol=1e-4)  # arguments up to 1000 in float32


def test_every_tensor_of_the_ffhq_checkpoint_fits_by_name_and_shape(shared: Path) -> None:
    _, meta = load("manifest_ffhq_unet", shared)
    state = {
        entry["key"]: torch.empty(entry["shape"], device="meta") for entry in meta["state_dict"]
    }
    assert len(state) == 362
    config, tensors = from_guided_diffusion(state)
    assert config == FFHQ_256
    model = network(config, tensors)
    assert sum(value.numel() for value in model.parameters()) == meta["params"] == 93_563_910


@pytest.mark.parametrize(
    ("name", "known", "config"),
    [
        ("unet_small", {"num_head_channels": 16}, SMALL),
        (
            "unet_other",
            {
                "image_size": 32,
                "num_heads": 2,
                "num_head_channels": 0,
                "new_attention_order": True,
            },
            OTHER,
        ),
    ],
)
def test_the_configuration_is_read_from_the_shapes(
    name: str, known: dict[str, Any], config: DDPMConfig, shared: Path
) -> None:
    assert from_guided_diffusion(filled(load(name, shared)[1]), **known)[0] == config


# -- schedules -----------------------------------------------------------------------------------

TABLES: dict[str, tuple[S.Kind, int, int | str]] = {
    "linear1000": ("linear", 1000, ""),
    "linear1000_100": ("linear", 1000, 100),
    "linear1000_250": ("linear", 1000, "250"),
    "linear1000_ddim25": ("linear", 1000, "ddim25"),
    "linear1000_10": ("linear", 1000, 10),
    "linear1000_10-15-20": ("linear", 1000, "10,15,20"),
    "linear300": ("linear", 300, ""),
    "cosine100": ("cosine", 100, ""),
}
RENAMED = {
    "alphas_cumprod": "alphas_bar",
    "alphas_cumprod_prev": "alphas_bar_prev",
    "sqrt_alphas_cumprod": "sqrt_alphas_bar",
    "sqrt_one_minus_alphas_cumprod": "sqrt_one_minus_alphas_bar",
    "sqrt_recip_alphas_cumprod": "sqrt_recip_alphas_bar",
    "sqrt_recipm1_alphas_cumprod": "sqrt_recipm1_alphas_bar",
}
NOT_KEPT = {"alphas_cumprod_next", "log_one_minus_alphas_cumprod"}
"""Tables that nothing here needs."""


@pytest.mark.parametrize("name", TABLES)
def test_a_schedule_is_that_of_the_original_in_float64(name: str, shared: Path) -> None:
    tensors, _ = load("diffusion_tables", shared)
    kind, timesteps, spec = TABLES[name]
    schedule = S.respaced(S.make_schedule(kind, timesteps), spec)
    expected = {
        key.split(".")[1]: value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    assert torch.equal(schedule.timestep_map, expected.pop("timestep_map"))
    assert len(expected) >= 6
    for table, values in expected.items():
        if table in NOT_KEPT:
            continue
        found = getattr(schedule, RENAMED.get(table, table))
        torch.testing.assert_close(found, values, rtol=1e-12, atol=0, msg=f"{name}.{table}")


# -- one step ------------------------------------------------------------------------------------


@torch.no_grad()
def denoised(model: DDPMGenerator, tensors: Mapping[str, Tensor]) -> DenoisingStep:
    """What the training phase would make of the fixture's noise and timesteps."""
    schedule = S.respaced(model.schedule, 100)
    t, x0 = tensors["t"], tensors["x0"]
    noisy = S.q_sample(schedule, x0, t, tensors["noise"])
    output = model(noisy, timestep=schedule.timestep_map[t])
    batch = FaceBatch(x0, x0, x0[:, 0, 0], torch.ones(2, dtype=torch.bool), x0)
    return DenoisingStep(
        batch=batch,
        output=output,
        modules={"generator": model},
        schedule=schedule,
        t=t,
        weight=torch.ones(2),
        clean=x0,
        noise=tensors["noise"],
        noisy=noisy,
    )


@pytest.fixture(scope="module")
def step(small: DDPMGenerator, shared: Path) -> DenoisingStep:
    return denoised(small, load("diffusion_misc", shared)[0])


def close(found: Tensor, expected: Tensor) -> None:
    assert_close(found, expected, atol=2e-4, rel_l2=1e-5)


def test_forward_and_posterior_are_those_of_the_original(step: DenoisingStep, shared: Path) -> None:
    tensors, _ = load("diffusion_misc", shared)
    close(step.noisy, tensors["q_sample"])
    mean = S.posterior_mean(step.schedule, step.clean, step.noisy, step.t)
    close(mean, tensors["posterior_mean"])
    for table, key in (
        ("posterior_variance", "posterior_var_scalar"),
        ("posterior_log_variance_clipped", "posterior_logvar_scalar"),
    ):
        close(step.schedule.at(table, step.t, step.noisy).flatten(), tensors[key])


@pytest.mark.parametrize("clip", [0, 1])
def test_the_estimated_step_is_that_of_the_original(
    clip: int, step: DenoisingStep, shared: Path
) -> None:
    tensors, _ = load("diffusion_misc", shared)
    x0 = step.output.aux["x0"].clamp(-1, 1) if clip else step.output.aux["x0"]
    log_variance = S.learned_log_variance(step.schedule, step.output.aux["variance"], step.t)
    close(x0, tensors[f"pmv.clip={clip}.pred_xstart"])
    mean = S.posterior_mean(step.schedule, x0, step.noisy, step.t)
    close(mean, tensors[f"pmv.clip={clip}.mean"])
    close(log_variance, tensors[f"pmv.clip={clip}.log_variance"])


def test_the_losses_are_those_of_the_original(step: DenoisingStep, shared: Path) -> None:
    tensors, _ = load("diffusion_misc", shared)
    assert (step.t == 0).any(), "the fixture has the likelihood of the last step"
    assert (step.t > 0).any()
    noise, variance = NoiseLoss()(step), VarianceLoss()(step)
    rescaled = VarianceLoss(rescaled=True)(step)
    close(noise, tensors["loss.mse.mse"])
    close(variance, tensors["loss.mse.vb"])
    close(noise + variance, tensors["loss.mse.loss"])
    close(rescaled, tensors["loss.rescaled_mse.vb"])
    close(noise + rescaled, tensors["loss.rescaled_mse.loss"])
    close(BoundLoss()(step), tensors["loss.rescaled_kl.loss"])


def test_the_loss_without_a_learned_variance(shared: Path) -> None:
    tensors, meta = load("diffusion_misc", shared)
    entries = [
        entry | {"shape": [3, *entry["shape"][1:]]} if entry["key"].startswith("out.2.") else entry
        for entry in load("unet_small", shared)[1]["state_dict"]
    ]
    state = fill(meta["seed"], meta["fill_prefix"]["fixed_large"], entries)
    values = NoiseLoss()(denoised(network(replace(SMALL, learn_sigma=False), state), tensors))
    close(values, tensors["loss.fixed_large.mse"])
    close(values, tensors["loss.fixed_large.loss"])


@torch.no_grad()
def test_five_ddim_steps(small: DDPMGenerator, shared: Path) -> None:
    tensors, _ = load("diffusion_misc", shared)
    schedule = S.respaced(small.schedule, "ddim5")
    x = tensors["ddim5.x_T"]
    for number, i in enumerate(reversed(range(5))):
        x0 = small(x, timestep=schedule.timestep_map[[i]]).aux["x0"].clamp(-1, 1)
        x = ddim_step(schedule, x, x0, i)
        assert_close(x, tensors["ddim5.traj"][number][None], atol=2e-4, rel_l2=1e-5)


def test_moving_average_and_uniform_timesteps(shared: Path) -> None:
    tensors, _ = load("diffusion_misc", shared)
    module = torch.nn.Linear(5, 1, bias=False).requires_grad_(False)
    module.weight.copy_(tensors["ema.target_before"][None])
    average = EMA(module, 0.9999)
    module.weight.copy_(tensors["ema.source"][None])
    average.update(module, 10**6)
    torch.testing.assert_close(
        next(average.module.parameters())[0], tensors["ema.target_after_0.9999"]
    )
    rng = torch.Generator().manual_seed(7)
    t, weights = Uniform(100).draw(6, rng)
    assert t.shape == tensors["uniform_sampler.seed7.idx"].shape
    assert torch.equal(weights, tensors["uniform_sampler.weights"])
