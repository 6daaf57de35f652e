"""The SimSwap generator as a network, its settings, and the names of converted weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.config import from_dict, to_dict
from facke_core.errors import ConfigError, WeightsError
from facke_core.protocols import Generator
from facke_gan.convert import from_facke, from_official, from_official_projected
from facke_gan.simswap import FACKE_224, SimSwapConfig, SimSwapGenerator, build

TINY = SimSwapConfig(
    image_size=32, identity_dim=8, channels=(4, 8, 8, 8), num_id_blocks=2, stem_kernel=3
)
OUTPUTS = ("tanh", "bn-tanh", "imagenet")


def generator(config: SimSwapConfig = TINY, seed: int = 0) -> SimSwapGenerator:
    torch.manual_seed(seed)
    return SimSwapGenerator(config).eval()


def images(count: int = 2, size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def identities(count: int = 2, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


@torch.no_grad()
def swap(model: SimSwapGenerator, x: Tensor, identity: Tensor) -> Tensor:
    return model(x, identity=identity).image


def test_it_is_a_generator_that_says_what_it_needs() -> None:
    model: Generator = generator()
    assert isinstance(model, Generator)
    assert (model.spec.image_size, model.spec.identity_dim) == (32, 8)
    assert model.spec.conditions == {"identity"}
    method = build(TINY)
    assert isinstance(method.generator, SimSwapGenerator)
    assert method.sampler.supplies >= method.generator.spec.conditions


@pytest.mark.parametrize("output", ["tanh", "bn-tanh"])
@pytest.mark.parametrize("normalization", ["none", "imagenet"])
@pytest.mark.parametrize("training", [False, True])
def test_the_result_has_the_targets_size_and_stays_in_range(
    output: str, normalization: str, training: bool
) -> None:
    config = replace(TINY, output=output, normalization=normalization)  # type: ignore[arg-type]
    out = swap(generator(config).train(training), images(), identities())
    assert out.shape == (2, 3, 32, 32)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (72, 80)])
def test_any_size_that_is_a_multiple_of_eight_is_accepted(size: tuple[int, int]) -> None:
    assert swap(generator(), torch.rand(1, 3, *size), identities(1)).shape[-2:] == size


def test_without_skips_the_target_reaches_the_result_through_the_coarsest_scale_only() -> None:
    model = generator()
    model.down[-1].register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    out = swap(model, images(), identities(1).expand(2, -1))
    torch.testing.assert_close(out[0], out[1])


def test_a_linear_output_comes_back_from_imagenet_units() -> None:
    model = generator(replace(TINY, output="imagenet"))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    out = swap(model, images(), identities())
    expected = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand_as(out)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("output", OUTPUTS)
def test_bf16_autocast_in_channels_last_is_finite_and_trains_every_parameter(output: str) -> None:
    model = generator(replace(TINY, output=output)).train()  # type: ignore[arg-type]
    model = model.to(memory_format=torch.channels_last)
    x = images().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, identity=identities()).image
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    (out - images(seed=1)).abs().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if "adain" in name:
            assert parameter.grad.abs().max() > 0, name


def test_bf16_autocast_stays_near_float32() -> None:
    model = generator()
    exact = swap(model, images(), identities())
    with torch.autocast("cpu", torch.bfloat16):
        assert (swap(model, images(), identities()) - exact).abs().max() < 0.05


def test_settings_survive_json_and_refuse_what_they_do_not_know() -> None:
    assert from_dict(SimSwapConfig, to_dict(FACKE_224)) == FACKE_224
    with pytest.raises(ConfigError, match=r"generator\.num_id_block.*num_id_blocks"):
        from_dict(SimSwapConfig, {"num_id_block": 9}, where="generator")
    with pytest.raises(ConfigError, match=r"generator\.output"):
        from_dict(SimSwapConfig, {"output": "sigmoid"}, where="generator")
    with pytest.raises(ConfigError, match=r"image_size: 100 is not a multiple of 8"):
        SimSwapConfig(image_size=100)
    with pytest.raises(ConfigError, match=r"skips: 4 is not between 0 and 3"):
        SimSwapConfig(skips=4)


Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def names(convert: Convert, *keys: str) -> list[str]:
    return list(convert({key: torch.zeros(()) for key in keys}))


def test_names_of_facke_become_ours() -> None:
    assert names(
        from_facke,
        "conv1.1.weight",
        "conv1.2.running_mean",
        "down1.0.bias",
        "down3.1.running_var",
        "down2.0.bias",
        "ID_blocks.8.conv2.1.weight",
        "ID_blocks.0.adain1.linear.bias",
        "up1.1.weight",
        "up2.1.weight",
        "up3.2.num_batches_tracked",
        "conv2.1.bias",
        "conv2.2.weight",
    ) == [
        "stem.0.weight",
        "stem.1.running_mean",
        "down.0.0.bias",
        "down.2.1.running_var",
        "down.1.0.bias",
        "id_blocks.8.conv2.weight",
        "id_blocks.0.adain1.linear.bias",
        "up.0.0.weight",
        "up.1.0.weight",
        "up.2.1.num_batches_tracked",
        "head.0.bias",
        "head.1.weight",
    ]


def test_names_of_the_official_512_network_count_ups_backwards_from_three_to_zero() -> None:
    downs = [f"down{i}.0.weight" for i in range(4)]
    ups = [f"up{i}.1.weight" for i in range(4)]
    assert names(from_official, "first_layer.1.bias", *downs, *ups) == [
        "stem.0.bias",
        *(f"down.{i}.0.weight" for i in range(4)),
        *(f"up.{3 - i}.0.weight" for i in range(4)),
    ]
    assert names(from_official, "BottleNeck.2.style2.linear.weight", "last_layer.1.weight") == [
        "id_blocks.2.adain2.linear.weight",
        "head.0.weight",
    ]


def test_names_of_the_projected_discriminator_become_ours() -> None:
    assert names(
        from_official_projected,
        "feature_network.pretrained.layer0.3.0.conv_dw.weight",
        "feature_network.scratch.layer2_ccm.bias",
        "feature_network.scratch.layer1_csm.out_conv.weight",
        "discriminator.mini_discs.1.main.0.main.0.weight_u",
        "discriminator.mini_discs.1.main.0.main.1.weight",
        "discriminator.mini_discs.3.main.1.weight_orig",
    ) == [
        "backbone.0.3.0.conv_dw.weight",
        "ccm.2.bias",
        "csm.1.weight",
        "heads.1.0.0.parametrizations.weight.0._u",
        "heads.1.0.1.weight",
        "heads.3.1.parametrizations.weight.original",
    ]


@pytest.mark.parametrize("convert", [from_facke, from_official, from_official_projected])
def test_weights_of_another_network_are_refused(convert: Convert) -> None:
    with pytest.raises(WeightsError, match=r"unknown names encoder\.weight"):
        names(convert, "encoder.weight")
    with pytest.raises(WeightsError, match="there is no tensor"):
        names(convert)
