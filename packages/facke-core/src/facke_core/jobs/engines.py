"""Engines do long work: this process, or actors of Ray Data on one or many machines.

A :class:`Work` is a description of plain values. Whoever does it opens it once, which loads the
models, and then does parts of it. What a part returns depends on the part alone, so it does not
matter who did it, or in which order.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from facke_core import errors
from facke_core.errors import FackeError, UnavailableError, UsageError, first_line

__all__ = ["Engine", "RayEngine", "Work", "here"]

Part = range
"""Numbers of pairs."""
Do = Callable[[Part], Mapping[str, Any]]
"""A function that does one part; its result can be written as JSON."""
SHARD = 64
"""Pairs of a shard, which is kept once all of it is done."""
SECONDS = 10
"""Time that a cluster has to answer, in seconds."""
THREADS = 4
"""Threads of an actor, where the machine has as many cores."""


class Work(Protocol):
    """Work that comes in parts. It can be pickled."""

    def open(self, threads: int | None) -> Do:
        """Load what the work needs, once per process, and return what does the parts.

        Args:
            threads: how many it may use; None: as many as it likes.
        """
        ...


class Engine(Protocol):
    """A way to do work in parts, on one process or many."""

    def __call__(
        self, work: Work, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Mapping[str, Any]]]:
        """Do the parts, and yield each with its result as it is done, in any order."""
        ...


def here(work: Work, parts: Sequence[Part]) -> Iterator[tuple[Part, Mapping[str, Any]]]:
    """Do one part after the other, in this process: the engine ``local``."""
    do = work.open(None)
    for part in parts:
        yield part, do(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """The engine ``ray``: actors of Ray Data, each of which holds the models.

    Files are named by their paths, so every machine has to see them under the same ones.
    """

    address: str | None = None
    """Address of a cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``. None: Ray is started
    here, for this work alone."""
    actors: int | None = None
    """Number of actors. None: as many as there are GPUs, or as the CPUs can give :attr:`threads`
    to, and no more than there are parts."""
    threads: int = field(default_factory=lambda: min(THREADS, os.cpu_count() or 1))
    """Threads of an actor, and the number of CPUs that it gets."""
    device: str = "auto"
    """The device of the work: for ``auto`` or ``cuda`` each actor gets a GPU, if there are any."""

    def __call__(
        self, work: Work, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Mapping[str, Any]]]:
        """Do the parts, each in one of the actors; nothing is started where there are none.

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
                f"The work on Ray broke off: {first_line(error)}. What was finished is kept; look "
                "into Ray's logs and resume."
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> bool:
        """Start Ray, or connect to it; tell whether that was needed."""
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
                f"{first_line(error)}. Look into Ray's logs, or work with the engine local."
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
    """A worker, which Ray builds once per process."""

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
    """Refuse an address that does not answer, because Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"No Ray cluster answers at {address} ({error}). Give the address that `ray status` "
            "works with, or leave it out to work on this machine alone."
        ) from error


def shards(n: int) -> list[range]:
    """Return the numbers of the pairs of each shard, 0 to ``n`` - 1 in all."""
    return [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]


def parts_without(known: Collection[int], n: int) -> list[range]:
    """Return the numbers of n pairs that are not known, in runs that lie in one shard each."""
    parts: list[range] = []
    for shard in shards(n):
        start = shard.start
        for stop in [*(index for index in shard if index in known), shard.stop]:
            if start < stop:
                parts.append(range(start, stop))
            start = stop + 1
    return parts
