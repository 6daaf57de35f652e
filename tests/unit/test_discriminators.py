"""Patch and projected discriminators as networks: shapes, scales, precision, saving."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facke_core.errors import CompatibilityError, UnavailableError, UsageError
from facke_core.losses.functional import ScaleWise, gan_fake, gan_real, gradient_penalty
from facke_core.nn.discriminators import MultiScalePatchDiscriminator, Norm, PatchDiscriminator
from facke_core.protocols import Discriminator

NORMS: tuple[Norm, ...] = ("batch", "spectral", "none")


def images(count: int = 2, size: int = 96, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small(**settings: object) -> MultiScalePatchDiscriminator:
    torch.manual_seed(0)
    return MultiScalePatchDiscriminator(width=4, **settings)  # type: ignore[arg-type]


def test_it_is_a_scalewise_discriminator() -> None:
    model: Discriminator = small()
    assert isinstance(model, Discriminator)
    assert isinstance(model, ScaleWise)


def test_original_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = PatchDiscriminator()
    assert sum(p.numel() for p in model.parameters()) == 6_962_369


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_scales", [1, 2, 3])
def test_each_scale_gives_patch_logits_and_five_features(norm: Norm, num_scales: int) -> None:
    out = small(norm=norm, num_scales=num_scales)(images(size=224))
    assert [x.shape for x in out.logits] == [(2, 1, n, n) for n in (12, 5, 1)[:num_scales]]
    assert [len(x) for x in out.features] == [5] * num_scales
    assert [f.shape[1] for f in out.features[0]] == [4, 8, 16, 32, 32]


def test_logits_are_not_among_the_features() -> None:
    out = small(num_scales=1).eval()(images())
    assert all(f.shape != out.logits[0].shape for f in out.features[0])


def test_the_second_scale_sees_the_halved_image_only() -> None:
    model = small().eval()
    image = images(1)
    inputs = model.scale_inputs(image)
    assert [x.shape[-1] for x in inputs] == [96, 48]
    torch.testing.assert_close(model.score(1, inputs[1]), model(image).logits[1])


def test_halving_averages_only_pixels_that_exist() -> None:
    flat = small(normalization="none").scale_inputs(torch.ones(1, 3, 97, 97))[1]
    assert torch.equal(flat, torch.ones(1, 3, 49, 49))


def test_normalization_is_inside() -> None:
    plain, inside = small(normalization="none").eval(), small().eval()
    image = images(1)
    torch.testing.assert_close(plain(inside.normalize(image)).logits[0], inside(image).logits[0])


def test_rows_are_independent_in_eval_and_in_train_without_batch_norm() -> None:
    for model in (small().eval(), small(norm="none").train(), small(norm="spectral").eval()):
        both, alone = model(images()), model(images()[:1])
        for a, b in zip(both.logits, alone.logits, strict=True):
            torch.testing.assert_close(a[:1], b)


def test_spectral_norm_bounds_the_weights() -> None:
    model = small(norm="spectral", num_scales=1)
    for _ in range(20):
        model(images())
    weight = model.eval().scales[0].conv1[0].weight  # type: ignore[index, union-attr]
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)


def test_sigmoid_variant_returns_probabilities() -> None:
    plain, probable = small().eval(), small(sigmoid=True).eval()
    torch.testing.assert_close(probable(images()).logits[0], plain(images()).logits[0].sigmoid())


def test_images_too_small_for_the_scales_are_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"47x47.*at least 48x48"):
        small()(images(size=94))
    small(num_scales=1)(images(size=94))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'batch'"):
        small(norm="bach")
    with pytest.raises(UsageError, match="'imagenette'"):
        small(normalization="imagenette")
    with pytest.raises(UsageError, match="num_scales is 0"):
        small(num_scales=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_under_bf16_autocast_in_channels_last_trains_every_parameter(norm: Norm) -> None:
    model = small(norm=norm).to(memory_format=torch.channels_last)
    real = images().contiguous(memory_format=torch.channels_last)
    fake = images(seed=1).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = gan_real(model(real).logits) + gan_fake(model(fake).logits)
        loss = loss + 1e-3 * gradient_penalty(
            model, real, fake, rng=torch.Generator().manual_seed(0)
        )
    assert loss.dtype == torch.float32
    loss.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_saved_weights_come_back_bit_equal(tmp_path: Path) -> None:
    model = small().train()
    model(images())
    save_file(model.state_dict(), tmp_path / "d.safetensors")
    torch.manual_seed(1)
    other = MultiScalePatchDiscriminator(width=4)
    other.load_state_dict(load_file(tmp_path / "d.safetensors"))
    a, b = model.eval()(images()), other.eval()(images())
    assert torch.equal(a.logits[0], b.logits[0])
    assert torch.equal(a.logits[1], b.logits[1])


@pytest.fixture(scope="module")
def projected() -> nn.Module:
    pytest.importorskip("timm")
    from facke_gan.projected import ProjectedDiscriminator

    torch.manual_seed(0)
    return ProjectedDiscriminator()


def test_projected_discriminator_trains_its_heads_only(projected: nn.Module) -> None:
    out = projected.train()(images(size=128))
    assert isinstance(projected, Discriminator)
    assert [x.shape for x in out.logits] == [(2, 1, 1, 1)] * 4
    assert [[f.shape[1] for f in scale] for scale in out.features] == [[24], [40], [112], [320]]
    gan_fake(out.logits).mean().backward()
    trained = {name for name, p in projected.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in projected.named_parameters() if "heads" in name}


def test_projected_discriminator_keeps_the_statistics_of_its_backbone(projected: Any) -> None:
    before = {k: v.clone() for k, v in projected.backbone.state_dict().items()}
    projected.train()(images(size=128))
    assert all(torch.equal(v, before[k]) for k, v in projected.backbone.state_dict().items())
    assert projected.heads.training
    projected.batch_statistics = True
    projected.train()(images(size=128))
    after = projected.backbone.state_dict()
    projected.batch_statistics = False
    assert any(not torch.equal(v, before[k]) for k, v in after.items())


def test_projected_discriminator_passes_gradients_to_the_image(projected: nn.Module) -> None:
    image = images(size=128).requires_grad_()
    gan_fake(projected.eval()(image).logits).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_projected_discriminator_fetches_weights_only_when_asked(
    projected: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    from facke_gan.projected import ProjectedDiscriminator

    asked = []

    def create_model(name: str, *, pretrained: bool) -> nn.Module:
        asked.append(pretrained)
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UnavailableError, match="pretrained=True: no network"):
        ProjectedDiscriminator(pretrained=True)
    with pytest.raises(UnavailableError):
        ProjectedDiscriminator()
    assert asked == [True, False]


def test_projected_discriminator_without_timm_says_what_to_install(
    projected: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facke_gan.projected import ProjectedDiscriminator

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnavailableError, match="pip install timm"):
        ProjectedDiscriminator()
