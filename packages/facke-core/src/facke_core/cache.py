"""Where facke keeps files that it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``$FACKE_CACHE``, or ``facke`` in the user's cache folder; it need not exist."""
    root = os.environ.get("FACKE_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facke"
