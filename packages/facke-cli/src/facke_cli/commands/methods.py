"""The command ``facke methods``."""

from __future__ import annotations

from typing import Any

from facke_cli.console import emit, say, table, write
from facke_cli.options import AsJson
from facke_core.errors import FackeError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import MethodSpec
from facke_core.references import Bundled, resource
from facke_core.weights.layout import read_weights_config

__all__ = ["methods"]


def methods(
    as_json: AsJson = False,
) -> None:
    """List the installed methods."""
    registry = default_registry()
    rows = [describe(spec, registry) for spec in registry.methods.values()]
    if as_json:
        emit(rows)
        return
    head = ("name", "plugin", "weights", "size", "licence", "summary")
    keys = ("name", "plugin", "weights", "image_size", "license", "summary")
    write(table(head, [[row[key] for key in keys] for row in rows]), lines=True)
    if not rows:
        say("No method is installed. Install a plugin: pip install facke-gan, for example.")
    if registry.failures:
        say("Some plugins failed to load; see `facke plugins`.")


def describe(spec: MethodSpec, registry: Registry) -> dict[str, Any]:
    """Return one method as a row of the report; weights are looked at, not loaded."""
    settings = spec.default_config or {}
    size, where, license_ = settings.get("image_size"), "none", spec.license
    if spec.weights:
        default = next(iter(spec.weights.values()))
        where = "bundled" if isinstance(default, Bundled) else "hub"
        if isinstance(default, Bundled):
            try:
                config = read_weights_config(resource(default.resource))
            except FackeError:  # `facke doctor` says what is wrong with them
                where = "broken"
            else:
                size, license_ = config.alignment.get("size"), license_ or config.license
    return {
        "name": spec.name,
        "summary": spec.summary,
        "plugin": registry.methods.owners[spec.name],
        "weights": where,
        "tags": list(spec.weights),
        "image_size": size,
        "license": license_,
        "paper": spec.paper,
        "recipes": list(spec.recipes),
    }
