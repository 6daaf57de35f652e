"""The contract of a sampler, with the generator that it was made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from facke_core.config import updated
from facke_core.errors import CompatibilityError, ConfigError, FackeError
from facke_core.protocols import Method, Sampler, SeededSampler
from facke_core.sampling import check_compatible
from facke_core.testing.assertions import (
    awaken,
    change,
    doing,
    frozen,
    is_frozen,
    largest_change,
    leaves_alone,
    leaves_randomness_alone,
    own_randomness,
    require,
    rng,
)
from facke_core.testing.fakes import TinyEncoder, alignment, face_meshes, faces
from facke_core.types import SwapInputs

__all__: list[str] = []

MOST_CLIPPED = 0.5
"""Largest share of a result's values that may be exactly 0 or 1."""


class SamplerConformance:
    """Everything that :class:`~facke_core.protocols.Sampler` promises.

    Override :meth:`make`; :class:`~facke_core.testing.MethodConformance` does it for registered
    methods.
    """

    count = 3
    """Number of samples in a batch."""
    sensitivity = 1e-6
    """Least mean absolute change of a result that counts as one."""
    tolerance = 2e-4
    """Largest difference of a result in [0, 1] between equal computations in another order."""

    def make(self) -> Method:
        """A generator, as small as the checks allow, and its sampler."""
        raise NotImplementedError(f"{type(self).__name__} must override make().")

    def make_encoder(self, dim: int) -> Any:
        """An identity encoder with embeddings of ``dim`` numbers."""
        return TinyEncoder(dim)

    def made(self) -> Method:
        """The method, built once per check, frozen, with weights as after some training."""
        method: Method | None = getattr(self, "_made", None)
        if method is None:
            with own_randomness(11), doing("The method cannot be built. Correct build()."):
                method = Method(*self.make())
            method = method._replace(generator=frozen(awaken(method.generator)))
            self._made = method
        return method

    def inputs(self, seed: int = 0, count: int | None = None) -> SwapInputs:
        """Inputs of drawn faces in the size of the generator, which follow from ``seed``."""
        spec = self.made().generator.spec
        samples, size = count or self.count, spec.image_size
        source, target = (
            faces(samples, size, seed=2 * seed),
            faces(samples, size, seed=2 * seed + 1),
        )
        return SwapInputs(
            source,
            target,
            self._identity(source),
            alignment(size),
            source_mesh=face_meshes(samples, size, seed=2 * seed),
            target_mesh=face_meshes(samples, size, seed=2 * seed + 1),
        )

    def _identity(self, source: Tensor) -> Tensor:
        dim = self.made().generator.spec.identity_dim
        with torch.no_grad():
            return self.make_encoder(dim)(source) if dim else source.new_zeros(len(source), 0)

    def samplers(self) -> Iterator[Sampler[Any]]:
        """The sampler, then the one for those who ask for a seed, if it is another."""
        sampler = self.made().sampler
        yield sampler
        if isinstance(sampler, SeededSampler) and sampler.seeded() != sampler:
            yield sampler.seeded()

    def sample(
        self, inputs: SwapInputs, *, seed: int = 0, sampler: Sampler[Any] | None = None
    ) -> Tensor:
        """The result of a sampler, called as a pipeline does: in inference mode, with its own
        rng."""
        generator, own = self.made()
        with torch.inference_mode(), doing("The sampler fails. Correct its __call__."):
            result = (sampler or own)(generator, inputs, rng=rng(seed))
        require(
            isinstance(result, Tensor),
            f"The sampler returns a {type(result).__name__}, not a tensor. Return the images "
            "(B, 3, S, S) themselves: generator(...).image.",
        )
        return result.clone()

    # -- checks ----------------------------------------------------------------------------------

    def test_the_parts_fit_together(self) -> None:
        """A pipeline refuses a generator whose conditions its sampler does not supply."""
        generator, sampler = self.made()
        require(
            isinstance(sampler, Sampler),
            "The sampler lacks a member of facke_core.protocols.Sampler: it needs the property "
            "supplies and __call__(generator, inputs, *, rng=None).",
        )
        dim = generator.spec.identity_dim
        try:
            check_compatible(generator, sampler, self.make_encoder(dim) if dim else None)
        except CompatibilityError as error:
            raise AssertionError(
                f"{error} Add the name to the sampler's supplies and hand it to the generator."
            ) from error

    def test_a_result_is_a_float_image_between_0_and_1(self) -> None:
        """Pictures in other ranges (-1 to 1, 0 to 255, ImageNet units) come out black, washed out
        or garish, and every metric of them is wrong."""
        for sampler in self.samplers():
            inputs = self.inputs()
            result = self.sample(inputs, sampler=sampler)
            require(
                result.shape == inputs.target.shape,
                f"The result has the shape {tuple(result.shape)}, the target "
                f"{tuple(inputs.target.shape)}. Return (B, 3, S, S) with the spec's image_size.",
            )
            require(
                result.dtype == torch.float32,
                f"The result is {result.dtype}. Return float32 for float32 inputs.",
            )
            require(
                bool(result.isfinite().all()), "The result has NaN or infinite values. Find where."
            )
            low, high = float(result.min()), float(result.max())
            require(
                low >= 0 and high <= 1,
                f"The result goes from {low:.3g} to {high:.3g}, not from 0 to 1. Undo the "
                "network's own normalisation, then clamp(0, 1).",
            )

    def test_results_are_not_mostly_clipped(self) -> None:
        """A network whose output is in other units passes a clamp too, but as flat black and
        white. Results of noise are left out: those of an untrained network are noise."""
        inputs, noise = self.inputs(), rng()
        generator, sampler = self.made()
        with torch.inference_mode(), doing("The sampler fails. Correct its __call__."):
            result = sampler(generator, inputs, rng=noise)
        if not torch.equal(noise.get_state(), rng().get_state()):
            return
        share = float(((result == 0) | (result == 1)).float().mean())
        require(
            share <= MOST_CLIPPED,
            f"{share:.0%} of the values are exactly 0 or 1, though the inputs have none. The "
            "output is probably in -1 to 1 or in ImageNet units: undo that before clamp(0, 1).",
        )

    def test_the_target_matters(self) -> None:
        """A method that ignores the target cannot keep its pose, light and background."""
        inputs, other = self.inputs(), self.inputs(1)
        changed = self.sample(inputs._replace(target=other.target))
        require(
            change(self.sample(inputs), changed) > self.sensitivity,
            "Another target gives the same result. Use inputs.target.",
        )

    def test_the_source_matters(self) -> None:
        """A method that ignores source and identity swaps nothing."""
        inputs, other = self.inputs(), self.inputs(1)
        changed = self.sample(inputs._replace(source=other.source, identity=other.identity))
        require(
            change(self.sample(inputs), changed) > self.sensitivity,
            "Another source, with its identity, gives the same result. Use inputs.identity or "
            "inputs.source.",
        )

    def test_noise_comes_from_rng_alone(self) -> None:
        """Global randomness keeps a seed from repeating a swap, and a swap disturbs the draws of
        the program around it."""
        for sampler in self.samplers():
            inputs = self.inputs()
            with leaves_randomness_alone("The sampler"):
                self.sample(inputs, sampler=sampler)
            with own_randomness(1):
                first = self.sample(inputs, sampler=sampler)
            with own_randomness(2):
                second = self.sample(inputs, sampler=sampler)
            require(
                torch.equal(first, second),
                "Two calls with the same seed give different results. Draw all noise with "
                "generator=rng, and keep no state between calls.",
            )

    def test_without_rng_it_repeats_or_asks_for_one(self) -> None:
        """A sampler that draws must not fall back to global randomness when rng is left out."""
        generator, sampler = self.made()
        inputs = self.inputs()
        with leaves_randomness_alone("The sampler without rng"), torch.inference_mode():
            try:
                sampler(generator, inputs)
            except FackeError:
                return
            except Exception as error:
                raise AssertionError(
                    f"Without rng the sampler raises {type(error).__name__}: {error}. Raise "
                    "facke_core.errors.UsageError that asks for rng=torch.Generator(...)."
                ) from error

    def test_rows_do_not_influence_each_other(self) -> None:
        """Rows that mix make the result of a face depend on who else is in the photo, and every
        figure of an evaluation on the batch size."""
        for sampler in self.samplers():
            inputs, other = self.inputs(), self.inputs(1)
            first: dict[str, Any] = {
                name: torch.cat([getattr(other, name)[:1], getattr(inputs, name)[1:]])
                for name in ("source", "target", "identity")
            }
            mixed = inputs._replace(**first)
            result = self.sample(inputs, sampler=sampler)
            again = self.sample(mixed, sampler=sampler)
            require(
                largest_change(result[1:], again[1:]) <= self.tolerance,
                "Another first row changes the others. Look for means over the batch, BatchNorm "
                "in training mode, or views that mix rows.",
            )

    def test_no_gradient_graph_leaks(self) -> None:
        """A result that drags its graph along keeps all activations in memory: a loop over a
        folder runs out of it."""
        generator, sampler = self.made()
        with torch.no_grad(), doing("The sampler fails in torch.no_grad(). Correct it."):
            result = sampler(generator, self.inputs(), rng=rng())
        require(
            not result.requires_grad,
            "The result requires a gradient though the caller switched gradients off. Detach what "
            "torch.enable_grad() computed.",
        )
        parameters = getattr(generator, "parameters", tuple)
        require(
            all(p.grad is None and not p.requires_grad for p in parameters()),
            "After sampling, the generator's parameters have gradients. Use torch.autograd.grad "
            "on the image instead of backward().",
        )

    def test_the_sampler_leaves_its_inputs_alone(self) -> None:
        """The pipeline still needs the crops: for the paste-back, and for other methods."""
        inputs = self.inputs()
        with leaves_alone("The sampler", inputs):
            self.sample(inputs)

    def test_extreme_pictures_stay_finite(self) -> None:
        """Black and white pictures occur; divisions by their deviation make NaN of them."""
        inputs = self.inputs(count=2)
        for name, value in (("black", 0.0), ("white", 1.0), ("grey", 0.5)):
            flat = torch.full_like(inputs.target, value)
            for changed in (inputs._replace(target=flat), inputs._replace(source=flat)):
                result = self.sample(changed)
                require(
                    bool(result.isfinite().all()) and result.min() >= 0 and result.max() <= 1,
                    f"A {name} picture gives values that are not finite or not in 0 to 1. Guard "
                    "divisions and logarithms with an epsilon, and clamp the result.",
                )

    def test_one_face_is_enough(self) -> None:
        """Most swaps are of one face; squeeze() and statistics over the batch break on it."""
        inputs = self.inputs(count=1)
        require(
            self.sample(inputs).shape == inputs.target.shape,
            "A batch of one gives another shape. Name the axis in squeeze() and mean().",
        )

    def test_settings_are_strict(self) -> None:
        """A mistyped `sampler={"strenght": 0.5}` must be refused, not ignored; a sampler that can
        be changed in place changes for everybody who holds it."""
        sampler = self.made().sampler
        if not dataclasses.is_dataclass(sampler) or isinstance(sampler, type):
            return
        require(
            is_frozen(type(sampler)),
            f"{type(sampler).__name__} can be changed in place. Write @dataclass(frozen=True).",
        )
        try:
            updated(sampler, {"no_such_setting": 1}, where="sampler")
        except ConfigError:
            pass
        else:
            raise AssertionError("The unknown setting 'no_such_setting' was accepted. Refuse it.")
        settings = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler) if f.init}
        with doing("The sampler's own settings are refused. Correct their types"):
            same = updated(sampler, settings, where="sampler")
        require(
            same == sampler,
            "Settings do not survive a round trip through text. Use plain types: int, float, "
            "bool, str, and tuples of them.",
        )
