"""The method keeps facke's contract, and does what it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from facke_core import Recipe, SwapInputs, default_registry, load, load_encoder
from facke_core.errors import ConfigError
from facke_core.testing import MethodConformance, faces, identities
from facke_core.testing.fakes import face_batch
from facke_core.training.recipe import read_recipe
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facke_mobile.method import MobileConfig, build, dynamic_depthwise
from facke_mobile.plugin import TINY
from facke_mobile.training import objective


class TestMobile(MethodConformance):
    """Everything that facke relies on."""

    method = "mobile"
    tiny = TINY


def recipe(*changes: str) -> Recipe:
    return read_recipe("mobile", changes, default_registry())


def test_every_channel_has_a_kernel_of_its_own() -> None:
    x, taps = torch.randn(2, 4, 9, 7), torch.randn(2, 4, 9)
    kernels = taps.reshape(8, 1, 3, 3)
    expected = F.conv2d(x.reshape(1, 8, 9, 7), kernels, padding=1, groups=8).reshape(x.shape)
    torch.testing.assert_close(dynamic_depthwise(x, taps), expected)


def operations(name: str) -> int:
    """Of one swap of a crop, the encoder apart."""
    method = load(name).method
    source, target = faces(2, 128)[:, None]
    inputs = SwapInputs(source, target, identities(1, 128))
    with FlopCounterMode(display=False) as counter:
        method.sampler(method.generator, inputs)
    return counter.get_total_flops()


def test_the_student_has_a_ninth_of_the_teachers_arithmetic() -> None:
    assert operations("mobile") < operations("simswap") / 8


def test_the_bundled_weights_do_what_the_teacher_does() -> None:
    student, teacher = load("mobile"), load("simswap")
    source, target = faces(8, 128).chunk(2)
    ours, theirs = student.swap_crops(source, target), teacher.swap_crops(source, target)
    distance = (ours - theirs).abs().mean()
    assert distance < 0.75 * (target - theirs).abs().mean()  # drawn faces are not its trade
    assert distance < (ours - teacher.swap_crops(source.roll(1, 0), target)).abs().mean()


def test_distillation_brings_the_student_nearer_to_the_teacher() -> None:
    torch.manual_seed(0)
    encoder = load_encoder("dlib-resnet29")
    method = build(MobileConfig(**{**TINY, "output": "tanh"}))
    goal = objective(method, encoder, recipe())
    (phase,) = goal.phases
    batch, term = face_batch(4, 64, encoder), phase.terms[0]
    assert isinstance(method.generator, nn.Module)
    optimizer = torch.optim.Adam(method.generator.parameters(), lr=1e-2)
    before = {k: v.clone() for k, v in goal.modules["teacher"].state_dict().items()}
    distances = []
    for _ in range(20):
        distance = term.mean(phase.forward(goal.modules, batch, None))
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.6 * distances[0]
    after = goal.modules["teacher"].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_teacher_of_other_identities_or_crops_is_refused() -> None:
    method, encoder = build(MobileConfig(**TINY)), load_encoder("dlib-resnet29")
    with pytest.raises(ConfigError, match="identities of dlib-resnet29"):
        objective(method, encoder, recipe("identity_encoder.name=arcface"))
    with pytest.raises(ConfigError, match="framed as 'simswap_frontal'"):
        objective(method, encoder, recipe("alignment.template=ffhq"))
