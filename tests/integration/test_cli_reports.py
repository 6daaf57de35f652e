"""The commands that report: ``--version``, ``doctor``, ``train``'s summary."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facke_cli.commands import doctor
from facke_cli.console import table
from facke_core.plugins.registry import default_registry
from facke_core.plugins.specs import EncoderSpec
from facke_core.training.setup import TrainSettings

Facke = Callable[..., Any]


def test_version_names_every_facke_package(facke: Facke) -> None:
    run = facke("--version")
    assert run.code == 0
    versions = dict(line.split() for line in run.out.splitlines())
    assert list(versions)[:2] == ["facke-cli", "facke-core"]
    assert versions["facke-pyramid"] == "1.2"
    assert versions["facke-cli"] == versions["facke-core"]


def test_help_lists_every_command_and_each_has_help(facke: Facke) -> None:
    run = facke("--help")
    assert (run.code, run.err) == (0, "")
    assert facke().out == run.out
    for name in re.findall(r"^  ([a-z][a-z-]+)  +", run.out, re.MULTILINE):
        assert facke(name, "--help").out.startswith(f"Usage: facke {name} ")


def test_doctor_names_each_fault_with_its_fix(facke: Facke) -> None:
    run = facke("doctor", "--json")
    assert run.code == 4  # facke-broken
    report = json.loads(run.out)
    assert report["ok"] is False
    assert report["versions"]["torch"]
    assert "cpu" in [row["name"] for row in report["devices"]]
    rows = {row["name"]: row for row in report["plugins"]}
    assert "compiled against another CUDA" in rows["facke-broken"]["fault"]
    assert "uninstall" in rows["facke-broken"]["fault"]
    assert rows["facke-pyramid"]["fault"] is None
    assert {row["name"]: row["state"] for row in report["detectors"]}["mediapipe"] == "works"
    assert {row["name"]: row["state"] for row in report["encoders"]}["dlib-resnet29"] == "works"
    assert {row["name"]: row["state"] for row in report["weights"]}["pyramid"] == "needs none"


def test_doctor_exits_with_0_where_nothing_is_broken(
    facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_PLUGINS", "facke-pyramid")
    run = facke("doctor")
    assert run.code == 0, run.out
    assert run.out.endswith("Everything works.\n")


@pytest.mark.parametrize("kind", ["detector", "encoder"])
def test_doctor_names_the_system_library_that_opencv_wants(
    kind: str, facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "ImportError: libGL.so.1: cannot open shared object file"
    monkeypatch.setattr(doctor, "unavailable", lambda target: reason)
    monkeypatch.setenv("FACKE_PLUGINS", "facke-pyramid")
    run = facke("doctor")
    assert run.code == 4
    assert f"FAULT {kind} any: None works." in run.out
    assert "apt-get install libgl1" in run.out


def test_doctor_survives_an_encoder_that_fails(
    facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_PLUGINS", "facke-pyramid")
    bad = EncoderSpec(name="bad", summary="", build="json:no_such")
    monkeypatch.setitem(default_registry().encoders, "bad", bad)
    run = facke("doctor", "--json")
    assert run.code == 0
    states = {row["name"]: row["state"] for row in json.loads(run.out)["encoders"]}
    assert "json:no_such" in states["bad"]


@pytest.mark.parametrize(("finished", "code"), [(True, 0), (False, 130)])
def test_train_hands_its_options_on_and_reports_the_end(
    finished: bool, code: int, facke: Facke, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def train(settings: TrainSettings, **options: Any) -> SimpleNamespace:
        given.update(options, settings=settings)
        return SimpleNamespace(
            out=settings.out,
            step=5,
            steps=9,
            images=80,
            seconds=1.5,
            finished=finished,
            stopped_by=0 if finished else 2,
            best={"step": 4, "score": 0.5},
        )

    monkeypatch.setattr("facke_core.training.run.train", train)
    options = ["--set", "batch_size=2", "--set", "data.flip=true", "--steps", 9, "--resume"]
    options += ["--workers", 3, "--panel", "faces"]
    run = facke("train", "demo", "--data", "set", "--out", "run", *options, "--json", "--quiet")
    assert run.code == code
    assert json.loads(run.out) == {
        "out": "run",
        "step": 5,
        "steps": 9,
        "images": 80,
        "seconds": 1.5,
        "finished": finished,
        "best": {"step": 4, "score": 0.5},
    }
    settings = TrainSettings(
        recipe="demo",
        data=Path("set"),
        out=Path("run"),
        resume=True,
        overrides=["batch_size=2", "data.flip=true", "steps=9"],
        device="auto",
        workers=3,
        panel=Path("faces"),
        init=None,
    )
    assert given == {
        "settings": settings,
        "on_step": None,
        "on_probe": None,
    }


def test_a_table_wraps_its_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    text = table(
        ("name", "about"), [("a", "one two three four five six seven eight"), ("bb", None)]
    )
    assert text.splitlines() == [
        "name  about",
        "a     one two three four five six seven",
        "      eight",
        "bb    -",
    ]
