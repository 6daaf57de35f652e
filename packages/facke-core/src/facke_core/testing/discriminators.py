"""The contract of a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facke_core.protocols import Discriminator
from facke_core.testing.assertions import (
    awaken,
    change,
    doing,
    largest_change,
    leaves_alone,
    own_randomness,
    require,
)
from facke_core.testing.fakes import faces
from facke_core.types import DiscriminatorOutput

__all__: list[str] = []


class DiscriminatorConformance:
    """Everything that :class:`~facke_core.protocols.Discriminator` promises.

    Override :meth:`make`.
    """

    size = 96
    """Side of the images in pixels."""
    count = 3
    """Number of images in a batch."""
    tolerance = 1e-3
    """Largest relative difference of logits between equal computations in another order."""

    def make(self) -> Discriminator:
        """The discriminator under test, with fresh weights."""
        raise NotImplementedError(f"{type(self).__name__} must override make().")

    def made(self, seed: int = 0) -> Discriminator:
        """A new discriminator in evaluation mode, with weights as after some training."""
        with own_randomness(seed), doing("The discriminator cannot be built. Correct __init__."):
            network = self.make()
        return awaken(network).eval() if isinstance(network, nn.Module) else network

    def judge(self, network: Discriminator, image: Tensor) -> DiscriminatorOutput:
        """The output of ``network`` for images (B, 3, S, S) in [0, 1], checked to be one."""
        with doing("The discriminator fails. Correct its forward."):
            output = network(image)
        require(
            isinstance(output, DiscriminatorOutput),
            f"forward returns a {type(output).__name__}. Return DiscriminatorOutput(logits=[...], "
            "features=[[...]]).",
        )
        return output

    def test_it_gives_logits_and_features_per_scale(self) -> None:
        """Hinge losses read the logits, feature matching the features, both per scale."""
        network = self.made()
        require(
            isinstance(network, Discriminator),
            "The discriminator lacks a member of facke_core.protocols.Discriminator: it needs the "
            "property num_scales and forward.",
        )
        output = self.judge(network, faces(self.count, self.size))
        scales = network.num_scales
        require(
            len(output.logits) == scales and len(output.features) == scales,
            f"num_scales is {scales}, but there are {len(output.logits)} logits and "
            f"{len(output.features)} lists of features. Give one of each per scale.",
        )
        require(
            all(x.ndim == 4 and x.shape[:2] == (self.count, 1) for x in output.logits),
            f"The logits have the shapes {[tuple(x.shape) for x in output.logits]}, not "
            f"({self.count}, 1, h, w). Keep one channel and the patches.",
        )
        require(
            all(
                len(layers) > 0 and all(len(x) == self.count for x in layers)
                for layers in output.features
            ),
            "A scale has no features, or they have no batch axis. Feature matching needs them.",
        )
        everything = [*output.logits, *(x for layers in output.features for x in layers)]
        require(
            all(bool(x.isfinite().all()) for x in everything),
            "The output has NaN or infinite values. Find where.",
        )

    def test_logits_are_not_squashed(self) -> None:
        """The losses apply their own sigmoid or hinge: behind a second one gradients vanish."""
        for seed in range(8):
            output = self.judge(self.made(seed), faces(self.count, self.size, seed))
            if any(bool(((x < 0) | (x > 1)).any()) for x in output.logits):
                return
        raise AssertionError(
            "With eight sets of weights no logit is below 0 or above 1. Remove the sigmoid at the "
            "end."
        )

    def test_the_image_matters(self) -> None:
        """A discriminator that says the same to every picture teaches nothing."""
        network = self.made()
        first, second = (
            self.judge(network, faces(self.count, self.size, s)).logits for s in (0, 1)
        )
        require(
            any(change(a, b) > 1e-7 for a, b in zip(first, second, strict=True)),
            "Other images have the same logits. Use the image in forward.",
        )

    def test_rows_are_independent_in_eval(self) -> None:
        """A loss per sample is none where the rows of a batch mix."""
        network, image = self.made(), faces(self.count, self.size)
        together = self.judge(network, image).logits
        alone = self.judge(network, image[1:2]).logits
        require(
            all(
                largest_change(a[1:2], b)
                <= self.tolerance * max(1.0, float(a.detach().abs().max()))
                for a, b in zip(together, alone, strict=True)
            ),
            "An image alone has other logits than in a batch. Look for statistics over the batch.",
        )

    def test_every_parameter_and_the_image_get_a_gradient(self) -> None:
        """The discriminator learns from its parameters, the generator from the image."""
        network = self.made()
        image = faces(self.count, self.size).requires_grad_()
        logits = self.judge(network, image).logits
        noise = torch.Generator().manual_seed(5)
        total = torch.stack(
            [(x.float() * torch.randn(x.shape, generator=noise)).sum() for x in logits]
        )
        require(total.requires_grad, "The logits have no gradient. Look for no_grad and detach().")
        torch.autograd.backward(total.sum())
        require(
            image.grad is not None and bool(image.grad.any()),
            "No gradient reaches the image, so a generator cannot learn. Look for detach().",
        )
        if isinstance(network, nn.Module):
            dead = [
                name
                for name, p in network.named_parameters()
                if p.requires_grad and (p.grad is None or not bool(p.grad.any()))
            ]
            require(
                not dead,
                f"No gradient reaches {', '.join(dead[:5])}. Use these parameters, or remove them.",
            )

    def test_it_can_be_differentiated_twice(self) -> None:
        """The gradient penalty is a gradient of a gradient."""
        network = self.made()
        image = faces(2, self.size).requires_grad_()
        total = torch.stack([x.float().square().sum() for x in self.judge(network, image).logits])
        with doing("The discriminator cannot be differentiated twice. Replace the operation."):
            (gradient,) = torch.autograd.grad(total.sum(), image, create_graph=True)
            torch.autograd.backward(gradient.square().sum())
        require(bool(gradient.isfinite().all()), "The gradient of the image is not finite.")

    def test_it_leaves_its_input_alone(self) -> None:
        """The losses still need the picture."""
        image = faces(2, self.size)
        with leaves_alone("The discriminator", [image]):
            self.judge(self.made(), image)

    def test_bf16_autocast_is_finite(self) -> None:
        """`precision=bfloat16` must not make NaN."""
        with torch.autocast("cpu", torch.bfloat16):
            output = self.judge(self.made(), faces(2, self.size))
        require(
            all(bool(x.float().isfinite().all()) for x in output.logits),
            "Under bfloat16 autocast logits are not finite. Compute norms in float32.",
        )
