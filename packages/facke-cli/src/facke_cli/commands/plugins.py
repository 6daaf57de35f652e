"""``facke plugins``."""

from __future__ import annotations

from facke_cli.console import emit, table, write
from facke_cli.options import AsJson
from facke_core.plugins.registry import default_registry

__all__ = ["plugins"]


def plugins(
    as_json: AsJson = False,
) -> None:
    """List the installed plugins: what each contributes, or why it failed to load."""
    installed = default_registry().plugins()
    if as_json:
        emit(
            [
                {
                    "name": info.name,
                    "version": info.version,
                    "distribution": info.distribution,
                    "contributions": {
                        key: list(names) for key, names in info.contributions.items()
                    },
                    "failure": info.failure or None,
                    "seconds": round(info.seconds, 4),
                }
                for info in installed
            ]
        )
        return
    rows = []
    for info in installed:
        what = "; ".join(f"{key}: {', '.join(names)}" for key, names in info.contributions.items())
        failure = f"FAILED: {info.failure}" if info.failure else ""
        rows.append((info.name, info.version, f"{1000 * info.seconds:.0f} ms", failure or what))
    write(table(("name", "version", "import", "contributes"), rows))
