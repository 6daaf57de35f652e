"""A plugin that facke has never heard of works, and one that is broken harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facke_core import CommandSpec, default_registry
from standins import plugin

Facke = Callable[..., Any]

NO_NETWORK = """
import socket


def refuse(*_):
    raise OSError("the network is cut off")


socket.socket.connect = refuse
socket.getaddrinfo = refuse
"""


# runs facke and tells on stderr which packages were loaded that no swap needs
RUN = """
import sys
from facke_cli.main import main

code = main(sys.argv[1:])
slow = {"timm", "torchvision", "accelerate", "matplotlib", "huggingface_hub", "tensorboard", "jax"}
sys.stderr.write(" ".join(slow & set(sys.modules)))
sys.exit(code)
"""


def test_an_installed_plugin_swaps_faces_from_the_shell_without_a_network(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    path = os.pathsep.join([str(tmp_path), str(site), os.environ.get("PYTHONPATH", "")])
    swap = "swap --json --method pyramid sample:collins sample:hopper -o out.png"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *swap.split()],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["method"] == "pyramid"
    assert len(report["faces"]) == 1
    assert done.stderr == ""
    assert (tmp_path / "out.png").is_file()


def test_the_method_is_listed_with_its_plugin(facke: Facke) -> None:
    rows = {row["name"]: row for row in json.loads(facke("methods", "--json").out)}
    assert rows["pyramid"] == {
        "name": "pyramid",
        "summary": "Laplacian pyramid blend, no weights",
        "plugin": "facke-pyramid",
        "weights": "none",
        "tags": [],
        "image_size": 128,
        "license": "CC0-1.0",
        "paper": "",
        "recipes": [],
    }
    assert "pyramid" in facke("methods").out


def test_a_plugin_that_raises_on_import_is_reported(facke: Facke) -> None:
    rows = {row["name"]: row for row in json.loads(facke("plugins", "--json").out)}
    assert rows["facke-broken"]["failure"] == "RuntimeError: compiled against another CUDA"
    assert rows["facke-pyramid"]["failure"] is None
    assert rows["facke-pyramid"]["version"] == "1.2"
    assert rows["facke-pyramid"]["contributions"] == {
        "method": ["pyramid"],
        "command": ["pyramid-levels"],
    }
    table = " ".join(facke("plugins").out.split())  # narrow terminals break the line
    assert "FAILED: RuntimeError: compiled against another CUDA" in table


def test_a_broken_plugin_is_named_where_a_method_is_unknown(facke: Facke) -> None:
    run = facke("swap", "a", "b", "-o", "c.png", "--method", "pyramed")
    assert run.code == 2
    run = facke("swap", "sample:hopper", "sample:hopper", "-o", "c.png", "--method", "pyramed")
    assert "Did you mean 'pyramid'?" in run.err
    assert "facke-broken (RuntimeError: compiled against another CUDA)" in run.err


def test_a_plugin_adds_a_command(facke: Facke) -> None:
    assert "pyramid-levels  Count levels." in facke("--help").out
    assert "Count the halvings of SIZE." in facke("pyramid-levels", "--help").out
    assert facke("pyramid-levels", "128").out == "7\n"
    assert facke("pyramid-levels", "x").code == 2


def test_a_command_of_facke_stays_when_a_plugin_takes_its_name(
    facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_PLUGINS", "facke-pyramid")
    taken = [
        CommandSpec(name=name, target="json:loads", help="Takes over.") for name in ("swap", "help")
    ]
    default_registry().register(plugin(facke_commands=lambda: taken), "greedy")
    for name in ("swap", "help"):
        fault = f"'greedy' offers the command {name!r}, a name that facke keeps for itself. Rename"
        assert fault in " ".join(facke("plugins").out.split())
        rows = {row["name"]: row for row in json.loads(facke("plugins", "--json").out)}
        assert fault in rows["greedy"]["failure"]
        assert rows["facke-pyramid"]["failure"] is None
        run = facke("doctor", "--json")
        assert run.code == 4
        states = {row["name"]: row["fault"] for row in json.loads(run.out)["plugins"]}
        assert fault in states["greedy"]
    assert "Takes over." not in facke("--help").out
    assert "identity on the face" in facke("swap", "--help").out


def test_facke_plugins_leaves_plugins_out(facke: Facke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACKE_PLUGINS", "facke-pyramid")
    names = [row["name"] for row in json.loads(facke("plugins", "--json").out)]
    assert names == ["facke-core", "facke-pyramid"]
