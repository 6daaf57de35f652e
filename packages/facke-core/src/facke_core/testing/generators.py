"""The contract of a generator, in the conditions that its sampler gives it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from facke_core.protocols import ExportableGenerator, Generator
from facke_core.testing.assertions import (
    change,
    doing,
    largest_change,
    leaves_alone,
    leaves_randomness_alone,
    own_randomness,
    require,
    rng,
    rows,
)
from facke_core.testing.samplers import SamplerConformance
from facke_core.types import GeneratorOutput, GeneratorSpec, SwapInputs

__all__: list[str] = []


class Call(NamedTuple):
    """One call of a generator by a sampler."""

    x: Tensor
    """Image or state (B, 3, S, S)."""
    conditions: dict[str, Any]
    """Keywords of the call, without those that are None."""


class GeneratorChecks(SamplerConformance):
    """Everything that :class:`~facke_core.protocols.Generator` promises."""

    def calls(self, seed: int = 0, inputs: SwapInputs | None = None) -> list[Call]:
        """The calls of the generator by the sampler, by default for the inputs of ``seed``."""
        generator, sampler = self.made()
        calls: list[Call] = []
        inputs = inputs or self.inputs(seed)
        with (
            torch.no_grad(),
            _recording(generator, calls) as recorded,
            doing("The sampler fails. Correct its __call__."),
        ):
            sampler(recorded, inputs, rng=rng(seed))
        require(
            calls,
            "The sampler never calls the generator. Write generator(x, name=condition, ...), not "
            "generator.forward(...): hooks, compilation and graphs hang on the call.",
        )
        return calls

    def generate(self, call: Call) -> GeneratorOutput:
        """The generator's output for a call, checked to be one."""
        with torch.no_grad(), doing("The generator fails. Correct its forward."):
            output = self.made().generator(call.x, **call.conditions)
        require(
            isinstance(output, GeneratorOutput),
            f"forward returns a {type(output).__name__}. Return GeneratorOutput(image=..., "
            "aux={...}): losses and samplers read its fields by name.",
        )
        return output

    # -- checks ----------------------------------------------------------------------------------

    def test_the_generator_says_what_it_needs(self) -> None:
        """Pipelines, trainers and cards read the spec instead of the network."""
        generator = self.made().generator
        require(
            isinstance(generator, Generator) and isinstance(generator.spec, GeneratorSpec),
            "The generator lacks a member of facke_core.protocols.Generator: it needs the "
            "property spec (a GeneratorSpec) and forward.",
        )
        spec = generator.spec
        require(
            spec.identity_dim or "identity" not in spec.conditions,
            "spec.conditions names 'identity', but spec.identity_dim is 0. Give its length.",
        )
        require(
            not spec.identity_dim or self._identity_arrives(),
            f"spec.identity_dim is {spec.identity_dim}, but another identity changes none of the "
            f"conditions {sorted(spec.conditions)}. Hand it over as 'identity', have the sampler "
            "make a condition of it, or set identity_dim=0.",
        )
        given = {name for call in self.calls() for name in call.conditions}
        missing = spec.conditions - given
        require(
            not missing,
            f"The sampler does not give the conditions {sorted(missing)} that the spec names. "
            "Hand them over as keywords, or take them out of spec.conditions.",
        )

    def _identity_arrives(self) -> bool:
        inputs = self.inputs()
        other = inputs._replace(identity=self.inputs(1).identity)
        return any(
            not _equal(a.conditions.get(name), b.conditions.get(name))
            for a, b in zip(self.calls(inputs=inputs), self.calls(inputs=other), strict=False)
            for name in self.made().generator.spec.conditions
        )

    def test_the_output_is_a_generator_output(self) -> None:
        """A bare tensor, or a picture of another size, breaks losses and paste-back."""
        for call in self.calls()[:2]:
            output = self.generate(call)
            require(
                output.image.shape == call.x.shape,
                f"forward makes {tuple(output.image.shape)} of {tuple(call.x.shape)}. Keep "
                "(B, 3, S, S).",
            )
            require(
                output.image.dtype == call.x.dtype,
                f"forward makes {output.image.dtype} of {call.x.dtype}. Return the input's type.",
            )
            require(
                isinstance(output.aux, dict)
                and all(isinstance(value, Tensor) for value in output.aux.values()),
                "GeneratorOutput.aux is not a dict of tensors. Use {} if no loss needs anything.",
            )
            parts = [output.image, *output.aux.values()]
            require(
                all(bool(part.isfinite().all()) for part in parts),
                "The output has NaN or infinite values. Find where.",
            )

    def test_every_declared_condition_matters(self) -> None:
        """A condition that is declared and ignored promises control that a user does not have: the
        classic one is an identity that never reaches the network."""
        first, *others = [*self.calls(), *self.calls(1)]
        image = self.generate(first).image
        for name in sorted(self.made().generator.spec.conditions):
            value = first.conditions.get(name)
            changed = [
                self.generate(first._replace(conditions={**first.conditions, name: new})).image
                for new in _others(value, [call.conditions.get(name) for call in others])
            ]
            require(
                any(change(image, other) > self.sensitivity for other in changed),
                f"Another value of the condition {name!r} changes nothing. Use it in forward, or "
                "take it out of spec.conditions.",
            )

    def test_the_image_matters(self) -> None:
        """A generator that does not look at its image draws the same face for everybody."""
        first, *others = [*self.calls(), *self.calls(1)]
        image = self.generate(first).image
        require(
            any(
                change(image, self.generate(first._replace(x=call.x)).image) > self.sensitivity
                for call in others
                if call.x.shape == first.x.shape
            ),
            "Another image changes nothing. Use x in forward.",
        )

    def test_the_example_inputs_are_inputs(self) -> None:
        """Graphs are exported with them, and faster backends measured: a wrong one fails there."""
        generator = self.made().generator
        if not isinstance(generator, ExportableGenerator):
            return
        (call, *_) = self.calls()
        with torch.no_grad(), doing("example_inputs fails. Correct it."):
            made = dict(generator.example_inputs(self.inputs().target, rng=rng()))
        x, names = made.pop("x", self.inputs().target), sorted(generator.spec.conditions)
        require(
            sorted(made) == names and all(len(tensor) == len(x) for tensor in made.values()),
            f"example_inputs gives {sorted(made)}; spec.conditions are {names}. Give each of them, "
            "with one row per picture.",
        )
        for name, tensor in made.items():
            require(
                tensor.shape[1:] == call.conditions[name].shape[1:]
                and tensor.dtype == call.conditions[name].dtype,
                f"example_inputs makes {name!r} as {tensor.dtype} {tuple(tensor.shape)}, the "
                f"sampler as {call.conditions[name].dtype} {tuple(call.conditions[name].shape)}. "
                "Make it as the sampler does.",
            )
        self.generate(Call(x, made))

    def test_the_generator_repeats_in_eval(self) -> None:
        """Dropout or noise that is left on in evaluation makes results that nobody can repeat."""
        (call, *_) = self.calls()
        with leaves_randomness_alone("The generator in eval mode"):
            first = self.generate(call).image
        with own_randomness(3):
            second = self.generate(call).image
        require(
            torch.equal(first, second),
            "The same input gives two results in eval mode. Respect self.training, and take noise "
            "as a condition from the sampler.",
        )

    def test_rows_are_independent_in_eval(self) -> None:
        """Statistics over the batch in evaluation make a face depend on its neighbours."""
        (call, *_) = self.calls()
        both = self.generate(call).image
        for chosen in (slice(0, 1), slice(1, None)):
            part = Call(
                call.x[chosen],
                {name: rows(v, chosen, len(call.x)) for name, v in call.conditions.items()},
            )
            require(
                largest_change(self.generate(part).image, both[chosen])
                <= self.tolerance * max(1.0, float(both.abs().max())),
                "A part of a batch gives another result than the same rows in the whole batch. "
                "Look for BatchNorm without running statistics, means over dim 0, and views that "
                "mix rows.",
            )

    def test_the_generator_leaves_its_inputs_alone(self) -> None:
        """An in-place operation on x changes the target that the paste-back still needs."""
        (call, *_) = self.calls()
        with leaves_alone("The generator", [call.x, *call.conditions.values()]):
            self.generate(call)

    def test_the_memory_layout_does_not_matter(self) -> None:
        """Training uses channels_last, and crops are often slices: view() fails on both."""
        (call, *_) = self.calls()
        expected = self.generate(call).image
        wide = torch.cat([call.x, call.x], dim=3)[..., : call.x.shape[3]]
        for name, x in (
            ("channels_last", call.x.contiguous(memory_format=torch.channels_last)),
            ("non-contiguous", wide),
        ):
            require(
                largest_change(self.generate(call._replace(x=x)).image, expected)
                <= self.tolerance * max(1.0, float(expected.abs().max())),
                f"A {name} image gives another result. Use reshape, flatten or einops, not view.",
            )

    def test_bf16_autocast_is_finite(self) -> None:
        """`dtype=torch.bfloat16` and `precision=bfloat16` must not make NaN."""
        (call, *_) = self.calls()
        with torch.autocast("cpu", torch.bfloat16):
            image = self.generate(call).image
        require(
            bool(image.float().isfinite().all()),
            "Under bfloat16 autocast the output has NaN or infinite values. Compute exponentials, "
            "variances and norms in float32: with torch.autocast(x.device.type, enabled=False).",
        )

    def test_half_precision_weights_work(self) -> None:
        """`load(dtype=torch.bfloat16)` converts the weights; tensors made in forward without
        dtype= then meet others of another type."""
        generator, sampler = self.make_copy()
        if not isinstance(generator, nn.Module) or not list(generator.parameters()):
            return
        generator.to(torch.bfloat16)
        inputs = self.inputs()
        half = inputs._replace(
            **{name: getattr(inputs, name).bfloat16() for name in ("source", "target", "identity")}
        )
        with (
            torch.inference_mode(),
            doing(
                "With weights and inputs in bfloat16 the sampler fails. Make tensors with "
                "dtype=x.dtype, and return to the weights' type after computing in float32."
            ),
        ):
            result = sampler(generator, half, rng=rng())
        require(
            bool(result.float().isfinite().all()),
            "With bfloat16 weights the result has NaN or infinite values. Find where.",
        )

    def make_copy(self) -> Any:
        """Another method like that of :meth:`made`, which a check may spoil."""
        kept = self.made()
        del self._made
        copy = self.made()
        self._made = kept
        return copy


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def _others(value: Any, recorded: list[Any]) -> Iterator[Any]:
    """Further values that a condition could have: those of other calls, then made up."""
    if not isinstance(value, Tensor):
        yield from (other for other in recorded if other is not None and other != value)
        return
    for other in recorded:
        same = isinstance(other, Tensor) and other.shape == value.shape
        if same and not torch.equal(other, value):
            yield other
            if value.is_floating_point():
                return
    if value.is_floating_point():
        yield value.flip(-1) if value.ndim else -value
    elif value.dtype == torch.bool:
        yield ~value


@contextmanager
def _recording(generator: Any, calls: list[Call]) -> Iterator[Any]:
    """Yield the generator, with its calls added to ``calls``."""

    def note(x: Tensor, conditions: dict[str, Any]) -> None:
        kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in conditions.items()}
        calls.append(Call(x.detach().clone(), {k: v for k, v in kept.items() if v is not None}))

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        require(
            len(args) <= 1,
            "The sampler passes conditions by position. Pass them by keyword: their names are "
            "what spec.conditions declares.",
        )
        note(args[0] if args else kwargs["x"], {k: v for k, v in kwargs.items() if k != "x"})

    if isinstance(generator, nn.Module):
        handle = generator.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield generator
        finally:
            handle.remove()
        return

    class Recorder:
        def __call__(self, x: Tensor, **conditions: Any) -> Any:
            note(x, conditions)
            return generator(x, **conditions)

        forward = __call__

        def __getattr__(self, name: str) -> Any:
            return getattr(generator, name)

    yield Recorder()
