"""The command ``facke doctor``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import typer

from facke_cli.console import emit, table, write
from facke_cli.options import AsJson
from facke_core._files import sha256_of
from facke_core.errors import FackeError, UnavailableError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.references import Bundled, HubRef, resource, unavailable
from facke_core.weights.layout import CONFIG, MODEL, read_weights_config

__all__ = ["doctor"]

LIBRARIES = (
    "torch",
    "kornia",
    "numpy",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "timm",
    "mediapipe",
    "accelerate",
)


class Check(NamedTuple):
    """It is one line of the report. A ``fault`` is what makes ``facke doctor`` exit with 4."""

    part: str
    name: str
    state: str
    fault: str = ""
    """It says what is wrong and how to repair it."""


def doctor(
    as_json: AsJson = False,
) -> None:
    """Check devices, versions, plugins, weights, detectors and encoders.

    Exits with 4 where something is broken, after saying how to repair it.
    """
    from facke_cli.main import installed_packages

    registry = default_registry()
    versions = {"python": platform.python_version(), **installed_packages(), **_libraries()}
    checks = [
        *_guarded("device", "torch", _devices),
        *_plugins(registry),
        *_weights(registry),
        *_guarded("detector", "all", lambda: _parts(registry, "detector")),
        *_guarded("encoder", "all", lambda: _parts(registry, "encoder")),
    ]
    faults = [check for check in checks if check.fault]
    if as_json:
        report: dict[str, Any] = {"ok": not faults, "versions": versions}
        for part in ("device", "plugin", "weights", "detector", "encoder"):
            key = part if part == "weights" else f"{part}s"
            report[key] = [
                {"name": c.name, "state": c.state, "fault": c.fault or None}
                for c in checks
                if c.part == part
            ]
        emit(report)
    else:
        write(f"{platform.platform()}\n")
        write(table(("package", "version"), list(versions.items())) + "\n", lines=True)
        write(table(("part", "name", "state"), [check[:3] for check in checks]), lines=True)
        for check in faults:
            write("")
            write(f"FAULT {check.part} {check.name}: {check.fault}")
        write("")
        write("Everything works." if not faults else f"{len(faults)} fault(s), see above.")
    if faults:
        raise typer.Exit(UnavailableError.exit_code)


def _guarded(part: str, name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Return what ``look`` finds; its failure, of any kind, is a fault too."""
    try:
        return look()
    except Exception as error:
        return [Check(part, name, "broken", _with_fix(_reason(error)))]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, FackeError) else f"{type(error).__name__}: {error}"


def _with_fix(reason: str) -> str:
    if "libGL" in reason or "libEGL" in reason or "libgthread" in reason:
        return (
            f"{reason}. OpenCV, which mediapipe brings along, needs this system library. Run: "
            "apt-get install libgl1 libegl1 libglib2.0-0 (Debian, Ubuntu), or "
            "dnf install mesa-libGL mesa-libEGL glib2 (Fedora)."
        )
    return reason


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _devices() -> list[Check]:
    import torch

    from facke_core.environment import available_devices

    def describe(name: str) -> str:
        if name.startswith("cuda"):
            memory = torch.cuda.get_device_properties(name).total_memory / 2**30
            return f"{torch.cuda.get_device_name(name)}, {memory:.0f} GiB"
        return f"{torch.get_num_threads()} threads" if name == "cpu" else "usable"

    return [Check("device", name, describe(name)) for name in available_devices()]


def _plugins(registry: Registry) -> list[Check]:
    from facke_cli.main import taken_names

    checks, taken = [], taken_names(registry)
    for info in registry.plugins():
        if info.failure:
            package = info.distribution or info.name
            fix = (
                f"{info.failure}. Update or reinstall {package}, uninstall it, or leave it out "
                "with FACKE_PLUGINS."
            )
            checks.append(Check("plugin", info.name, "failed to load", fix))
        else:
            names = [name for part in info.contributions.values() for name in part]
            state = ", ".join(names) or "contributes nothing"
            checks.append(Check("plugin", info.name, state, taken.get(info.name, "")))
    if not registry.methods:
        fix = "No swap method is installed. Run: pip install facke-gan"
        checks.append(Check("plugin", "methods", "none", fix))
    return checks


def _weights(registry: Registry) -> list[Check]:
    checks = []
    for spec in registry.methods.values():
        for tag, where in spec.weights.items():
            look = partial(_look_at, f"{spec.name}.{tag}", where, registry)
            checks += _guarded("weights", f"{spec.name}.{tag}", look)
        if not spec.weights:
            state = "needs none" if spec.default_config is not None else "give some by --weights"
            checks.append(Check("weights", spec.name, state))
    return checks


def _look_at(name: str, where: Bundled | HubRef, registry: Registry) -> list[Check]:
    return [_bundled(name, where, registry) if isinstance(where, Bundled) else _on_hub(name, where)]


def _bundled(name: str, where: Bundled, registry: Registry) -> Check:
    folder = resource(where.resource)
    config = read_weights_config(folder)
    plugin = registry.methods.owners[name.partition(".")[0]]
    for file, info in config.files.items():
        if not (folder / file).is_file() or sha256_of(folder / file) != info.sha256:
            fault = f"{folder / file} is missing or damaged. Reinstall the plugin {plugin}."
            return Check("weights", name, "damaged", fault)
    return Check("weights", name, "bundled, verified")


def _on_hub(name: str, where: HubRef) -> Check:
    from facke_core.weights.hub import HubLocation, fetch

    location = HubLocation(where.repo_id, where.revision)
    try:
        fetch(location, [CONFIG, MODEL], local_files_only=True)
    except FackeError:
        return Check("weights", name, f"on the Hub (hf:{where.repo_id}), fetched on first use")
    return Check("weights", name, f"fetched from hf:{where.repo_id}")


def _parts(registry: Registry, part: str) -> list[Check]:
    """Check detectors or encoders: one that works suffices, none is a fault."""
    import inspect

    checks, usable, missing = [], False, True
    for spec in registry.catalogues[part].values():
        reason = unavailable(spec.available)
        if not reason:
            try:
                build = registry.resolve(spec.build)
                needed = [
                    p.name
                    for p in inspect.signature(build).parameters.values()
                    if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
                ]
                if needed:
                    checks.append(Check(part, spec.name, f"with settings: {', '.join(needed)}"))
                    continue
                build()
            except Exception as error:
                reason, missing = _reason(error), False
        usable = usable or not reason
        checks.append(Check(part, spec.name, _with_fix(reason) if reason else "works"))
    if not usable:
        reasons = "; ".join(f"{check.name}: {check.state}" for check in checks) or "none installed"
        fix = f"None works. {reasons}."
        if missing:
            fix += " Run: pip install 'facke-core[faces]'"
        checks.append(Check(part, "any", "none works", fix))
    return checks
