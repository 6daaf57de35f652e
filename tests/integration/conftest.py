"""A third-party plugin, built and installed, and a way to run ``facke`` in this process."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from wheels import BROKEN, install_plugin

import facke_cli.samples
from facke_cli.main import main
from facke_core.plugins.registry import default_registry

PLUGIN = '''
"""Describes the method; imports nothing heavy."""
from facke_core import CommandSpec, MethodSpec, hookimpl


@hookimpl
def facke_methods():
    return [
        MethodSpec(
            name="pyramid",
            summary="Laplacian pyramid blend, no weights",
            config="facke_pyramid.pyramid:PyramidConfig",
            build="facke_pyramid.pyramid:build",
            default_config={"image_size": 128},
            license="CC0-1.0",
        )
    ]


@hookimpl
def facke_commands():
    return [
        CommandSpec(
            name="pyramid-levels", target="facke_pyramid.command:levels", help="Count levels."
        )
    ]
'''

METHOD = '''
"""The fine details of the target on the coarse colours of the source."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from facke_core import GeneratorOutput, GeneratorSpec, Method


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    image_size: int = 128
    levels: int = 3


class Pyramid(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.spec = GeneratorSpec(
            image_size=config.image_size, identity_dim=0, conditions=frozenset({"source"})
        )

    def low_pass(self, x):
        small = F.avg_pool2d(x, 2**self.config.levels)
        return F.interpolate(small, x.shape[-2:], mode="bilinear")

    def forward(self, x, *, source):
        return GeneratorOutput((x - self.low_pass(x) + self.low_pass(source)).clamp(0, 1), {})


@dataclass(frozen=True)
class PyramidSampler:
    strength: float = 1.0
    noise: float = 0.0

    @property
    def supplies(self):
        return frozenset({"source"})

    def __call__(self, generator, inputs, *, rng=None):
        image = generator(inputs.target, source=inputs.source).image
        if self.noise:
            image = image + self.noise * torch.randn(image.shape, generator=rng)
        return torch.lerp(inputs.target, image, self.strength).clamp(0, 1)


def build(config):
    return Method(Pyramid(config), PyramidSampler())
'''

COMMAND = '''
def levels(size: int):
    """Count the halvings of SIZE."""
    print(size.bit_length() - 1)
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugins ``facke-pyramid`` and ``facke-broken``."""
    folder = tmp_path_factory.mktemp("site")
    modules = {"plugin": PLUGIN, "pyramid": METHOD, "command": COMMAND}
    work = tmp_path_factory.mktemp("work")
    install_plugin(folder, work, "facke-pyramid", modules)
    install_plugin(folder, work, "facke-broken", BROKEN)
    return folder


@pytest.fixture
def plugins(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both plugins are installed in this process."""
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith("facke_pyramid")]:
        del sys.modules[name]


class Run(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def facke(
    plugins: None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Run]:
    """Run ``facke`` in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The test's own folder, with collins.png and hopper.jpg in it."""
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    for name in ("collins.png", "hopper.jpg"):
        shutil.copy(Path(facke_cli.samples.__file__).parent / name, tmp_path / name)
    return tmp_path
