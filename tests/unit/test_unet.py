"""The U-Net of guided-diffusion and the DDPM around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from facke_core.config import from_dict, to_dict
from facke_core.errors import CompatibilityError, ConfigError, FackeError, UsageError, WeightsError
from facke_core.protocols import Generator
from facke_core.sampling import SinglePass, check_compatible
from facke_diffusion import schedule as S
from facke_diffusion.convert import from_guided_diffusion
from facke_diffusion.ddpm import FFHQ_256, DDPMConfig, DDPMGenerator
from facke_diffusion.ilvr import build
from facke_diffusion.norm import GroupNorm
from facke_diffusion.unet import UNet

SIZE = 16
TINY = DDPMConfig(
    image_size=SIZE,
    model_channels=32,
    channel_mult=(1, 2),
    attention_resolutions=(8,),
    num_head_channels=16,
)
CONFIGS = {
    "default": TINY,
    "opposite flags": replace(
        TINY,
        resblock_updown=False,
        use_scale_shift_norm=False,
        learn_sigma=False,
        new_attention_order=True,
        num_head_channels=0,
        num_heads=2,
    ),
    "folded pixels": replace(TINY, patch=2, learn_sigma=False, prediction="v", schedule="cosine"),
    "two blocks": replace(TINY, num_res_blocks=2, channel_mult=(1, 1, 2), prediction="x0"),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(config: DDPMConfig = TINY, seed: int = 0) -> DDPMGenerator:
    """With the layers that start at zero filled."""
    torch.manual_seed(seed)
    model = DDPMGenerator(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def state(count: int = 3, size: int = SIZE, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=rng(seed))


TIMESTEPS = torch.tensor([0, 400, 999])


# -- shapes and values ---------------------------------------------------------------------------


@each_config
@torch.no_grad()
def test_the_estimates_belong_together(config: DDPMConfig) -> None:
    model = generator(config)
    assert isinstance(model, Generator)
    x = state()
    image, aux = model(x, timestep=TIMESTEPS)
    assert image.shape == x.shape
    torch.testing.assert_close(image, (aux["x0"] + 1) / 2)
    # at t = 0 a cosine schedule has sqrt(1 - abar) = 0.006, so rounding counts 150 times
    again = S.q_sample(model.schedule, aux["x0"], TIMESTEPS, aux["eps"])
    torch.testing.assert_close(again, x, atol=2e-4, rtol=2e-4)
    assert ("variance" in aux) is config.learn_sigma
    names = {"eps": "eps", "x0": "x0"}
    if config.prediction in names:
        assert aux["prediction"] is aux[config.prediction]
    else:
        v = S.velocity(model.schedule, aux["x0"], TIMESTEPS, aux["eps"])
        torch.testing.assert_close(aux["prediction"], v, atol=1e-4, rtol=1e-4)


@each_config
@torch.no_grad()
def test_rows_do_not_influence_each_other(config: DDPMConfig) -> None:
    model, x = generator(config), state()
    # what the network says; the estimate of the image has its rounding errors times 1 / sqrt(abar)
    whole = model(x, timestep=TIMESTEPS).aux["prediction"]
    for row in range(3):
        alone = model(x[row : row + 1], timestep=TIMESTEPS[row : row + 1]).aux["prediction"]
        torch.testing.assert_close(alone[0], whole[row], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_timestep_matters_and_may_be_rescaled() -> None:
    model, x = generator(), state(1)
    at = [UNet.forward(model, x, torch.tensor([t])) for t in (100, 101)]
    assert not torch.allclose(at[0], at[1])
    rescaled = generator(replace(TINY, timesteps=4000, rescale_timesteps=True))
    prediction = rescaled(x, timestep=torch.tensor([400])).aux["prediction"]
    torch.testing.assert_close(prediction, at[0][:, :3])


@torch.no_grad()
def test_labels_are_for_class_conditional_networks() -> None:
    model, x, t = generator(replace(TINY, num_classes=4)), state(1), torch.tensor([5])
    images = [model(x, timestep=t, label=torch.tensor([label])).image for label in (0, 1)]
    assert not torch.equal(*images)
    with pytest.raises(UsageError, match="knows 4 classes"):
        model(x, timestep=t)
    with pytest.raises(UsageError, match="needs no label"):
        generator()(x, timestep=t, label=torch.tensor([1]))
    assert model.spec.conditions == {"timestep", "label"}


def test_a_method_that_feeds_no_timestep_does_not_fit() -> None:
    model = generator()
    assert (model.spec.image_size, model.spec.identity_dim) == (SIZE, 0)
    with pytest.raises(CompatibilityError, match="timestep is missing"):
        check_compatible(model, SinglePass())
    check_compatible(model, build(TINY).sampler)


@torch.no_grad()
def test_other_sizes_are_taken_where_the_levels_divide_them() -> None:
    model, t = generator(), torch.tensor([3])
    assert model(state(1, 24), timestep=t).image.shape == (1, 3, 24, 24)
    with pytest.raises(CompatibilityError, match="15x15 pixels, but needs multiples of 2"):
        model(state(1, 15), timestep=t)


def test_folded_pixels_make_the_network_run_at_a_fraction_of_the_size() -> None:
    seen: list[torch.Size] = []
    model = generator(CONFIGS["folded pixels"])
    model.input_blocks[0].register_forward_hook(lambda _, args, out: seen.append(out.shape))
    model(state(1), timestep=torch.tensor([3]))
    assert seen == [(1, 32, SIZE // 2, SIZE // 2)]
    # a pixel's own guess depends on it most: folding and unfolding agree
    x = state(1).requires_grad_()
    model(x, timestep=torch.tensor([3])).aux["prediction"][0, 0, 5, 6].backward()
    assert x.grad is not None
    assert x.grad[0, :, 5, 6].abs().sum() > 0


# -- precision -----------------------------------------------------------------------------------


@each_config
@torch.no_grad()
def test_estimates_are_float32_in_half_precision(config: DDPMConfig) -> None:
    model, x = generator(config), state()
    exact = model(x, timestep=TIMESTEPS).aux["prediction"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, timestep=TIMESTEPS)
    half = generator(config).to(torch.bfloat16)(x, timestep=TIMESTEPS)
    for output in (mixed, half):
        assert output.image.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in output.aux.values())
        found = output.aux["prediction"]
        assert (found - exact).norm() / exact.norm() < 0.03
        # the linear part is exact: what was guessed is undone without rounding
        assert torch.equal(output.image, (output.aux["x0"] + 1) / 2)


@each_config
def test_every_parameter_gets_a_gradient_in_any_layout(config: DDPMConfig) -> None:
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = generator(config).to(memory_format=layout).train()
        x = state().contiguous(memory_format=layout)
        output = model(x, timestep=TIMESTEPS)
        parts = [output.aux["prediction"]]
        parts += [output.aux["variance"]] if config.learn_sigma else []
        sum(part.square().mean() for part in parts).backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        for name, gradient in found.items():
            assert gradient is not None, name
            assert gradient.any(), name
        gradients.append(found)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_the_gradient_of_channels_last_features_is_computed_contiguously() -> None:
    norm = GroupNorm(64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 64, 5, 5, generator=rng(), requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert "ChannelsLastNorm" in str(norm(last).grad_fn)
    out = torch.randn(2, 64, 5, 5, generator=rng(1))
    expected = torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), out)
    found = torch.autograd.grad(norm(last), (last, norm.weight, norm.bias), out)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


# -- settings ------------------------------------------------------------------------------------


@each_config
def test_settings_survive_json(config: DDPMConfig) -> None:
    assert from_dict(DDPMConfig, to_dict(config)) == config


def test_the_defaults_are_the_network_of_ilvr() -> None:
    assert FFHQ_256.multipliers == (1, 1, 2, 2, 4, 4)
    assert FFHQ_256.widths == (128, 128, 256, 256, 512, 512)
    assert FFHQ_256.learn_sigma
    assert FFHQ_256.factor == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 17}, "image_size: 17 is not a multiple of 2"),
        ({"patch": 3}, "image_size: 16 is not a multiple of 6"),
        ({"patch": 0}, "patch"),
        ({"channel_mult": []}, "channel_mult: missing, and 16 pixels have no usual one"),
        ({"model_channels": 48}, "a level of 48 channels"),
        ({"channel_mult": [1, 0]}, "a level of 0 channels"),
        ({"num_head_channels": 24}, "32 channels cannot be divided into heads"),
        ({"attention_resolutions": [4]}, "no feature map is 4 pixels wide.*16, 8"),
        ({"num_res_blocks": 0}, "num_res_blocks: 0"),
        ({"dropout": 1.0}, "dropout: 1"),
        ({"schedule": "sigmoid"}, "schedule: expected one of 'linear', 'cosine'"),
        ({"prediction": "noise"}, "prediction"),
        ({"timesteps": 10}, "timesteps: 10 is too few"),
        ({"learn_sigmas": True}, "learn_sigmas: unknown key; did you mean 'learn_sigma'"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(from_dict(DDPMConfig, to_dict(TINY) | change, where="generator"))


# -- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "folded pixels"])
def test_a_network_is_recognised_by_its_tensors(name: str) -> None:
    config = replace(CONFIGS[name], num_classes=3)
    told = {
        key: getattr(config, key)
        for key in (
            "image_size",
            "num_heads",
            "num_head_channels",
            "new_attention_order",
            "schedule",
            "prediction",
        )
    }
    found, tensors = from_guided_diffusion(generator(config).state_dict(), **told)
    assert found == config
    DDPMGenerator(found).load_state_dict(tensors, strict=True)


def test_foreign_and_damaged_weights_are_refused_by_name() -> None:
    tensors = generator().state_dict()
    damaged = {key: value for key, value in tensors.items() if key != "middle_block.1.qkv.bias"}
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({}, "not of guided-diffusion's U-Net"),
        ({"conv1.weight": torch.zeros(3)}, "time_embed.0.weight"),
        (tensors, "Give image_size"),
        (damaged, r"1 tensors .* middle_block.1.qkv.bias is nothing instead of \(192,\)"),
        (tensors | {"extra": torch.zeros(2)}, r"extra is \(2,\) instead of nothing"),
    ]
    for weights, message in cases:
        size = {} if "Give" in message else {"image_size": SIZE}
        with pytest.raises(WeightsError, match=message):
            from_guided_diffusion(weights, num_head_channels=16, **size)
    with pytest.raises(FackeError, match="heads"):
        from_guided_diffusion(tensors, image_size=SIZE, num_head_channels=24)
