"""The contract of a registered swap method."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from facke_core.building import build_method
from facke_core.config import from_dict, to_dict
from facke_core.errors import ConfigError
from facke_core.objective import Objective
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.specs import MethodSpec
from facke_core.protocols import Method
from facke_core.publish.save import save
from facke_core.references import Bundled, HubRef, resource
from facke_core.testing.assertions import (
    awaken,
    change,
    doing,
    frozen,
    is_frozen,
    own_randomness,
    require,
)
from facke_core.testing.fakes import TinyDetector, alignment, faces
from facke_core.testing.generators import GeneratorChecks
from facke_core.testing.specs import SpecChecks
from facke_core.testing.training import TrainingChecks
from facke_core.weights import layout
from facke_core.weights.layout import MODEL, WeightsConfig

__all__: list[str] = []


class MethodConformance(GeneratorChecks, TrainingChecks, SpecChecks):
    """Everything that facke relies on in a method; name it and inherit the checks::

    class TestPyramid(MethodConformance):
        method = "pyramid"
        tiny = {"levels": 2}
    """

    kind = "method"
    method: ClassVar[str] = ""
    """The registered name."""
    tiny: ClassVar[Mapping[str, Any] | None] = None
    """Settings of the generator that make the suite fast; the others are ``default_config``'s or
    the config class's. None: those of the default weights."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of the sampler."""
    recipe: ClassVar[str] = ""
    """Name of the recipe whose objective is checked; by default the first."""
    training: ClassVar[Sequence[str]] = ()
    """Changes of the recipe that make it small, such as ``"discriminator.width=4"``."""

    # -- what is checked -------------------------------------------------------------------------

    def generator_settings(self) -> dict[str, Any]:
        """The settings that the config class is given."""
        spec: MethodSpec = self.the_spec()
        if self.tiny is not None or spec.default_config is not None:
            return {**(spec.default_config or {}), **(self.tiny or {})}
        for where in spec.weights.values():
            if isinstance(where, Bundled):
                folder = resource(where.resource)
                return dict(layout.read_weights_config(folder).generator)
        for name in spec.recipes:
            return dict(self._read(name).generator)
        return {}

    def weights_config(self) -> WeightsConfig:
        """The ``config.json`` of the method under test."""
        return WeightsConfig(
            method=self.method,
            generator=self.generator_settings(),
            sampler=self.settings,
            alignment={"template": "ffhq", "size": self.made().generator.spec.image_size},
        )

    def make(self) -> Method:
        """The method under test, with fresh weights."""
        config = WeightsConfig(
            method=self.method,
            generator=self.generator_settings(),
            sampler=self.settings,
            alignment={},
        )
        return build_method(config, registry=self.the_registry())

    def make_trainable(self) -> Method:
        """The method in training mode, with weights as after some training."""
        method = self.make()
        awaken(method.generator)
        if isinstance(method.generator, nn.Module):
            method.generator.train()
        return method

    def make_objective(self, method: Method, encoder: Any) -> Objective | None:
        """The objective of the recipe, with every term at work from the first step."""
        spec: MethodSpec = self.the_spec()
        if not spec.objective:
            return None
        name = self.recipe or next(iter(spec.recipes), "")
        require(
            name,
            "The method has an objective but no recipe, so that nobody can train it. Add one to "
            "MethodSpec.recipes.",
        )
        recipe = self._read(name, *self.training)
        generator = to_dict(self._config(self.generator_settings()))
        at_once = {
            key: {
                term: dataclasses.replace(settings, start=0, ramp=0)
                for term, settings in getattr(recipe, key).items()
            }
            for key in ("loss", "discriminator_loss")
        }
        recipe = dataclasses.replace(recipe, generator=generator, **at_once)
        build = self.the_registry().resolve(spec.objective)
        made: Objective = build(method, encoder, recipe, **recipe.objective)
        return made

    def _read(self, recipe: str, *overrides: str) -> Any:
        from facke_core.training.recipe import read_recipe

        return read_recipe(recipe, overrides, self.the_registry())

    def _config(self, settings: Mapping[str, Any]) -> Any:
        cls = self.the_registry().resolve(self.the_spec().config)
        return from_dict(cls, settings, where="generator")

    # -- checks ----------------------------------------------------------------------------------

    def test_the_config_is_strict(self) -> None:
        """`config.json` is what brings weights back: a setting that is ignored, or lost on the way
        to JSON, builds another network without a word."""
        cls = self.the_registry().resolve(self.the_spec().config)
        require(
            is_frozen(cls),
            f"{getattr(cls, '__name__', cls)} is not a frozen dataclass. Write "
            "@dataclass(frozen=True, kw_only=True).",
        )
        with doing("The config class refuses the settings under test. Correct its annotations."):
            config = self._config(self.generator_settings())
            again = self._config(to_dict(config))
        require(
            again == config,
            "The config does not survive JSON. Use int, float, bool, str, tuples and dataclasses "
            "of them, and compute nothing from a field into the same field.",
        )
        settings = {**self.generator_settings(), "no_such_setting": 1}
        broken = dataclasses.replace(self.weights_config(), generator=settings)
        try:
            build_method(broken, registry=self.the_registry())
        except ConfigError:
            return
        except Exception as error:
            raise AssertionError(
                f"An unknown setting ends in {type(error).__name__}: {error}. Leave reading "
                "settings to the dataclass."
            ) from error
        raise AssertionError("The unknown setting 'no_such_setting' was accepted. Refuse it.")

    def test_the_default_config_builds(self) -> None:
        """`load(NAME)` uses it where there are no weights."""
        spec: MethodSpec = self.the_spec()
        if spec.default_config is None:
            return
        require(
            not spec.weights,
            "The method has weights and a default_config, which is only for methods without. "
            "Remove one.",
        )
        with doing("default_config does not fit the config class. Correct MethodSpec."):
            config = self._config(spec.default_config)
            self.the_registry().resolve(spec.build)(config)

    def test_its_weights_are_there_or_pinned(self) -> None:
        """Weights that move, or lack in the wheel, fail at the user's first swap."""
        spec: MethodSpec = self.the_spec()
        for tag, where in spec.weights.items():
            if isinstance(where, HubRef):
                require(
                    where.repo_id.count("/") == 1 and len(where.revision) == 40,
                    f"The weights {tag!r} are {where}, not ORG/NAME at a commit of 40 digits. "
                    "Pin the commit that was tested.",
                )
                continue
            with doing(f"The weights {tag!r} cannot be read. Ship them inside the package"):
                folder = resource(where.resource)
                config = layout.read_weights_config(folder)
                self._config(config.generator)
            require(
                config.method == spec.name and (folder / MODEL).is_file(),
                f"The weights {tag!r} are of the method {config.method!r}, or lack {MODEL}. Write "
                "them with facke_core.save.",
            )

    def test_its_recipes_can_be_read(self) -> None:
        """`facke train NAME` reads them by name; a typing error would be found after the data was
        prepared."""
        spec: MethodSpec = self.the_spec()
        require(
            not spec.recipes or spec.objective,
            "The method has recipes but no objective. Name it in MethodSpec.objective.",
        )
        for name in spec.recipes:
            with doing(f"The recipe {name!r} cannot be used. Correct it."):
                recipe = self._read(name)
                self._config(recipe.generator)
                self.the_registry().encoders[str(recipe.identity_encoder.get("name"))]
            require(
                recipe.method == spec.name,
                f"The recipe {name!r} trains the method {recipe.method!r}. List it there.",
            )

    def test_saved_weights_come_back_bit_equal(self) -> None:
        """State that is not in the state dict, such as a random tensor in a plain attribute, is
        lost when weights are published: users get another network than the author measured."""
        method = self.made()
        generator = method.generator
        if not isinstance(generator, nn.Module) or not generator.state_dict():
            pytest.skip("the method has no weights")
        (call, *_) = self.calls()
        expected = self.generate(call).image
        with tempfile.TemporaryDirectory() as folder:
            with doing("The weights cannot be saved. Use tensors that safetensors can hold."):
                config = save(
                    method,
                    Path(folder) / "weights",
                    self.weights_config(),
                    registry=self.the_registry(),
                )
            with own_randomness(99), doing("The saved weights cannot be loaded again. Correct it."):
                fresh = build_method(config, registry=self.the_registry())
                tensors = layout.read_tensors(Path(folder) / "weights", MODEL, config)
                assert isinstance(fresh.generator, nn.Module)
                layout.fill(fresh.generator, tensors, source="saved", built_by="the kit")
        frozen(fresh.generator)
        with torch.no_grad():
            image = fresh.generator(call.x, **call.conditions).image
        require(
            torch.equal(image, expected),
            f"Saved and loaded weights give another result (by {change(image, expected):.2g}). "
            "Register all state with register_buffer or nn.Parameter.",
        )

    def test_it_can_be_copied(self) -> None:
        """The trainer keeps an average of the weights in a copy of the generator."""
        with doing("The generator cannot be copied. Keep no open files or hooks in it."):
            twin = copy.deepcopy(self.made().generator)
        (call, *_) = self.calls()
        with torch.no_grad():
            image = twin(call.x, **call.conditions).image
        require(
            torch.equal(image, self.generate(call).image),
            "A copy of the generator gives another result. Keep its state in its own tensors.",
        )

    def test_it_swaps_photos_in_a_pipeline(self) -> None:
        """Detection, alignment and paste-back come from facke: the method has to fit in."""
        method = self.made()
        size = method.generator.spec.image_size
        dim = method.generator.spec.identity_dim
        with doing("The method does not work in a pipeline. Correct it."):
            pipeline = SwapPipeline(
                method,
                identity_encoder=self.make_encoder(dim) if dim else None,
                detector=TinyDetector(mesh=True),
                alignment=alignment(size),
                registry=self.the_registry(),
            )
            source, target = faces(2, 97, seed=3)
            result = pipeline(source, torch.nn.functional.pad(target, (20, 4)), seed=1)
        require(
            result.image.shape == (3, 97, 121)
            and bool(result.image.isfinite().all())
            and result.image.min() >= 0
            and result.image.max() <= 1,
            f"The swapped photo has the shape {tuple(result.image.shape)} or values beyond 0 to 1. "
            "Correct the sampler's result.",
        )
