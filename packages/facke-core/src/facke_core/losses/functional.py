"""The equations of the losses: pure functions, each with one value per sample, (B,).

Values are computed in float32 whatever the autocast dtype was (float64 stays float64). Weights,
masks and the mean over the batch belong to :class:`facke_core.objective.LossTerm`.

Lists of logits and features have one entry per scale of a discriminator
(:class:`facke_core.types.DiscriminatorOutput`). Equations as in SimSwap (arXiv:2106.06340,
Sec. 3.3) and Facke (arXiv:2206.11203, Sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.errors import CompatibilityError, check_choice
from facke_core.nn.normalize import IMAGENET_STD
from facke_core.protocols import Discriminator

__all__ = [
    "ScaleWise",
    "edges_l1",
    "feature_matching",
    "gan_fake",
    "gan_generator",
    "gan_real",
    "gradient_penalty",
    "identity_loss",
    "kl_divergence",
    "r1_penalty",
    "reconstruction_l1",
    "reconstruction_l2",
    "relativistic",
    "structural_difference",
]

GanMode = Literal["hinge", "least-squares", "original"]
"""The adversarial loss: ``hinge`` (Lim and Ye, arXiv:1705.02894; SimSwap and Facke),
``least-squares`` (Mao et al., arXiv:1611.04076) or ``original`` (Goodfellow et al.,
arXiv:1406.2661, with the generator's loss that does not saturate)."""
FeatureLayers = Literal["w", "o", "w-bar", "n", "last"]
"""The layers that feature matching compares; :func:`feature_matching` says which."""
Units = Literal["rgb", "imagenet"]
"""The unit of a difference: the range [0, 1], or ImageNet's standard deviation per channel."""

_FEATURE_LAYERS: dict[str, slice] = {
    "w": slice(1, None),
    "o": slice(None),
    "w-bar": slice(None, -1),
}


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _per_sample(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)


def _adversarial(logits: Sequence[Tensor], equation: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the patches of a scale, then mean over the scales."""
    if not logits:
        raise CompatibilityError(
            "The discriminator returned no logits, so there is nothing to score. "
            "DiscriminatorOutput.logits needs one (B, 1, h, w) tensor per scale."
        )
    return torch.stack([_per_sample(equation(_full(x))) for x in logits]).mean(dim=0)


def gan_real(logits: Sequence[Tensor], mode: GanMode = "hinge") -> Tensor:
    """The discriminator's loss on real images (B,): ``max(0, 1 - D)`` for ``hinge``, ``(D - 1)^2``
    for ``least-squares``, ``-log sigmoid(D)`` for ``original``.

    Args:
        logits: D, per scale (B, 1, h, w), unbounded; their losses are averaged over the patches of
            a scale, then over the scales.
        mode: see :data:`GanMode`.

    Raises:
        UsageError: there is no such mode.
        CompatibilityError: ``logits`` is empty.
    """
    check_choice("GAN mode", mode, get_args(GanMode))
    match mode:
        case "hinge":
            return _adversarial(logits, lambda x: F.relu(1 - x))
        case "least-squares":
            return _adversarial(logits, lambda x: (x - 1).square())
        case "original":
            return _adversarial(logits, lambda x: F.softplus(-x))


def gan_fake(logits: Sequence[Tensor], mode: GanMode = "hinge") -> Tensor:
    """The discriminator's loss on fakes (B,): ``max(0, 1 + D)`` for ``hinge``, ``D^2`` for
    ``least-squares``, ``-log(1 - sigmoid(D))`` for ``original``.

    Arguments and errors are those of :func:`gan_real`.
    """
    check_choice("GAN mode", mode, get_args(GanMode))
    match mode:
        case "hinge":
            return _adversarial(logits, lambda x: F.relu(1 + x))
        case "least-squares":
            return _adversarial(logits, torch.square)
        case "original":
            return _adversarial(logits, F.softplus)


def gan_generator(logits: Sequence[Tensor], mode: GanMode = "hinge") -> Tensor:
    """The generator's loss for the logits of its fakes (B,): ``-D`` for ``hinge``; for the other
    modes that of :func:`gan_real`, because the fakes are to pass for real.

    Arguments and errors are those of :func:`gan_real`.
    """
    if mode == "hinge":
        return _adversarial(logits, torch.neg)
    return gan_real(logits, mode)


def relativistic(better: Sequence[Tensor], worse: Sequence[Tensor]) -> Tensor:
    """The relativistic pairing loss (B,), ``softplus(D(worse) - D(better))`` (Jolicoeur-Martineau,
    arXiv:1807.00734; R3GAN, arXiv:2501.05441, Eq. (2)): for the discriminator real pictures are to
    be better than the fakes beside them, for the generator the reverse.

    Args:
        better: D of the pictures that are to look more real, per scale (B, 1, h, w).
        worse: D of those beside them.

    Raises:
        CompatibilityError: there are no logits.
    """
    margins = [_full(a) - _full(b) for a, b in zip(better, worse, strict=True)]
    return _adversarial(margins, lambda x: F.softplus(-x))


def r1_penalty(discriminator: Discriminator, real: Tensor) -> Tensor:
    """The penalty ``||d sum(D(x)) / dx||^2`` (B,) of the discriminator's slope at real images
    (B, 3, S, S) in [0, 1], summed over the scales, D being the mean over the patches (R1 of
    Mescheder et al., arXiv:1801.04406, without its gamma / 2). It runs in float32."""
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        x = _full(real.detach()).requires_grad_()
        total = torch.stack([_per_sample(logits).sum() for logits in discriminator(x).logits]).sum()
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
    return slope.flatten(1).square().sum(dim=1)


@runtime_checkable
class ScaleWise(Protocol):
    """A discriminator whose scales can be scored one by one, each on its own input."""

    def scale_inputs(self, image: Tensor) -> list[Tensor]:
        """The inputs of the scales' networks, one per scale, for images (B, 3, S, S) in [0, 1]."""
        ...

    def score(self, scale: int, x: Tensor) -> Tensor:
        """The logits (B, 1, h, w) of one scale for its entry ``x`` of :meth:`scale_inputs`."""
        ...


def gradient_penalty(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    *,
    rng: torch.Generator | None = None,
    alpha: Sequence[Tensor] | None = None,
) -> Tensor:
    """The gradient penalty of WGAN-GP (B,) (arXiv:1704.00028, Eq. (3)), summed over the scales k:
    ``(||d sum(D_k(x)) / dx||_2 - 1)^2`` at ``x = alpha_k * real + (1 - alpha_k) * fake``.

    A :class:`ScaleWise` discriminator is differentiated with respect to each scale's own
    (normalised, downsampled) input, as in the original systems; any other one with respect to the
    image. The discriminator runs in float32, or in bfloat16 where autocast is set to that; float16
    has too small a range for a gradient's gradient.

    Args:
        real: (B, 3, S, S) in [0, 1].
        fake: (B, 3, S, S) in [0, 1]; no gradient reaches it.
        rng: draws ``alpha``, uniform in [0, 1), one number per sample and scale.
        alpha: per scale (B, 1, 1, 1), instead of drawing it.
    """
    device = real.device.type
    bfloat16 = (
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16
    )
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16), torch.enable_grad():
        reals, fakes, scores = _scales(discriminator, _full(real.detach()), _full(fake.detach()))
        if alpha is None:
            alpha = [
                torch.rand(len(x), 1, 1, 1, generator=rng, device=rng.device if rng else x.device)
                for x in reals
            ]
        penalties = [
            _penalty(score, torch.lerp(f, r, a.to(r)))
            for score, r, f, a in zip(scores, reals, fakes, alpha, strict=True)
        ]
    return torch.stack(penalties).sum(dim=0)


def _scales(
    discriminator: Discriminator, real: Tensor, fake: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Callable[[Tensor], Tensor]]]:
    scales = range(discriminator.num_scales)
    if isinstance(discriminator, ScaleWise):
        split = discriminator

        def score(k: int) -> Callable[[Tensor], Tensor]:
            return lambda x: split.score(k, x)

        with torch.no_grad():
            inputs = split.scale_inputs(real), split.scale_inputs(fake)
        return *inputs, [score(k) for k in scales]

    def joint(k: int) -> Callable[[Tensor], Tensor]:
        return lambda x: discriminator(x).logits[k]

    return [real] * len(scales), [fake] * len(scales), [joint(k) for k in scales]


def _penalty(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (torch.linalg.vector_norm(_full(slope).flatten(1), dim=1) - 1).square()


def feature_matching(
    real: Sequence[Sequence[Tensor]],
    fake: Sequence[Sequence[Tensor]],
    layers: FeatureLayers = "w",
) -> Tensor:
    """Feature matching (B,) (SimSwap, Sec. 3.3): ``4/n`` times the mean over the scales of the sum
    over n layers of ``mean|real - fake|``; for ``"last"``, ``mean|real - fake|`` of one layer. No
    gradient reaches the real features.

    Args:
        real: the discriminator's features of real images, per scale, shallow to deep, without the
            logits.
        fake: the same for the generator's images.
        layers: ``"w"`` all but the first (SimSwap's weak feature matching), ``"o"`` all (oFM),
            ``"w-bar"`` all but the last, ``"n"`` none: zeros (nFM), ``"last"`` the last one of the
            last scale (the official SimSwap's with a projected discriminator).

    Raises:
        UsageError: there is no such set of layers.
        CompatibilityError: the discriminator has too few layers for it.
    """
    check_choice("Feature matching over layers", layers, get_args(FeatureLayers))
    if layers == "n":
        return torch.zeros(len(fake[0][0]), device=fake[0][0].device)
    if layers == "last":
        return _distance(real[-1][-1], fake[-1][-1])
    scales = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        pairs = list(zip(real_layers, fake_layers, strict=True))
        chosen = pairs[_FEATURE_LAYERS[layers]]
        if not chosen:
            raise CompatibilityError(
                f"Feature matching {layers!r} leaves no layer of the discriminator's {len(pairs)}. "
                "Use 'o', or a discriminator that returns more features."
            )
        distances = [_distance(r, f) for r, f in chosen]
        scales.append(4 / len(chosen) * torch.stack(distances).sum(dim=0))
    return torch.stack(scales).mean(dim=0)


def _distance(real: Tensor, fake: Tensor) -> Tensor:
    return _per_sample((_full(real.detach()) - _full(fake)).abs())


def identity_loss(embedding: Tensor, identity: Tensor) -> Tensor:
    """One minus the cosine (B,) of two sets of embeddings (B, D), normalised or not: 0 for the same
    direction, 2 for opposite ones."""
    return 1 - F.cosine_similarity(_full(embedding), _full(identity), dim=1)


def reconstruction_l1(
    result: Tensor, reference: Tensor, *, units: Units = "rgb", weight: Tensor | None = None
) -> Tensor:
    """The mean absolute difference (B,) of images (B, 3, H, W) in [0, 1] over channels and pixels.

    Args:
        units: ``"rgb"``, or ``"imagenet"``: in ImageNet standard deviations per channel, about
            4.4 times as large, the unit in which the original systems measure.
        weight: (1 or B, 1, H, W), not negative: the result is the weighted mean over the pixels.

    Raises:
        UsageError: there is no such unit.
    """
    return _weighted_mean(_difference(result, reference, units).abs(), weight)


def reconstruction_l2(
    result: Tensor, reference: Tensor, *, units: Units = "rgb", weight: Tensor | None = None
) -> Tensor:
    """The mean squared difference (B,) of two images; arguments and errors are those of
    :func:`reconstruction_l1`."""
    return _weighted_mean(_difference(result, reference, units).square(), weight)


def _difference(result: Tensor, reference: Tensor, units: Units) -> Tensor:
    check_choice("Unit", units, get_args(Units))
    difference = _full(result) - _full(reference)
    if units == "imagenet":
        difference = difference / difference.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return difference


def _weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return _per_sample(values)
    weight = _full(weight).expand(len(values), 1, *values.shape[2:])
    total = weight.flatten(1).sum(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
    return (values.mean(dim=1, keepdim=True) * weight).flatten(1).sum(dim=1) / total


def edges_l1(result: Tensor, reference: Tensor, *, scales: int = 3) -> Tensor:
    """The mean absolute difference (B,) of the differences between neighbours, across and down, of
    two images (B, 3, H, W), averaged over ``scales`` scales, each half as large as the one before.
    """
    means = []
    result, reference = _full(result), _full(reference)
    for scale in range(scales):
        if scale:
            result, reference = F.avg_pool2d(result, 2), F.avg_pool2d(reference, 2)
        off = result - reference
        means += [_per_sample(off.diff(dim=dim).abs()) for dim in (2, 3)]
    return torch.stack(means).mean(dim=0)


def structural_difference(result: Tensor, reference: Tensor) -> Tensor:
    """One minus the structural similarity (B,) of the greys of two images (B, 3, H, W) in [0, 1],
    averaged over the places of an 11 x 11 window (Wang et al., IEEE TIP 2004, with a Gaussian of
    1.5 pixels, without padding)."""
    taps = torch.arange(-5, 6, device=result.device, dtype=torch.float32)
    window = torch.exp(-taps.square() / (2 * 1.5**2))
    window = window / window.sum()
    x, y = (_full(image).mean(dim=1, keepdim=True) for image in (result, reference))
    window = window.to(x.dtype)

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))

    with torch.autocast(result.device.type, enabled=False):
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return 1 - _per_sample(ssim)


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """The divergence ``KL(N(mu, exp(log_var)) || N(0, 1))`` (B,) in nats, summed over the channels
    and averaged over the positions (Facke, Eq. (4)).

    Args:
        mu: (B, C, ...), any float dtype.
        log_var: like ``mu``. In float32 the divergence of one position overflows above 88.
    """
    mu, log_var = _full(mu), _full(log_var)
    # expm1 keeps the digits near log_var = 0; positions first, so that large values stay finite.
    divergence = 0.5 * (mu.square() + torch.expm1(log_var) - log_var)
    return divergence.reshape(*mu.shape[:2], -1).mean(dim=2).sum(dim=1)
