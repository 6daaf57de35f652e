"""How long ``facke --help``, ``facke methods`` and ``facke plugins`` take.

    ./dev python benchmarks/startup.py [--quick] [--json FILE]

With all packages of this checkout and three third-party plugins installed: examples/facke-pyramid
and two that ``facke plugins new`` writes. Each command runs as a process of its own, in turns with
``python -c pass``; ``seconds`` is the least of the wall times, ``cpu`` the least of the processor
times, which other processes disturb less, and ``times_python`` the ratio of the latter to that of
``python -c pass``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, write_figures

from facke_cli.commands.plugins_new import generate

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.35
"""Seconds, of each command, on two cores that do nothing else."""
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "facke --help": ["--help"],
    "facke methods": ["methods"],
    "facke plugins": ["plugins"],
}


def install(folder: Path) -> Path:
    """A folder with the three plugins."""
    projects = [ROOT / "examples" / "facke-pyramid"]
    for name in ("facke-one", "facke-two"):
        generate(folder / name, name=name, method=name.removeprefix("facke-"))
        projects.append(folder / name)
    command = ["uv", "pip", "install", "-q", "--offline", "--no-deps", "--no-build-isolation"]
    options = ["--compile-bytecode", "--python", sys.executable, "--target", str(folder / "site")]
    subprocess.run([*command, *options, *map(str, projects)], check=True)
    return folder / "site"


def run(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor time of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def measure(site: Path, rounds: int) -> dict[str, Any]:
    """The least times of each command."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    facke = str(Path(sys.executable).with_name("facke"))
    listed = subprocess.run(
        [facke, "methods", "--json"], env=environment, check=True, capture_output=True
    )
    third = {"pyramid", "one", "two"}
    if not third <= {row["name"] for row in json.loads(listed.stdout)}:
        raise SystemExit("The third-party plugins are not installed.")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            program = facke if name.startswith("facke") else sys.executable
            times[name].append(run([program, *words], environment))
    least = {
        name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
    }
    (_, empty) = least["python -c pass"]
    return {
        name: {
            "seconds": round(wall, 4),
            "cpu": round(cpu, 4),
            "times_python": round(cpu / empty, 1),
        }
        for name, (wall, cpu) in least.items()
    }


def main() -> None:
    args = arguments(__doc__, quick="fewer rounds").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(install(Path(folder)), 7 if args.quick else 30)
    for name, row in report.items():
        print(f"{name:<15} {row['seconds']:.3f} s  cpu {row['cpu']:.3f} s  x {row['times_python']}")
    slow = [name for name, row in report.items() if row["seconds"] > LIMIT]
    print(f"slower than {LIMIT} s: {', '.join(slow) or 'none'}")
    write_figures(args.json, report)


if __name__ == "__main__":
    main()
