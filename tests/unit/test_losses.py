"""The loss equations: per-sample values, checked by hand and against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from facke_core.errors import CompatibilityError, UsageError
from facke_core.losses import functional as L
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.testing import TinyDiscriminator


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=rng(seed))


def maps(count: int = 4, seed: int = 0) -> list[Tensor]:
    generator = rng(seed)
    return [torch.randn(count, 1, n, n, generator=generator) for n in (5, 2)]


def features(count: int = 4, seed: int = 0) -> list[list[Tensor]]:
    generator = rng(seed)
    return [
        [torch.randn(count, 3, n, n, generator=generator) for n in (8, 4, 2, 2, 1)]
        for _ in range(2)
    ]


def discriminator() -> TinyDiscriminator:
    torch.manual_seed(0)
    return TinyDiscriminator(num_scales=2)


def gan(f: Callable[..., Tensor], mode: str, i: Tensor) -> Tensor:
    return f([x[i] for x in maps()], mode)


def matching(layers: L.FeatureLayers, i: Tensor) -> Tensor:
    mine, theirs = ([[x[i] for x in scale] for scale in features(seed=seed)] for seed in (0, 1))
    return L.feature_matching(mine, theirs, layers)


LAYERS: tuple[L.FeatureLayers, ...] = ("w", "o", "w-bar", "last")
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"{name}-{mode}": partial(gan, f, mode)
        for name, f in [("real", L.gan_real), ("fake", L.gan_fake), ("g", L.gan_generator)]
        for mode in ("hinge", "least-squares", "original")
    },
    **{f"fm-{layers}": partial(matching, layers) for layers in LAYERS},
    "identity": lambda i: L.identity_loss(
        torch.randn(4, 8, generator=rng())[i], torch.randn(4, 8, generator=rng(1))[i]
    ),
    "l1": lambda i: L.reconstruction_l1(images()[i], images(seed=1)[i]),
    "l2-weighted": lambda i: L.reconstruction_l2(
        images()[i], images(seed=1)[i], weight=images(seed=2)[i, :1]
    ),
    "relativistic": lambda i: L.relativistic([x[i] for x in maps()], [x[i] for x in maps(seed=1)]),
    "r1": lambda i: L.r1_penalty(discriminator(), images()[i]),
    "edges": lambda i: L.edges_l1(images()[i], images(seed=1)[i]),
    "structure": lambda i: L.structural_difference(images()[i], images(seed=1)[i]),
    "kl": lambda i: L.kl_divergence(images()[i], images(seed=1)[i]),
    "gp": lambda i: L.gradient_penalty(
        discriminator(),
        images()[i],
        images(seed=1)[i],
        alpha=[torch.rand(4, 1, 1, 1, generator=rng(k))[i] for k in range(2)],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_one_float32_value_per_sample_and_permute_with_the_batch(name: str) -> None:
    loss = LOSSES[name]
    values = loss(torch.arange(4))
    order = torch.tensor([2, 0, 3, 1])
    assert values.shape == (4,)
    assert values.dtype == torch.float32
    assert len(set(values.tolist())) == 4
    torch.testing.assert_close(loss(order), values[order])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_a_sample_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    loss = LOSSES[name]
    torch.testing.assert_close(loss(torch.tensor([1])), loss(torch.arange(4))[1:2])


def test_hinge_values_by_hand() -> None:
    logits = [torch.tensor([[[[2.0, 0.0]]], [[[-3.0, 0.5]]]]), torch.tensor([[[[1.0]]], [[[0.0]]]])]
    assert L.gan_real(logits).tolist() == [(0.5 + 0) / 2, (2.25 + 1) / 2]
    assert L.gan_fake(logits).tolist() == [(2.0 + 2) / 2, (0.75 + 1) / 2]
    assert L.gan_generator(logits).tolist() == [(-1.0 - 1) / 2, (1.25 + 0) / 2]


def test_each_scale_weighs_the_same_whatever_its_number_of_patches() -> None:
    logits = [torch.full((1, 1, 9, 9), -1.0), torch.full((1, 1, 1, 1), 3.0)]
    assert L.gan_fake(logits).item() == 2.0


def test_original_and_least_squares_match_torch() -> None:
    x = maps(2)[:1]
    bce = nn.functional.binary_cross_entropy_with_logits
    for target, loss in ((1.0, L.gan_real), (0.0, L.gan_fake), (1.0, L.gan_generator)):
        goal = torch.full_like(x[0], target)
        torch.testing.assert_close(loss(x, "original").mean(), bce(x[0], goal))
        torch.testing.assert_close(
            loss(x, "least-squares").mean(), nn.functional.mse_loss(x[0], goal)
        )


def test_unknown_modes_are_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"'hinj' does not exist\. Did you mean 'hinge'"):
        L.gan_real(maps(), "hinj")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'w-baz'"):
        L.feature_matching(features(), features(), "w-baz")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'imagnet'"):
        L.reconstruction_l1(images(), images(), units="imagnet")  # type: ignore[arg-type]


def test_gradient_penalty_equals_a_float64_autograd_reference() -> None:
    model = discriminator().double()
    real, fake = images().double(), images(seed=1).double()
    alpha = [torch.rand(4, 1, 1, 1, generator=rng(k), dtype=torch.float64) for k in range(2)]
    expected = torch.zeros(4, dtype=torch.float64)
    for k, a in enumerate(alpha):
        for i in range(4):
            x = (a[i] * real[i] + (1 - a[i]) * fake[i])[None].requires_grad_()
            jacobian = torch.autograd.functional.jacobian(lambda y: model(y).logits[k].sum(), x)  # noqa: B023
            expected[i] += (jacobian.norm() - 1) ** 2
    actual = L.gradient_penalty(model, real, fake, alpha=alpha)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_gradient_penalty_moves_the_discriminator_and_not_the_images() -> None:
    model = discriminator()
    real, fake = images().requires_grad_(), images(seed=1).requires_grad_()
    L.gradient_penalty(model, real, fake, rng=rng()).sum().backward()
    assert real.grad is None
    assert fake.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.first.parameters())


def test_gradient_penalty_draws_a_number_per_sample_and_scale_from_rng_only() -> None:
    model = discriminator()
    before = torch.get_rng_state()
    first, again, other = (
        L.gradient_penalty(model, images(), images(seed=1), rng=rng(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draw = rng(3)
    alpha = [torch.rand(4, 1, 1, 1, generator=draw) for _ in range(2)]
    assert not torch.equal(alpha[0], alpha[1])
    explicit = L.gradient_penalty(model, images(), images(seed=1), alpha=alpha)
    assert torch.equal(first, explicit)


def test_gradient_penalty_works_where_gradients_are_off_and_returns_none() -> None:
    with torch.no_grad():
        value = L.gradient_penalty(discriminator(), images(), images(seed=1), rng=rng())
    assert not value.requires_grad
    assert value.isfinite().all()


def test_gradient_penalty_of_a_scalewise_discriminator_is_taken_at_each_scales_own_input() -> None:
    torch.manual_seed(0)
    model = MultiScalePatchDiscriminator(width=4, norm="none").double()
    real, fake = images(2, 96).double(), images(2, 96, seed=1).double()
    alpha = [torch.full((2, 1, 1, 1), a, dtype=torch.float64) for a in (0.25, 0.5)]
    expected = torch.zeros(2, dtype=torch.float64)
    inputs = zip(model.scale_inputs(real), model.scale_inputs(fake), strict=True)
    for k, (r, f) in enumerate(inputs):
        x = (alpha[k] * r + (1 - alpha[k]) * f).requires_grad_()
        (slope,) = torch.autograd.grad(model.score(k, x).sum(), x)
        expected += (slope.flatten(1).norm(dim=1) - 1) ** 2
    actual = L.gradient_penalty(model, real, fake, alpha=alpha)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("w", 4 / 4 * (2 + 3 + 4 + 5)), ("o", 4 / 5 * 15), ("w-bar", 4 / 4 * (1 + 2 + 3 + 4))],
)
def test_feature_matching_modes_choose_layers_and_keep_the_scale(
    layers: L.FeatureLayers, expected: float
) -> None:
    real = [[torch.zeros(2, 3, 4, 4) for _ in range(5)] for _ in range(2)]
    fake = [[torch.full((2, 3, 4, 4), float(i + 1)) for i in range(5)] for _ in range(2)]
    assert L.feature_matching(real, fake, layers).tolist() == pytest.approx([expected] * 2)


def test_feature_matching_last_is_one_layer_without_a_factor() -> None:
    real, fake = features(), features(seed=1)
    expected = (real[-1][-1] - fake[-1][-1]).abs().flatten(1).mean(dim=1)
    torch.testing.assert_close(L.feature_matching(real, fake, "last"), expected)


def test_feature_matching_none_is_zero() -> None:
    assert L.feature_matching(features(), features(seed=1), "n").tolist() == [0.0] * 4


def test_feature_matching_treats_real_features_as_constants() -> None:
    real, fake = features(), features(seed=1)
    for layer in (*real[0], *fake[0]):
        layer.requires_grad_()
    L.feature_matching(real, fake, "o").sum().backward()
    assert all(layer.grad is None for layer in real[0])
    assert all(layer.grad is not None for layer in fake[0])


def test_feature_matching_without_a_layer_left_is_an_error() -> None:
    with pytest.raises(CompatibilityError, match="leaves no layer"):
        L.feature_matching([[torch.zeros(1, 1)]], [[torch.ones(1, 1)]], "w")


def test_identity_loss_is_zero_for_the_same_direction_and_two_for_the_opposite() -> None:
    x = torch.randn(3, 8, generator=rng())
    torch.testing.assert_close(L.identity_loss(5 * x, x), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(L.identity_loss(-x, x), torch.full((3,), 2.0))


def test_reconstruction_by_hand() -> None:
    result, reference = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    result[:, 0] = 0.5
    assert L.reconstruction_l1(result, reference).item() == pytest.approx(0.5 / 3)
    assert L.reconstruction_l2(result, reference).item() == pytest.approx(0.25 / 3)
    assert L.reconstruction_l1(result, reference, units="imagenet").item() == pytest.approx(
        0.5 / 0.229 / 3
    )


def test_reconstruction_in_imagenet_units_is_the_distance_of_normalised_images() -> None:
    model = MultiScalePatchDiscriminator(num_scales=1, width=4)
    a, b = images(), images(seed=1)
    expected = (model.normalize(a) - model.normalize(b)).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(L.reconstruction_l1(a, b, units="imagenet"), expected)


def test_reconstruction_weights_choose_pixels() -> None:
    a, b = images(), images(seed=1)
    weight = torch.zeros(1, 1, 16, 16)
    weight[..., :8] = 3.0
    torch.testing.assert_close(
        L.reconstruction_l1(a, b, weight=weight), L.reconstruction_l1(a[..., :8], b[..., :8])
    )
    assert L.reconstruction_l1(a, b, weight=torch.zeros(1, 1, 16, 16)).tolist() == [0.0] * 4


def test_edges_equal_a_float64_reference_at_each_scale() -> None:
    result, reference = images().double(), images(seed=1).double()
    wanted, off = [], result - reference
    for _ in range(3):
        across = (off[..., 1:] - off[..., :-1]).abs().mean((1, 2, 3))
        down = (off[..., 1:, :] - off[..., :-1, :]).abs().mean((1, 2, 3))
        wanted.append((across + down) / 2)
        off = off.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = torch.stack(wanted).mean(0)
    torch.testing.assert_close(L.edges_l1(result, reference), expected)
    torch.testing.assert_close(L.edges_l1(result.float(), reference.float()), expected.float())


def test_the_relativistic_loss_by_hand() -> None:
    real = [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)]
    fake = [torch.tensor([2.0, 0.0]).view(2, 1, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)]
    critic = [
        (math.log1p(math.exp(1.0)) + math.log(2)) / 2,
        (math.log1p(math.exp(-3.0)) + math.log1p(math.exp(-1.0))) / 2,
    ]
    torch.testing.assert_close(L.relativistic(real, fake), torch.tensor(critic))
    assert bool((L.relativistic(fake, real) != L.relativistic(real, fake)).all())


def test_the_r1_penalty_equals_a_float64_reference_and_trains_the_discriminator() -> None:
    net = discriminator().double()
    x = images().double().requires_grad_()
    expected = []
    for row in range(len(x)):
        total = sum(logits[row].mean() for logits in net(x).logits)
        (slope,) = torch.autograd.grad(total, x)
        expected.append(slope.square().sum())
    penalty = L.r1_penalty(net, images().double())
    torch.testing.assert_close(penalty, torch.stack(expected))
    penalty.sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_the_generator_does_not_pay_through_the_reference() -> None:
    from facke_core.losses.terms import RelativisticLoss
    from facke_core.testing.fakes import face_batch
    from facke_core.types import GeneratorOutput, Step

    net, batch = discriminator(), face_batch(2, 16, None)
    batch = batch._replace(reference=batch.reference.clone().requires_grad_())
    image = batch.target.clone().requires_grad_()
    step = Step(batch, GeneratorOutput(image, {}), {"discriminator": net})
    RelativisticLoss(name="relativistic")(step).sum().backward()
    assert image.grad is not None
    assert bool(image.grad.any())
    assert batch.reference.grad is None


def test_a_constant_is_no_edge() -> None:
    assert float(L.edges_l1(images() + 0.2, images()).abs().max()) < 1e-6


def test_structural_difference_equals_kornias() -> None:
    from kornia.metrics import ssim

    x, y = images(size=24), images(size=24, seed=1)
    grey = [image.mean(1, keepdim=True).double() for image in (x, y)]
    inner = ssim(*grey, 11, eps=0.0)[..., 5:-5, 5:-5]  # kornia's pads
    expected = 1 - inner.mean((1, 2, 3))
    torch.testing.assert_close(L.structural_difference(x, y).double(), expected, atol=1e-4, rtol=0)
    assert float(L.structural_difference(x, x).abs().max()) < 1e-6


def test_kl_equals_torch_distributions() -> None:
    mu = torch.randn(3, 6, 4, 5, generator=rng(), dtype=torch.float64)
    log_var = 3 * torch.randn(3, 6, 4, 5, generator=rng(1), dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (log_var / 2).exp()),
        torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu)),
    )
    torch.testing.assert_close(L.kl_divergence(mu, log_var), expected.sum(1).mean((1, 2)))
    torch.testing.assert_close(
        L.kl_divergence(mu[..., 0, 0], log_var[..., 0, 0]), expected[..., 0, 0].sum(1)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [-300.0, -1e-2, 0.0, 1e-2, 20.0, 80.0])
def test_kl_of_extreme_half_precision_inputs_is_exact(dtype: torch.dtype, value: float) -> None:
    log_var = torch.full((2, 512, 28, 28), value, dtype=dtype)
    mu = torch.full_like(log_var, 0.5)
    kl = L.kl_divergence(mu, log_var)
    exact = float(log_var[0, 0, 0, 0])
    expected = 512 * 0.5 * (0.25 + math.expm1(exact) - exact)
    assert kl.dtype == torch.float32
    assert kl.tolist() == pytest.approx([expected] * 2, rel=1e-4)


def test_half_precision_inputs_are_computed_in_float32() -> None:
    x = [torch.full((1, 1, 100, 100), -300.0, dtype=torch.float16)]
    assert L.gan_real(x, "least-squares").item() == pytest.approx(301.0**2)
