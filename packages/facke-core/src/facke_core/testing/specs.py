"""Checks of what a plugin says about itself, shared by everything that is registered."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
from typing import Any, ClassVar

from facke_core.errors import PluginError
from facke_core.plugins.catalogue import targets_of
from facke_core.plugins.registry import GROUP, Registry, default_registry
from facke_core.testing.assertions import require

__all__: list[str] = []

# fmt: off
HEAVY = [
    "torch", "numpy", "scipy", "PIL", "cv2", "timm", "torchvision", "kornia", "einops",
    "huggingface_hub", "accelerate", "safetensors", "mediapipe", "matplotlib", "onnxruntime",
    "transformers", "diffusers", "pandas", "skimage",
]
# fmt: on
"""Packages that no plugin may import before it is used."""
MAX_SUMMARY = 100
"""Most characters of a summary."""


class SpecChecks:
    """The description that a hook returns, and the module that returns it."""

    kind: ClassVar[str]
    registry: ClassVar[Registry | None] = None
    """Registry in which names are looked up; None: everything installed."""
    plugin: ClassVar[str] = ""
    """Name of the module with the hooks; by default that of the entry point."""

    def the_name(self) -> str:
        """The registered name; empty where the class under test is not registered."""
        return str(getattr(type(self), self.kind, ""))

    def the_registry(self) -> Registry:
        """The registry in which names are looked up."""
        return self.registry or default_registry()

    def the_spec(self) -> Any:
        """The description that the plugin's hook returned for this name."""
        return self.the_registry().catalogues[self.kind][self.the_name()]

    def test_the_spec_is_well_formed(self) -> None:
        """`facke methods` and `facke plugins` print summary and licence on one line; whoever
        publishes a result has to know under which licence the weights are."""
        spec = self.the_spec()
        summary = spec.summary
        require(
            summary.strip() == summary
            and summary
            and "\n" not in summary
            and len(summary) <= MAX_SUMMARY,
            f"The summary {summary!r} is not one line of 1 to {MAX_SUMMARY} characters without "
            f"spaces around it. Shorten it in the {type(spec).__name__}.",
        )
        licence = getattr(spec, "license", "")
        if licence:
            require(
                _is_spdx(licence),
                f"The licence {licence!r} is no SPDX identifier. Use one of https://spdx.org/"
                "licenses, for example 'Apache-2.0', 'MIT' or 'CC-BY-NC-4.0'; "
                "'LicenseRef-NAME' for another.",
            )
        require(
            licence or not getattr(spec, "weights", {}),
            "The method has weights but no licence. Say in MethodSpec(license=...) under which "
            "they may be used.",
        )

    def test_its_targets_resolve(self) -> None:
        """A target that cannot be imported is found by the first user otherwise."""
        for target in targets_of(self.the_spec()):
            try:
                resolved = self.the_registry().resolve(target)
            except PluginError as error:
                raise AssertionError(str(error)) from error
            require(
                callable(resolved),
                f"The target {target!r} is a {type(resolved).__name__}, not a class or function. "
                "Correct the spec.",
            )

    def test_the_plugin_imports_nothing_heavy(self) -> None:
        """Every list of commands imports the plugin: torch there makes every command of every user
        seconds slower."""
        loaded = heavy_imports(self._plugin_module())
        require(
            not loaded,
            f"Importing {self._plugin_module()} loads {', '.join(loaded)}. Keep this module to "
            "hooks and specs, name the rest as 'package.module:attribute' strings, and move the "
            "imports there.",
        )

    def _plugin_module(self) -> str:
        if self.plugin:
            return self.plugin
        owner = self.the_registry().catalogues[self.kind].owners[self.the_name()]
        for entry in importlib.metadata.entry_points(group=GROUP):
            if entry.name == owner:
                return entry.module
        raise AssertionError(
            f"No entry point {owner!r} in the group {GROUP}. Install the plugin, or set "
            "plugin = 'package.plugin' in the test class."
        )


def _is_spdx(text: str) -> bool:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return canonicalize_license_expression(text) == text
    except InvalidLicenseExpression:
        return False


@functools.cache
def heavy_imports(module: str) -> list[str]:
    """The packages of :data:`HEAVY` that ``import module`` loads in a new process.

    Raises:
        AssertionError: the import fails.
    """
    code = (
        "import sys, facke_core\n"
        "before = set(sys.modules)\n"
        f"__import__({module!r})\n"
        "sys.stdout.write('\\n' + ' '.join(set(sys.modules) - before))"
    )
    path = os.pathsep.join(folder for folder in sys.path if folder)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    require(
        done.returncode == 0,
        f"Importing {module} fails in a new process: {done.stderr.strip()[-300:]}. Repair it.",
    )
    loaded = set(done.stdout.rpartition("\n")[2].split())
    return [name for name in HEAVY if name in loaded]
