"""Stand-ins that several test files share: each plays one part, and its behaviour is an argument.

What is of use to plugins, too, is in :mod:`facke_core.testing.fakes`: a small part of each kind.
Here are parts whose values can be told beforehand, and parts that are a function.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facke_core import Registry, hookimpl
from facke_core.faces.mesh import face_mesh
from facke_core.types import (
    Face,
    FaceBatch,
    GeneratorOutput,
    GeneratorSpec,
    IdentityEncoderSpec,
    SwapInputs,
)


class Function(nn.Module):
    """A module whose forward pass is ``function``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)


class FunctionGenerator(Function):
    """A generator of crops of ``size`` pixels, whose picture is ``function(x, **conditions)``.

    The conditions are ``identity`` if it has an ``identity_dim``, and those of ``conditions``.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        size: int,
        *,
        identity_dim: int = 0,
        conditions: Iterable[str] = (),
    ) -> None:
        super().__init__(function)
        own = {"identity"} if identity_dim else set()
        self.spec = GeneratorSpec(
            image_size=size, identity_dim=identity_dim, conditions=frozenset({*own, *conditions})
        )

    def forward(self, x: Tensor, **conditions: Tensor) -> GeneratorOutput:
        return GeneratorOutput(self.function(x, **conditions), {})


class ColourEncoder(nn.Module):
    """An identity encoder: who you are is the mean colours of ``grid`` x ``grid`` cells of a crop.

    An embedding is ``scale * colours - centre``, cell by cell for red, then green, then blue, and
    normalised. ``scale`` is a parameter, ``centre`` a buffer that no state_dict shows.

    Args:
        dim: the spec says that an embedding has so many numbers; the first ``dim`` colours are
            taken. All by default.
        middle: the cells divide the middle half of the crop instead of the whole.
        mixed: the colours are mixed by a random matrix that follows from this seed.
    """

    centre: Tensor

    def __init__(
        self,
        grid: int = 1,
        *,
        dim: int | None = None,
        name: str = "colours",
        size: int = 4,
        template: str = "",
        scale: float = 1.0,
        centre: float = 0.0,
        middle: bool = False,
        mixed: int | None = None,
    ) -> None:
        super().__init__()
        colours = 3 * grid**2
        self.spec = IdentityEncoderSpec(
            name=name,
            embedding_dim=dim or colours,
            input_size=(size, size),
            template=template,
        )
        self.grid, self.middle = grid, middle
        self.scale = nn.Parameter(torch.full((colours,), scale), requires_grad=False)
        self.register_buffer("centre", torch.full((colours,), centre), persistent=False)
        self.mix: Tensor | None = None
        if mixed is not None:
            rng = torch.Generator().manual_seed(mixed)
            matrix = torch.randn(colours, colours, generator=rng)
            self.mix = nn.Parameter(matrix, requires_grad=False)

    def forward(self, face: Tensor) -> Tensor:
        if self.middle:
            height, width = (side // 4 for side in face.shape[2:])
            face = face[:, :, height:-height, width:-width]
        colours = nn.functional.adaptive_avg_pool2d(face, self.grid).flatten(1)
        found = (self.scale * colours - self.centre)[:, : self.spec.embedding_dim]
        return nn.functional.normalize(found if self.mix is None else found @ self.mix, dim=1)


@dataclass(frozen=True, kw_only=True)
class PlainSampler:
    """A sampler with settings.

    It takes the generator's ``result``, the ``target`` or the ``source``, adds ``noise`` times
    uniform noise of ``rng``, and goes from the target so far as ``strength`` says.
    """

    picture: Literal["result", "target", "source"] = "result"
    noise: float = 0.0
    strength: float = 1.0

    @property
    def supplies(self) -> frozenset[str]:
        return frozenset({"identity"})

    def __call__(
        self, generator: Any, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        if self.picture == "result":
            image = generator(inputs.target, identity=inputs.identity).image
        else:
            image = {"target": inputs.target, "source": inputs.source}[self.picture]
        if self.noise:
            image = image + self.noise * torch.rand(image.shape, generator=rng)
        return torch.lerp(inputs.target, image, self.strength).clamp(0, 1)


class FunctionSampler:
    """A sampler without settings, whose results are ``function(generator, inputs, rng)``."""

    def __init__(
        self, function: Callable[..., Tensor], supplies: Iterable[str] = ("identity",)
    ) -> None:
        self.function, self.supplies = function, frozenset(supplies)

    def __call__(
        self, generator: Any, inputs: SwapInputs, *, rng: torch.Generator | None = None
    ) -> Tensor:
        return self.function(generator, inputs, rng)


class FunctionDetector:
    """A detector whose faces in a photo are ``function(photo)``."""

    threshold = 0.6

    def __init__(self, function: Callable[[Tensor], list[Face]]) -> None:
        self.function = function

    def __call__(self, photo: Tensor) -> list[Face]:
        return self.function(photo)


def meshes(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Meshes (count, 478, 2) of faces that look into the camera, each a little different."""
    mean = face_mesh().points[:, :2].float() * size / 4 + torch.tensor([0.5, 0.45]) * size
    return mean + torch.randn(count, len(mean), 2, generator=rng) * size / 400


class Batches:
    """What a trainer reads: the batch of a step is ``make(step)``, of which it takes rows."""

    def __init__(self, make: Callable[[int], FaceBatch]) -> None:
        self.make = make

    def read(self, step: int, rows: slice = slice(None)) -> FaceBatch:
        return self.make(step).each(lambda values: values[rows])


class Bomb:
    """Unpickling it would leave a mark: the file ``mark``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def plugin(**hooks: Callable[..., Any]) -> types.SimpleNamespace:
    """A plugin with these hooks: ``plugin(facke_methods=lambda: [spec])``."""
    return types.SimpleNamespace(**{name: hookimpl(hook) for name, hook in hooks.items()})


def registry_of(name: str, *, version: str = "", **hooks: Callable[..., Any]) -> Registry:
    """A registry with one plugin, called ``name``, of these hooks."""
    registry = Registry()
    registry.register(plugin(**hooks), name, version=version)
    return registry


def shapes_seen_by(module: Any) -> list[tuple[int, ...]]:
    """A list that grows with each call of ``module`` by the shape of its first argument."""
    seen: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape)))
    return seen
