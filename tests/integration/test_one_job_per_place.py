"""Every command that works on a place for long refuses it while another job is at work there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facke_core._files import one_job

COMMANDS = {
    "train": "train simswap-mini --data data --out place",
    "convert": "weights convert nothing.pt -o place",
    "pairs": "swap --pairs pairs.csv -o place",
    "evaluate": "evaluate simswap --pairs pairs.csv --metrics psnr --out out",
    "prepare": "prepare photos place",
    "export": "weights export simswap -o place.onnx",
    "matrix": "matrix --sources sample:collins --targets sample:hopper -o place.png",
}
PLACES = {"evaluate": "out/simswap.mini", "export": "place.onnx", "matrix": "place.png"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_job_is_refused_and_leaves_the_first_alone(
    name: str, samples: Path, facke: Callable[..., Any]
) -> None:
    (samples / "photos" / "A").mkdir(parents=True)
    (samples / "collins.png").rename(samples / "photos" / "A" / "a.png")
    (samples / "pairs.csv").write_text("source,target\nphotos/A/a.png,hopper.jpg\n")
    place = samples / PLACES.get(name, "place")
    with one_job(place, beside=name in ("convert", "export", "matrix")):
        before = sorted(samples.rglob("*"))
        done = facke(*COMMANDS[name].split())
        assert done.code == 2, done.err
        shown = f"(process {os.getpid()}) is at work on {place}."
        assert done.err.startswith(f"facke: Another job of facke {shown}"), done.err
        assert sorted(samples.rglob("*")) == before
    assert not place.exists()
