"""The contract of an identity encoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.building import load_encoder
from facke_core.protocols import IdentityEncoder
from facke_core.references import unavailable
from facke_core.testing.assertions import (
    doing,
    largest_change,
    leaves_alone,
    leaves_randomness_alone,
    require,
)
from facke_core.testing.fakes import faces
from facke_core.testing.specs import SpecChecks
from facke_core.types import IdentityEncoderSpec

__all__: list[str] = []


class EncoderConformance(SpecChecks):
    """Everything that facke relies on in an identity encoder.

    Name a registered one, or override :meth:`make` for one whose files have to be made first.
    """

    kind = "encoder"
    encoder: ClassVar[str] = ""
    """The registered name."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that ``identity_encoder`` in ``config.json`` holds beside the name."""
    size = 112
    """Side of the crops in pixels."""
    tolerance = 1e-4
    """Largest difference of an embedding between equal computations in another order."""

    def make(self) -> IdentityEncoder:
        """The encoder under test; skips where it cannot be used."""
        spec = self.the_spec()
        reason = unavailable(spec.available)
        if reason:
            pytest.skip(f"{spec.name} cannot be used here: {reason}")
        with doing("The target EncoderSpec.build cannot be read. Correct it."):
            parameters = inspect.signature(self.the_registry().resolve(spec.build)).parameters
        needed = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        ]
        if missing := [name for name in needed if name not in self.settings]:
            pytest.skip(f"{spec.name} needs the settings {', '.join(missing)}")
        with doing("The encoder cannot be built. Correct the target EncoderSpec.build."):
            return load_encoder({"name": self.encoder, **self.settings}, registry=self.registry)

    def made(self) -> IdentityEncoder:
        """The encoder, built once per check."""
        if not hasattr(self, "_made"):
            self._made = self.make()
        return self._made

    def encode(self, face: Tensor) -> Tensor:
        """The embeddings (B, D) of crops (B, 3, H, W) in [0, 1], without a graph."""
        with torch.no_grad(), doing("The encoder fails. Correct its forward."):
            identity = self.made()(face)
        require(
            isinstance(identity, Tensor),
            f"The encoder returns a {type(identity).__name__}. Return the embeddings themselves.",
        )
        return identity

    # -- checks ----------------------------------------------------------------------------------

    def test_it_satisfies_the_protocol(self) -> None:
        """Pipelines and cards read the spec instead of the network."""
        encoder = self.made()
        require(
            isinstance(encoder, IdentityEncoder) and isinstance(encoder.spec, IdentityEncoderSpec),
            "The encoder lacks a member of facke_core.protocols.IdentityEncoder: it needs the "
            "property spec (an IdentityEncoderSpec) and forward.",
        )
        from facke_core.faces.templates import template_points

        if encoder.spec.template:
            with doing(
                "spec.template is none of facke_core.faces.templates.TEMPLATES. Correct it."
            ):
                template_points(encoder.spec.template, encoder.spec.input_size)

    def test_embeddings_have_unit_norm(self) -> None:
        """Everything downstream takes the dot product of two embeddings for their cosine."""
        identity = self.encode(faces(3, self.size))
        dim = self.made().spec.embedding_dim
        require(
            identity.shape == (3, dim),
            f"Three faces give the shape {tuple(identity.shape)}, the spec says (3, {dim}). "
            "Correct spec.embedding_dim, or flatten the output.",
        )
        require(
            identity.dtype == torch.float32,
            f"Embeddings are {identity.dtype}. Convert with .float() at the end.",
        )
        norm = identity.norm(dim=1)
        require(
            bool(((norm - 1).abs() < 1e-4).all()),
            f"The norms are {norm.tolist()}, not 1. End with F.normalize(x, dim=1).",
        )

    def test_crops_of_any_size_are_taken(self) -> None:
        """Methods have crops of 64 to 512 pixels; the encoder resizes them itself."""
        for height, width in ((40, 40), (97, 97), (112, 96), (256, 256)):
            face = F.interpolate(faces(2, 128), (height, width), mode="bilinear")
            identity = self.encode(face)
            require(
                identity.shape == (2, self.made().spec.embedding_dim)
                and bool(identity.isfinite().all()),
                f"Crops of {height}x{width} pixels give {tuple(identity.shape)}. Resize inside of "
                "forward.",
            )

    def test_the_face_matters(self) -> None:
        """An encoder that maps every face to one vector lets every identity loss be 0."""
        identity = self.encode(faces(4, self.size))
        cosines = identity @ identity.T
        require(
            float((cosines - torch.eye(4)).abs().max()) < 1 and float(cosines.min()) < 0.9999,
            "Different faces have the same embedding. Check that the weights were loaded, and "
            "that the output is not saturated.",
        )

    def test_training_mode_changes_nothing(self) -> None:
        """A trainer switches everything to training mode; dropout and batch statistics in the
        encoder would make the conditioning drift."""
        encoder = self.made()
        if not isinstance(encoder, nn.Module):
            return
        face = faces(3, self.size)
        encoder.eval()
        before = self.encode(face)
        state = {name: value.clone() for name, value in encoder.state_dict().items()}
        nn.Sequential(encoder).train()
        after = self.encode(face)
        require(
            largest_change(before, after) == 0
            and all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items()),
            "After train() the encoder gives other embeddings, or changes its statistics. Override "
            "train() so that it stays in evaluation mode, as "
            "facke_core.identity.frozen.FrozenEncoder does.",
        )

    def test_it_is_frozen(self) -> None:
        """A trainable encoder learns to call every result the source: the loss falls to 0."""
        encoder = self.made()
        parameters = encoder.parameters() if isinstance(encoder, nn.Module) else ()
        require(
            not any(p.requires_grad for p in parameters),
            "The encoder's parameters require gradients. Call requires_grad_(False) in __init__.",
        )

    def test_gradients_reach_the_face(self) -> None:
        """The identity loss teaches the generator through the encoder."""
        face = faces(2, self.size).requires_grad_()
        with doing("The encoder fails on an input that requires a gradient. Correct its forward."):
            identity = self.made()(face)
        require(
            identity.requires_grad,
            "No gradient passes through the encoder. Remove no_grad, detach() and numpy.",
        )
        goal = F.normalize(torch.linspace(-1, 1, identity.shape[1]), dim=0)
        (gradient,) = torch.autograd.grad((identity @ goal).sum(), face)
        require(
            bool(gradient.isfinite().all()) and bool((gradient.abs().amax((1, 2, 3)) > 0).all()),
            "The gradient of the face is zero or not finite. Look for rounding and norms of 0.",
        )

    def test_rows_do_not_depend_on_their_batch(self) -> None:
        """Embeddings are cached per file: they may not depend on who was next to them."""
        face = faces(4, self.size)
        alone = torch.cat([self.encode(row[None]) for row in face])
        require(
            largest_change(self.encode(face), alone) <= self.tolerance,
            "A face alone has another embedding than in a batch. Look for batch statistics and "
            "means over dim 0.",
        )

    def test_embeddings_repeat(self) -> None:
        """Judging twice must give the same figures."""
        face = faces(2, self.size)
        self.made()
        with leaves_randomness_alone("The encoder"):
            first = self.encode(face)
        require(
            torch.equal(first, self.encode(face)),
            "The same face has two embeddings. Remove randomness from forward.",
        )

    def test_it_leaves_its_input_alone(self) -> None:
        """The caller still needs the crop."""
        face = faces(2, self.size)
        with leaves_alone("The encoder", [face]):
            self.encode(face)

    def test_the_memory_layout_does_not_matter(self) -> None:
        """Crops are often slices or channels_last."""
        face = faces(2, self.size)
        expected = self.encode(face)
        for crop in (
            face.contiguous(memory_format=torch.channels_last),
            torch.cat([face, face], dim=3)[..., : self.size],
        ):
            require(
                largest_change(self.encode(crop), expected) <= self.tolerance,
                "A channels_last or non-contiguous crop has another embedding. Use flatten or "
                "reshape, not view.",
            )

    def test_extreme_pictures_stay_finite(self) -> None:
        """A black crop has no deviation: normalising it gives NaN, which spoils a training."""
        for value in (0.0, 0.5, 1.0):
            identity = self.encode(torch.full((1, 3, self.size, self.size), value))
            require(
                bool(identity.isfinite().all()),
                f"A crop that is {value} everywhere gives NaN. Guard the division with an epsilon.",
            )

    def test_bf16_autocast_stays_close(self) -> None:
        """The identity loss is computed inside of the trainer's autocast."""
        face = faces(2, self.size)
        with torch.autocast("cpu", torch.bfloat16):
            half = self.encode(face)
        require(
            half.dtype == torch.float32 and bool(((half * self.encode(face)).sum(1) > 0.95).all()),
            "Under bfloat16 autocast embeddings are not float32, or point elsewhere. Compute norms "
            "in float32.",
        )
