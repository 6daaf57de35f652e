"""A few hundred damaged files of every kind; ``FACKE_FUZZ_SECONDS=60`` tries others for as long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fuzzed_kinds import NAMES, kinds
from fuzzing import Kind, case, tried

CASES = 25
"""Cases of each kind that are always tried."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return kinds(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_by_an_error_of_facke(
    name: str, made: dict[str, Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seconds = float(os.environ.get("FACKE_FUZZ_SECONDS", "0")) / len(NAMES)
    start, number = time.monotonic(), 0
    while number < CASES or time.monotonic() - start < seconds:
        content = case(name, made[name], number)
        what = tried(made[name], content, tmp_path)
        assert not what, f"case {number} of {name}: {what}"
        number += 1


@pytest.mark.parametrize("name", NAMES)
def test_an_honest_file_is_read(name: str, made: dict[str, Kind], tmp_path: Path) -> None:
    if name in ("encoder", "graph", "pickle"):
        pytest.skip("these are of no network that could be read; their own tests have some")
    for content in made[name].seeds:
        file = tmp_path / f"honest{made[name].suffix}"
        file.write_bytes(content)
        made[name].read(file)
