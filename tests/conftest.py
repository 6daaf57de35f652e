"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch counts the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# commands that tests start would inherit that nohup ignores it, and rightly ignore it as well
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of facke for these tests alone, in ``FACKE_CACHE``."""
    folder = tmp_path_factory.mktemp("facke-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACKE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("FACKE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"reference material not found at {folder} (set FACKE_SHARED)")
    return folder
