"""The options ``--backend`` and ``--engine`` choose what computes, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facke_core.errors import UsageError

if TYPE_CHECKING:
    from facke_core.jobs.engines import RayEngine

__all__ = ["Backend", "Name", "RayActors", "RayAddress", "engine"]

Backend = Literal["torch", "onnxruntime", "openvino", "auto"]
Name = Literal["local", "ray"]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a Ray cluster. [default: this machine alone]"),
]
RayActors = Annotated[
    int | None, typer.Option(min=1, help="[default: as many as the cluster has room for]")
]


def engine(
    name: Name, address: str | None, actors: int | None, threads: int | None, device: str
) -> RayEngine | None:
    """Return the engine of this name; None for ``local``.

    Raises:
        UsageError: options of another engine.
    """
    if name == "local":
        if address or actors:
            raise UsageError("--ray-address and --ray-actors belong to --engine ray.")
        return None
    from facke_core.jobs.engines import RayEngine

    own = {} if threads is None else {"threads": threads}
    return RayEngine(address=address, actors=actors, device=device, **own)
