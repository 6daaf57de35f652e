"""ILVR: denoise towards a face while the low frequencies follow the target (Facke,
arXiv:2206.11203, Algorithm 1; after ILVR, Choi et al., arXiv:2108.02938).

Written from the papers and a description of what the originals compute, not from their code.
``x`` is in [-1, 1] and float32 here, whatever the network computes in. The steps of the paper:

| step | computed by |
| --- | --- |
| ``x_T ~ q(x_T given source)`` | :func:`start_state` |
| ``x' ~ p(x_{t-1} given x_t)`` | :mod:`~facke_diffusion.solvers` |
| ``y_{t-1} ~ q(y_{t-1} given target)`` | :func:`reference_state` |
| ``x_{t-1} = phi(y_{t-1}) + x' - phi(x')`` | :func:`project` |
| ``phi_N`` | :func:`~facke_diffusion.low_pass.low_pass` |

Further settings are ours: ``start``, the deterministic solvers, ``guidance`` and ``refine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from facke_core import Method, SwapInputs
from facke_core.delegate import encoders_of
from facke_core.errors import ConfigError, UsageError
from facke_core.nn.normalize import IMAGENET_MEAN
from facke_core.sampling import report_step
from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_diffusion.guidance import IdentityGuide
from facke_diffusion.low_pass import check_factor, check_size, low_pass
from facke_diffusion.refine import refined
from facke_diffusion.schedule import Schedule, q_sample
from facke_diffusion.solvers import ddim_step, ddpm_step, dpmpp_step, levels

if TYPE_CHECKING:
    from facke_core.evaluation.facke2022 import Units

__all__ = ["VARIANTS", "ILVRSampler", "build", "project", "reference_state", "start_state"]


class Variant(NamedTuple):
    """The points in which the versions of the algorithm differ."""

    source: bool
    """True: it begins with the noised source; False: with noise alone."""
    shared: Literal["always", "first", "never"]
    """References that are noised with the noise of the beginning; the others get fresh noise."""
    below: bool
    """True: the reference has the level of x', one below that of x; False: that of x."""


VARIANTS = {
    "paper": Variant(source=True, shared="always", below=True),
    "facke": Variant(source=True, shared="first", below=False),
    "adm": Variant(source=False, shared="never", below=False),
}
"""Name -> version of the algorithm. ``paper``: Algorithm 1 as printed. ``facke``: as its code
computes it: the noise is shared in the first step only, and the reference is one level noisier.
``adm``: plain ILVR, as in ilvr_adm; the source has no part in it."""


_compiled: WeakSet[DDPMGenerator] = WeakSet()


def start_state(schedule: Schedule, source: Tensor, i: int, eps: Tensor) -> Tensor:
    """The state ``x_T ~ q(x_T | source)``: the source (B, 3, S, S), noised to level ``i``."""
    return q_sample(schedule, source, _rows(i, source), eps)


def reference_state(schedule: Schedule, target: Tensor, i: int, eps: Tensor) -> Tensor:
    """The reference ``y ~ q(y | target)``: the target (B, 3, S, S), noised to level ``i``; itself
    at -1."""
    return target if i < 0 else q_sample(schedule, target, _rows(i, target), eps)


def project(x: Tensor, y: Tensor, factor: int) -> Tensor:
    """The projection ``phi(y) + x - phi(x)``: x (B, 3, S, S) with the low frequencies of y."""
    return x + low_pass(y - x, factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class ILVRSampler:
    """Face swapping with a DDPM that has never seen a swap.

    A whole process has ``steps`` levels of noise; those up to ``start`` are taken, downwards, with
    one call of the network for each. After each that is above ``until`` the low frequencies of the
    state are replaced by the target's.

    All noise is drawn from ``rng``, in this order: that of the beginning, then in each step that of
    the reverse process and that of the reference, where they are needed. Each is one tensor for
    all rows. Rows do not influence each other, but which noise one gets depends on its place.

    Raises:
        ConfigError: a setting out of its range, or two that exclude each other.
    """

    variant: Literal["paper", "facke", "adm"] = "paper"
    """Version of the algorithm, out of :data:`VARIANTS`."""
    factor: int = 16
    """Factor N of phi_N, a power of two that divides the image size. Small: the target's face
    stays; large: only its light and colours do."""
    until: float = 0.2
    """Level above which states are conditioned on the target; those below are free. Below 1 it is a
    share of the timesteps of the training; from 1 on it is the number of the level, counted from 0:
    the originals' ``range_t``, 20 with 100 steps."""
    steps: int = 20
    """Number of levels of a whole process, from 1 to the timesteps of the training
    (:func:`~facke_diffusion.solvers.levels`)."""
    start: float = 0.5
    """Beginning of the process, in (0, 1], as a share of the timesteps. At 1 hardly a hundredth of
    the source is left in the noise; the lower, the more of its identity, but also of its pose, and
    the fewer calls of the network: ``start * steps``."""
    solver: Literal["ddpm", "ddim", "dpmpp"] = "dpmpp"
    """Way from one level to the next. ``ddpm``: the reverse process itself, for many steps.
    ``ddim`` and ``dpmpp``, DPM-Solver++ (2M), solve its differential equation in few."""
    eta: float = 0.0
    """Noise of ``ddim``: 0 none, 1 as much as ``ddpm``."""
    clip: bool = True
    """True: the network's estimates of the image are clamped to [-1, 1]."""
    guidance: float = 0.0
    """Step of each estimate towards the source's identity, as root mean square in the range
    [-1, 1] at full noise (:mod:`~facke_diffusion.guidance`); 0: none."""
    guidance_encoder: str = "dlib-resnet29"
    """Name of the encoder that guides."""
    refine: str = ""
    """Name of a method, as :func:`facke_core.load` takes it: its result takes the place of source
    and target (:mod:`~facke_diffusion.refine`)."""
    compile: bool = False
    """True: torch compiles the network in the first run, which takes a minute; for many swaps."""

    def __post_init__(self) -> None:
        check_factor(self.factor)
        if self.steps < 1:
            raise ConfigError(
                f"steps: {self.steps} is below 1. Use a number from 1 to the timesteps of the "
                "training, usually 1000."
            )
        if not 0 < self.start <= 1:
            raise ConfigError(
                f"start: {self.start:g} is not in (0, 1]. 1 begins with pure noise, 0.5 half-way "
                "with the noised source; at 0 nothing would be left to do."
            )
        for name in ("until", "eta", "guidance"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name}: {value:g} is not a number from 0.")
        if self.eta and self.solver != "ddim":
            raise ConfigError(
                f"eta: {self.eta:g} has no meaning for solver={self.solver!r}. Leave it out, or "
                "use solver=ddim."
            )
        if not self._rule.source and (self.start < 1 or self.refine):
            raise ConfigError(
                f"variant: {self.variant!r} begins with noise alone, but start={self.start:g} and "
                f"refine={self.refine!r} begin with a picture. Use start=1 without refine, or the "
                "variant paper or facke."
            )

    @property
    def supplies(self) -> frozenset[str]:
        """The conditions that it can feed: ``{"timestep"}``."""
        return frozenset({"timestep"})

    @property
    def encoders(self) -> list[str | Mapping[str, Any]]:
        """The encoders that results are made to please: those of ``guidance`` and of ``refine``."""
        names: list[str | Mapping[str, Any]] = []
        if self.guidance:
            names.append(self.guidance_encoder)
        return names + (encoders_of(self.refine) if self.refine else [])

    @property
    def loader_units(self) -> Units:
        """Those of Facke's loader for ILVR. Its standard deviation is a slip: ImageNet's mean."""
        from facke_core.evaluation.facke2022 import Units

        return Units((0.5, 0.5, 0.5), IMAGENET_MEAN)

    @property
    def _rule(self) -> Variant:
        return VARIANTS[self.variant]

    def _levels(self, generator: DDPMGenerator) -> Schedule:
        schedule = levels(generator.schedule, self.steps, self.start, even=self.solver == "ddpm")
        first = len(schedule) - 1
        if not self._conditioned(schedule, first, generator):
            raise ConfigError(
                f"until: no step is conditioned on the target: steps={self.steps} and "
                f"start={self.start:g} begin with level {first}, timestep "
                f"{int(schedule.timestep_map[first])} of {len(generator.schedule)}, and until is "
                f"{self.until:g}. Use a smaller until, more steps or a larger start."
            )
        return schedule

    def _conditioned(self, schedule: Schedule, i: int, generator: DDPMGenerator) -> bool:
        if self.until >= 1:
            return i > self.until
        return int(schedule.timestep_map[i]) > self.until * len(generator.schedule)

    @torch.no_grad()
    def __call__(
        self,
        generator: DDPMGenerator,
        inputs: SwapInputs,
        *,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """The results (B, 3, S, S), clamped to [0, 1].

        Raises:
            UsageError: no ``rng``.
            CompatibilityError: ``factor`` does not divide the image size, or ``refine`` names a
                method of another framing.
            ConfigError: more ``steps`` than the network was trained with, or no step that is
                conditioned on the target.
        """
        if rng is None:
            raise UsageError("ILVR draws noise and needs rng=torch.Generator(...).")
        for size in inputs.target.shape[-2:]:
            check_size(size, self.factor)
        schedule = self._levels(generator)
        guide = None
        if self.guidance:
            guide = IdentityGuide(self.guidance_encoder, inputs, weight=self.guidance)
        if self.refine:
            image = refined(self.refine, inputs, rng=rng)
            inputs = inputs._replace(source=image, target=image)
        source, target = inputs.source.float() * 2 - 1, inputs.target.float() * 2 - 1
        if self.compile and generator not in _compiled:
            generator.compile()
            _compiled.add(generator)

        rule, first = self._rule, len(schedule) - 1
        shared = _noise("start", first, source, rng)
        x = start_state(schedule, source, first, shared) if rule.source else shared
        previous = None
        for i in range(first, -1, -1):
            x0, variance = self._estimate(generator, schedule, x, i)
            if guide:
                x0 = guide(x0, abar=float(schedule.alphas_bar[i]))
                x0 = x0.clamp(-1, 1) if self.clip else x0
            x = self._below(schedule, x, x0, i, variance=variance, previous=previous, rng=rng)
            if self._conditioned(schedule, i, generator):
                same = rule.shared == "always" or (rule.shared == "first" and i == first)
                eps = shared if same else _noise("reference", i, x, rng)
                y = reference_state(schedule, target, i - rule.below, eps)
                x = project(x, y, self.factor)
            previous = x0
            report_step(first + 1 - i, first + 1, lambda x0=x0: _to_image(x0))  # type: ignore[misc]
        return _to_image(x)

    def _estimate(
        self, generator: DDPMGenerator, schedule: Schedule, x: Tensor, i: int
    ) -> tuple[Tensor, Tensor | None]:
        """The network's estimate ``x0``, and its output for the variance; None where it has
        none."""
        timestep = schedule.timestep_map[i].expand(len(x)).to(x.device)
        aux = generator(x, timestep=timestep).aux
        x0 = aux["x0"].float()
        return (x0.clamp(-1, 1) if self.clip else x0), aux.get("variance")

    def _below(
        self,
        schedule: Schedule,
        x: Tensor,
        x0: Tensor,
        i: int,
        *,
        variance: Tensor | None,
        previous: Tensor | None,
        rng: torch.Generator,
    ) -> Tensor:
        """The state ``x'``, one level below ``x``."""
        if self.solver == "dpmpp":
            return dpmpp_step(schedule, x, x0, i, previous=previous)
        noisy = i > 0 and (self.solver == "ddpm" or self.eta > 0)
        noise = _noise("reverse", i, x, rng) if noisy else None
        if self.solver == "ddim":
            return ddim_step(schedule, x, x0, i, eta=self.eta, noise=noise)
        return ddpm_step(schedule, x, x0, i, variance=variance, noise=noise)


def _noise(
    use: Literal["start", "reverse", "reference"], i: int, like: Tensor, rng: torch.Generator
) -> Tensor:
    """Draw noise from N(0, 1), shaped like ``like``; ``use`` and ``i`` say what it is for.

    All noise of a run comes from here.
    """
    return torch.randn(like.shape, generator=rng, device=rng.device).to(like.device)


def _to_image(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1)


def _rows(i: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), i, dtype=torch.int64, device=x.device)


def build(config: DDPMConfig) -> Method:
    """Make a DDPM with fresh weights, and ILVR to swap with it."""
    # convolutions are faster in this layout
    generator = DDPMGenerator(config).to(memory_format=torch.channels_last)
    return Method(generator=generator, sampler=ILVRSampler())
