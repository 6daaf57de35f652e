"""The kit on everything that a distribution registers; behind ``facke plugins check``."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from facke_core.errors import PluginError, UnavailableError, UnknownNameError, did_you_mean
from facke_core.plugins.catalogue import PluginInfo
from facke_core.plugins.registry import GROUP, Registry

__all__: list[str] = []

_SUITES = {
    "method": "MethodConformance",
    "encoder": "EncoderConformance",
    "detector": "DetectorConformance",
    "metric": "MetricConformance",
}


SETTINGS = ("tiny", "settings", "recipe", "training")
"""Attributes of :class:`~facke_core.testing.MethodConformance` that a plugin's module can give."""


class Subject(NamedTuple):
    """A registered name to check, with what makes it small."""

    kind: str
    """Kind of what is registered: ``method``, ``encoder``, ``detector`` or ``metric``."""
    name: str
    settings: Mapping[str, Any]
    """Attributes of the test class, out of :data:`SETTINGS`."""


class CheckResult(NamedTuple):
    """The result of one check of one subject."""

    subject: str
    """Kind and name, such as ``method demo``."""
    check: str
    """Name of the check in words."""
    result: Literal["passed", "failed", "skipped"]
    reason: str = ""
    """Message of a check that failed or was skipped."""


def check_distribution(name: str, registry: Registry) -> list[CheckResult]:
    """Run the kit on the plugins of the distribution ``name``, in a process of its own.

    Methods are checked in the size of their default weights, unless the module of the plugin says
    how they are made small: ``CONFORMANCE = {"NAME": {"tiny": {...}, "settings": {...}}}``, with
    attributes of :class:`~facke_core.testing.MethodConformance`.

    Raises:
        UnknownNameError: no installed distribution of that name has a plugin.
        UnavailableError: pytest is not installed.
        PluginError: the tests could not be run at all.
    """
    plugins = _plugins_of(name, registry)
    results = []
    subjects: list[Subject] = []
    for info in plugins:
        if info.failure:
            results.append(CheckResult(f"plugin {info.name}", "loads", "failed", info.failure))
            continue
        results.append(CheckResult(f"plugin {info.name}", "loads", "passed"))
        for command in info.contributions.get("command", ()):
            results.append(_command(command, registry))
        small = _small(info.name)
        subjects += [
            Subject(kind, subject, small.get(subject, {}) if kind == "method" else {})
            for kind in _SUITES
            for subject in info.contributions.get(kind, ())
        ]
    return [*results, *(_run(subjects) if subjects else [])]


def _plugins_of(name: str, registry: Registry) -> list[PluginInfo]:
    def plain(text: str) -> str:
        return re.sub(r"[-_.]+", "-", text).lower()

    everything = registry.plugins()
    plugins = [info for info in everything if plain(info.distribution) == plain(name)]
    if not plugins:
        known = sorted({info.distribution for info in everything if info.distribution})
        raise UnknownNameError(
            f"No installed distribution {name!r} has a plugin of facke.{did_you_mean(name, known)} "
            f"Those that have one: {', '.join(known)}. Install it first: pip install ./{name}"
        )
    return plugins


def _small(plugin: str) -> Mapping[str, Mapping[str, Any]]:
    """The attribute ``CONFORMANCE`` of the plugin's module, by name of a method; or nothing."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == plugin:
            module = importlib.import_module(entry.module)
            said: Mapping[str, Mapping[str, Any]] = getattr(module, "CONFORMANCE", {})
            unknown = {key for settings in said.values() for key in settings} - set(SETTINGS)
            if unknown:
                raise PluginError(
                    f"The plugin {plugin!r}: CONFORMANCE has the keys {sorted(unknown)}. There "
                    f"are: {', '.join(SETTINGS)}."
                )
            return said
    return {}


def _command(name: str, registry: Registry) -> CheckResult:
    subject, check = f"command {name}", "its target resolves"
    try:
        registry.resolve(registry.commands[name].target)
    except PluginError as error:
        return CheckResult(subject, check, "failed", str(error))
    return CheckResult(subject, check, "passed")


def _run(subjects: list[Subject]) -> list[CheckResult]:
    if importlib.util.find_spec("pytest") is None:
        raise UnavailableError(
            "The conformance kit runs on pytest, which is not installed. Run: "
            'pip install "facke-core[testing]"'
        )
    lines = ["import facke_core.testing as kit"]
    for number, (kind, name, settings) in enumerate(subjects):
        lines += [f"class Test{number}(kit.{_SUITES[kind]}):", f"    {kind} = {name!r}"]
        lines += [f"    {key} = {value!r}" for key, value in settings.items()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "test_plugin.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        report = folder / "report.xml"
        # other plugins of pytest have no part in the result
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", "test_plugin.py"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if not report.is_file():
            raise PluginError(
                f"The checks could not be run: pytest ended with {done.returncode}: "
                f"{(done.stderr or done.stdout).strip()[-500:]}. Repair the installation."
            )
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return [_result(case, subjects) for case in cases]


def _result(case: ElementTree.Element, subjects: list[Subject]) -> CheckResult:
    number = re.search(r"Test(\d+)$", case.get("classname", ""))
    subject = " ".join(subjects[int(number[1])][:2]) if number else "plugin"
    check = case.get("name", "").removeprefix("test_").replace("_", " ")
    for outcome in case:
        message = re.sub(r"^(AssertionError: |_pytest\S+: )", "", outcome.get("message", ""))
        message = message.split("\nassert ")[0].strip()
        if outcome.tag == "skipped":
            return CheckResult(subject, check, "skipped", message)
        if outcome.tag in ("failure", "error"):
            return CheckResult(subject, check, "failed", message)
    return CheckResult(subject, check, "passed")
