"""Weights that replace others are the old ones or the new ones at every moment: see the tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "kill_commands.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_weights_are_killed_before_each_change_and_refused_by_a_full_disk() -> None:
    for job, how in (("save", "--points"), ("convert-force", "--disk")):
        command = [sys.executable, str(TOOL), job, how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{job}: 0 faults; ended by" in done.stdout
