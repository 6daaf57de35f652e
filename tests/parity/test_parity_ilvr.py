"""ILVR: the low-pass filter, and whole trajectories of the originals' loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fixture import assert_close, filled, load
from torch import Tensor

from facke_core.types import SwapInputs
from facke_diffusion import ilvr
from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_diffusion.low_pass import low_pass, resampling_matrix

FACTORS = [2, 4, 8, 16, 32]


def dense(weights: Tensor, sources: Tensor, size: int) -> Tensor:
    """(outputs, size) of the weights (taps, outputs) and the pixels they belong to."""
    matrix = torch.zeros(weights.shape[1], size, dtype=torch.float64)
    return matrix.scatter_add_(1, sources.T.long(), weights.T.double())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [64, 256])
def test_low_pass_filter(shared: Path, size: int, factor: int) -> None:
    tensors, _ = load("resizer", shared)
    down = resampling_matrix(size, 1 / factor)
    up = resampling_matrix(size // factor, factor)
    for name, ours in {"down": down, "up": up}.items():
        weights, sources = (tensors[f"{name}_{part}.{size}.{factor}"] for part in ("w", "fov"))
        torch.testing.assert_close(
            ours, dense(weights, sources, ours.shape[1]), atol=1e-6, rtol=1e-6
        )
    x = tensors[f"x{size}"]
    small = (down @ x.double() @ down.mT).float()
    assert_close(small, tensors[f"down.{size}.{factor}"], atol=1e-5)
    filtered = low_pass(x, factor)
    if size == 256:
        filtered = torch.cat([filtered[:, :, :48], filtered[:, :, 128:160]], dim=2)
    assert_close(filtered, tensors[f"phi.{size}.{factor}"], atol=1e-5)


def test_low_pass_filter_of_colours(shared: Path) -> None:
    tensors, _ = load("resizer", shared)
    assert_close(low_pass(tensors["rgb_x"], 8), tensors["rgb_phi8"], atol=1e-5)


class Run(NamedTuple):
    """One run of the loop."""

    trajectory: list[Tensor]
    """After each step, in [-1, 1]."""
    estimates: list[Tensor]
    begin: Tensor


def run(
    monkeypatch: pytest.MonkeyPatch, shared: Path, variant: str, rule: ilvr.Variant | None = None
) -> Run:
    """The loop of ``variant`` with the stored pictures and noises; ``rule`` replaces it."""
    tensors, _ = load("ilvr_facke", shared)
    _, meta = load("unet_small", shared)
    generator = DDPMGenerator(SMALL)
    generator.load_state_dict(filled(meta))
    states: list[Tensor] = []
    estimates: list[Tensor] = []

    def noise(use: str, i: int, like: Tensor, rng: torch.Generator) -> Tensor:
        if use == "start":
            return tensors["n_init"]
        return tensors["p_noise" if use == "reverse" else "q_noise"][i : i + 1]

    def seen(module: torch.nn.Module, args: tuple[Tensor], kwargs: object, output: Any) -> None:
        states.append(args[0])
        estimates.append(output.aux["x0"].clamp(-1, 1))

    monkeypatch.setattr(ilvr, "_noise", noise)
    monkeypatch.setattr(ilvr, "_to_image", lambda x: x)
    if rule:
        monkeypatch.setitem(ilvr.VARIANTS, variant, rule)
    generator.eval().register_forward_hook(seen, with_kwargs=True)
    sampler = ilvr.ILVRSampler(
        variant=variant,  # type: ignore[arg-type]
        factor=8,
        until=2,
        steps=10,
        start=1,
        solver="ddpm",
    )
    source, target = (tensors[name] for name in ("source", "target"))
    inputs = SwapInputs((source + 1) / 2, (target + 1) / 2, torch.zeros(1, 0))
    final = sampler(generator, inputs, rng=torch.Generator())
    return Run([*states[1:], final], estimates, states[0])


SMALL = DDPMConfig(
    image_size=64,
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(16,),
    num_head_channels=16,
    resblock_updown=True,
    use_scale_shift_norm=True,
    learn_sigma=True,
)
CASES = {
    "as_coded": ("facke", None),
    "shared_all": ("facke", ilvr.Variant(source=True, shared="always", below=False)),
    "ilvr_adm": ("adm", None),
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory_of_ten_steps(monkeypatch: pytest.MonkeyPatch, shared: Path, case: str) -> None:
    fixture = "ilvr_adm" if case == "ilvr_adm" else "ilvr_facke"
    expected = {
        name.removeprefix(f"{case}."): tensor
        for name, tensor in load(fixture, shared)[0].items()
        if name.startswith(f"{case}.")
    }
    ours = run(monkeypatch, shared, *CASES[case])
    assert_close(ours.begin, expected["x_T"], atol=1e-5)
    assert_close(torch.cat(ours.trajectory), expected["traj"], atol=1e-4)
    assert_close(ours.trajectory[-1], expected["final"], atol=1e-4)
    assert_close(ours.estimates[0], expected["pred_xstart_first"], atol=3e-3)
    assert_close(ours.estimates[-1], expected["pred_xstart_last"], atol=1e-4)
