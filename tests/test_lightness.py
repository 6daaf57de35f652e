"""What is only listed or described must not cost an import of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# fmt: off
HEAVY = [
    "torch", "numpy", "PIL", "timm", "torchvision", "kornia", "einops", "huggingface_hub",
    "accelerate", "mediapipe", "matplotlib", "safetensors", "cv2", "rich",
]
# fmt: on


def _loaded(code: str, tmp_path: Path) -> list[str]:
    """The heavy modules in ``sys.modules`` after ``code``, in a new process."""
    report = f"; import sys; sys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    return done.stderr.split()


RUN = "from facke_cli.main import main; assert main({!r}) == 0"


@pytest.mark.parametrize(
    "code",
    [
        "import facke_core",
        "from facke_core import default_registry as d; assert d().encoders",
        RUN.format(["--help"]),
        RUN.format(["--version"]),
        RUN.format(["methods", "--json"]),
        RUN.format(["plugins"]),
        "; ".join(
            RUN.format([command, "--help"])
            for command in (
                "swap",
                "prepare",
                "train",
                "evaluate",
                "matrix",
                "doctor",
                "inspect",
                "methods",
                "plugins",
            )
        ),
        "; ".join(
            RUN.format(["evaluate", command, "--help"]) for command in ("run", "diff", "scan")
        ),
        "; ".join(
            RUN.format(["weights", command, "--help"])
            for command in ("push", "pull", "verify", "list")
        ),
    ],
    ids=[
        "import",
        "discovery",
        "help",
        "version",
        "methods",
        "plugins",
        "help of commands",
        "help of evaluate",
        "help of weights",
    ],
)
def test_it_imports_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert _loaded(code, tmp_path) == []


def test_listing_weights_imports_the_hub_alone(tmp_path: Path) -> None:
    loaded = _loaded(RUN.format(["weights", "list", "--licences"]), tmp_path)
    assert set(loaded) <= {"huggingface_hub"}


def test_a_wrong_method_or_output_fails_before_torch_is_imported(tmp_path: Path) -> None:
    swap = ["swap", "sample:collins", "sample:hopper", "-o"]
    code = "; ".join(
        f"from facke_cli.main import main; assert main({[*swap, *more]!r}) == 2"
        for more in (["out.png", "--method", "no-such"], ["out.xyz"], ["out.png", "--face", "0"])
    )
    assert "torch" not in _loaded(code, tmp_path)


def test_help_takes_at_most_ten_times_an_empty_python(tmp_path: Path) -> None:
    # processor time, the least of several runs: waiting for a busy machine is not counted
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(*arguments: str) -> float:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    help_ = ("-c", "from facke_cli.main import run; run()", "--help")
    seconds(*help_)  # writes the bytecode
    pairs = [(seconds("-c", "pass"), seconds(*help_)) for _ in range(9)]
    empty, ours = (min(column) for column in zip(*pairs, strict=True))
    assert ours <= 10 * empty, f"{1000 * ours:.0f} ms against {1000 * empty:.0f} ms"
