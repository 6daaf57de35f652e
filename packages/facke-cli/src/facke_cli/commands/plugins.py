"""The command ``facke plugins``."""

from __future__ import annotations

from facke_cli.console import emit, table, write
from facke_cli.options import AsJson
from facke_core.plugins.registry import default_registry

__all__ = ["plugins"]


def plugins(
    as_json: AsJson = False,
) -> None:
    """List the installed plugins: what each contributes, or why it failed to load."""
    from facke_cli.main import taken_names

    installed, taken = default_registry().plugins(), taken_names(default_registry())
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
                    "failure": info.failure or taken.get(info.name),
                    "seconds": round(info.seconds, 4),
                }
                for info in installed
            ]
        )
        return
    rows = []
    for info in installed:
        what = "; ".join(f"{key}: {', '.join(names)}" for key, names in info.contributions.items())
        if info.failure:
            what = f"FAILED: {info.failure}"
        elif info.name in taken:
            what += f"; FAULT: {taken[info.name]}"
        rows.append((info.name, info.version, f"{1000 * info.seconds:.0f} ms", what))
    write(table(("name", "version", "import", "contributes"), rows), lines=True)
