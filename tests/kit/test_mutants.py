"""Every check of the kit is proven: it fails on the defect that it is named for, and passes on the
same thing without it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import defects
import pytest
import torch
import torch.nn.functional as F
from defects import Config, Generator, NoisySampler
from torch import Tensor, nn

from facke_core.losses.terms import GanLoss
from facke_core.objective import LossTerm
from facke_core.protocols import Method
from facke_core.references import Bundled
from facke_core.sampling import SinglePass
from facke_core.testing import (
    DetectorConformance,
    DiscriminatorConformance,
    EncoderConformance,
    LossConformance,
    MethodConformance,
    MetricConformance,
    SamplerConformance,
)
from facke_core.testing.assertions import require
from facke_core.testing.specs import SpecChecks
from facke_core.training.swapping import generate
from facke_core.types import DiscriminatorOutput, Face, GeneratorOutput, Step, SwapInputs


@dataclass
class Planted:
    """A defect, the check that has to catch it, and words of its message."""

    check: str
    words: str
    generator: type[Generator] = Generator
    sampler: Any = field(default_factory=SinglePass)
    config: Any = Config
    spec: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def method_suite(name: str, planted: Planted) -> Any:
    name = "".join(letter for letter in name if letter.isalnum())
    defects.GENERATORS[name] = planted.generator
    defects.SAMPLERS[name] = planted.sampler
    defects.CONFIGS[name] = planted.config
    attributes = {
        "method": "healthy",
        "plugin": "facke_core.plugins.core",
        "registry": defects.registry(name, **planted.spec),
        "make_objective": lambda self, method, encoder: defects.objective(method, encoder),
        **planted.attributes,
    }
    return type("Suite", (MethodConformance,), attributes)()


# -- generators ----------------------------------------------------------------------------------


class IgnoresIdentity(Generator):
    def forward(self, x: Tensor, *, identity: Tensor) -> Any:
        return super().forward(x, identity=torch.zeros_like(identity))


class IgnoresImage(Generator):
    def forward(self, x: Tensor, *, identity: Tensor) -> Any:
        return super().forward(torch.full_like(x, 0.5), identity=identity)


class BatchStatistics(Generator):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)


class BareTensor(Generator):
    def forward(self, x: Tensor, *, identity: Tensor) -> Any:
        return super().forward(x, identity=identity).image


class WrongSize(Generator):
    def forward(self, x: Tensor, *, identity: Tensor) -> Any:
        image = super().forward(x, identity=identity).image
        return GeneratorOutput(F.avg_pool2d(image, 2), {})


class DropoutLeftOn(Generator):
    def draw(self, h: Tensor) -> Tensor:
        return super().draw(F.dropout(h, 0.5, training=True))


class InPlace(Generator):
    def forward(self, x: Tensor, *, identity: Tensor) -> Any:
        return super().forward(x.mul_(2).sub_(1), identity=identity)


class Views(Generator):
    def features(self, x: Tensor, identity: Tensor) -> Tensor:
        return super().features(x.view(len(x), -1).view(x.shape), identity)


class Overflows(Generator):
    def draw(self, h: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            h = h * float("nan")
        return super().draw(h)


class MixesTypes(Generator):
    def features(self, x: Tensor, identity: Tensor) -> Tensor:
        return super().features(x, identity.float() @ torch.eye(identity.shape[1]))


class ImageNetUnits(Generator):
    def draw(self, h: Tensor) -> Tensor:
        return (8 * super().draw(h) - 4) / 0.226


class Undeclared(Generator):
    @property
    def spec(self) -> Any:
        return replace(super().spec, conditions=frozenset({"identity", "pose"}))


class LengthForNothing(Generator):
    @property
    def spec(self) -> Any:
        return replace(super().spec, conditions=frozenset())

    def forward(self, x: Tensor, **conditions: Tensor) -> Any:
        return super().forward(x, identity=x.new_zeros(len(x), 8))


class NoLength(Generator):
    @property
    def spec(self) -> Any:
        return replace(super().spec, identity_dim=0)


class WrongExample(Generator):
    def example_inputs(self, x: Tensor, *, rng: torch.Generator) -> dict[str, Tensor]:
        return {"identity": torch.randn(len(x), 9, generator=rng)}


class RandomAttribute(Generator):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.projection = torch.randn(8, 8)  # neither a parameter nor a buffer

    def features(self, x: Tensor, identity: Tensor) -> Tensor:
        return super().features(x, identity @ self.projection)


class CannotBeCopied(Generator):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot copy an open file")


class DeadParameter(Generator):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.forgotten = nn.Conv2d(8, 8, 1)


# -- samplers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unclamped(SinglePass):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return generator(inputs.target, identity=inputs.identity).image


@dataclass(frozen=True)
class TakesEither(SinglePass):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        output = generator(inputs.target, identity=inputs.identity)
        return getattr(output, "image", output)


class GlobalNoise(NoisySampler):
    def draws(self, like: Tensor, rng: Any) -> Tensor:
        return torch.randn_like(like)


class SeedsGlobally(NoisySampler):
    def draws(self, like: Tensor, rng: Any) -> Tensor:
        random.seed(0)
        return super().draws(like, rng)


class FallsBack(NoisySampler):
    def draws(self, like: Tensor, rng: Any) -> Tensor:
        return torch.randn(like.shape, generator=rng)


class MixesRows(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        result = super().__call__(generator, inputs, rng=rng)
        return (result - result.mean(0) + 0.5).clamp(0, 1)


class LeaksGraph(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            target = inputs.target.clone().requires_grad_()
            identity = inputs.identity.clone()
            return super().__call__(
                generator, inputs._replace(target=target, identity=identity), rng=rng
            )


class WritesTarget(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        inputs.target.clamp_(0.3, 0.6)
        return super().__call__(generator, inputs, rng=rng)


class DividesByDeviation(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        x = inputs.target
        x = (x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True)
        return super().__call__(generator, inputs._replace(target=x), rng=rng)


class Squeezes(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return super().__call__(generator, inputs, rng=rng).squeeze()


class SuppliesNothing(NoisySampler):
    @property
    def supplies(self) -> frozenset[str]:
        return frozenset()


class ReturnsOutput(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return generator(inputs.target, identity=inputs.identity)


class CopiesSource(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return inputs.source * 1.0


class CopiesTarget(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return inputs.target * 1.0


class CallsForward(NoisySampler):
    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return generator.forward(inputs.target, identity=inputs.identity).image


@dataclass
class Mutable:
    noise: float = 0.0
    supplies: Any = frozenset({"identity"})

    def __call__(self, generator: Any, inputs: SwapInputs, *, rng: Any = None) -> Any:
        return generator(inputs.target, identity=inputs.identity).image.clamp(0, 1)


@dataclass
class MutableConfig:
    image_size: int = 32
    identity_dim: int = 8


@dataclass(frozen=True, kw_only=True)
class GrowingConfig:
    image_size: int = 32
    identity_dim: int = 8
    width: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", 2 * self.width)


# -- training ------------------------------------------------------------------------------------


def trains(**changes: Any) -> dict[str, Any]:
    return {
        "make_objective": lambda self, method, encoder: defects.objective(
            method, encoder, **changes
        )
    }


class ScalarLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        return super().__call__(step).mean()


class ShiftedLoss(defects.Loss):
    """Compares every row with the reference of the row before."""

    def __call__(self, step: Step) -> Any:
        batch = step.batch._replace(reference=step.batch.reference.roll(1, 0))
        return super().__call__(replace(step, batch=batch))


def moves_discriminator(modules: Any, batch: Any, rng: Any, made: Any = None) -> Any:
    with torch.no_grad():
        modules["discriminator"].last[0].bias.add_(0.1)
    return generate(modules, batch, rng, made)


def draws_globally(modules: Any, batch: Any, rng: Any, made: Any = None) -> Any:
    step = generate(modules, batch, rng, made)
    noise = 0.1 * torch.randn_like(step.output.image)
    return replace(step, output=GeneratorOutput(step.output.image + noise, {}))


def another_generator(self: Any, method: Method, encoder: Any) -> Any:
    twin = method._replace(generator=copy.deepcopy(method.generator))
    return defects.objective(twin, encoder)


METHODS = {
    "identity is ignored": Planted(
        "test_every_declared_condition_matters", "'identity' changes nothing", IgnoresIdentity
    ),
    "source is ignored": Planted(
        "test_the_source_matters", "Another source", sampler=CopiesTarget()
    ),
    "target is ignored": Planted(
        "test_the_target_matters", "Another target", sampler=CopiesSource()
    ),
    "example of another length": Planted(
        "test_the_example_inputs_are_inputs", r"the sampler as torch.float32 \(3, 8\)", WrongExample
    ),
    "image is ignored": Planted("test_the_image_matters", "Another image", IgnoresImage),
    "batch statistics in eval": Planted(
        "test_rows_are_independent_in_eval", "part of a batch", BatchStatistics
    ),
    "bare tensor": Planted(
        "test_the_output_is_a_generator_output", "returns a Tensor", BareTensor, TakesEither()
    ),
    "wrong size": Planted(
        "test_the_output_is_a_generator_output", r"makes \(3, 3, 16, 16\)", WrongSize
    ),
    "dropout in eval": Planted(
        "test_the_generator_repeats_in_eval", "global random generator of torch", DropoutLeftOn
    ),
    "in-place on the target": Planted(
        "test_the_generator_leaves_its_inputs_alone", "writes into its input", InPlace
    ),
    "view": Planted("test_the_memory_layout_does_not_matter", "generator fails", Views),
    "NaN under autocast": Planted("test_bf16_autocast_is_finite", "bfloat16 autocast", Overflows),
    "float32 constant": Planted("test_half_precision_weights_work", "dtype=x.dtype", MixesTypes),
    "undeclared condition": Planted(
        "test_the_generator_says_what_it_needs", r"\['pose'\]", Undeclared
    ),
    "identity that nothing is made of": Planted(
        "test_the_generator_says_what_it_needs", "another identity changes none", LengthForNothing
    ),
    "identity without a length": Planted(
        "test_the_generator_says_what_it_needs", "identity_dim is 0", NoLength
    ),
    "unsupplied condition": Planted(
        "test_the_parts_fit_together", "identity is missing", sampler=SuppliesNothing()
    ),
    "ImageNet units": Planted(
        "test_a_result_is_a_float_image_between_0_and_1",
        "not from 0 to 1",
        ImageNetUnits,
        Unclamped(),
    ),
    "ImageNet units, clamped": Planted(
        "test_results_are_not_mostly_clipped", "exactly 0 or 1", ImageNetUnits
    ),
    "output instead of image": Planted(
        "test_a_result_is_a_float_image_between_0_and_1", "not a tensor", sampler=ReturnsOutput()
    ),
    "global noise": Planted("test_noise_comes_from_rng_alone", "torch", sampler=GlobalNoise()),
    "global seed": Planted("test_noise_comes_from_rng_alone", "random", sampler=SeedsGlobally()),
    "no rng": Planted(
        "test_without_rng_it_repeats_or_asks_for_one", "without rng", sampler=FallsBack()
    ),
    "rows mixed": Planted(
        "test_rows_do_not_influence_each_other", "first row", sampler=MixesRows()
    ),
    "graph": Planted("test_no_gradient_graph_leaks", "requires a gradient", sampler=LeaksGraph()),
    "target written": Planted(
        "test_the_sampler_leaves_its_inputs_alone", "writes into", sampler=WritesTarget()
    ),
    "division by 0": Planted(
        "test_extreme_pictures_stay_finite", "black picture", sampler=DividesByDeviation()
    ),
    "squeeze": Planted("test_one_face_is_enough", "batch of one", sampler=Squeezes()),
    "forward called": Planted(
        "test_the_generator_says_what_it_needs", "never calls", sampler=CallsForward()
    ),
    "mutable sampler": Planted("test_settings_are_strict", "frozen=True", sampler=Mutable()),
    "mutable config": Planted("test_the_config_is_strict", "frozen", config=MutableConfig),
    "config grows": Planted("test_the_config_is_strict", "survive JSON", config=GrowingConfig),
    "state outside of the state dict": Planted(
        "test_saved_weights_come_back_bit_equal", "register_buffer", RandomAttribute
    ),
    "no copy": Planted("test_it_can_be_copied", "cannot be copied", CannotBeCopied),
    "photo of another size": Planted(
        "test_it_swaps_photos_in_a_pipeline", "pipeline", sampler=ReturnsOutput()
    ),
    "dead parameter": Planted(
        "test_every_trained_parameter_gets_a_gradient", r"forgotten\.weight", DeadParameter
    ),
    "scalar loss": Planted(
        "test_losses_are_one_finite_value_per_sample",
        "one value per sample",
        attributes=trains(generator_terms=[LossTerm(ScalarLoss())]),
    ),
    "loss of another row": Planted(
        "test_losses_permute_with_the_batch",
        "does not move with the samples",
        attributes=trains(generator_terms=[LossTerm(ShiftedLoss())]),
    ),
    "another module moves": Planted(
        "test_a_phase_updates_only_its_module",
        "also changes discriminator",
        attributes=trains(forward=moves_discriminator),
    ),
    "global noise in training": Planted(
        "test_training_noise_comes_from_rng_alone",
        "global random generator",
        attributes=trains(forward=draws_globally),
    ),
    "another generator": Planted(
        "test_the_objective_fits_the_trainer",
        "not the generator of the method",
        attributes={"make_objective": another_generator},
    ),
    "phase without terms": Planted(
        "test_the_objective_fits_the_trainer",
        "no term with a weight",
        attributes=trains(generator_terms=[LossTerm(GanLoss(name="gan"), 0.0)]),
    ),
    "long summary": Planted(
        "test_the_spec_is_well_formed", "one line", spec={"summary": "two\nlines"}
    ),
    "licence in words": Planted(
        "test_the_spec_is_well_formed", "SPDX", spec={"license": "free for research"}
    ),
    "missing target": Planted(
        "test_its_targets_resolve", "no_such", spec={"config": "facke_core.types:no_such"}
    ),
    "default config that does not fit": Planted(
        "test_the_default_config_builds", "default_config", spec={"default_config": {"size": 1}}
    ),
    "weights of another method": Planted(
        "test_its_weights_are_there_or_pinned",
        "cannot be read",
        spec={"weights": {"mini": Bundled("facke_gan:weights/simswap-mini")}},
    ),
    "recipe of another method": Planted(
        "test_its_recipes_can_be_read",
        "cannot be used|trains the method",
        spec={
            "recipes": {"healthy": "facke_gan:recipes/simswap-224.json"},
            "objective": "defects:objective",
        },
    ),
    "heavy plugin": Planted(
        "test_the_plugin_imports_nothing_heavy",
        "loads numpy",
        attributes={"plugin": "numpy"},
    ),
}


def caught(suite: Any, planted: Planted) -> None:
    with pytest.raises(AssertionError, match=planted.words) as error:
        getattr(suite, planted.check)()
    what, _, advice = str(error.value).partition(". ")
    assert what
    assert advice, "says what to do"


@pytest.mark.parametrize("name", METHODS)
def test_a_defect_of_a_method_is_caught(name: str) -> None:
    planted = METHODS[name]
    caught(method_suite(name, planted), planted)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_check_passes_without_the_defect(name: str) -> None:
    planted = METHODS[name]
    noisy = isinstance(planted.sampler, NoisySampler)
    healthy = Planted(planted.check, "", sampler=NoisySampler() if noisy else SinglePass())
    getattr(method_suite("none", healthy), planted.check)()


# -- everything else -----------------------------------------------------------------------------


class Unnormalised(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return 2 * super().forward(face)


class OneSize(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        assert face.shape[-1] == 112, "only 112 pixels"
        return super().forward(face)


class Trainable(defects.Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.network.requires_grad_(True)


class FollowsTrain(defects.Encoder):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)

    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face) if not self.training else F.normalize(torch.ones(3, 8))


class Detached(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face.detach())


class Collapsed(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return F.normalize(torch.ones(len(face), 8) + 0 * face.mean(), dim=1)


class BatchMean(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face - face.mean(0) + 0.5)


class NaNForBlack(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face / face.amax((1, 2, 3), keepdim=True))


class NoisyEncoder(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face + 0.1 * torch.rand_like(face))


class WritingEncoder(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face.detach().mul_(0.5))


class NoSpec(defects.Encoder):
    def __init__(self) -> None:
        super().__init__()
        del self.spec


class ViewingEncoder(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        return super().forward(face.view(len(face), -1).view(face.shape))


class HalfEncoder(defects.Encoder):
    def forward(self, face: Tensor) -> Tensor:
        identity = super().forward(face)
        return identity.bfloat16() if torch.is_autocast_enabled("cpu") else identity


class NoThreshold(defects.Detector):
    threshold: Any = None


class ViewingDetector(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return super().__call__(photo.view(-1).view(photo.shape))


class Unsorted(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return super().__call__(photo)[::-1]


class Fractions(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        size = torch.tensor([photo.shape[2], photo.shape[1]])
        return [
            face._replace(box=face.box / size.repeat(2), landmarks=face.landmarks / size)
            for face in super().__call__(photo)
        ]


class WidthAndHeight(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return [
            face._replace(box=torch.cat([face.box[:2], face.box[2:] - face.box[:2]]))
            for face in super().__call__(photo)
        ]


class PersonsLeft(defects.Detector):
    """The person's left eye and mouth corner first."""

    def __call__(self, photo: Tensor) -> Any:
        return [
            face._replace(landmarks=face.landmarks[[1, 0, 2, 4, 3]])
            for face in super().__call__(photo)
        ]


class MouthFirst(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return [
            face._replace(landmarks=face.landmarks[[3, 4, 2, 0, 1]])
            for face in super().__call__(photo)
        ]


class Resized(defects.Detector):
    """Answers in the pixels of the small picture that the network saw."""

    def __call__(self, photo: Tensor) -> Any:
        scale = min(1.0, 300 / max(photo.shape[1:]))
        return [
            face._replace(box=face.box * scale, landmarks=face.landmarks * scale)
            for face in super().__call__(photo)
        ]


class AlwaysOne(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        found = super().__call__(photo)
        return found or [Face(torch.zeros(4), torch.zeros(5, 2), 0.6)]


class RaisesWithoutFace(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        found = super().__call__(photo)
        if not found:
            raise ValueError("no face")
        return found


class Tracks(defects.Detector):
    calls = 0

    def __call__(self, photo: Tensor) -> Any:
        self.calls += 1
        return [
            face._replace(landmarks=face.landmarks + self.calls) for face in super().__call__(photo)
        ]


class WritesPhoto(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return super().__call__(photo.mul_(0.9))


class LogitScore(defects.Detector):
    def __call__(self, photo: Tensor) -> Any:
        return [face._replace(score=4.2) for face in super().__call__(photo)]


class BatchMetric(defects.Metric):
    def __call__(self, pairs: Any) -> Any:
        return super().__call__(pairs).mean().expand(len(pairs.source))


class ScalarMetric(defects.Metric):
    def __call__(self, pairs: Any) -> Any:
        return super().__call__(pairs).mean()


class TurnedMetric(defects.Metric):
    def __call__(self, pairs: Any) -> Any:
        return -super().__call__(pairs)


class ConstantMetric(defects.Metric):
    def __call__(self, pairs: Any) -> Any:
        return torch.zeros(len(pairs.source))


class WritingMetric(defects.Metric):
    def __call__(self, pairs: Any) -> Any:
        pairs.reconstruction.sub_(pairs.source)
        return pairs.reconstruction.abs().mean((1, 2, 3))


class DropsMissing(defects.Metric):
    """A value for the pairs with a face only."""

    def __call__(self, pairs: Any) -> Any:
        found = [face is not None for face in pairs.result_faces]
        return super().__call__(pairs)[torch.tensor(found)]


class Upwards(defects.Metric):
    higher_is_better = True


class SaysOften(defects.Discriminator):
    def __init__(self) -> None:
        super().__init__()
        self.num_scales = 2


class Squashed(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        (logits,), features = super().forward(image)
        return DiscriminatorOutput([logits.sigmoid()], features)


class Blind(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        return super().forward(image.detach())


class Mixing(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        return super().forward(image - image.mean(0))


class Constant(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        return super().forward(0 * image)


class Once(defects.Discriminator):
    """Its gradient has no gradient."""

    def forward(self, image: Tensor) -> Any:
        (logits,), features = super().forward(image)
        return DiscriminatorOutput([_OnceOnly.apply(logits)], features)


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient


class WritingDiscriminator(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        return super().forward(image.detach().mul_(2).sub_(1))


class OverflowingDiscriminator(defects.Discriminator):
    def forward(self, image: Tensor) -> Any:
        (logits,), features = super().forward(image)
        factor = float("inf") if torch.is_autocast_enabled("cpu") else 1.0
        return DiscriminatorOutput([logits * factor], features)


class DeadHead(defects.Discriminator):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(8, 1, 1)


class NoName(defects.Loss):
    name = ""


class RootLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        return super().__call__(step).sqrt()


class DetachedLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        output = GeneratorOutput(step.output.image.detach(), {})
        return super().__call__(replace(step, output=output))


class NoisyLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        return super().__call__(step) + torch.rand(len(step.batch.target))


class HalfLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        return (
            (step.output.image - step.batch.reference.to(step.output.image)).abs().mean((1, 2, 3))
        )


class WritingLoss(defects.Loss):
    def __call__(self, step: Step) -> Any:
        step.batch.reference.mul_(1.1)
        return super().__call__(step)


ENCODERS: dict[str, tuple[Callable[[], Any], str]] = {
    "norm of 2": (Unnormalised, "test_embeddings_have_unit_norm"),
    "one size": (OneSize, "test_crops_of_any_size_are_taken"),
    "trainable": (Trainable, "test_it_is_frozen"),
    "follows train()": (FollowsTrain, "test_training_mode_changes_nothing"),
    "detached": (Detached, "test_gradients_reach_the_face"),
    "collapsed": (Collapsed, "test_the_face_matters"),
    "mean of the batch": (BatchMean, "test_rows_do_not_depend_on_their_batch"),
    "NaN for black": (NaNForBlack, "test_extreme_pictures_stay_finite"),
    "noise": (NoisyEncoder, "test_embeddings_repeat"),
    "writes": (WritingEncoder, "test_it_leaves_its_input_alone"),
    "no spec": (NoSpec, "test_it_satisfies_the_protocol"),
    "view": (ViewingEncoder, "test_the_memory_layout_does_not_matter"),
    "bfloat16": (HalfEncoder, "test_bf16_autocast_stays_close"),
}
DETECTORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unsorted": (Unsorted, "test_the_largest_face_comes_first"),
    "fractions": (Fractions, "test_boxes_are_pixels_x0_y0_x1_y1"),
    "width and height": (WidthAndHeight, "test_boxes_are_pixels_x0_y0_x1_y1"),
    "the person's left": (PersonsLeft, "test_a_mirrored_photo_keeps_the_order"),
    "mouth first": (MouthFirst, "test_landmarks_are_eyes_nose_and_mouth_corners"),
    "pixels of the network": (Resized, "test_positions_follow_the_face"),
    "always a face": (AlwaysOne, "test_no_face_is_an_empty_list"),
    "raises": (RaisesWithoutFace, "test_no_face_is_an_empty_list"),
    "tracks": (Tracks, "test_it_repeats"),
    "writes": (WritesPhoto, "test_it_leaves_the_photo_alone"),
    "logit": (LogitScore, "test_scores_are_at_least_the_threshold"),
    "no threshold": (NoThreshold, "test_it_satisfies_the_protocol"),
    "view": (ViewingDetector, "test_odd_sizes_and_layouts_are_taken"),
}
METRICS: dict[str, tuple[Callable[[], Any], str]] = {
    "mean of the batch": (BatchMetric, "test_it_does_not_depend_on_the_batch"),
    "scalar": (ScalarMetric, "test_it_gives_one_value_per_pair"),
    "turned around": (TurnedMetric, "test_a_perfect_swap_gets_the_best_value"),
    "constant": (ConstantMetric, "test_it_measures_something"),
    "writes": (WritingMetric, "test_it_leaves_its_inputs_alone"),
    "upwards": (lambda: Upwards(higher_is_better=True), "test_it_is_what_its_spec_says"),
    "drops pairs": (DropsMissing, "test_missing_faces_are_no_error"),
    "unknown need": (
        lambda: defects.Metric(needs=frozenset({"depth"})),
        "test_it_satisfies_the_protocol",
    ),
}
DISCRIMINATORS: dict[str, tuple[Callable[[], Any], str]] = {
    "scales": (SaysOften, "test_it_gives_logits_and_features_per_scale"),
    "sigmoid": (Squashed, "test_logits_are_not_squashed"),
    "blind": (Blind, "test_every_parameter_and_the_image_get_a_gradient"),
    "dead parameter": (DeadHead, "test_every_parameter_and_the_image_get_a_gradient"),
    "rows mixed": (Mixing, "test_rows_are_independent_in_eval"),
    "constant": (Constant, "test_the_image_matters"),
    "once": (Once, "test_it_can_be_differentiated_twice"),
    "writes": (WritingDiscriminator, "test_it_leaves_its_input_alone"),
    "infinite": (OverflowingDiscriminator, "test_bf16_autocast_is_finite"),
}
LOSSES: dict[str, tuple[Callable[[], Any], str]] = {
    "no name": (NoName, "test_it_is_a_loss_with_a_name"),
    "scalar": (ScalarLoss, "test_it_gives_one_finite_value_per_sample"),
    "another row": (ShiftedLoss, "test_it_permutes_with_the_batch"),
    "root of 0": (RootLoss, "test_a_perfect_result_has_a_finite_gradient"),
    "detached": (DetachedLoss, "test_gradients_reach_what_it_trains"),
    "global noise": (NoisyLoss, "test_noise_comes_from_rng_alone"),
    "bfloat16": (HalfLoss, "test_it_is_computed_in_float32"),
    "writes": (WritingLoss, "test_it_leaves_its_inputs_alone"),
}


PLANTED: dict[str, dict[str, Any]] = {
    "encoder": ENCODERS,
    "detector": DETECTORS,
    "metric": METRICS,
    "discriminator": DISCRIMINATORS,
    "loss": LOSSES,
}
HEALTHY: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "encoder": (EncoderConformance, defects.Encoder),
    "detector": (DetectorConformance, defects.Detector),
    "metric": (MetricConformance, defects.Metric),
    "discriminator": (DiscriminatorConformance, defects.Discriminator),
    "loss": (LossConformance, defects.Loss),
}


@cache
def mediapipe() -> Any:
    from facke_core.faces.detect import build_mediapipe

    return build_mediapipe()


def suite(kind: str, build: Callable[..., Any]) -> Any:
    """A suite of the kind, on what ``build`` makes."""
    base = HEALTHY[kind][0]
    if kind == "metric":
        defects.METRICS["mutant"] = build
        members = {"metric": "healthy", "registry": defects.registry("mutant")}
    elif kind == "detector":
        made = build(mediapipe())
        members = {"make": lambda self: made}
    else:
        members = {"make": lambda self: build()}
    return type("Suite", (base,), members)()


def checks(kind: str) -> set[str]:
    """Those of the kind itself; those of descriptions are proven with methods."""
    names = {name for name in dir(HEALTHY[kind][0]) if name.startswith("test_")}
    return {name for name in names if not hasattr(SpecChecks, name)}


@pytest.mark.parametrize(("kind", "name"), [(k, name) for k in PLANTED for name in PLANTED[k]])
def test_a_defect_is_caught(kind: str, name: str) -> None:
    if kind == "detector":
        pytest.importorskip("mediapipe")
    build, check = PLANTED[kind][name]
    with pytest.raises(AssertionError):
        getattr(suite(kind, build), check)()


@pytest.mark.parametrize("kind", HEALTHY)
def test_what_is_healthy_passes_every_check(kind: str) -> None:
    if kind == "detector":
        pytest.importorskip("mediapipe")
    healthy = suite(kind, HEALTHY[kind][1])
    for check in checks(kind):
        getattr(healthy, check)()


@pytest.mark.parametrize("kind", HEALTHY)
def test_every_check_has_a_defect(kind: str) -> None:
    assert checks(kind) == {check for _, check in PLANTED[kind].values()}


def test_every_check_of_a_method_has_a_defect() -> None:
    names = {name for name in dir(MethodConformance) if name.startswith("test_")}
    assert names == {planted.check for planted in METHODS.values()}


def test_a_sampler_can_be_checked_alone() -> None:
    class Alone(SamplerConformance):
        def make(self) -> Method:
            return Method(Generator(Config()), MixesRows())

    with pytest.raises(AssertionError, match="first row"):
        Alone().test_rows_do_not_influence_each_other()


def test_a_failure_is_its_message() -> None:
    with pytest.raises(AssertionError, match=r"^what to do$"):
        require(False, "what to do")
