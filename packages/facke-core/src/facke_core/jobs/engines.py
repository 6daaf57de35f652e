"""Where long work is done: by this process, or by actors of Ray Data on one or many machines.

A :class:`Work` is a description of plain values. Whoever does it opens it once, which loads the
models, and then does parts of it. What a part returns depends on the part alone, so it does not
matter who did it, or in which order.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from facke_core import errors
from facke_core.errors import FackeError, UnavailableError, UsageError

__all__ = ["Engine", "RayEngine", "Work", "here"]

Part = range
"""Numbers of pairs."""
Do = Callable[[Part], Mapping[str, Any]]
"""Does one part; the result can be written as JSON."""
SECONDS = 10
"""For a cluster to answer."""
THREADS = 4
"""Of an actor, where the machine has as many cores."""


class Work(Protocol):
    """Work that comes in parts. It can be pickled."""

    def open(self, threads: int | None) -> Do:
        """Load what the work needs, once per process; None: as many threads as it likes."""
        ...


class Engine(Protocol):
    """Does the parts of a work and yields each as it is done, in any order."""

    def __call__(
        self, work: Work, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Mapping[str, Any]]]: ...


def here(work: Work, parts: Sequence[Part]) -> Iterator[tuple[Part, Mapping[str, Any]]]:
    """The engine ``local``: one part after the other, in this process."""
    do = work.open(None)
    for part in parts:
        yield part, do(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """The engine ``ray``: actors of Ray Data, each of which holds the models.

    Files are named by their paths, so every machine has to see them under the same ones.
    """

    address: str | None = None
    """Of a cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``. None: Ray is started here, for
    this work alone."""
    actors: int | None = None
    """None: as many as there are GPUs, or as the CPUs can give :attr:`threads` to."""
    threads: int = field(default_factory=lambda: min(THREADS, os.cpu_count() or 1))
    """Of an actor, and the CPUs that it gets."""
    device: str = "auto"

    def __call__(
        self, work: Work, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Mapping[str, Any]]]:
        """See :class:`Engine`.

        Raises:
            UnavailableError: Ray is not installed, or the cluster does not answer.
            UsageError: the cluster lacks what one actor asks for.
            FackeError: what the work raised in an actor.
        """
        if not parts:
            return
        ray = _import_ray()
        started = self._connect(ray)
        try:
            gpus = self._gpus(ray)
            pool = self._actors(ray, gpus, len(parts))
            items = [{"start": part.start, "stop": part.stop} for part in parts]
            data = ray.data.from_items(items, override_num_blocks=len(items)).map(
                _Actor,
                fn_constructor_args=(work, self.threads),
                num_cpus=self.threads,
                num_gpus=gpus,
                compute=ray.data.ActorPoolStrategy(size=pool),
            )
            for row in data.iter_rows():
                result = json.loads(row["result"])
                if "error" in result:
                    raise getattr(errors, result["error"], FackeError)(result["message"])
                yield range(row["start"], row["stop"]), result
        except ray.exceptions.RayError as error:
            raise UnavailableError(
                f"The work on Ray broke off: {_first_line(error)}. What was finished is kept; look "
                "into Ray's logs and resume."
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> bool:
        """Whether Ray was started, or connected, here."""
        if ray.is_initialized():
            return False
        if self.address and ":" in self.address:
            _check_reachable(self.address)
        # nothing goes to the network that nobody asked for
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"include_dashboard": False} if self.address is None else {}
        try:
            ray.init(address=self.address or "local", logging_level="ERROR", **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise UnavailableError(
                f"Ray cannot be used {f'at {self.address}' if self.address else 'here'}: "
                f"{_first_line(error)}. Look into Ray's logs, or work with the engine local."
            ) from error
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        return True

    def _gpus(self, ray: Any) -> int:
        wanted = self.device.startswith("cuda")
        there = ray.cluster_resources().get("GPU", 0) >= 1
        return int(there and (wanted or self.device == "auto"))

    def _actors(self, ray: Any, gpus: int, parts: int) -> int:
        there = ray.cluster_resources()
        possible = int(there.get("CPU", 0) // self.threads)
        if gpus:
            possible = min(possible, int(there["GPU"]))
        wanted = self.actors or min(possible, parts)
        if not 1 <= wanted <= possible:
            raise UsageError(
                f"{wanted or 1} actors of {self.threads} CPUs are more than Ray has: "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs. Ask for fewer "
                "actors or threads."
            )
        return wanted


class _Actor:
    """What Ray builds once per process."""

    def __init__(self, work: Work, threads: int) -> None:
        self._work, self._threads = work, threads
        self._do: Do | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._do = self._do or self._work.open(self._threads)
            result = dict(self._do(range(int(row["start"]), int(row["stop"]))))
        except FackeError as error:  # an answer; Ray would try again and tell of its own errors
            result = {"error": type(error).__name__, "message": str(error)}
        return {"start": row["start"], "stop": row["stop"], "result": json.dumps(result)}


def _import_ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise UnavailableError(
            f"The engine ray needs the package ray ({error}). Run: pip install 'facke-core[ray]'"
        ) from error
    return ray


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"No Ray cluster answers at {address} ({error}). Give the address that `ray status` "
            "works with, or leave it out to work on this machine alone."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


SHARD = 64


def shards(n: int) -> list[range]:
    """The pairs of each shard."""
    return [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]
