"""The processes of a preparation. One that dies costs the picture that it had in hand, no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from typing import Any

from facke_core.environment import short_temporary_folder, signals_later
from facke_core.errors import DataError, FackeWarning, UnavailableError
from facke_core.prepare.photos import shown
from facke_core.prepare.portraits import UNREADABLE, Done, Job, answer, start_worker

__all__: list[str] = []


class Workers:
    """Processes that answer jobs.

    If one dies, nobody knows which of the jobs at hand it was at, and the pool is lost. So all of
    them are done again, alone in a process each may end: the one that does is to blame.

    Args:
        count: number of processes.
        arguments: of ``start``.
        start: prepares a process.
        work: does a job there.
    """

    def __init__(
        self,
        count: int,
        arguments: tuple[Any, ...],
        *,
        start: Callable[..., None] = start_worker,
        work: Callable[[Job], Done] = answer,
    ) -> None:
        self._count, self._arguments, self._start, self._work = count, arguments, start, work
        self._pool: ProcessPoolExecutor | None = None
        self._single: ProcessPoolExecutor | None = None

    def submit(self, job: Job) -> Future[Done]:
        """Give a job to the next free process."""
        if self._pool is not None:
            try:
                return self._pool.submit(self._work, job)
            except BrokenProcessPool:
                self._pool.shutdown(cancel_futures=True)
        self._pool = self._new(self._count)
        with signals_later():  # which would stop the start of a process in its middle
            return self._pool.submit(self._work, job)

    def result(self, job: Job, future: Future[Done]) -> Done:
        """The answer; where this job ends its process, that it cannot be read this time.

        Raises:
            DataError: no process can be started.
            FackeError: what the job raises.

        Warns:
            FackeWarning: the job ended its process.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            return self._alone(job)

    def _alone(self, job: Job) -> Done:
        if self._single is None:
            self._single = self._new(1)
            try:
                with signals_later():
                    started = self._single.submit(os.getpid)
                started.result()
            except BrokenProcessPool as error:
                raise DataError(
                    "The workers die as soon as they start: they are killed, or the memory is "
                    "full. Finished shards are kept; do the same again, with fewer `workers`."
                ) from error
        try:
            return self._single.submit(self._work, job).result()
        except BrokenProcessPool:
            self._single.shutdown(cancel_futures=True)
            self._single = None
            warnings.warn(
                f"A worker died with {shown(job.path)} in hand: it was killed, the memory was "
                "full, or a decoder crashed. The picture is left out; the next preparation tries "
                "it again.",
                FackeWarning,
                stacklevel=2,
            )
            return Done(None, UNREADABLE, passing=True)

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        for pool in filter(None, (self._pool, self._single)):
            pool.shutdown(cancel_futures=True)

    def _new(self, count: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":  # torch is imported once, not by each worker
            context.set_forkserver_preload(["__main__", "facke_core.prepare.portraits"])
        short_temporary_folder()
        try:
            if sys.platform == "linux":
                _start_forkserver()
            return ProcessPoolExecutor(
                count, mp_context=context, initializer=self._start, initargs=self._arguments
            )
        except OSError as error:
            raise UnavailableError(
                f"Processes cannot be started here: {error.strerror or error}. /dev/shm and the "
                "folder for temporary files (TMPDIR) have to be writable."
            ) from error


def _start_forkserver() -> None:
    """Start the process that starts the others. The one that waits for them ends them all, so that
    Ctrl-C and the end of a terminal, which all of its processes hear, are not for them, in their
    imports least of all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
    try:
        resource_tracker.ensure_running()  # which lets SIGINT through again
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_OF_TERMINALS = {signal.SIGINT, signal.SIGHUP} if sys.platform == "linux" else set()
